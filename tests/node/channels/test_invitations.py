"""Invitations over real links: who gets in with a line, who does not, and what proxies learn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from kachery_p2p.node.channels import joining
from kachery_p2p.node.context import Context
from kachery_p2p.node.links.circuit import CircuitTransport
from kachery_p2p.node.links.link import Link
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.admission import admit
from kachery_p2p.protocol.channels.invitation import parse_line, prove, to_line
from kachery_p2p.protocol.channels.messages import JOIN, JOIN_CIRCUIT, Join
from kachery_p2p.protocol.channels.roles import ROLES
from kachery_p2p.protocol.channels.signed_document import sign
from kachery_p2p.protocol.errors import (
    AccessDenied,
    BadInput,
    BadInvitation,
    Busy,
    InvitationRefused,
    KacheryError,
    LinkClosed,
    NotAMember,
    StorageFull,
    Unreachable,
)
from kachery_p2p.protocol.gossip.messages import WHO_HAS, WhoHas
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.links.messages import CIRCUIT, CircuitTo
from kachery_p2p.storage.state import StateDB
from tests.node.harness import Lab, laboratory, until


@contextlib.asynccontextmanager
async def lab_of_one(*others: str) -> AsyncIterator[Lab]:
    """A alone on the channel ``lab`` with the proxy P; the others are on none."""
    async with laboratory("A", *others, channel=False) as lab:
        await lab.channel("lab", {"A": "all"})
        yield lab


async def invite(lab: Lab, name: str = "A", **options: Any) -> str:
    return str((await lab.call(name, "channel.invite", channel="lab", **options))["line"])


async def join(lab: Lab, name: str, line: str, roles: str = "all") -> Any:
    return await lab.call(name, "channel.join", document=line, roles=roles)


async def state_of(lab: Lab, name: str = "A") -> list[str]:
    rows = (await lab.call(name, "channel.invites", channel="lab"))["invitations"]
    return [row["state"] for row in rows]


def roles_of(lab: Lab, name: str, node: str) -> frozenset[str]:
    return lab[name].context.book.effective(lab.channels["lab"], lab.id(node))


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


async def test_who_was_removed_does_not_come_back_with_the_same_line() -> None:
    async with lab_of_one("B") as lab:
        line = await invite(lab, uses=5)
        await join(lab, "B", line)
        await lab.linked("B", "lab")
        await lab.call("A", "channel.remove-node", channel="lab", node=lab.id("B"))
        await lab.call("B", "channel.leave", channel="lab")
        with pytest.raises(InvitationRefused, match="removed"):
            await join(lab, "B", line)


async def test_who_was_removed_comes_back_with_a_new_line() -> None:
    async with lab_of_one("B") as lab:
        await join(lab, "B", await invite(lab))
        await lab.linked("B", "lab")
        await removed(lab, "B")
        await until(lambda: not lab["B"].network.links_on(lab.channels["lab"]))
        # Its own document still calls it a member.
        new = await invite(lab)
        assert (await join(lab, "B", new))["member"]
        assert lab["A"].network.is_member(lab.channels["lab"], lab.id("B"))
        assert await state_of(lab) == ["revoked", "used up"]
        await lab.linked("B", "lab")


async def test_who_was_removed_is_told_so_if_the_line_is_an_old_one() -> None:
    async with lab_of_one("B") as lab:
        line = await invite(lab, uses=5)
        await join(lab, "B", line)
        await lab.linked("B", "lab")
        await removed(lab, "B")
        await until(lambda: not lab["B"].network.links_on(lab.channels["lab"]))
        with pytest.raises(InvitationRefused, match="removed"):
            await join(lab, "B", line)


async def test_a_member_that_nobody_talks_to_asks_without_using_the_line() -> None:
    async with lab_of_one("B") as lab:
        await join(lab, "B", await invite(lab))
        await lab.linked("B", "lab")
        new = await invite(lab)
        for link in list(lab["B"].network.links):
            link.close(LinkClosed(peer="test", reason="the network went away"))
        assert (await join(lab, "B", new, roles="request-files"))["member"]
        assert await state_of(lab) == ["used up", "open"]


async def removed(lab: Lab, node: str, **more: Any) -> Any:
    return await lab.call("A", "channel.remove-node", channel="lab", node=lab.id(node), **more)


async def test_who_was_removed_does_not_come_back_with_the_same_line_and_a_new_key() -> None:
    """It pasted the line for several nodes once more, as another node."""
    async with lab_of_one("B", "C", "D") as lab:
        line, other = await invite(lab, uses=5, label="group"), await invite(lab, label="other")
        await join(lab, "B", line)
        await join(lab, "D", line)
        report = await removed(lab, "B")
        (revoked,), (still,) = report["revoked"], report["open"]
        assert (revoked["label"], revoked["state"]) == ("group", "revoked")
        assert report["came_by"]["invitations"] == [revoked["id"]]
        assert [each["label"] for each in report["came_by"]["companions"]] == ["group"]
        assert still["label"] == "other"
        with pytest.raises(InvitationRefused, match="revoked"):
            await join(lab, "C", line)
        assert not lab["A"].network.is_member(lab.channels["lab"], lab.id("C"))
        # What it never used stays good, and so do those who came by the same line.
        assert (await join(lab, "C", other))["member"]
        assert lab["A"].network.is_member(lab.channels["lab"], lab.id("D"))


async def test_it_does_not_come_back_after_a_restart_or_while_the_disk_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with lab_of_one("B", "C") as lab:
        line = await invite(lab, uses=5)
        await join(lab, "B", line)

        def full(self: object, id: bytes) -> bool:
            raise StorageFull(what="the node's state", path="state.sqlite")

        with monkeypatch.context() as patch:
            patch.setattr(StateDB, "revoke_invitation", full)
            with pytest.raises(StorageFull):
                await removed(lab, "B")
            with pytest.raises(InvitationRefused, match="revoked"):
                await join(lab, "C", line)
        await lab.restart("A")
        await lab.linked("A", "lab")
        with pytest.raises(InvitationRefused, match="revoked"):
            await join(lab, "C", line)
        assert await state_of(lab) == ["revoked"]


async def test_all_invitations_can_be_revoked_with_a_removal() -> None:
    async with lab_of_one("B", "C") as lab:
        first, second = await invite(lab, uses=5), await invite(lab)
        await join(lab, "B", first)
        report = await removed(lab, "B", revoke_all=True)
        assert len(report["revoked"]) == 2
        assert report["open"] == []
        with pytest.raises(InvitationRefused, match="revoked"):
            await join(lab, "C", second)
        assert (await join(lab, "C", await invite(lab)))["member"], "new ones are good"


async def test_who_loses_a_role_does_not_get_it_back_with_the_same_line() -> None:
    async with lab_of_one("B", "C") as lab:
        line = await invite(lab, uses=5)
        await join(lab, "B", line)
        report = await lab.call("A", "channel.set-roles", channel="lab", node=lab.id("B"),
                                roles="request-files")  # fmt: skip
        assert [each["state"] for each in report["revoked"]] == ["revoked"]
        with pytest.raises(InvitationRefused, match="revoked"):
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


async def test_a_wrong_secret_is_refused_and_told_nothing() -> None:
    async with lab_of_one("B") as lab:
        real = parse_line(await invite(lab))
        forged = to_line(replace_seed(real, bytes(32)))
        with pytest.raises(InvitationRefused) as caught:
            await join(lab, "B", forged)
        assert caught.value.fields["channel"] == real.channel.hex()[:8], "not even the name"
        assert await state_of(lab) == ["open"]


def replace_seed(invitation: Any, seed: bytes) -> Any:
    return msgspec.structs.replace(invitation, seed=seed)


async def test_a_proof_is_of_no_use_on_another_link_or_for_another_node() -> None:
    async with lab_of_one("B", "C") as lab:
        invitation = parse_line(await invite(lab))
        first = await guest(lab, "B", invitation)
        proof = prove(
            invitation.key, channel=invitation.channel, admitter=invitation.admitter,
            newcomer=lab["B"].context.key.public, handshake_hash=first.session.handshake_hash,
        )  # fmt: skip
        params = codec.plain(Join(invitation.channel, invitation.key.public, proof, "B"))
        second = await guest(lab, "B", invitation)
        other = await guest(lab, "C", invitation)
        for link in (second, other):
            assert isinstance(await outcome(link, params), InvitationRefused)
        assert await state_of(lab) == ["open"]
        assert isinstance(await outcome(first, params), bytes), "where it was made, it counts"


async def guest(lab: Lab, name: str, invitation: Any) -> Link:
    """A guest's link to the admitter, through the proxy."""
    node = lab[name]
    link = await node.reach.connect(
        f"ws://{lab['P'].listening}", lab.id("P"), guest_of=invitation.channel
    )
    stream = link.open(
        JOIN_CIRCUIT, codec.plain(CircuitTo(invitation.channel, invitation.admitter))
    )
    return await node.network.attend(
        CircuitTransport(stream, "test"),
        initiator=True,
        expected=invitation.admitter.hex(),
        via=link.peer,
        guest_of=invitation.channel,
    )


async def outcome(link: Link, params: Any) -> bytes | KacheryError:
    stream = link.open(JOIN, params)
    try:
        item = await stream.receive()
        assert item is not None
        return await stream.open_body(item[1])
    except KacheryError as error:
        return error


async def test_the_proxy_sees_neither_the_secret_nor_the_proof() -> None:
    async with lab_of_one("B") as lab:
        line = await invite(lab)
        invitation = parse_line(line)
        seen = bytearray()
        relay = lab["P"].relay
        pump = relay._pump

        async def watch(source: Any, sink: Any) -> None:
            receive = source.receive

            async def spy() -> Any:
                item = await receive()
                if item is not None:
                    seen.extend(bytes(item[1]))
                return item

            source.receive = spy
            await pump(source, sink)

        relay._pump = watch  # type: ignore[method-assign]
        await join(lab, "B", line)
        assert len(seen) > 500, "it did go through the proxy"
        for secret in (invitation.seed, invitation.key.public, b"kachery-channel"):
            assert secret not in seen


async def test_a_guest_may_ask_for_nothing_but_to_join() -> None:
    async with lab_of_one("B") as lab:
        invitation = parse_line(await invite(lab))
        channel = invitation.channel
        link = await lab["B"].reach.connect(
            f"ws://{lab['P'].listening}", lab.id("P"), guest_of=channel
        )
        with pytest.raises(NotAMember):
            await link.request(WHO_HAS, codec.plain(WhoHas(channel, "files", [bytes(16)], 1, 0)))
        for method in (CIRCUIT, "circuit.in"):
            stream = link.open(method, codec.plain(CircuitTo(channel, invitation.admitter)))
            with pytest.raises(NotAMember):
                await stream.receive()
        stream = link.open("channel.document", {"channel": channel})
        with pytest.raises(NotAMember):
            await stream.receive()
        # One circuit, not two.
        first, second = (
            link.open(JOIN_CIRCUIT, codec.plain(CircuitTo(channel, invitation.admitter)))
            for _ in range(2)
        )
        with pytest.raises(Busy):
            await second.receive()
        first.end()
        # And it is not held for ever.
        link.close(Unreachable(what="x", reason="done"))


async def test_guests_are_few_and_are_shown_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kachery_p2p.node.links.guests.MAX_GUESTS", 1)
    monkeypatch.setattr("kachery_p2p.node.links.network.GUEST_SECONDS", 0.5)
    async with lab_of_one("B", "C") as lab:
        channel = parse_line(await invite(lab)).channel
        url = f"ws://{lab['P'].listening}"
        first = await lab["B"].reach.connect(url, lab.id("P"), guest_of=channel)
        second = await lab["C"].reach.connect(url, lab.id("P"), guest_of=channel)
        await first.closed.wait()
        assert isinstance(first.closed_by, Busy)
        await second.closed.wait()
        assert isinstance(second.closed_by, NotAMember)


async def test_guests_that_do_nothing_do_not_keep_a_newcomer_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kachery_p2p.node.links.guests.MAX_GUESTS", 3)
    async with lab_of_one("B", "C") as lab:
        line = await invite(lab)
        channel = parse_line(line).channel
        url = f"ws://{lab['P'].listening}"
        for _ in range(5):
            await lab["B"].reach.connect(url, lab.id("P"), guest_of=channel)
        await join(lab, "C", line)
        await lab.linked("C", "lab")


async def test_a_guest_in_the_middle_of_something_does_not_go_before_one_that_does_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kachery_p2p.node.links.guests.MAX_GUESTS", 2)
    async with lab_of_one("B") as lab:
        channel = parse_line(await invite(lab)).channel
        url = f"ws://{lab['P'].listening}"
        busy, idle = [
            await lab["B"].reach.connect(url, lab.id("P"), guest_of=channel) for _ in range(2)
        ]
        admitter = lab["A"].context.key.public
        busy.open(JOIN_CIRCUIT, codec.plain(CircuitTo(channel, admitter)))
        await until(lambda: len(lab["P"].relay._guests) == 1)
        await lab["B"].reach.connect(url, lab.id("P"), guest_of=channel)
        await idle.closed.wait()
        assert isinstance(idle.closed_by, Busy)
        assert busy.closed_by is None


async def test_who_does_not_know_the_channel_is_no_guest() -> None:
    async with lab_of_one("B") as lab:
        link = await lab["B"].reach.connect(
            f"ws://{lab['P'].listening}", lab.id("P"), guest_of=bytes(32)
        )
        await link.closed.wait()
        assert isinstance(link.closed_by, NotAMember)


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


# --- an authorised node admits -----------------------------------------------------------------


async def authorise(lab: Lab, node: str, roles: str = "request") -> None:
    await lab.call("A", "channel.authorise", channel="lab", node=lab.id(node), roles=roles)
    channel = lab.channels["lab"]
    version = lab["A"].network.version_of(channel)
    await until(lambda: lab[node].network.version_of(channel) == version)


async def test_readers_are_admitted_while_the_owner_is_away() -> None:
    async with laboratory("A", "S", "R", "N", channel=False) as lab:
        channel = await lab.channel("lab", dict.fromkeys("ASR", "all"))
        await authorise(lab, "S")
        sha1, _ = await lab.store("S", b"data")
        await lab.stop("A")
        joined = await join(lab, "N", await invite(lab, "S"))
        assert joined["member"]
        assert joined["granted"] == ["request-feeds", "request-files", "request-tasks"]
        await lab.linked("N", "lab")
        await lab.load("N", sha1)
        assert lab.bytes_of("N", sha1) == b"data"
        # Every member knows, and so do those that come back later, or start anew.
        await until(lambda: roles_of(lab, "R", "N"))
        for name in ("P", "R", "N"):
            await lab.restart(name)
            await until(lambda name=name: roles_of(lab, name, "N"), name)  # type: ignore[misc]
        # It may read, and nothing else.
        assert not any(role.startswith("provide") for role in roles_of(lab, "S", "N"))
        shown = await lab.call("S", "channel.show", channel="lab")
        assert [m["admitted_by"] for m in shown["members"] if m["label"] == "N"] == [lab.id("S")]
        # The owner's node takes it into the document when it is back, and all forget the record.
        before = lab["S"].network.version_of(channel)
        await lab.start("A")
        await until(lambda: lab["N"].network.version_of(channel) > before)
        document = lab["N"].context.book.signed(channel).document
        assert document.member(lab.id("N")) is not None
        for name in ("A", "S", "N"):
            await until(lambda name=name: not lab[name].state.admissions(channel.hex()))  # type: ignore[misc]
        await lab.load("N", (await lab.store("S", b"more"))[0])


async def test_an_admission_that_comes_before_the_document_is_not_lost() -> None:
    async with laboratory("A", "S", "R", "N", channel=False) as lab:
        channel = await lab.channel("lab", dict.fromkeys("ASR", "all"))
        documents = lab["R"].documents
        pull, held = documents._pull_once, asyncio.Event()

        async def slow(link: Link, channel: bytes) -> None:
            await held.wait()
            await pull(link, channel)

        documents._pull_once = slow  # type: ignore[method-assign]
        old = lab["R"].network.version_of(channel)
        await authorise(lab, "S")
        lab["A"].network.handlers.notes.pop("channel.admissions")
        await join(lab, "N", await invite(lab, "S"))
        await until(lambda: roles_of(lab, "P", "N"))
        # What P said before it answers has come to R: the admission, and it did not count.
        (link,) = lab["R"].network.links_to(lab.id("P"), channel)
        await link.request(WHO_HAS, codec.plain(WhoHas(channel, "files", [bytes(16)], 1, 0)))
        assert lab["R"].network.version_of(channel) == old
        assert not roles_of(lab, "R", "N")
        held.set()
        await until(lambda: roles_of(lab, "R", "N"))


async def test_an_authorised_node_gives_reading_roles_only() -> None:
    async with laboratory("A", "S") as lab:
        with pytest.raises(BadInput, match="request-files"):
            await authorise(lab, "S", "all")
        await authorise(lab, "S", "request-files")
        with pytest.raises(AccessDenied, match="request-feeds"):
            await invite(lab, "S", roles="request")
        with pytest.raises(AccessDenied, match="provide-files"):
            await invite(lab, "S", roles="files")
        assert await invite(lab, "S", roles="request-files")
        with pytest.raises(AccessDenied, match="created on another node"):
            await lab.call(
                "S", "channel.authorise", channel="lab", node=lab.id("S"), roles="request"
            )


async def test_who_has_no_role_but_proxy_is_authorised_to_nothing() -> None:
    async with lab_of_one() as lab:
        with pytest.raises(BadInput, match="has not got request-files itself"):
            await authorise(lab, "P", "request-files")


async def test_an_admitter_whose_roles_are_taken_admits_no_puppet() -> None:
    """A puppet that it admitted afterwards was sealed the new secret."""
    async with laboratory("A", "S", "N", channel=False) as lab:
        channel = await lab.channel("lab", dict.fromkeys("AS", "all"))
        await authorise(lab, "S")
        line = await invite(lab, "S", uses=5)
        before = lab["S"].context.book.signed(channel).document
        await lab.call("A", "channel.set-roles", channel="lab", node=lab.id("S"), roles="none")
        after = lab["A"].context.book.signed(channel).document
        await until(lambda: lab["P"].network.version_of(channel) == after.version)
        await until(lambda: lab["S"].network.version_of(channel) == after.version)
        # It never learns the new secret, but it may say that it has it.
        puppet = lab["N"].context.key.public
        made = admit(
            lab["S"].context.key,
            before,
            puppet,
            "x",
            frozenset({"request-files"}),
            bytes(32),
            0.0,
            bytes(32),
        )
        lie = msgspec.structs.replace(made, secret_version=after.secret_version)
        body = codec.pack(codec.plain(lie)[:-1])
        signature = lab["S"].context.key.sign(b"admission", body)
        forged = codec.encode(msgspec.structs.replace(lie, signature=signature))
        for name in "AP":
            assert not lab[name].admissions.add(channel, forged)
            assert lab.id("N") not in {
                a.node_id for a in lab[name].context.book.admissions(channel)
            }
        assert lab["A"].context.book.signed(channel).document.member(lab.id("N")) is None
        with pytest.raises(AccessDenied):
            await invite(lab, "S")
        with pytest.raises(KacheryError):
            await join(lab, "N", line)
        assert not roles_of(lab, "A", "N")


async def test_an_authorisation_that_is_taken_back_ends_invitations_and_admissions() -> None:
    async with laboratory("A", "S", "N", "M", channel=False) as lab:
        await lab.channel("lab", dict.fromkeys("AS", "all"))
        await authorise(lab, "S")
        line = await invite(lab, "S", uses=2)
        # The owner does not hear of it: as if it were away.
        lab["A"].network.handlers.notes.pop("channel.admissions")
        await join(lab, "N", line)
        await until(lambda: roles_of(lab, "A", "N") or roles_of(lab, "P", "N"))
        assert not roles_of(lab, "A", "N")
        await authorise(lab, "S", "none")
        await until(lambda: not roles_of(lab, "P", "N") and not roles_of(lab, "S", "N"))
        with pytest.raises(InvitationRefused, match="may not admit"):
            await join(lab, "M", line)


async def test_who_is_removed_does_not_come_back_by_an_old_admission() -> None:
    async with laboratory("A", "S", "N", channel=False) as lab:
        channel = await lab.channel("lab", dict.fromkeys("AS", "all"))
        await authorise(lab, "S")
        await join(lab, "N", await invite(lab, "S"))
        record = lab["N"].state.admissions(channel.hex())
        await until(lambda: lab["A"].context.book.signed(channel).document.member(lab.id("N")))
        await lab.call("A", "channel.remove-node", channel="lab", node=lab.id("N"))
        version = lab["A"].network.version_of(channel)
        await until(lambda: lab["P"].network.version_of(channel) == version)
        for data in record.values():
            for name in "APS":
                assert not lab[name].admissions.add(channel, data)
        assert not roles_of(lab, "P", "N")


@pytest.mark.parametrize("away", [False, True])
async def test_an_admitters_line_is_void_when_who_came_by_it_is_removed(away: bool) -> None:
    """``away``: the admitter was not there while its newcomer was taken in and removed."""
    async with laboratory("A", "S", "N", "M", channel=False) as lab:
        channel = await lab.channel("lab", dict.fromkeys("AS", "all"))
        await authorise(lab, "S")
        line, other = await invite(lab, "S", uses=5), await invite(lab, "S")
        if away:
            await lab.stop("A")
        await join(lab, "N", line)
        if away:
            await until(lambda: lab["P"].network.is_member(channel, lab.id("N")))
            await lab.stop("S")
            await lab.restart("A")
        await until(lambda: lab["A"].context.book.signed(channel).document.member(lab.id("N")))
        report = await removed(lab, "N")
        assert report["came_by"]["admitted_by"] == lab_id(lab, "S")
        assert report["came_by"]["invitations"] == [parse_line(line).key.node_id]
        assert report["revoked"] == [], "it is another node's"
        assert lab["A"].state.arrival(channel.hex(), lab.id("N")) is None
        assert [each["label"] for each in report["admitters"]] == ["S"]
        if away:
            await lab.restart("S")
        version = lab["A"].network.version_of(channel)
        await until(lambda: lab["S"].network.version_of(channel) == version)
        with pytest.raises(InvitationRefused, match="revoked"):
            await join(lab, "M", line)
        assert sorted(await state_of(lab, "S")) == ["open", "revoked"]
        assert any("is revoked" in text for _, text in lab["S"].context.warnings)
        # The owner ends those of others, too.
        await lab.call("A", "channel.revoke-invites", channel="lab")
        version = lab["A"].network.version_of(channel)
        await until(lambda: lab["S"].network.version_of(channel) == version)
        with pytest.raises(InvitationRefused, match="revoked"):
            await join(lab, "M", other)


def lab_id(lab: Lab, name: str) -> str:
    """Of a node that may be stopped."""
    path = lab.configs[name].state_dir / "node.key"
    return NodeKey(bytes.fromhex(path.read_text().strip())).node_id


async def test_whom_an_admitter_let_in_is_named_when_it_loses_its_roles_and_stays() -> None:
    async with laboratory("A", "S", "N", channel=False) as lab:
        channel = await lab.channel("lab", dict.fromkeys("AS", "all"))
        await authorise(lab, "S")
        await join(lab, "N", await invite(lab, "S", label="newcomer"))
        await until(lambda: lab["A"].context.book.signed(channel).document.member(lab.id("N")))
        report = await lab.call("A", "channel.set-roles", channel="lab", node=lab.id("S"),
                                roles="none")  # fmt: skip
        assert report["came_by"]["let_in"] == [{"node": lab.id("N"), "label": "newcomer"}]
        assert report["admitters"] == []
        assert lab["A"].network.is_member(channel, lab.id("N"))
        report = await removed(lab, "S")
        assert [each["label"] for each in report["came_by"]["let_in"]] == ["newcomer"]


async def test_an_admitter_revokes_all_its_own() -> None:
    async with laboratory("A", "S", "N", channel=False) as lab:
        await lab.channel("lab", dict.fromkeys("AS", "all"))
        await authorise(lab, "S")
        line = await invite(lab, "S", uses=5)
        ended = await lab.call("S", "channel.revoke-invites", channel="lab")
        assert [each["state"] for each in ended["invitations"]] == ["revoked"]
        with pytest.raises(InvitationRefused, match="revoked"):
            await join(lab, "N", line)


async def test_an_admission_by_who_is_not_authorised_counts_for_nobody() -> None:
    async with laboratory("A", "B", "S") as lab:
        channel = lab.channels["lab"]
        await authorise(lab, "S")
        await until(
            lambda: lab["P"].network.version_of(channel) == lab["S"].network.version_of(channel)
        )
        book = lab["S"].context.book
        secret = book.secret(channel)
        assert secret is not None
        made = admit(
            lab["S"].context.key, book.signed(channel).document, bytes(31) + b"\x09", "x",
            frozenset({"request-files"}), secret[1], 0.0, bytes(32),
        )  # fmt: skip
        forged = msgspec.structs.replace(made, admitter=lab["B"].context.key.public)
        assert not lab["P"].admissions.add(channel, codec.encode(forged))
        wider = msgspec.structs.replace(made, bits=63)
        assert not lab["P"].admissions.add(channel, codec.encode(wider))
        changed = msgspec.structs.replace(made, node=bytes(31) + b"\x0a")
        with pytest.raises(KacheryError, match="did not sign"):
            lab["P"].admissions.add(channel, codec.encode(changed))
        assert lab["P"].admissions.add(channel, codec.encode(made))
        assert not lab["P"].admissions.add(channel, codec.encode(made)), "no news"
