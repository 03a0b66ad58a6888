"""Hostile members, strangers and local callers, in a process of their own: see tests.hostile_trial.

What is attacked is in a file of JSON (:class:`World`). Attackers come, do one of :data:`ASSAULTS` for a
few seconds, leave in the middle of it, and come again, until standard input ends; then it is printed
how often which was done.

Non-goals: whether anything gives way. That is for tests.hostile_trial to see.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from websockets.exceptions import InvalidHandshake, WebSocketException

from kachery_p2p.node.links.opening import handshake
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.membership import GUEST_VERSION, channel_tag
from kachery_p2p.protocol.errors import KacheryError
from kachery_p2p.protocol.gossip.announcements import PROVIDE, make_batch, pack_entries
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import (
    MAX_ANNOUNCE_ENTRIES,
    MAX_QUERY_KEYS,
    MAX_TASK_KWARGS,
    MIN_BODY,
    PROTOCOL_VERSION,
)
from kachery_p2p.protocol.links.frames import OPAQUE_TAIL, SEALED_TAIL, Credit, Data, Note, Request
from kachery_p2p.protocol.links.frames import Open as OpenStream
from kachery_p2p.protocol.links.knock import HEADER, RANDOM_BYTES, make_knock
from kachery_p2p.protocol.links.session import TAG_BYTES
from kachery_p2p.protocol.local import messages as local
from tests.node.links.raw import Bare, Rogue, wire

UNLIMITED: Final = 1 << 30
STREAMS: Final = 500
LINKS: Final = 8
"""Of the one member that attacks alone; of a hundred each has two."""
STAY_SECONDS: Final = 20.0
_ERRORS = (OSError, KacheryError, WebSocketException, InvalidHandshake, TimeoutError, ValueError)
"""How an assault may end: the node has had enough."""
UPGRADE: Final = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"


class Door(msgspec.Struct):
    """A node that is attacked: its port, its id, its local API."""

    port: int
    node: str
    unix: str
    tcp: int
    proxy: bool

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


class World(msgspec.Struct):
    """What attackers know. Ids, hashes and keys in hexadecimal digits."""

    channel: str
    version: int
    doors: list[Door]
    big: str
    """SHA-1 of a large file, ``big_bytes`` long."""
    big_bytes: int
    small: str
    feed: str
    subfeed: str
    function: str
    keys: list[str]
    """Of the members that attack."""
    seed: int = 1


class Member(Rogue):
    """A hostile member at one door."""

    world: World
    door: Door
    key: NodeKey
    rng: random.Random

    @property
    def numbers(self) -> range:
        return range(1, UNLIMITED, 2)

    async def streams(self, method: str, params: dict[str, Any], count: int = STREAMS) -> None:
        for number in self.numbers[:count]:
            await self.send(
                OpenStream(number, method, {"channel": self.channel} | params, UNLIMITED)
            )


Assault = Callable[[Member], Awaitable[None]]


# --- what members do -----------------------------------------------------------------------------


async def _read(peer: Member, proofs: bool) -> None:
    world = peer.world
    await peer.streams("file.read", {
        "sha1": bytes.fromhex(world.big), "ranges": [(0, world.big_bytes)], "proofs": proofs,
    })  # fmt: skip


async def reads(peer: Member) -> None:
    await _read(peer, False)


async def reads_with_proofs(peer: Member) -> None:
    await _read(peer, True)


async def answers_unread(peer: Member) -> None:
    params = {"channel": peer.channel, "sha1": bytes.fromhex(peer.world.small)}
    for number in peer.numbers[:3_000]:
        await peer.send(Request(number, "file.open", params))


async def documents(peer: Member) -> None:
    await peer.streams("channel.document", {})


async def circuits(peer: Member) -> None:
    """Filled and never emptied: their other ends are attackers that read nothing."""
    others = peer.world.keys
    for number in peer.numbers[:200]:
        node = NodeKey(bytes.fromhex(peer.rng.choice(others))).public
        target = {"channel": peer.channel, "node": node}
        await peer.send(OpenStream(number, "circuit", target, UNLIMITED))
    while True:
        credit = await peer.hear(Credit)
        for _ in range(credit.more // (MIN_BODY + 64)):
            body = bytes(MIN_BODY)
            await peer.send(Data(credit.id, None, OPAQUE_TAIL, MIN_BODY), body)


async def feeds(peer: Member) -> None:
    world = peer.world
    await peer.streams("feed.follow", {
        "feed": bytes.fromhex(world.feed), "subfeed": bytes.fromhex(world.subfeed),
        "position": 0, "stop": None, "quiet": False,
    })  # fmt: skip


async def _tasks(peer: Member, count: int) -> None:
    for number in peer.numbers[:count]:
        params = {"channel": peer.channel, "task": peer.rng.randbytes(16),
                  "function": peer.world.function, "type": "query", "again": False}  # fmt: skip
        await peer.send(OpenStream(number, "task.run", params, UNLIMITED))


async def tasks_without_arguments(peer: Member) -> None:
    await _tasks(peer, STREAMS)


async def tasks_of_a_megabyte(peer: Member) -> None:
    await _tasks(peer, 100)
    text = b'{"n":"' + b"y" * (MAX_TASK_KWARGS - 8) + b'"}'
    while True:
        number = (await peer.hear(Credit)).id
        await peer.send(Data(number, [len(text)], SEALED_TAIL, len(text) + TAG_BYTES), text)


async def questions(peer: Member) -> None:
    for number in peer.numbers:
        keys = [peer.rng.randbytes(16) for _ in range(MAX_QUERY_KEYS)]
        base = {"channel": peer.channel, "kind": "files", "keys": keys}
        await peer.send(Request(number, "who-has", base | {"secret_version": 1, "hold": 4000}))
        await peer.send(Note("watch", base | {"on": True}))


async def announcements(peer: Member) -> None:
    """New ones without end, and now and then one that contradicts them."""
    epoch, start = time.time_ns() // 1_000_000, 1
    while True:
        entries = pack_entries(
            (PROVIDE, peer.rng.randbytes(16)) for _ in range(MAX_ANNOUNCE_ENTRIES)
        )
        batch = make_batch(peer.key, peer.channel, epoch, start, entries)
        await peer.send(Note("gossip.batch", codec.plain(batch)))
        if peer.rng.random() < 0.2:
            other = make_batch(peer.key, peer.channel, epoch, start, entries[:17] * 1_000)
            await peer.send(Note("gossip.batch", codec.plain(other)))
        start += MAX_ANNOUNCE_ENTRIES


async def nothing(peer: Member) -> None:
    """A link, and silence."""


ASSAULTS: Final[tuple[Assault, ...]] = (
    reads, reads_with_proofs, answers_unread, documents, circuits, feeds, tasks_without_arguments,
    tasks_of_a_megabyte, questions, announcements, nothing,
)  # fmt: skip
AT_PROXIES: Final = (circuits, questions, announcements)
"""What only a proxy can be asked for."""


class Attackers:
    """All of them. ``done``: how often what was begun."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = random.Random(world.seed)
        self.done: Counter[str] = Counter()
        self._channel = bytes.fromhex(world.channel)

    async def run(self) -> None:
        links = LINKS if len(self.world.keys) == 1 else 2
        async with asyncio.TaskGroup() as tasks:
            for text in self.world.keys:
                for _ in range(links):
                    tasks.create_task(self._again(self._member, NodeKey(bytes.fromhex(text))))
            for door in self.world.doors:
                for number in range(40):
                    tasks.create_task(self._again(self._stranger, door, number))
                for _ in range(10):
                    tasks.create_task(self._again(self._guest, door))
                for _ in range(20):
                    tasks.create_task(self._again(self._caller, door))

    async def _again(self, assault: Callable[..., Awaitable[None]], *what: Any) -> None:
        while True:
            with contextlib.suppress(*_ERRORS):
                async with asyncio.timeout(self.rng.uniform(2, STAY_SECONDS)):
                    await assault(*what)
                    await asyncio.sleep(STAY_SECONDS)
            await asyncio.sleep(self.rng.uniform(0.1, 1))

    async def _member(self, key: NodeKey) -> None:
        door = self.rng.choice(self.world.doors)
        assault = self.rng.choice([
            each for each in ASSAULTS if door.proxy or each not in AT_PROXIES
        ])  # fmt: skip
        knock = make_knock(
            [self._channel], bytes.fromhex(door.node), time.time(), os.urandom(RANDOM_BYTES)
        )
        async with self._link(door, key, {HEADER: knock}) as peer:
            self.done[assault.__name__.replace("_", " ")] += 1
            tag = channel_tag(self._channel, key.public, peer.session.handshake_hash)
            roles = ["request-files", "request-feeds", "request-tasks", "provide-files"]
            await peer.hello(channels={tag: (self.world.version, roles)})
            await asyncio.sleep(0.3)  # who is no member yet has nothing to ask
            await assault(peer)

    @contextlib.asynccontextmanager
    async def _link(self, door: Door, key: NodeKey, headers: dict[str, str]) -> Any:
        async with wire(
            door.address, additional_headers=headers, max_queue=1, ping_interval=None
        ) as connection:
            transport = Bare(connection)
            session = await handshake(transport, initiator=True, key=key, random_bytes=os.urandom)
            peer = Member(connection, session)
            peer.world, peer.door, peer.key, peer.rng = self.world, door, key, self.rng
            peer.channel = self._channel
            yield peer

    async def _guest(self, door: Door) -> None:
        """Who knows the channel's id, and is no member."""
        key = NodeKey(os.urandom(32))
        async with self._link(door, key, {}) as peer:
            self.done["guests"] += 1
            tag = channel_tag(self._channel, key.public, peer.session.handshake_hash)
            await peer.hello(channels={tag: (GUEST_VERSION, [])})
            await peer.streams("join.circuit", {"node": bytes(32)})

    async def _stranger(self, door: Door, number: int) -> None:
        """Says nothing, or half of something, from one address of many."""
        self.done["strangers"] += 1
        source = (f"127.0.0.{2 + number % 20}", 0)
        _, writer = await asyncio.open_connection("127.0.0.1", door.port, local_addr=source)
        try:
            writer.write(self.rng.choice([b"", b"x", UPGRADE, UPGRADE + b"\r\n", bytes(20_000)]))
            await asyncio.sleep(STAY_SECONDS)
        finally:
            writer.transport.abort()

    async def _caller(self, door: Door) -> None:
        """A connection to the local API that does not greet, or begins a frame and does not end it."""
        self.done["local callers"] += 1
        if self.rng.random() < 0.5:
            _, writer = await asyncio.open_unix_connection(door.unix)
        else:
            _, writer = await asyncio.open_connection("127.0.0.1", door.tcp)
        try:
            greeting = local.encode_message(local.Greeting(PROTOCOL_VERSION, None, 1, "full"))
            writer.write(self.rng.choice([
                b"", greeting[:3], greeting, greeting + (1 << 20).to_bytes(4, "big") + bytes(99_999),
            ]))  # fmt: skip
            await asyncio.sleep(STAY_SECONDS)
        finally:
            writer.transport.abort()


async def _until_told() -> None:
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.read)


async def main(path: str) -> None:
    attackers = Attackers(msgspec.json.decode(Path(path).read_bytes(), type=World))
    work = asyncio.create_task(attackers.run())
    told = asyncio.create_task(_until_told())
    await asyncio.wait({work, told}, return_when=asyncio.FIRST_COMPLETED)
    if work.done() and (error := work.exception()) is not None:
        raise error
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    print(json.dumps(dict(sorted(attackers.done.items()))))


if __name__ == "__main__":
    with contextlib.suppress(OSError):
        os.nice(
            10
        )  # attackers have computers of their own: this one's processors are for the nodes
    socket.setdefaulttimeout(5)
    asyncio.run(main(sys.argv[1]))
