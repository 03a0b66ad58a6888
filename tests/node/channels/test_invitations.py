"""Invitations over real links: who gets in with a line, who does not, and what proxies learn."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from kachery_p2p.node.channels import joining
from kachery_p2p.node.context import Context
from kachery_p2p.protocol.channels.invitation import parse_line
from kachery_p2p.protocol.channels.roles import ROLES
from kachery_p2p.protocol.channels.signed_document import sign
from kachery_p2p.protocol.errors import (
    AccessDenied,
    BadInput,
    BadInvitation,
    InvitationRefused,
    Unreachable,
)
from tests.node.channels.inviting import invite, join, lab_of_one, state_of
from tests.node.harness import laboratory, until

# --- the owner's node admits -------------------------------------------------------------------


async def test_the_line_makes_a_member_that_can_load_at_once() -> None:
    async with lab_of_one("B") as lab:
        sha1, _ = await lab.store("A", b"for members")
        joined = await join(lab, "B", await invite(lab))
        assert joined["member"]
        assert joined["name"] == "lab"
        assert set(joined["effective"]) == set(ROLES) - {"proxy"}
        await lab.linked("B", "lab")
        await lab.load("B", sha1)
        assert lab.bytes_of("B", sha1) == b"for members"
        assert await state_of(lab) == ["used up"]
        shown = await lab.call("A", "channel.show", channel="lab")
        assert {m["label"] for m in shown["members"]} >= {"B"}, "it said its own label"
        # Nobody keeps a guest's link.
        await until(lambda: not lab["B"].network._guest_of and not lab["P"].network._guests)


async def test_roles_and_label_are_those_of_the_invitation() -> None:
    async with lab_of_one("B") as lab:
        line = await invite(lab, roles="request-files", label="bob's laptop")
        joined = await join(lab, "B", line)
        assert joined["granted"] == ["request-files"]
        document = lab["A"].context.book.signed(lab.channels["lab"]).document
        entry = document.member(lab.id("B"))
        assert entry is not None
        assert entry.label == "bob's laptop"


async def test_an_admitter_that_is_the_bootstrap_itself_is_asked_directly() -> None:
    async with laboratory("B", channel=False) as lab:
        made = await lab.call(
            "P", "channel.create", name="lab", bootstraps=[f"ws://{lab['P'].listening}"]
        )
        lab.channels["lab"] = bytes.fromhex(made["id"])
        assert (await join(lab, "B", await invite(lab, "P")))["member"]
        await lab.linked("B", "lab")


async def test_an_invitation_for_one_is_used_once() -> None:
    async with lab_of_one("B", "C") as lab:
        line = await invite(lab)
        await join(lab, "B", line)
        with pytest.raises(InvitationRefused, match="used as often"):
            await join(lab, "C", line)
        assert not lab["A"].network.is_member(lab.channels["lab"], lab.id("C"))
        assert lab.channels["lab"] not in lab["C"].context.book


async def test_an_invitation_for_two_is_used_twice() -> None:
    async with lab_of_one("B", "C", "D") as lab:
        line = await invite(lab, uses=2)
        await join(lab, "B", line)
        await join(lab, "C", line)
        with pytest.raises(InvitationRefused):
            await join(lab, "D", line)


async def test_whose_answer_was_lost_may_ask_again_and_takes_no_second_use() -> None:
    async with lab_of_one("B", "C") as lab:
        line = await invite(lab, uses=2)
        await join(lab, "B", line)
        await lab.call("B", "channel.leave", channel="lab")
        assert (await join(lab, "B", line))["member"]
        assert await state_of(lab) == ["open"]
        await join(lab, "C", line)


async def test_a_use_that_came_to_nothing_revokes_nothing() -> None:
    async with lab_of_one("B") as lab:
        line = await invite(lab, uses=5)
        id = parse_line(line).key.public
        # As a process leaves it that dies between the use and the document.
        assert lab["A"].state.use_invitation(id, "ab" * 32, 0.0) == "taken"
        assert await lab["A"].invitations.withdrawals.check(lab.channels["lab"]) == set()
        assert (await join(lab, "B", line))["member"]


async def test_a_label_that_is_anothers_id_hides_nobody() -> None:
    """It blocked the removal of who has that id."""
    async with lab_of_one("B", "C", "D") as lab:
        channel = lab.channels["lab"]
        for node, label in (("B", "bob"), ("C", "carol")):
            await lab.call("A", "channel.add-node", channel="lab", node=lab.id(node), label=label)
        book = lab["A"].context.book
        document, key = book.signed(channel).document, book.owner_key(channel)
        assert key is not None
        for label in (lab.id("B"), lab.id("B").upper()):
            with pytest.raises(BadInput, match="looks like a node id"):
                await lab.call(
                    "A", "channel.add-node", channel="lab", node=lab.id("D"), label=label
                )
            with pytest.raises(BadInput, match="looks like a node id"):
                await invite(lab, label=label)
        # One that is there from before, or that its own node made.
        named = tuple(
            msgspec.structs.replace(m, label=lab.id("B")) if m.label == "carol" else m
            for m in document.members
        )
        odd = msgspec.structs.replace(document, members=named, version=document.version + 1)
        lab["A"].documents.offer(sign(odd, key).to_bytes())
        with pytest.raises(BadInput, match="not a member"):
            await lab.call("A", "channel.remove-node", channel="lab", node=lab.id("D"))
        for node in (lab.id("B").upper(), lab.id("B")):
            await lab.call("A", "channel.set-roles", channel="lab", node=node, roles="files")
        await lab.call("A", "channel.remove-node", channel="lab", node=lab.id("B"))
        assert not lab["A"].network.is_member(channel, lab.id("B"))
        assert lab["A"].network.is_member(channel, lab.id("C"))


async def test_the_beginning_of_an_id_that_is_also_a_label_is_doubtful_and_the_whole_id_is_not() -> (
    None
):
    async with lab_of_one("B", "C") as lab:
        start = lab.id("B")[:10]
        await lab.call("A", "channel.add-node", channel="lab", node=lab.id("B"), label="bob")
        await lab.call("A", "channel.add-node", channel="lab", node=lab.id("C"), label=start)
        with pytest.raises(BadInput, match="several members fit; give the whole id"):
            await lab.call("A", "channel.set-roles", channel="lab", node=start, roles="all")
        await lab.call("A", "channel.remove-node", channel="lab", node=lab.id("B"))
        assert lab["A"].network.is_member(lab.channels["lab"], lab.id("C"))


async def test_a_guest_that_calls_itself_by_anothers_id_gets_no_label() -> None:
    async with lab_of_one("B") as lab:
        line = await invite(lab)
        lab["B"].context.label = lab.id("A")
        assert (await join(lab, "B", line))["member"]
        document = lab["A"].context.book.signed(lab.channels["lab"]).document
        entry = document.member(lab.id("B"))
        assert entry is not None
        assert entry.label == ""


async def test_a_revoked_invitation_is_worth_nothing() -> None:
    async with lab_of_one("B") as lab:
        line, other = await invite(lab), await invite(lab)
        revoked = await lab.call(
            "A", "channel.revoke-invite", channel="lab",
            invitation=parse_line(line).key.node_id[:12],
        )  # fmt: skip
        assert revoked["state"] == "revoked"
        with pytest.raises(InvitationRefused, match="revoked"):
            await join(lab, "B", line)
        # By the line itself, too.
        await lab.call("A", "channel.revoke-invite", channel="lab", invitation=other)
        with pytest.raises(InvitationRefused):
            await join(lab, "B", other)
        assert await state_of(lab) == ["revoked", "revoked"]


async def test_an_invitation_is_over_by_the_newcomers_clock_and_by_the_admitters() -> None:
    later = {"A": 0.0, "B": 0.0}

    def clock_of(name: str) -> Any:
        def adjust(context: Context) -> Context:
            clock = context.clock
            return replace(context, clock=lambda: clock() + later[name])

        return adjust

    async with laboratory(channel=False) as lab:
        for name in ("A", "B"):
            await lab.stop(name)
            await lab.start(name, adjust=clock_of(name))
        await lab.channel("lab", {"A": "all"})
        line = await invite(lab, expires_in=60.0)
        later["B"] = 61.0
        with pytest.raises(BadInvitation, match="it was good until"):
            await join(lab, "B", line)
        later.update(A=61.0, B=0.0)
        with pytest.raises(InvitationRefused, match="its time is over"):
            await join(lab, "B", line)
        assert await state_of(lab) == ["over"]


async def test_an_admitter_that_is_away_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "JOIN_SECONDS", 0.0)
    async with lab_of_one("B") as lab:
        line = await invite(lab)
        await lab.stop("A")
        with pytest.raises(Unreachable, match="not connected to the proxy"):
            await join(lab, "B", line)
        await lab.stop("P")
        with pytest.raises(Unreachable, match="the node that admits"):
            await join(lab, "B", line)


async def test_a_channels_own_proxy_is_told_to_join_with_the_document() -> None:
    async with lab_of_one() as lab:
        line = await invite(lab)
        await lab.call("P", "channel.leave", channel="lab")
        with pytest.raises(Unreachable, match="channel export"):
            await join(lab, "P", line)


async def test_a_newcomer_waits_for_an_admitter_that_comes_back() -> None:
    async with lab_of_one("B") as lab:
        line = await invite(lab)
        await lab.stop("A")
        joined = asyncio.create_task(join(lab, "B", line))
        await asyncio.sleep(0.2)
        assert not joined.done()
        await lab.restart("A")
        assert (await joined)["member"]


async def test_invitations_survive_a_restart_of_the_admitter() -> None:
    async with lab_of_one("B") as lab:
        line = await invite(lab)
        await lab.restart("A")
        await lab.linked("A", "lab")
        assert (await join(lab, "B", line))["member"]


async def test_who_may_not_invite_is_told_so() -> None:
    async with laboratory("A", "B") as lab:
        with pytest.raises(AccessDenied, match="authorise"):
            await invite(lab, "B")
        for wrong in ({"uses": 0}, {"uses": 1_001}, {"roles": "nonsense"}, {"label": "\x1b"}):
            with pytest.raises(BadInput):
                await invite(lab, **wrong)
        with pytest.raises(AccessDenied):
            await invite(lab, roles="none")


async def test_an_open_channel_needs_no_invitation() -> None:
    async with laboratory("A", channel=False) as lab:
        await lab.channel("lab", {"A": "all"}, open=True)
        with pytest.raises(BadInput, match="open"):
            await invite(lab)
