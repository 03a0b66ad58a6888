"""What a hostile member can do to nodes of a laboratory, in pieces that can be done at the same time.

Each of :data:`ABILITIES` begins something and leaves it as it is. What comes of it is not looked at:
nodes may close links, refuse, or wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from websockets.exceptions import InvalidHandshake, WebSocketException
from websockets.frames import BINARY, Frame

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.membership import GUEST_VERSION, channel_tag
from kachery_p2p.protocol.errors import KacheryError, StorageFull
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.gossip.announcements import PROVIDE, WITHDRAW, make_batch, pack_entries
from kachery_p2p.protocol.limits import MAX_RECORD, MIB
from kachery_p2p.protocol.links.frames import (
    OPAQUE_TAIL,
    SEALED_TAIL,
    Credit,
    Data,
    Note,
    Open,
    Request,
)
from kachery_p2p.protocol.links.session import TAG_BYTES
from tests.node.channels.removing import remove
from tests.node.harness import Lab
from tests.node.links.raw import Rogue, rogue

ERRORS: Final = (OSError, KacheryError, WebSocketException, InvalidHandshake, TimeoutError)
"""How an ability may end: the node has had enough."""
MUCH: Final = 1 << 30
ROLES: Final = ["request-files", "request-feeds", "request-tasks", "provide-files"]


class Hostile:
    """The member ``C``. ``sha1``: of a file of A's that is ``size`` bytes long."""

    def __init__(self, lab: Lab, sha1: str, size: int, rng: random.Random) -> None:
        self.lab, self.sha1, self.size, self.rng = lab, sha1, size, rng
        self.channel = lab.channels["lab"]
        self.key = lab["C"].context.key
        self.version, secret = lab["A"].context.book.secret(self.channel) or (0, b"")
        self.blinded = file_key(sha1).blinded(secret)
        self.documents = [lab["A"].context.book.signed(self.channel).to_bytes()]
        """Of the channel, the oldest first."""
        self.open = contextlib.AsyncExitStack()
        self.peers: list[Rogue] = []
        self.done: Counter[str] = Counter()
        self.epoch = 1 << 50

    async def link(self, at: str, *, version: int | None = None) -> Rogue:
        """One more link, that has greeted; as if with ``version`` of the document."""
        peer = await self.open.enter_async_context(rogue(self.lab[at].listening, self.key))
        peer.channel = self.channel
        tag = channel_tag(self.channel, self.key.public, peer.session.handshake_hash)
        version = self.lab["A"].network.version_of(self.channel) if version is None else version
        await peer.hello(channels={tag: (version, ROLES)})
        self.peers.append(peer)
        return peer

    async def leave(self) -> None:
        """Break all connections."""
        for peer in self.peers:
            peer.connection.transport.abort()
        with contextlib.suppress(*ERRORS):
            await self.open.aclose()

    def read(self, number: int, *, credit: int = MUCH, proofs: bool = False) -> Open:
        return Open(number, "file.read", {
            "channel": self.channel, "sha1": bytes.fromhex(self.sha1), "ranges": [(0, self.size)],
            "proofs": proofs}, credit)  # fmt: skip

    async def note(self, peer: Rogue, operations: list[tuple[int, bytes]], start: int) -> None:
        batch = make_batch(self.key, self.channel, self.epoch, start, pack_entries(operations))
        await peer.send(Note("gossip.batch", codec.plain(batch)))


Ability = Callable[[Hostile, str], Awaitable[None]]
"""Of a hostile member at a node."""


async def half_a_record(hostile: Hostile, at: str) -> None:
    """Three links with half of the largest record each."""
    for _ in range(3):
        peer = await hostile.link(at)
        record = Frame(BINARY, bytes(MAX_RECORD)).serialize(mask=True)
        peer.connection.transport.write(record[: MIB // 2])


async def reads_unread(hostile: Hostile, at: str) -> None:
    """Sixty reads, and deaf."""
    peer = await hostile.link(at)
    for number in range(1, 121, 2):
        await peer.send(hostile.read(number, proofs=hostile.rng.random() < 0.5))
    peer.connection.transport.pause_reading()


async def reads_without_credit(hostile: Hostile, at: str) -> None:
    peer = await hostile.link(at)
    for number in range(1, 61, 2):
        await peer.send(hostile.read(number, credit=10))


async def a_full_queue(hostile: Hostile, at: str) -> None:
    """Answers that are not read, and pings."""
    peer = await hostile.link(at)
    params = {"channel": hostile.channel, "sha1": bytes.fromhex(hostile.sha1)}
    peer.connection.transport.pause_reading()
    for number in range(1, 401, 2):
        await peer.send(Request(number, "file.open", params))


async def leaving_in_the_middle(hostile: Hostile, at: str) -> None:
    peer = await hostile.link(at)
    for number in range(1, 41, 2):
        await peer.send(hostile.read(number))
    peer.connection.transport.abort()


async def removal(hostile: Hostile, at: str) -> None:
    """It is removed, which makes a new secret, and admitted again."""
    lab = hostile.lab
    await remove(lab, "C")
    await asyncio.sleep(hostile.rng.random() * 0.05)
    await lab.call(
        "A", "channel.add-node", channel="lab", node=hostile.key.node_id, label="C", roles="all"
    )
    hostile.documents.append(lab["A"].context.book.signed(hostile.channel).to_bytes())


async def an_old_document(hostile: Hostile, at: str) -> None:
    """It says that it has a newer one, and hands out the oldest, or half of one, or none."""
    peer = await hostile.link(at, version=1 << 40)
    async with asyncio.timeout(2):
        asked = await peer.hear(Open)
    data = hostile.rng.choice([hostile.documents[0], hostile.documents[-1][:100], b""])
    if data:
        await peer.send(Data(asked.id, None, SEALED_TAIL, len(data) + TAG_BYTES), data)


async def a_lie_about_damage(hostile: Hostile, at: str) -> None:
    """And a slow read of what is said to be damaged."""
    peer = await hostile.link(at)
    await peer.send(hostile.read(1, credit=100_000, proofs=True))
    for number in range(3, 23, 2):
        params = {"channel": hostile.channel, "sha1": bytes.fromhex(hostile.sha1), "start": 0,
                  "stop": min(MIB, hostile.size)}  # fmt: skip
        await peer.send(Request(number, "file.doubt", params))


async def guests(hostile: Hostile, at: str) -> None:
    """Ten who hold no invitation ask to join."""
    for _ in range(10):
        peer = await hostile.open.enter_async_context(rogue(hostile.lab[at].listening))
        hostile.peers.append(peer)
        tag = channel_tag(hostile.channel, peer.session.peer, peer.session.handshake_hash)
        await peer.hello(channels={tag: (GUEST_VERSION, [])})
        target = {"channel": hostile.channel, "node": hostile.lab["A"].context.key.public}
        await peer.send(Open(1, "join.circuit", target, MUCH))


async def a_full_disk(hostile: Hostile, at: str) -> None:
    """The state of a node takes no change for a moment."""
    state = hostile.lab[at].state
    inner = type(state).transaction
    over = asyncio.get_running_loop().time() + 0.2

    @contextlib.contextmanager
    def transaction() -> Any:
        with inner(state) as db:
            yield db
            if state.transaction is transaction and db.total_changes:
                raise StorageFull(what="the node's state", path="/full")

    state.transaction = transaction  # type: ignore[method-assign]
    try:
        await asyncio.sleep(max(0.0, over - asyncio.get_running_loop().time()))
    finally:
        state.__dict__.pop("transaction", None)


async def circuits(hostile: Hostile, at: str) -> None:
    """Filled with what is no record, to both other nodes and to itself."""
    peer = await hostile.link("P")
    nodes = [hostile.lab[name].context.key.public for name in "ABC"]
    for number in range(1, 31, 2):
        target = {"channel": hostile.channel, "node": nodes[number % 3]}
        await peer.send(Open(number, "circuit", target, MUCH))
    body = bytes(20_000)
    for _ in range(5):
        async with asyncio.timeout(1):
            credit = await peer.hear(Credit)
        await peer.send(Data(credit.id, None, OPAQUE_TAIL, len(body)), body)


async def announced_and_withdrawn(hostile: Hostile, at: str) -> None:
    """It has what others load, and has not, again and again."""
    peer = await hostile.link("P")
    for number in range(20):
        operation = WITHDRAW if number % 2 else PROVIDE
        await hostile.note(peer, [(operation, hostile.blinded)], number + 1)
        await asyncio.sleep(0)


async def two_truths(hostile: Hostile, at: str) -> None:
    """Two contents under one number of its log."""
    peer = await hostile.link("P")
    hostile.epoch += 1
    for _ in range(2):
        await hostile.note(peer, [(PROVIDE, hostile.rng.randbytes(16))], 1)


async def an_action_twice(hostile: Hostile, at: str) -> None:
    """One request of an action over two links, then both break."""
    task = hostile.rng.randbytes(16)
    for again in (False, True):
        peer = await hostile.link("A")
        await peer.send(Open(1, "task.run", {
            "channel": hostile.channel, "task": task, "function": "act.1", "type": "action",
            "again": again, "kwargs": b'{"n":1}'}, MUCH))  # fmt: skip


async def questions(hostile: Hostile, at: str) -> None:
    """That are held, of keys that nobody has, and watched."""
    peer = await hostile.link("P")
    for number in range(1, 41, 2):
        keys = [hostile.rng.randbytes(16) for _ in range(100)]
        base = {"channel": hostile.channel, "kind": "files", "keys": keys}
        await peer.send(Request(
            number, "who-has", base | {"secret_version": hostile.version, "hold": 4000}))  # fmt: skip
        await peer.send(Note("watch", base | {"on": number % 3 > 0}))


async def nonsense(hostile: Hostile, at: str) -> None:
    """What nobody asked for."""
    peer = await hostile.link(at)
    frames: list[tuple[Any, bytes | None]] = [
        (Credit(77, MUCH), None),
        (Data(2, None, SEALED_TAIL, 10 + TAG_BYTES), bytes(10)),
        (Note("channels", {b"x": (1, [])}), None),
        (Request(1, "no such", None), None),
        (Open(1, "file.read", None, 0), None),
    ]
    frame, body = hostile.rng.choice(frames)
    await peer.send(frame, body)


ABILITIES: Final[tuple[Ability, ...]] = (
    half_a_record, reads_unread, reads_without_credit, a_full_queue, leaving_in_the_middle, removal,
    an_old_document, a_lie_about_damage, guests, a_full_disk, circuits, announced_and_withdrawn,
    two_truths, an_action_twice, questions, nonsense,
)  # fmt: skip
