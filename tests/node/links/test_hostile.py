"""Peers that break every rule, against a node that listens. It goes on serving its members."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from kachery_p2p.node.links import link as link_module
from kachery_p2p.node.links import listener as listener_module
from kachery_p2p.node.links import opening as opening_module
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import KacheryError, NotAMember
from kachery_p2p.protocol.gossip.messages import NodeInfo
from kachery_p2p.protocol.limits import (
    MAX_HELLO_URLS,
    MAX_LABEL,
    MAX_PENDING_PER_ADDRESS,
    MAX_QUERY_KEYS,
    MAX_RECORD,
)
from kachery_p2p.protocol.links.frames import (
    NO_TAIL,
    OPAQUE_TAIL,
    SEALED_TAIL,
    Credit,
    Data,
    End,
    Failure,
    Frame,
    Hello,
    Note,
    Open,
    Ping,
    Pong,
    Request,
    Response,
)
from kachery_p2p.protocol.links.noise import Handshake, nonce
from kachery_p2p.protocol.links.session import TAG_BYTES, prologue
from tests.node.harness import Lab, laboratory, until
from tests.node.links.raw import Rogue, gone, rogue, wire
from tests.patience import patience
from tests.protocol.links.records import record_of


@contextlib.asynccontextmanager
async def unharmed(*leaves: str, **options: Any) -> AsyncIterator[Lab]:
    """A laboratory that must be as before afterwards: no link or task more, and still serving."""
    async with laboratory(*leaves, **options) as lab:
        sha1, _ = await lab.store("A", b"something to serve")
        proxy = lab["P"]
        before = (len(proxy.network.links), proxy.gate.open)
        yield lab
        await until(
            lambda: (len(proxy.network.links), proxy.gate.open) == before, "links as before"
        )
        await until(lambda: not len(proxy.gate), "nobody waits at the gate")
        await until(lambda: running("link reader") == open_links(lab), "no reader left behind")
        await until(lambda: running("link ticker") == open_links(lab), "no ticker left behind")
        await until(lambda: running("link writer") == open_links(lab), "no writer left behind")
        await until(lambda: 2 * len(proxy.relay) == relayed_links(lab), "no circuit left behind")
        await lab.load("B", sha1)
        assert lab.bytes_of("B", sha1) == b"something to serve"


def running(name: str) -> int:
    return sum(task.get_name() == name for task in asyncio.all_tasks())


def relayed_links(lab: Lab) -> int:
    return sum(link.via is not None for node in lab.nodes.values() for link in node.network.links)


def open_links(lab: Lab) -> int:
    return sum(len(node.network.links) for node in lab.nodes.values())


# --- before the handshake ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [b"", b"\x00", os.urandom(100), b"kachery-p2p", prologue(), prologue() + os.urandom(31),
     prologue() + bytes(32), prologue() + os.urandom(3_000), bytes(60_000)],
    ids=lambda message: f"{len(message)} bytes",
)  # fmt: skip
async def test_garbage_instead_of_a_handshake(message: bytes) -> None:
    async with unharmed() as lab, wire(lab["P"].listening) as connection:
        await connection.send(message)
        await gone(connection)


async def test_a_message_over_the_limit() -> None:
    async with unharmed() as lab, wire(lab["P"].listening) as connection:
        with contextlib.suppress(ConnectionClosed):
            await connection.send(bytes(MAX_RECORD + 1))
        await gone(connection)


async def test_a_text_message() -> None:
    async with unharmed() as lab, wire(lab["P"].listening) as connection:
        await connection.send("hello?")
        await gone(connection)


@pytest.mark.parametrize("which", [1, 3])
async def test_a_truncated_handshake(which: int) -> None:
    async with unharmed() as lab, wire(lab["P"].listening) as connection:
        mine = Handshake(initiator=True, key=lab["A"].context.key, static=os.urandom(32),
                         ephemeral=os.urandom(32), prologue=prologue())  # fmt: skip
        first = mine.write()
        await connection.send(prologue() + (first[:-1] if which == 1 else first))
        if which == 3:
            answer = await connection.recv()
            assert isinstance(answer, bytes)
            mine.read(answer[len(prologue()) :])
            await connection.send(prologue() + mine.write()[:-1])
        await gone(connection)


@pytest.mark.parametrize("stage", ["silent", "first message", "no hello"])
async def test_a_handshake_that_is_never_finished(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with unharmed() as lab:
        monkeypatch.setattr(link_module, "HANDSHAKE_SECONDS", 0.2)
        monkeypatch.setattr(opening_module, "HANDSHAKE_SECONDS", 0.2)
        if stage == "no hello":
            async with rogue(lab["P"].listening) as peer:
                await gone(peer.connection)
            return
        async with wire(lab["P"].listening) as connection:
            if stage == "first message":
                mine = Handshake(initiator=True, key=lab["A"].context.key, static=os.urandom(32),
                                 ephemeral=os.urandom(32), prologue=prologue())  # fmt: skip
                await connection.send(prologue() + mine.write())
            await gone(connection)


async def test_a_socket_that_never_speaks_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "HANDSHAKE_SECONDS", 0.2)
    async with unharmed() as lab:
        host, port = lab["P"].listening.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(patience(10)):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "request_",
    [b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00" + bytes(300),
     b"GET /" + b"a" * 20_000, b"\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n"],
    ids=["GET", "TLS", "long", "empty", "POST"],
)  # fmt: skip
async def test_something_else_than_a_websocket(
    request_: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "HANDSHAKE_SECONDS", 0.3)
    async with unharmed() as lab:
        host, port = lab["P"].listening.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request_)
        if request_.startswith(b"GET /a"):
            writer.write_eof()
        async with asyncio.timeout(patience(10)):
            with contextlib.suppress(ConnectionError):
                answer = await reader.read()
                # 503: of the page, where it was not built.
                assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 503"))
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


# --- after the handshake ----------------------------------------------------------------------


async def garbage_record(peer: Rogue) -> None:
    await peer.connection.send(os.urandom(500))


async def empty_record(peer: Rogue) -> None:
    await peer.connection.send(b"")


async def replayed_record(peer: Rogue) -> None:
    await peer.connection.send(await peer.send(Ping(1)))


async def records_out_of_order(peer: Rogue) -> None:
    first, second = (bytes(record_of(peer.session.seal(), Ping(number))) for number in (1, 2))
    await peer.connection.send(second)
    await peer.connection.send(first)


async def second_hello(peer: Rogue) -> None:
    await peer.hello()


async def more_data_than_credit(peer: Rogue) -> None:
    # We give no credit, so the stream stays open; we were given none either.
    await peer.send(Open(3, "channel.document", {"channel": peer.channel}, 0))
    await peer.send(Data(3, None, SEALED_TAIL, TAG_BYTES), b"")


async def data_for_nothing(peer: Rogue) -> None:
    await peer.send(Data(99, None, NO_TAIL, 0))


async def opaque_data_for_nothing(peer: Rogue) -> None:
    await peer.send(Data(99, None, OPAQUE_TAIL, 5), b"12345")


async def an_answer_to_no_question(peer: Rogue) -> None:
    await peer.send(Response(2_000, None))


async def numbers_going_backwards(peer: Rogue) -> None:
    await peer.send(Request(9, "m", None))
    await peer.send(Request(7, "m", None))


async def numbers_of_the_other_side(peer: Rogue) -> None:
    await peer.send(Request(8, "m", None))


async def negative_credit(peer: Rogue) -> None:
    await peer.send(Open(3, "file.read", None, -1))


async def a_note_of_the_wrong_type(peer: Rogue) -> None:
    await peer.send(Note("channels", ["not", "a", "map"]))


async def a_hello_full_of_channels(peer: Rogue) -> None:
    await peer.send(Note("channels", {os.urandom(16): (1, []) for _ in range(300)}))


async def a_header_that_is_no_frame(peer: Rogue) -> None:
    seal = peer.session.seal()
    box = seal.aead.encrypt(nonce(2 * seal.number), codec.pack([99, "what"]), None)
    await peer.connection.send(len(box).to_bytes(4, "big") + box)


async def a_header_that_is_a_bomb(peer: Rogue) -> None:
    seal = peer.session.seal()
    bomb = (b"\xdc\x20\x00" * 1_000).ljust(60_000, b"\xc0")
    box = seal.aead.encrypt(nonce(2 * seal.number), bomb, None)
    await peer.connection.send(len(box).to_bytes(4, "big") + box)


AFTER_HELLO = [
    garbage_record, empty_record, replayed_record, records_out_of_order, second_hello,
    more_data_than_credit, data_for_nothing, opaque_data_for_nothing, an_answer_to_no_question,
    numbers_going_backwards, numbers_of_the_other_side, negative_credit, a_note_of_the_wrong_type,
    a_hello_full_of_channels, a_header_that_is_no_frame, a_header_that_is_a_bomb,
]  # fmt: skip


@pytest.mark.parametrize("attack", AFTER_HELLO, ids=lambda attack: attack.__name__)
async def test_a_member_that_breaks_a_rule_is_cut_off_with_a_reason(
    attack: Callable[[Rogue], Awaitable[None]],
) -> None:
    """The worst case: the rogue has a member's key."""
    async with unharmed("A", "B", "C") as lab:
        key, book = lab["C"].context.key, lab["C"].context.book
        async with rogue(lab["P"].listening, key) as peer:
            peer.channel = lab.channels["lab"]
            await peer.hello(book)
            await peer.hear(Hello)
            await until(lambda: len(lab["P"].network.links) == 4)
            with contextlib.suppress(ConnectionClosed):
                await attack(peer)
            bye = await peer.ended()
            assert bye is not None
            assert bye.code == "protocol-violation"


@pytest.mark.parametrize(
    "frame", [Ping(1), Note("channels", {}), Request(1, "who-has", {}), Pong(0), Credit(1, 1)]
)
async def test_a_frame_before_the_hello(frame: Frame) -> None:
    async with unharmed() as lab, rogue(lab["P"].listening) as peer:
        await peer.send(frame)
        bye = await peer.ended()
        assert bye is not None
        assert bye.code == "protocol-violation"


@pytest.mark.parametrize("urls", ["no list", [7]])
async def test_after_a_malformed_hello_the_goodbye_is_the_last_word(urls: Any) -> None:
    async with unharmed() as lab, rogue(lab["P"].listening) as peer:
        await peer.hello(urls=urls)
        bye = await peer.ended()
        assert bye is not None
        assert bye.code == "protocol-violation"
        with pytest.raises(ConnectionClosed):
            await peer.hear(Frame)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, "not-a-member"),
        ({"now": math.inf}, "protocol-violation"),
        ({"now": -math.inf}, "protocol-violation"),
        ({"now": math.nan}, "protocol-violation"),
        ({"now": 0.0}, "clock-skew"),
        ({"now": 1e300}, "clock-skew"),
        ({"label": "x" * (MAX_LABEL + 1)}, "protocol-violation"),
        ({"software": "x" * 50_000}, "protocol-violation"),
        ({"urls": ["ws://h:1"] * (MAX_HELLO_URLS + 1)}, "protocol-violation"),
        ({"urls": ["ws://" + "h" * 5_000]}, "protocol-violation"),
        (
            {"channels": {number.to_bytes(16, "big"): (1, []) for number in range(300)}},
            "protocol-violation",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_strangers_hello_ends_the_link_in_a_typed_way(
    changes: dict[str, Any], code: str
) -> None:
    async with unharmed() as lab, rogue(lab["P"].listening) as peer:
        await peer.hello(**changes)
        bye = await peer.ended()
        assert bye is not None
        assert bye.code == code


@pytest.mark.parametrize(
    ("method", "params", "codes"),
    [
        ("nonsense", None, {"protocol-violation"}),
        ("who-has", None, {"protocol-violation"}),
        (
            "who-has",
            {"channel": bytes(32), "kind": "files", "keys": [], "secret_version": 1, "hold": 0},
            {"not-a-member"},
        ),
        ("file.open", {"channel": bytes(32), "sha1": b"short"}, {"not-a-member"}),
        ("file.open", {"channel": None, "sha1": b"short"}, {"protocol-violation"}),
    ],
    ids=repr,
)
async def test_a_bad_request_is_answered_with_an_error_and_costs_no_link(
    method: str, params: Any, codes: set[str]
) -> None:
    async with (
        unharmed("A", "B", "C") as lab,
        rogue(lab["P"].listening, lab["C"].context.key) as peer,
    ):
        await peer.hello(lab["C"].context.book)
        await until(lambda: len(lab["P"].network.links) == 4)
        await peer.send(Request(1, method, params))
        answer = await peer.hear(Failure)
        assert answer.id == 1
        assert answer.code in codes
        await peer.send(Open(3, method, params, 1_000))
        assert (await peer.hear(End)).id == 3
        await peer.send(Ping(5))
        await peer.hear(Pong)


async def test_member_whose_ranges_make_no_sense_gets_errors_and_no_bytes() -> None:
    async with unharmed("A", "B", "C", listening=("A",)) as lab:
        key = lab.channels["lab"]
        sha1, _ = await lab.store("A", bytes(200_000))
        async with rogue(lab["A"].listening, lab["C"].context.key) as peer:
            await peer.hello(lab["C"].context.book)
            await until(lambda: lab["A"].network.links_to(lab.id("C"), key))
            number = 1
            for start, stop, proofs in [(-1, 5, False), (5, 4, False), (0, 200_001, False),
                                        (1 << 60, 1 << 61, False), (1, 65_536, True),
                                        (0, 65_537, True)]:  # fmt: skip
                await peer.send(Open(number, "file.read", {
                    "channel": key, "sha1": bytes.fromhex(sha1), "ranges": [(start, stop)],
                    "proofs": proofs}, 1 << 20))  # fmt: skip
                end = await peer.hear(End)
                assert (end.id, end.code) == (number, "bad-input")
                number += 2
            assert not any(isinstance(frame, Data) for frame in peer.heard)
        await until(lambda: not lab["A"].network.links_to(lab.id("C"), key))


async def test_a_reader_that_gives_no_credit_holds_nothing_up_and_goes_with_its_link() -> None:
    async with unharmed("A", "B", "C", listening=("A",)) as lab:
        key = lab.channels["lab"]
        sha1, _ = await lab.store("A", bytes(2_000_000))
        async with rogue(lab["A"].listening, lab["C"].context.key) as peer:
            await peer.hello(lab["C"].context.book)
            await until(lambda: lab["A"].network.links_to(lab.id("C"), key))
            for number in range(1, 41, 2):
                await peer.send(Open(number, "file.read", {
                    "channel": key, "sha1": bytes.fromhex(sha1), "ranges": [(0, 2_000_000)],
                    "proofs": False}, 0))  # fmt: skip
            await until(lambda: any(
                len(each._streams) == 20 for each in lab["A"].network.links))  # fmt: skip
            await lab.load("B", sha1)
        await until(lambda: not lab["A"].network.links_to(lab.id("C"), key))
        assert len(lab.bytes_of("B", sha1)) == 2_000_000


async def test_what_a_member_says_of_itself_cannot_break_the_proxys_answers_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Labels and addresses as long as they may be, from as many as possible."""
    async with unharmed("A", "B", "C") as lab:
        availability = lab["P"].availability
        origins = [number.to_bytes(32, "big") for number in range(1, 65)]
        longest = "\N{SNOWMAN}" * MAX_LABEL, ["ws://" + "h" * 1_990] * MAX_HELLO_URLS
        with monkeypatch.context() as patch:
            patch.setattr(availability.index, "holders", lambda channel, key: origins)
            patch.setattr(
                availability,
                "_describe",
                lambda channel, node: NodeInfo(node, *longest, True, bytes(64)),
            )
            key = lab.channels["lab"]
            [link] = lab["B"].network.links_to(lab.id("P"), key)
            keys = [bytes([number % 256]) * 16 for number in range(MAX_QUERY_KEYS)]
            query = {"channel": key, "kind": "files", "keys": keys}
            query |= {"secret_version": 1, "hold": 0}
            answer = await link.request("who-has", query)
        assert [len(places) for places in answer["holders"]] == [64] * MAX_QUERY_KEYS
        assert len(answer["nodes"]) == 64


async def test_an_answer_too_long_for_a_frame_is_that_requests_failure_alone() -> None:
    async with unharmed() as lab:
        key = lab.channels["lab"]

        async def too_much(link: Any, params: Any) -> Any:
            return bytes(100_000)

        lab["P"].network.on_request_of("too-much", dict, too_much)
        [link] = lab["B"].network.links_to(lab.id("P"), key)
        with pytest.raises(KacheryError, match="cannot be sent"):
            await link.request("too-much", {})
        assert link.closed_by is None


async def test_an_error_that_a_peer_makes_up_passes_a_proxy_without_harm() -> None:
    async with unharmed("A", "B", "C") as lab:
        key = lab.channels["lab"]
        c_key, book = lab["C"].context.key, lab["C"].context.book
        await lab.stop("C")
        await until(lambda: len(lab["P"].network.links) == 2)
        async with rogue(lab["P"].listening, c_key) as peer:
            await peer.hello(book)
            await until(lambda: lab["P"].network.links_to(c_key.node_id, key))
            reaching = asyncio.create_task(lab["B"].reach.to(c_key.node_id, key))
            opened = await peer.hear(Open)
            nested: Any = "bottom"
            for _ in range(500):
                nested = [nested]
            fields = {"limit": [b"\x00" * 300] * 100, "self": 1, "deep": nested}
            await peer.send(End(opened.id, "busy", fields))
            with pytest.raises(KacheryError):
                await reaching
            assert lab["B"].network.links_to(lab.id("P"), key), "the bystander's link lives"
            await peer.send(Ping(1))
            await peer.hear(Pong)
        await lab.start("C")
        await lab.linked("C", "lab")


async def test_whoever_stops_reading_cannot_keep_a_link_from_ending() -> None:
    """At the end that dialled, where no server ends what its handler leaves."""
    async with unharmed() as lab:
        key = lab.channels["lab"]
        [there] = lab["P"].network.links_to(lab.id("B"), key)
        [link] = lab["B"].network.links_to(lab.id("P"), key)
        connection: Any = there.transport._connection  # type: ignore[attr-defined]
        connection.transport.pause_reading()
        # Until neither kernel takes any more.
        while link._writer.stuck_for(link.opened_at + 1e9) == 0.0 or not link._mux.congested:
            link.note("nothing", bytes(60_000))
            await asyncio.sleep(0)
        link.close(NotAMember(node="x", peer="y"), at_once=True)
        await until(lambda: link not in lab["B"].network.links, "it is forgotten")
        connection.transport.abort()
        await lab.linked("B", "lab")


# --- crowds -----------------------------------------------------------------------------------


async def test_a_thousand_strangers_at_once_do_not_keep_a_member_out() -> None:
    async with unharmed("A", "B", "C") as lab:
        host, port = lab["P"].listening.rsplit(":", 1)
        gate = lab["P"].gate
        await lab.stop("C")
        await until(lambda: len(lab["P"].network.links) == 2)
        writers: list[asyncio.StreamWriter] = []

        async def stranger() -> None:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(host, int(port))
                writers.append(writer)

        for _ in range(10):
            await asyncio.gather(*(stranger() for _ in range(100)))
        await until(lambda: gate.refused >= 1_000 - MAX_PENDING_PER_ADDRESS)
        assert len(gate) <= MAX_PENDING_PER_ADDRESS
        # Whoever is linked is served meanwhile.
        sha1, _ = await lab.store("A", b"in the crowd")
        await lab.load("B", sha1)
        for writer in writers:
            writer.close()
        await until(lambda: len(gate) == 0)
        await lab.start("C")
        await lab.linked("C", "lab")
        await lab.load("C", sha1)


async def test_a_member_gets_in_while_strangers_hold_all_but_one_place() -> None:
    async with unharmed("A", "B", "C") as lab:
        await lab.stop("C")
        await until(lambda: len(lab["P"].network.links) == 2)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(MAX_PENDING_PER_ADDRESS - 1):
                await stack.enter_async_context(wire(lab["P"].listening))
            await lab.start("C")
            await lab.linked("C", "lab")
