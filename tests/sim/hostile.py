"""The one member that is out to harm: a real node with some of its handlers replaced.

It has a valid key and is on the channel, so everything that it says is authenticated. As a provider
it lies about content, as a peer it breaks the wire protocol, as a proxy it tampers with circuits.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from kachery_p2p.node.links.circuit import Relay
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.node.node import Node
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BY_CODE, KacheryError, LinkClosed
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.files.messages import FILE_OPEN, FILE_READ, FileOpen, FileRead
from kachery_p2p.protocol.gossip.announcements import PROVIDE, make_batch, pack_entries
from kachery_p2p.protocol.gossip.messages import (
    GOSSIP_BATCH,
    GOSSIP_DIGEST,
    GOSSIP_PULL,
    WHO_HAS,
    Digest,
    OriginState,
    Pull,
    WhoHas,
)

OPEN_TRICKS = ("honest", "wrong bytes", "wrong size", "silent", "nonsense", "error", "huge")
READ_TRICKS = (
    "honest",
    "wrong bytes",
    "wrong proof",
    "short",
    "long",
    "elsewhere",
    "silent",
    "error",
    "stops halfway",
    "ignores credit",
)
RELAY_TRICKS = ("honest", "drop", "corrupt", "duplicate", "swallow")
WHO_HAS_TRICKS = ("honest", "silent", "nonsense", "error", "everybody", "not yet")
PULL_TRICKS = ("honest", "silent", "nonsense", "nothing", "again and again")


class Villain:
    """Turns a started node into a hostile one; ``known`` gives the contents that exist."""

    def __init__(
        self,
        node: Node,
        rng: random.Random,
        known: Callable[[], dict[str, bytes]],
        log: Callable[..., None],
    ) -> None:
        self._log = log
        self._node = node
        self._rng = rng
        self._known = known
        self._open_trick = rng.choice(OPEN_TRICKS)
        self._read_trick = rng.choice(READ_TRICKS)
        self._who_has_trick = rng.choice(WHO_HAS_TRICKS)
        network = node.network
        network.on_request_of(FILE_OPEN, FileOpen, self._open)
        network.on_stream_of(FILE_READ, FileRead, self._read)
        self._honest_who_has = network.handlers.requests[WHO_HAS][1]
        network.on_request_of(WHO_HAS, WhoHas, self._who_has)
        self._pull_trick = rng.choice(PULL_TRICKS)
        self._honest_pull = network.handlers.streams[GOSSIP_PULL][1]
        network.on_stream_of(GOSSIP_PULL, Pull, self._pull)
        self._tamper(node.relay, rng.choice(RELAY_TRICKS))
        network.spawn(self._mischief(), name="mischief")

    def _pick(self, usual: str, tricks: tuple[str, ...]) -> str:
        return usual if self._rng.random() < 0.7 else self._rng.choice(tricks)

    def _error(self) -> KacheryError:
        return BY_CODE[self._rng.choice(sorted(BY_CODE))](reason="because", channel="x")

    # --- as a provider -------------------------------------------------------------------------

    async def _open(self, link: Link, params: FileOpen) -> Any:
        data = self._known().get(params.sha1.hex(), b"whatever")
        size, inline = len(data), data if len(data) <= 32_768 else None
        trick = self._pick(self._open_trick, OPEN_TRICKS)
        self._log("trick open", trick, link.peer[:8])
        match trick:
            case "wrong bytes":
                inline = self._spoil(data[:1000])
            case "wrong size":
                size, inline = self._rng.choice((0, size + 1, max(0, size - 1), 1 << 49)), None
            case "silent":
                await asyncio.sleep(1000)
            case "nonsense":
                return self._rng.choice((None, 7, [], {"size": -1}, {"size": "x", "inline": 3}))
            case "error":
                raise self._error()
            case "huge":
                inline = bytes(50_000)
        return {"size": size, "inline": inline, "partial": self._rng.random() < 0.2}

    def _spoil(self, data: bytes) -> bytes:
        spoilt = bytearray(data or b"?")
        spoilt[self._rng.randrange(len(spoilt))] ^= 1 + self._rng.randrange(255)
        return bytes(spoilt)

    async def _read(self, link: Link, stream: Stream, params: FileRead) -> None:
        trick = self._pick(self._read_trick, READ_TRICKS)
        self._log("trick read", trick, link.peer[:8])
        if trick == "silent":
            await asyncio.sleep(1000)
        if trick == "error":
            raise self._error()
        known = self._known().get(params.sha1.hex(), b"")
        blocks = [
            (at, min(end, at + 65_536))
            for begin, end in params.ranges
            for at in range(begin, min(end, max(len(known), 1)), 65_536)
        ]
        for position, stop in blocks:
            data, proof, offset = known[position:stop], [], position
            if trick == "wrong bytes" and self._rng.random() < 0.5:
                data = self._spoil(data)
            elif trick == "wrong proof":
                proof = [self._rng.randbytes(self._rng.choice((32, 5)))] * self._rng.randrange(40)
            elif trick == "short":
                data = data[: len(data) // 2]
            elif trick == "long":
                data += b"more"
            elif trick == "elsewhere":
                offset += self._rng.choice((-1, 1, 65_536, -65_536))
            elif trick == "stops halfway" and self._rng.random() < 0.5:
                return
            if trick == "ignores credit":
                size = len(data) + 16
                link._mux._streams[stream.number].send_credit = 1 << 30
                link._mux.send(stream.number, [offset, proof], bytes(max(1, size)))
                link._writer.wake()
                await asyncio.sleep(0.001)
            else:
                await stream.send([offset, proof], data)

    # --- as a proxy ----------------------------------------------------------------------------

    async def _who_has(self, link: Link, query: WhoHas) -> Any:
        trick = self._pick(self._who_has_trick, WHO_HAS_TRICKS)
        self._log("trick who-has", trick, link.peer[:8])
        match trick:
            case "silent":
                await asyncio.sleep(1000)
            case "nonsense":
                answer = {"nodes": [], "holders": [[5]], "unwilling": []}
                return self._rng.choice((None, answer, answer | {"unknown": [], "silent": [b"?"]}))
            case "error":
                raise self._error()
            case "everybody":
                members = self._node.context.book.signed(query.channel).document.members
                nodes = [
                    {
                        "node": bytes.fromhex(member.node_id),
                        "label": "",
                        "urls": ["ws://nowhere"] if self._rng.random() < 0.3 else [],
                        "online": True,
                        "signature": b"",
                    }
                    for member in members
                ]
                every = list(range(len(nodes)))
                return _answer(nodes, [every for _ in query.keys])
            case "not yet":
                members = self._node.context.book.signed(query.channel).document.members
                ids = [bytes.fromhex(member.node_id) for member in members]
                return _answer([], [[] for _ in query.keys]) | {"unknown": ids}
        return await self._honest_who_has(link, query)

    # --- as one that announces -----------------------------------------------------------------

    async def _pull(self, link: Link, stream: Stream, pull: Pull) -> None:
        trick = self._pick(self._pull_trick, PULL_TRICKS)
        self._log("trick pull", trick, link.peer[:8])
        match trick:
            case "silent":
                await asyncio.sleep(1000)
            case "nonsense":
                await stream.send(None, self._rng.randbytes(100))
            case "nothing":
                return
            case "again and again":
                own = self._node.announcer.log(pull.channel)
                batch = own and own.batch_after(pull.channel, self._node.context.key, None)
                while batch:
                    await stream.send(None, codec.pack([codec.plain(batch)]))
                    await asyncio.sleep(0.002)
            case _:
                await self._honest_pull(link, stream, pull)

    def _boast(self, links: list[Link]) -> None:
        """A digest in which everybody has announced more than there is."""
        for channel in self._node.context.book:
            members = self._node.context.book.signed(channel).document.members
            states = [
                OriginState(bytes.fromhex(m.node_id), self._rng.choice((0, 1, 9)), 1 << 40)
                for m in members
            ]
            digest = Digest(channel, bytes(32), b"\xff" * 32, states, self._rng.random() < 0.5)
            for link in links:
                link.note(GOSSIP_DIGEST, codec.plain(digest))

    def _tamper(self, relay: Relay, trick: str) -> None:
        rng = self._rng

        async def pump(source: Stream, sink: Stream) -> None:
            while (item := await source.receive()) is not None:
                _, body, cost = item
                data = bytes(body) if isinstance(body, memoryview) else b""
                source.done(cost)
                if trick != "honest" and rng.random() < 0.1:
                    if trick == "swallow":
                        await asyncio.sleep(1000)
                    if trick == "drop":
                        continue
                    if trick == "corrupt":
                        data = self._spoil(data)
                    if trick == "duplicate":
                        await sink.send(None, data, opaque=True)
                await sink.send(None, data, opaque=True)

        relay._pump = pump  # type: ignore[method-assign]

    # --- unasked -------------------------------------------------------------------------------

    async def _mischief(self) -> None:
        rng, node = self._rng, self._node
        while True:
            await asyncio.sleep(rng.random() * 4)
            links = [link for link in node.network.links if link.closed_by is None]
            for sha1 in self._known():
                node.announcer.provide(file_key(sha1))
            if not links:
                continue
            link = rng.choice(links)
            try:
                match rng.randrange(8):
                    case 0:
                        await link.transport.send(rng.randbytes(rng.randrange(1, 200)))
                    case 1:
                        topic = rng.choice(("channels", "gossip.digest", "gossip.batch", "new"))
                        link.note(topic, rng.choice((None, {}, [1], {b"x": (1, [])}, "text")))
                    case 2:
                        self._equivocate(links)
                    case 6:
                        self._boast(links)
                    case 3:
                        await link.request("no-such-thing", {"a": 1}, seconds=2.0)
                    case 4:
                        tags = node.network._my_channels(link)
                        ahead = {tag: (2**40, roles) for tag, (_, roles) in tags.items()}
                        link.note("channels", ahead)
                    case 5:
                        stream = link.open("file.read", {"channel": b"?", "sha1": b""}, credit=5)
                        stream.end()
                    case _:
                        number = 2 * rng.randrange(1, 10_000)
                        link._mux.grant(number, 1)
            except (KacheryError, LinkClosed, ValueError):
                continue  # the link did not survive it

    def _equivocate(self, links: list[Link]) -> None:
        """Two contents under one number of our log, to different peers."""
        for channel in self._node.context.book:
            epoch = self._rng.choice((0, 1, 2**62))
            for link in links:
                entries = pack_entries([(PROVIDE, self._rng.randbytes(16))])
                batch = make_batch(self._node.context.key, channel, epoch, 1, entries)
                link.note(GOSSIP_BATCH, codec.plain(batch))


def _answer(nodes: list[dict[str, Any]], holders: list[list[int]]) -> dict[str, Any]:
    return {"nodes": nodes, "holders": holders, "unwilling": [], "unknown": [], "silent": []}
