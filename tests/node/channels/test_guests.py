"""Guests: who has a line and is no member yet may join, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kachery_p2p.node.links.circuit import CircuitTransport
from kachery_p2p.node.links.link import Link
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.invitation import parse_line, prove, to_line
from kachery_p2p.protocol.channels.messages import JOIN, JOIN_CIRCUIT, Join
from kachery_p2p.protocol.errors import (
    Busy,
    InvitationRefused,
    KacheryError,
    NotAMember,
    Unreachable,
)
from kachery_p2p.protocol.gossip.messages import WHO_HAS, WhoHas
from kachery_p2p.protocol.links.messages import CIRCUIT, CircuitTo
from tests.node.channels.inviting import invite, join, lab_of_one, state_of
from tests.node.harness import Lab, until


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
