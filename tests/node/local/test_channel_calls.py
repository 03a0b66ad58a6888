"""Channels have one name each on a node, and a member has two names, either of which means it."""

from __future__ import annotations

from typing import Any

import pytest

from kachery_p2p.protocol.errors import BadInput
from tests.node.harness import Lab, laboratory


async def named_lab(lab: Lab) -> None:
    """The owner calls B bob; B and C call themselves what their nodes say."""
    await lab.channel("lab", {"A": "all", "C": "all"})
    await lab.call("A", "channel.add-node", channel="lab", node=lab.id("B"), label="bob")
    await lab.call("B", "channel.join", document=await lab.export("A", "lab"))
    await lab.linked("B", "lab")
    sha1, _ = await lab.store("A", b"what B and C come for, and say what they are called")
    for name in ("B", "C"):
        await lab.load(name, sha1)


async def sought(lab: Lab, node: str, name: str = "A") -> Any:
    return await lab.call(name, "channel.find-member", node=node)


async def test_a_second_channel_of_a_name_is_refused_and_nothing_is_made() -> None:
    """Two labs could no longer be told apart."""
    async with laboratory("A", "B") as lab:
        where = f"ws://{lab['P'].listening}"
        for name in ("A", "B"):  # its owner, and who is on it
            with pytest.raises(BadInput, match=r"this node is on one of that name; give another"):
                await lab.call(name, "channel.create", name="lab", bootstraps=[where])
            assert len((await lab.call(name, "channel.list"))["channels"]) == 1
        made = await lab.call("A", "channel.create", name="lab two", bootstraps=[where])
        await lab.call("A", "channel.leave", channel=made["id"], secret=False)
        await lab.call("A", "channel.create", name="lab two", bootstraps=[where])


async def test_a_joined_channel_of_a_name_that_is_taken_is_told_apart_by_its_id() -> None:
    """Who joins does not choose what somebody else called it."""
    async with laboratory("A", "B", channel=False) as lab:
        where = f"ws://{lab['P'].listening}"
        own = await lab.call("B", "channel.create", name="lab", bootstraps=[where])
        other = await lab.channel("lab", {"A": "all", "B": "all"}, wait=False)
        with pytest.raises(BadInput, match="several have that name; give the id") as caught:
            await lab.call("B", "channel.show", channel="lab")
        assert own["id"] in str(caught.value)
        assert other.hex() in str(caught.value)
        shown = await lab.call("B", "channel.show", channel=other.hex())
        assert shown["id"] == other.hex()


async def test_a_member_is_meant_by_the_owners_name_for_it_and_by_its_own() -> None:
    async with laboratory("A", "B", "C", channel=False) as lab:
        await named_lab(lab)
        for name in ("bob", lab["B"].context.label):
            await lab.call(
                "A", "channel.set-roles", channel="lab", node=name, roles="request-files"
            )
            shown = await lab.call("A", "channel.show", channel="lab")
            (bob,) = [each for each in shown["members"] if each["node"] == lab.id("B")]
            assert bob["roles"] == ["request-files"]
            await lab.call("A", "channel.set-roles", channel="lab", node=name, roles="all")


async def test_what_the_channel_calls_somebody_counts_more_than_what_another_calls_itself() -> None:
    async with laboratory("A", "B", "C", channel=False) as lab:
        lab["C"].context.label = "bob"
        await named_lab(lab)
        assert (await sought(lab, "bob"))["node"] == lab.id("B")
        await lab.call("A", "channel.remove-node", channel="lab", node="bob")
        assert lab["A"].network.is_member(lab.channels["lab"], lab.id("C"))
        assert not lab["A"].network.is_member(lab.channels["lab"], lab.id("B"))


async def test_a_member_is_found_by_any_of_its_names_and_a_stranger_by_its_whole_id() -> None:
    async with laboratory("A", "B", "C", channel=False) as lab:
        await named_lab(lab)
        bob = {"node": lab.id("B"), "label": "bob"}
        for name in ("bob", " bob ", lab["B"].context.label, lab.id("B"), lab.id("B").upper(),
                     lab.id("B")[:12]):  # fmt: skip
            assert await sought(lab, name) == bob
        assert await sought(lab, "ab" * 32) == {"node": "ab" * 32, "label": ""}
        for name in ("nobody", "", "ab" * 31, lab.id("B")[:4]):
            with pytest.raises(BadInput, match="it is not a member"):
                await sought(lab, name)


async def test_a_name_that_means_one_member_here_and_another_there_is_doubtful() -> None:
    async with laboratory("A", "B", "C", channel=False) as lab:
        await named_lab(lab)
        await lab.channel("two", {"A": "all"})
        await lab.call("A", "channel.add-node", channel="two", node=lab.id("C"), label="bob")
        with pytest.raises(BadInput, match="several members fit; give the whole id"):
            await sought(lab, "bob")


async def test_a_proxy_that_was_named_by_its_url_is_shown_by_its_name_and_goes_by_it() -> None:
    """As the status and the completion have it."""
    async with laboratory("A", channel=False) as lab:
        where = f"ws://{lab['P'].listening}"
        made = await lab.call("A", "channel.create", name="lab", bootstraps=[where])
        lab.channels["lab"] = bytes.fromhex(made["id"])
        document = await lab.export("A", "lab")
        await lab.call("P", "channel.join", document=document)
        await lab.linked("A", "lab")

        async def proxy() -> Any:
            members = (await lab.call("A", "channel.show", channel="lab"))["members"]
            (found,) = [each for each in members if each["node"] == lab.id("P")]
            return found

        assert (await proxy())["label"] == lab["P"].context.label
        assert (await sought(lab, lab["P"].context.label))["node"] == lab.id("P")
        assert (await sought(lab, where))["node"] == lab.id("P")
