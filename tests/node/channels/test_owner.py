"""What the owner's node changes counts, whatever else goes on, and whichever roles it has itself."""

from __future__ import annotations

import asyncio

import pytest

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.identity import NodeKey
from tests.node.harness import laboratory, until

STRANGERS = [NodeKey(bytes([number]) * 32).node_id for number in range(1, 9)]


async def test_members_that_are_removed_at_the_same_moment_are_all_out() -> None:
    """Each look at who came by which invitation let another change of the same version in between."""
    async with laboratory("A") as lab:
        for node in STRANGERS:
            await lab.call("A", "channel.add-node", channel="lab", node=node, label=node[:8])
        before = lab["A"].network.version_of(lab.channels["lab"])
        await asyncio.gather(
            *(lab.call("A", "channel.remove-node", channel="lab", node=n) for n in STRANGERS[:4]),
            *(
                lab.call("A", "channel.set-roles", channel="lab", node=n, roles="request-files")
                for n in STRANGERS[4:]
            ),
        )
        document = lab["A"].network.book.signed(lab.channels["lab"]).document
        assert document.version == before + len(STRANGERS)
        assert not {member.node_id for member in document.members} & set(STRANGERS[:4])
        for node in STRANGERS[4:]:
            member = document.member(node)
            assert member is not None
            assert member.roles == {"request-files"}


async def test_an_owner_that_reads_nothing_itself_keeps_the_secret_that_it_made() -> None:
    """It is sealed to none of its own, so that after a removal nobody could be added any more."""
    async with laboratory("A", "B", channel=False) as lab:
        key = await lab.channel("lab", {"A": "none", "B": "all"})
        await lab.call("A", "channel.add-node", channel="lab", node=STRANGERS[0], label="one")
        await lab.call("A", "channel.remove-node", channel="lab", node="one")
        await lab.restart("A")
        await lab.call("A", "channel.add-node", channel="lab", node=STRANGERS[1], label="two")
        owners = lab["A"].network.book.secret(key)
        assert owners is not None
        assert owners[0] == 2
        await until(lambda: lab["B"].network.book.secret(key) == owners, "B has that secret")


async def test_nobody_is_invited_to_a_channel_that_is_over() -> None:
    """The invitation said that it was good until a moment that was past."""
    async with laboratory("A", channel=False) as lab:
        key = await lab.channel("lab", {"A": "all"}, expires_in=3_600.0)
        document = lab["A"].network.book.signed(key).document
        lab["A"].context.clock = lambda: float(document.expires_at or 0) + 1.0
        with pytest.raises(BadInput, match="has expired"):
            await lab.call("A", "channel.invite", channel="lab")
