"""What travels early: the first handshake message with a circuit's opening, and requests right behind
a hello. Who is no member gains nothing by it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest

from kachery_p2p.node.links import link as link_module
from kachery_p2p.node.links import network
from kachery_p2p.node.links.circuit import CircuitTransport
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.opening import handshake
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.node.routes.reach import Reach
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.membership import channel_tag
from kachery_p2p.protocol.errors import KacheryError, LinkClosed, ProtocolViolation
from kachery_p2p.protocol.files.messages import FILE_OPEN
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import CIRCUIT_CREDIT, MAX_FIRST_MESSAGE
from kachery_p2p.protocol.links.frames import Bye, Failure, Frame, Request, Response
from kachery_p2p.protocol.links.messages import CIRCUIT, CircuitTo
from kachery_p2p.protocol.links.session import prologue
from tests.node.harness import Lab, laboratory, until

from .raw import rogue


def ask_for(lab: Lab, sha1: str) -> dict[str, bytes]:
    return {"channel": lab.channels["lab"], "sha1": bytes.fromhex(sha1)}


async def test_a_member_is_asked_before_its_hello_has_come() -> None:
    async with laboratory() as lab:
        sha1, _ = await lab.store("A", b"early")
        reach, channel = lab["B"].reach, lab.channels["lab"]
        link = await reach.to(lab.id("A"), channel)
        assert not link.greeted.is_set()
        assert await reach.to(lab.id("A"), channel) is link, "a second one for the same"
        answer = await link.request(FILE_OPEN, ask_for(lab, sha1))
        assert answer["inline"] == b"early"
        assert link.greeted.is_set()
        assert lab["B"].network.links_to(lab.id("A"), channel) == [link]
        await until(lambda: not reach._early, "it is a link as others are")


async def test_a_circuit_takes_no_credit_to_open() -> None:
    """The proxy is asked for it with the first message, and nothing is waited for before that."""
    async with laboratory() as lab:
        (proxy,) = lab["B"].network.links_to(lab.id("P"), lab.channels["lab"])
        asked: list[CircuitTo] = []
        real = proxy.open

        def spy(method: str, params: Any, **more: Any) -> Stream:
            asked.append(codec.convert(CircuitTo, params))
            return real(method, params, **more)

        proxy.open = spy  # type: ignore[method-assign]
        await lab["B"].reach.to(lab.id("A"), lab.channels["lab"])
        (wanted,) = asked
        assert len(wanted.first) == 45
        assert wanted.first.startswith(prologue())


async def first_of(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The first message of a circuit that B has opened to A, as the proxy may keep it."""
    heard: list[bytes] = []
    real = Reach._on_circuit

    async def spy(self: Reach, link: Link, stream: Stream, params: CircuitTo) -> None:
        heard.append(params.first)
        await real(self, link, stream, params)

    for node in lab.nodes.values():
        monkeypatch.setitem(
            node.network.handlers.streams,
            "circuit.in",
            (CircuitTo, lambda *args, reach=node.reach: spy(reach, *args)),
        )
    await lab["B"].reach.to(lab.id("A"), lab.channels["lab"])
    await until(lambda: heard)
    return heard[0]


def open_circuit(lab: Lab, first: bytes) -> Stream:
    channel = lab.channels["lab"]
    (proxy,) = lab["C"].network.links_to(lab.id("P"), channel)
    wanted = {"channel": channel, "node": bytes.fromhex(lab.id("A")), "first": first}
    return proxy.open(CIRCUIT, wanted, credit=CIRCUIT_CREDIT)


async def test_a_first_message_that_is_repeated_leads_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory("A", "B", "C") as lab:
        first = await first_of(lab, monkeypatch)
        stream = open_circuit(lab, first)
        transport = CircuitTransport(stream, "the one who repeats")
        answer = await transport.receive()
        # It has no key that fits: whatever it says next ends it, what B said before included.
        await transport.send(bytes(answer))
        with pytest.raises(KacheryError):
            await transport.receive()
        await until(lambda: not lab["A"].network._greeting)
        assert lab.id("C") not in {link.peer for link in lab["A"].network.links}


@pytest.mark.parametrize(
    "first", [bytes(MAX_FIRST_MESSAGE), b"x", b"kachery-p2p\x00\x00" + bytes(32)], ids=len
)
async def test_a_first_message_that_is_none_ends_the_circuit_and_nothing_else(
    first: bytes,
) -> None:
    async with laboratory("A", "B", "C") as lab:
        transport = CircuitTransport(open_circuit(lab, first), "C")

        async def hear_out() -> None:
            while True:  # it may say its version before
                await transport.receive()

        with pytest.raises(KacheryError):
            await hear_out()
        sha1, _ = await lab.store("A", b"as before")
        assert (await lab.load("C", sha1))["size"] == 9


async def test_a_first_message_that_is_too_long_is_not_passed_on() -> None:
    async with laboratory("A", "B", "C") as lab:
        stream = open_circuit(lab, bytes(MAX_FIRST_MESSAGE + 1))
        with pytest.raises(ProtocolViolation):
            await stream.receive()


async def test_another_member_that_answers_is_not_asked() -> None:
    """A proxy leads to the wrong node: nothing is said to that, however early."""
    async with laboratory("A", "B", "C") as lab:
        right, wrong = lab.id("A"), lab.id("C")
        relay = lab["P"].relay
        real = relay._onward

        def elsewhere(link: Link, wanted: CircuitTo) -> Link:
            wanted = CircuitTo(wanted.channel, bytes.fromhex(wrong), wanted.first)
            return real(link, wanted)

        relay._onward = elsewhere  # type: ignore[method-assign]
        with pytest.raises(KacheryError, match="it is node"):
            await lab["B"].reach.to(right, lab.channels["lab"])
        assert not lab["C"].network.links_to(lab.id("B"), lab.channels["lab"])


async def hear_any(peer: Any, kinds: tuple[type[Frame], ...]) -> Any:
    while True:
        frame = await peer.hear(object)
        if isinstance(frame, kinds):
            return frame


async def test_a_stranger_that_asks_right_behind_its_hello_is_refused() -> None:
    async with laboratory() as lab:
        sha1, _ = await lab.store("P", b"not for strangers")
        async with rogue(lab["P"].listening) as peer:
            await peer.hello()
            await peer.send(Request(1, FILE_OPEN, ask_for(lab, sha1)))
            frame = await hear_any(peer, (Response, Failure, Bye))
            assert frame.code == "not-a-member"


async def test_a_stranger_that_speaks_of_a_newer_document_waits_and_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network, "HANDSHAKE_SECONDS", 0.4)
    async with laboratory() as lab:
        sha1, _ = await lab.store("P", b"not for strangers")
        key = NodeKey(os.urandom(32))
        async with rogue(lab["P"].listening, key) as peer:
            tag = channel_tag(lab.channels["lab"], key.public, peer.session.handshake_hash)
            await peer.hello(channels={tag: (1_000, [])})
            for number in range(1, 21, 2):
                await peer.send(Request(number, FILE_OPEN, ask_for(lab, sha1)))
            heard = [await hear_any(peer, (Response, Failure, Bye))]
            while not isinstance(heard[-1], Bye):
                heard.append(await hear_any(peer, (Response, Failure, Bye)))
            assert {frame.code for frame in heard} == {"not-a-member"}


async def test_what_is_asked_waits_for_the_document_that_makes_both_members() -> None:
    async with laboratory() as lab:
        sha1, _ = await lab.store("A", b"soon")
        link = await lab["B"].reach.to(lab.id("A"), lab.channels["lab"])
        there = lab["A"].network
        await link.greeted.wait()
        (other,) = there.links_to(lab.id("B"), lab.channels["lab"])
        shared, there._shared[other] = there._shared[other], set()
        hoping: Callable[[Link], bool] = lambda _: True  # noqa: E731
        there._may_come_to_share = hoping  # type: ignore[method-assign]
        asking = asyncio.create_task(link.request(FILE_OPEN, ask_for(lab, sha1)))
        await until(lambda: len(other._serving), "it has come")
        assert not asking.done()
        there._shared[other] = shared
        assert (await asking)["inline"] == b"soon"


async def test_a_member_that_was_removed_is_not_asked_early() -> None:
    async with laboratory("A", "B", "C") as lab:
        channel, gone = lab.channels["lab"], lab.id("C")
        reach = lab["B"].reach
        link = await reach.to(gone, channel)
        assert not link.greeted.is_set()
        assert (gone, channel) in reach._early
        lab["B"].network.is_member = lambda *_: False  # type: ignore[method-assign]
        again = asyncio.create_task(reach.to(gone, channel))
        await asyncio.sleep(0)
        assert not again.done()
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)


async def test_a_transport_that_was_never_opened_can_be_closed() -> None:
    transport = CircuitTransport(None, "nobody", ask=lambda first: pytest.fail("asked"))
    await transport.close()
    with pytest.raises(LinkClosed):
        await transport.receive()


async def test_a_proxy_that_is_gone_when_the_circuit_is_asked_for() -> None:
    async with laboratory() as lab:
        (proxy,) = lab["B"].network.links_to(lab.id("P"), lab.channels["lab"])

        def ask(first: bytes) -> Stream:
            return proxy.open(CIRCUIT, {}, credit=1)

        transport = CircuitTransport(None, "A", ask=ask)
        proxy.close(LinkClosed(peer="P", reason="gone"))
        with pytest.raises(LinkClosed):
            await handshake(
                transport,
                initiator=True,
                key=NodeKey(os.urandom(32)),
                random_bytes=os.urandom,
            )


async def test_a_route_on_which_no_hello_comes_is_tried_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever was asked on it meanwhile ends when the link does."""
    monkeypatch.setattr(link_module, "HANDSHAKE_SECONDS", 0.3)
    async with laboratory() as lab:
        sha1, _ = await lab.store("A", b"never")
        monkeypatch.setattr(lab["A"].network, "_life", lambda *_: asyncio.sleep(60))
        reach = lab["B"].reach
        link = await reach.to(lab.id("A"), lab.channels["lab"])
        with pytest.raises(LinkClosed):
            await link.request(FILE_OPEN, ask_for(lab, sha1))
        await until(
            lambda: reach._bad_proxies.is_bad(lab.id("P"), asyncio.get_running_loop().time())
        )
        assert not reach._early
