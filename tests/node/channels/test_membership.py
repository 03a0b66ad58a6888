"""Who is let in, who is thrown out, and how fast, over real links."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from kachery_p2p.node.context import Context
from kachery_p2p.node.links.transport import SUBPROTOCOL
from kachery_p2p.protocol.channels.text_encoding import from_text
from kachery_p2p.protocol.errors import (
    AccessDenied,
    BadChannelDocument,
    ClockSkew,
    KacheryError,
    NotAMember,
    NotFound,
    Unreachable,
    VersionMismatch,
)
from kachery_p2p.protocol.limits import PROTOCOL_VERSION
from kachery_p2p.protocol.links import session
from tests.node.harness import Lab, laboratory, until

WIRE = Subprotocol(SUBPROTOCOL)


def peers(lab: Lab, name: str) -> set[str]:
    return {link.peer for link in lab[name].network.links}


def cut_off(lab: Lab, name: str, node_id: str) -> bool:
    network = lab[name].network
    return not network.is_member(lab.channels["lab"], node_id) and node_id not in peers(lab, name)


def refusals(lab: Lab, name: str) -> list[str]:
    """The codes of what keeps a node from its bootstrap nodes."""
    return [status.code for status in lab[name].bootstraps.status.values()]


async def test_a_node_that_is_no_member_is_told_so_and_gets_nothing() -> None:
    async with laboratory("A", "B", "C", channel=False) as lab:
        key = await lab.channel("lab", {"A": "all", "B": "all"})
        sha1, _ = await lab.store("A", b"for members")
        await lab.call("C", "channel.join", document=await lab.export("A", "lab"))
        await until(lambda: refusals(lab, "C") == ["not-a-member"])
        assert not lab["C"].network.links_on(key)
        error = await lab.error("C", sha1)
        assert isinstance(error, AccessDenied)
        assert error.fields["cause"] == "not a member"
        for name in ("A", "B", "P"):
            assert lab.id("C") not in peers(lab, name)


async def test_a_stranger_cannot_even_ask_for_the_channels_document() -> None:
    async with laboratory("A", "C", channel=False) as lab:
        key = await lab.channel("lab", {"A": "all"})
        text = await lab.export("A", "lab")
        await lab.call("A", "channel.set-roles", channel="lab", node=lab.id("A"), roles="all")
        # C has the first version, the others the second: C may ask, and is refused.
        await until(lambda: lab["P"].network.version_of(key) > 1)
        await lab.call("C", "channel.join", document=text)
        await until(lambda: refusals(lab, "C") == ["not-a-member"])
        assert lab["C"].network.version_of(key) == 1


async def test_whoever_joins_before_being_added_is_in_as_soon_as_they_are() -> None:
    async with laboratory("A", "B", channel=False) as lab:
        await lab.channel("lab", {"A": "all"})
        await lab.call("B", "channel.join", document=await lab.export("A", "lab"))
        await until(lambda: refusals(lab, "B") == ["not-a-member"])
        await lab.call("A", "channel.add-node", channel="lab", node=lab.id("B"), label="B")
        await until(lambda: lab["P"].network.is_member(lab.channels["lab"], lab.id("B")))
        lab["B"].bootstraps.hurry()
        await lab.linked("B", "lab")
        sha1, _ = await lab.store("A", b"welcome")
        await until(lambda: lab["B"].context.book.secret(lab.channels["lab"]))
        await lab.load("B", sha1)


async def test_a_removed_member_is_cut_off_at_once_and_gets_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kachery_p2p.node.gossip.questions.LINK_GRACE_SECONDS", 0.3)
    async with laboratory("A", "B", "C", listening=("A",)) as lab:
        key = lab.channels["lab"]
        sha1, _ = await lab.store("A", b"first")
        await lab.load("B", sha1)
        assert lab["B"].network.links_to(lab.id("A"), key), "a direct link, too"
        await lab.call("A", "channel.remove-node", channel="lab", node=lab.id("B"))
        # Told by the proxy's note, not by a timer: within the time of a round trip.
        for name in ("A", "P", "C"):
            await until(partial(cut_off, lab, name, lab.id("B")))
        after, _ = await lab.store("A", b"second")
        error = await lab.error("B", after)
        assert isinstance(error, AccessDenied | NotAMember | Unreachable)
        assert lab.bytes_of("B", after) == b""
        for name in ("A", "P"):
            url = f"ws://{lab[name].listening}"
            # B does not know yet that it was removed: to it, the link is good until it is told.
            try:
                link = await lab["B"].reach.connect(url, lab.id(name))
                await link.closed.wait()
                error = link.closed_by
            except KacheryError as refused:
                error = refused
            assert isinstance(error, NotAMember), name
        # The others go on, under the new secret.
        await until(lambda: (lab["C"].context.book.secret(key) or (0,))[0] == 2)
        await lab.load("C", after)


async def test_a_member_that_was_away_learns_of_a_removal_when_it_returns() -> None:
    async with laboratory("A", "B", "C") as lab:
        key = lab.channels["lab"]
        await lab.stop("C")
        await lab.call("A", "channel.remove-node", channel="lab", node=lab.id("B"))
        await lab.start("C")
        await lab.linked("C", "lab")
        await until(lambda: not lab["C"].network.is_member(key, lab.id("B")))
        assert (lab["C"].context.book.secret(key) or (0,))[0] == 2


async def test_a_role_that_is_taken_back_counts_at_once() -> None:
    async with laboratory() as lab:
        sha1, _ = await lab.store("A", b"x")
        await lab.call("A", "channel.set-roles", channel="lab", node=lab.id("B"),
                       roles="provide-files")  # fmt: skip
        key = lab.channels["lab"]
        await until(lambda: "request-files" not in lab["B"].network.own_roles(key))
        error = await lab.error("B", sha1)
        assert isinstance(error, AccessDenied)


async def test_anybody_with_the_export_is_on_an_open_channel() -> None:
    async with laboratory("A", "B", channel=False) as lab:
        await lab.channel("lab", {"A": "all"}, open=True, default_roles="request-files")
        await lab.call("B", "channel.join", document=await lab.export("A", "lab"))
        await lab.linked("B", "lab")
        sha1, _ = await lab.store("A", b"for everybody")
        await lab.load("B", sha1)
        assert lab.bytes_of("B", sha1) == b"for everybody"
        mine, _ = await lab.store("B", b"not for everybody", tell=None)
        assert isinstance(await lab.error("A", mine), NotFound), "B may request, not provide"


async def test_a_channel_that_expired_grants_nothing_and_cannot_be_joined() -> None:
    now = {"later": 0.0}

    def adjust(context: Context) -> Context:
        clock = context.clock
        return replace(context, clock=lambda: clock() + now["later"])

    async with laboratory(channel=False) as lab:
        for name in ("P", "A", "B"):
            await lab.stop(name)
        await lab.start("P", listen="127.0.0.1:0", proxy=True, adjust=adjust)
        await lab.start("A", adjust=adjust)
        await lab.start("B", adjust=adjust)
        key = await lab.channel("lab", {"A": "all", "B": "all"}, expires_in=3_600.0)
        sha1, _ = await lab.store("A", b"x")
        await lab.load("B", sha1)
        after, _ = await lab.store("A", b"y")
        text = await lab.export("A", "lab")
        now["later"] = 4_000.0
        for name in ("P", "A", "B"):
            lab[name].documents.check_expiry()
        await until(lambda: not lab["P"].network.links and not lab["B"].network.links_on(key))
        error = await lab.error("B", after)
        assert isinstance(error, AccessDenied)
        assert error.fields["cause"] == "the channel document expired"
        assert any("expired" in text for _, text in lab["B"].context.warnings)
        with pytest.raises(BadChannelDocument, match="expired"):
            await lab.call("B", "channel.join", document=text)


async def test_clocks_an_hour_apart_are_named_on_both_sides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kachery_p2p.node.gossip.questions.LINK_GRACE_SECONDS", 0.3)
    async with laboratory("A", "B", channel=False) as lab:
        await lab.channel("lab", {"A": "all", "B": "all"})
        await lab.stop("B")
        await lab.start("B", adjust=lambda c: replace(c, clock=lambda: c.clock() + 3_600))
        await until(lambda: refusals(lab, "B") == ["clock-skew"])
        for name in ("B", "P"):
            await until(partial(bool, lab[name].context.warnings))
            assert any("clocks" in text for _, text in lab[name].context.warnings)
        error = await lab.error("B", "0" * 40)
        assert isinstance(error, ClockSkew | Unreachable)
        assert "3600" in str(error) or "3599" in str(error)


async def test_another_protocol_version_is_named_by_both_sides(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "kachery_p2p")
    newer = PROTOCOL_VERSION + 1
    async with laboratory() as lab:
        async with connect(f"ws://{lab['P'].listening}", subprotocols=[WIRE], proxy=None) as wire:
            await wire.send(session.prologue(newer) + b"a handshake we cannot know")
            answer = await wire.recv()
        assert isinstance(answer, bytes)
        with pytest.raises(VersionMismatch) as caught:
            session.unwrap_handshake(answer, newer)
        assert caught.value.fields == {"ours": newer, "theirs": PROTOCOL_VERSION}
        await until(lambda: f"{PROTOCOL_VERSION}, the peer speaks {newer}" in caplog.text)


async def test_a_dialler_hears_the_version_of_a_node_that_speaks_another() -> None:
    newer = PROTOCOL_VERSION + 1

    async def answer(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send(session.prologue(newer))

    async with laboratory() as lab, serve(answer, "127.0.0.1", 0, subprotocols=[WIRE]) as server:
        host, port = next(iter(server.sockets)).getsockname()
        with pytest.raises(VersionMismatch) as caught:
            await lab["A"].reach.connect(f"ws://{host}:{port}", None)
        assert caught.value.fields == {"ours": PROTOCOL_VERSION, "theirs": newer}


async def test_a_document_that_was_tampered_with_is_not_taken() -> None:
    async with laboratory() as lab:
        data, _ = from_text(await lab.export("A", "lab"))
        for place in range(0, len(data), 7):
            changed = bytearray(data)
            changed[place] ^= 1
            try:
                update = lab["B"].documents.offer(bytes(changed))
            except KacheryError:
                continue
            assert update.signed is None
        assert lab["B"].network.links


async def test_an_owner_whose_bootstrap_has_not_joined_yet_is_told_that_until_it_has() -> None:
    """The owner was told to ask the owner to add it, and it stayed among the warnings for ever."""
    async with laboratory("A", channel=False) as lab:
        where = f"ws://{lab['P'].listening}"
        made = await lab.call("A", "channel.create", name="lab", bootstraps=[where])
        warnings = lab["A"].context.warnings
        await until(
            lambda: [text for _, text in warnings if "has not joined the channel yet" in text]
        )
        assert not any("Ask the channel's owner" in text for _, text in warnings)
        lab["A"].context.warn("something else")
        lab.channels["lab"] = bytes.fromhex(made["id"])
        await lab.call("P", "channel.join", document=await lab.export("A", "lab"), roles="none")
        await lab.linked("A", "lab")
        await until(lambda: [text for _, text in warnings] == ["something else"])
