"""WebSockets over real sockets, on both loops: what the other end, or a middle box, may do to them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvloop
from websockets.frames import BINARY, CLOSE, CONT, PING, PONG, TEXT, Close, Frame, Opcode

from kachery_p2p.node import websocket
from kachery_p2p.node.incoming import incoming
from kachery_p2p.node.links import transport
from kachery_p2p.node.links.gate import Gate
from kachery_p2p.node.links.transport import WebSocketTransport
from kachery_p2p.node.parties import Party
from kachery_p2p.node.websocket import Opening
from kachery_p2p.protocol.errors import LinkClosed
from kachery_p2p.protocol.limits import (
    INCOMING_LEAST,
    INCOMING_MOST,
    INCOMING_POOL,
    MAX_RECORD,
    MAX_UNTAKEN,
    MAX_UNTAKEN_BYTES,
    MAX_UNTAKEN_BYTES_OF_ALL,
    MIB,
)
from kachery_p2p.protocol.links.shares import Shares
from tests.node.harness import until

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

THEM = Party("them")

Run = Callable[[Coroutine[Any, Any, None]], None]
LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


@pytest.fixture(autouse=True)
def without_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes first here may be as large as what follows."""
    monkeypatch.setattr(websocket, "MAX_HANDSHAKE_MESSAGE", MAX_RECORD)


def frame(opcode: Opcode, data: bytes, *, fin: bool = True, masked: bool = False) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=masked)


@contextlib.asynccontextmanager
async def dialled(
    early: bytes = b"", party: Party | None = THEM
) -> AsyncIterator[tuple[WebSocketTransport, socket.socket]]:
    """Our end of a WebSocket that this node dialled, and the other end's socket. ``early``: what that
    sends in one piece with its answer. ``party``: whose account it is, if that is known."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        dialling = asyncio.create_task(
            transport.dial(f"ws://127.0.0.1:{listening.getsockname()[1]}")
        )
        raw, _ = await loop.sock_accept(listening)
        with raw:
            raw.setblocking(False)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += await loop.sock_recv(raw, 4_096)
            [key] = [
                line.split(b": ")[1]
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"sec-websocket-key")
            ]
            accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
            await loop.sock_sendall(
                raw,
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Protocol: kachery-p2p\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + early,
            )
            route = await dialling
            if party is not None:
                route.belong_to(party)
            try:
                yield route, raw
            finally:
                raw.close()  # else it is waited for its goodbye
                await route.close()


@contextlib.asynccontextmanager
async def accepted(
    early: bytes = b"", party: Party | None = THEM
) -> AsyncIterator[tuple[WebSocketTransport, socket.socket]]:
    """The same of one that this node accepted. ``early``: what the client sends before it is
    answered."""
    loop = asyncio.get_running_loop()
    come: asyncio.Future[WebSocketTransport] = loop.create_future()
    over = asyncio.Event()

    async def accept(route: WebSocketTransport, proved: Callable[[], None]) -> None:
        proved()
        come.set_result(route)
        await over.wait()

    listener = await transport.listen("127.0.0.1", 0, accept, Gate())
    try:
        with socket.create_connection(listener.sockets[0].getsockname()) as raw:
            raw.setblocking(False)
            await loop.sock_sendall(
                raw,
                b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
                b"Sec-WebSocket-Protocol: kachery-p2p\r\n\r\n" + early,
            )
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += await loop.sock_recv(raw, 1)
            assert b" 101 " in head
            route = await come
            if party is not None:
                route.belong_to(party)
            try:
                yield route, raw
            finally:
                raw.close()  # else it is waited for its goodbye
                await route.close()
                over.set()
    finally:
        listener.close()
    await until(lambda: not listener.visits)


ENDS = pytest.mark.parametrize("end", [dialled, accepted])


async def heard(raw: socket.socket, least: int) -> bytes:
    """At least so many bytes from our node."""
    loop, data = asyncio.get_running_loop(), b""
    while len(data) < least and (more := await loop.sock_recv(raw, 65_536)):
        data += more
    return data


@LOOPS
@ENDS
def test_what_comes_with_the_opening_is_not_lost(run: Run, end: Any) -> None:
    async def story() -> None:
        masked = end is accepted
        early = frame(BINARY, b"early", masked=masked) + frame(BINARY, b"half", masked=masked)[:-2]
        async with end(early) as (route, raw):
            assert bytes(await route.receive()) == b"early"
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(raw, frame(BINARY, b"half", masked=False)[-2:])
            assert bytes(await route.receive())[:2] == b"ha"

    run(story())


@LOOPS
@ENDS
def test_a_middle_box_may_cut_a_message_and_ask_whether_we_live(run: Run, end: Any) -> None:
    async def story() -> None:
        masked = end is accepted
        async with end() as (route, raw):
            data = bytes(range(256)) * 1_000
            wire = (
                frame(BINARY, data[:100_000], fin=False, masked=masked)
                + frame(PING, b"there?", masked=masked)
                + frame(CONT, b"", fin=False, masked=masked)
                + frame(CONT, data[100_000:], masked=masked)
            )
            sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(raw, wire))
            assert bytes(await route.receive()) == data
            await sending
            said = await heard(raw, 8)
            assert said[0] == 0x80 | PONG

    run(story())


@LOOPS
@ENDS
@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (lambda masked: frame(TEXT, b"hello", masked=masked), "text"),
        (lambda masked: frame(BINARY, b"x", masked=not masked), "masking"),
        (lambda masked: frame(BINARY, bytes(MAX_RECORD + 1), masked=masked)[:20], "message of"),
    ],
    ids=["text", "mask", "length"],
)
def test_who_breaks_the_rules_is_told_and_what_came_before_counts(
    run: Run, end: Any, what: Callable[[bool], bytes], reason: str
) -> None:
    async def story() -> None:
        masked = end is accepted
        async with end() as (route, raw):
            wire = frame(BINARY, b"before", masked=masked) + what(masked)
            await asyncio.get_running_loop().sock_sendall(raw, wire)
            assert bytes(await route.receive()) == b"before"
            with pytest.raises(LinkClosed, match=reason):
                await route.receive()
            assert (await heard(raw, 2))[0] == 0x80 | CLOSE
            with pytest.raises(LinkClosed):
                await route.send(b"more")

    run(story())


@LOOPS
@ENDS
def test_a_goodbye_is_heard_after_what_came_before_it(run: Run, end: Any) -> None:
    async def story() -> None:
        masked = end is accepted
        async with end() as (route, raw):
            bye = frame(CLOSE, Close(1000, "that is all").serialize(), masked=masked)
            wire = frame(BINARY, b"last", masked=masked) + bye
            await asyncio.get_running_loop().sock_sendall(raw, wire)
            assert (await heard(raw, 2))[0] == 0x80 | CLOSE
            raw.shutdown(socket.SHUT_RDWR)
            assert bytes(await route.receive()) == b"last"
            with pytest.raises(LinkClosed, match="that is all"):
                await route.receive()

    run(story())


@LOOPS
@ENDS
def test_a_connection_that_breaks_in_a_message_ends_all_that_wait(run: Run, end: Any) -> None:
    async def story() -> None:
        masked = end is accepted
        async with end() as (route, raw):
            receiving = asyncio.create_task(route.receive())
            half = frame(BINARY, bytes(500_000), masked=masked)[:300_000]
            await asyncio.get_running_loop().sock_sendall(raw, half)
            raw.shutdown(socket.SHUT_RDWR)
            with pytest.raises(LinkClosed):
                await receiving

    run(story())


@LOOPS
@ENDS
def test_who_does_not_take_what_comes_is_not_sent_more_and_loses_nothing(
    run: Run, end: Any
) -> None:
    async def story() -> None:
        masked = end is accepted
        async with end() as (route, raw):
            messages = [number.to_bytes(4, "big") * 10_000 for number in range(300)]

            async def send() -> None:
                for each in messages:
                    wire = frame(BINARY, each, masked=masked)
                    await asyncio.get_running_loop().sock_sendall(raw, wire)

            sending = asyncio.create_task(send())
            waiting = route._messages._reader.messages
            await until(lambda: len(waiting) > 16)
            for _ in range(200):
                await asyncio.sleep(0)
            assert len(waiting) <= 20
            for each in messages:
                assert bytes(await route.receive()) == each
            await sending

    run(story())


@LOOPS
@ENDS
def test_parts_are_one_message(run: Run, end: Any) -> None:
    async def story() -> None:
        async with end() as (route, raw):
            parts = [b"abc", bytearray(b"defg" * 10_000), memoryview(b"hi"), b""]
            whole = b"".join(parts)
            sending = asyncio.create_task(route.send(*parts))
            wire = await heard(raw, len(whole) + (8 if end is dialled else 4))
            await sending
            masked = end is dialled
            assert wire[:4] == bytes([0x82, 0x80 * masked + 126]) + len(whole).to_bytes(2, "big")
            payload = wire[8:] if masked else wire[4:]
            key = wire[4:8] if masked else bytes(4)
            assert bytes(byte ^ key[at % 4] for at, byte in enumerate(payload)) == whole

    run(story())


@pytest.mark.parametrize("cut", [1, 3, 7, 1_000])
def test_an_opening_ends_where_it_ends_however_it_is_cut(cut: int) -> None:
    wire = b"GET / HTTP/1.1\r\nA: b\r\n\r\nwhat follows\r\n\r\n"
    opening = Opening()
    head = rest = b""
    for at in range(0, len(wire), cut):
        more, beyond = opening.split(wire[at : at + cut])
        head += more
        rest += beyond
    assert (head, rest) == (wire[:24], wire[24:])


@LOOPS
@ENDS
@pytest.mark.parametrize("crowd", [0, MAX_UNTAKEN_BYTES_OF_ALL])
def test_small_messages_that_nobody_takes_are_few(
    run: Run, end: Any, crowd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``crowd``: bytes that wait on other connections."""
    size, count = 10_000, 500

    async def check() -> None:
        before = websocket.Messages.of_all
        monkeypatch.setattr(websocket.Messages, "of_all", before + crowd)
        async with end() as (route, raw):
            part = frame(BINARY, bytes(size), masked=end is accepted)
            loop = asyncio.get_running_loop()
            sending = asyncio.create_task(loop.sock_sendall(raw, part * count))
            messages = route._messages
            await until(lambda: messages._paused, "it stops reading")
            assert messages._waiting <= (2 * size if crowd else (MAX_UNTAKEN + 2) * size)
            for _ in range(count):
                assert len(await route.receive()) == size
            await sending
            assert messages._waiting == 0
        await until(lambda: websocket.Messages.of_all == before + crowd, "all is given back")

    run(check())


@LOOPS
@ENDS
@pytest.mark.parametrize("crowded", [False, True])
def test_large_messages_that_nobody_takes_are_few(run: Run, end: Any, crowded: bool) -> None:
    """``crowded``: others hold all that may be held."""
    count = 64

    async def check() -> None:
        shares = incoming().shares
        if crowded:
            fill(shares)
        others = shares.total
        async with end() as (route, raw):
            part = frame(BINARY, bytes(MIB), masked=end is accepted)
            loop = asyncio.get_running_loop()
            sending = asyncio.create_task(loop.sock_sendall(raw, part * count))
            messages = route._messages
            await until(lambda: messages._paused or messages._reader.halted, "it stops reading")
            assert 0 < shares.held(THEM.name) <= (MIB if crowded else MAX_UNTAKEN_BYTES + 2 * MIB)
            for _ in range(count):
                assert len(await route.receive()) == MIB
            await sending
            assert messages._waiting == 0
        await until(lambda: shares.total == others, "all is given back")

    run(check())


def fill(shares: Shares) -> None:
    """A hundred others have as much under way as they may."""
    for number in range(100):
        shares.force(str(number), min(INCOMING_LEAST, shares.bounds.guaranteed // 101))
    shares.force("0", INCOMING_POOL - shares.drawn)
    assert not shares.take("0", 1)


@LOOPS
@ENDS
def test_halves_of_messages_from_many_links_are_on_one_account(run: Run, end: Any) -> None:
    """Eight links that each begin a megabyte and stop, for each of a crowd: only so many are begun; and
    who belongs to none of them is served at once."""

    async def check() -> None:
        masked = end is accepted
        shares = incoming().shares
        loop = asyncio.get_running_loop()
        half = frame(BINARY, bytes(MIB), masked=masked)[: MIB // 2]
        async with contextlib.AsyncExitStack() as stack:
            links = []
            for number in range(80):
                party = Party(f"attacker {number // 8}")
                route, raw = await stack.enter_async_context(end(b"", party))
                links.append(route._messages)
                sent = asyncio.create_task(loop.sock_sendall(raw, half))
                stack.callback(sent.cancel)
            await until(
                lambda: sum(each._reader.halted or each._held > 0 for each in links) == 80, "halves"
            )
            assert sum(each._held for each in links) == shares.total
            assert shares.total <= INCOMING_POOL + 10 * INCOMING_LEAST
            assert sum(each._reader.halted for each in links) > 20
            async with end() as (route, raw):
                whole = asyncio.create_task(
                    loop.sock_sendall(raw, frame(BINARY, bytes(MIB), masked=masked) * 20)
                )
                for _ in range(20):
                    assert len(await route.receive()) == MIB
                await whole
            # Who goes makes room for who waits.
            for each in links[:64]:
                each._connection.transport.abort()
            await until(lambda: not any(each._reader.halted for each in links[64:]), "others go on")
        await until(lambda: shares.total == 0 and not incoming()._waiting, "all is given back")

    run(check())


@LOOPS
@ENDS
def test_nothing_large_comes_from_who_has_not_proved_who_it_is(run: Run, end: Any) -> None:
    async def check() -> None:
        data = bytes(range(256)) * 2_000
        async with end(party=None) as (route, raw):
            wire = frame(BINARY, b"small") + frame(BINARY, data)
            if end is accepted:
                wire = frame(BINARY, b"small", masked=True) + frame(BINARY, data, masked=True)
            sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(raw, wire))
            assert bytes(await route.receive()) == b"small"
            reader = route._messages._reader
            await until(lambda: reader.halted, "it waits")
            assert reader._large is None
            assert incoming().shares.total == 0
            route.belong_to(Party("strangers"))
            assert incoming().shares.held("strangers") == len(data)
            route.belong_to(THEM)
            assert incoming().shares.held(THEM.name) == len(data)
            assert incoming().shares.held("strangers") == 0
            assert bytes(await route.receive()) == data
            await sending
            assert incoming().shares.total == 0

    run(check())


@LOOPS
@ENDS
@pytest.mark.parametrize("early", [False, True])
def test_what_was_held_back_comes_in_order(run: Run, end: Any, early: bool) -> None:
    """A message in several frames, a large one and small ones; at first there is no room for any."""

    async def check() -> None:
        masked = end is accepted
        data = bytes(range(256)) * 100
        wire = (
            frame(BINARY, b"first", masked=masked)
            + frame(BINARY, data[:9_000], fin=False, masked=masked)
            + frame(CONT, data[9_000:], masked=masked)
            + frame(BINARY, data * 20, masked=masked)
            + frame(BINARY, b"last", masked=masked)
        )
        cut = 15_000 if early else 0
        incoming().shares.force(THEM.name, INCOMING_MOST)
        async with end(wire[:cut]) as (route, raw):
            rest = asyncio.create_task(asyncio.get_running_loop().sock_sendall(raw, wire[cut:]))
            assert bytes(await route.receive()) == b"first"
            await until(lambda: route._messages._reader.halted, "it waits")
            incoming().give(THEM.name, INCOMING_MOST)
            assert bytes(await route.receive()) == data
            assert bytes(await route.receive()) == data * 20
            assert bytes(await route.receive()) == b"last"
            await rest
        assert incoming().shares.total == 0

    run(check())


@LOOPS
@ENDS
def test_what_nobody_took_goes_when_it_is_closed(run: Run, end: Any) -> None:
    async def check() -> None:
        before = websocket.Messages.of_all
        async with end() as (route, raw):
            part = frame(BINARY, bytes(MIB // 2), masked=end is accepted)
            await asyncio.get_running_loop().sock_sendall(raw, part)
            waiting = route._messages._reader.messages
            await until(lambda: waiting, "it came")
        assert not waiting
        assert websocket.Messages.of_all == before
        assert incoming().shares.total == 0

    run(check())
