"""What a hostile member can ask for, say and send, for each kind of message; as :mod:`.abilities`."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from websockets.frames import BINARY, CONT, PING, Frame

from kachery_p2p.protocol.channels.membership import channel_tag
from kachery_p2p.protocol.links.frames import SEALED_TAIL, Data, End, Note, Open, Ping, Request
from kachery_p2p.protocol.links.session import TAG_BYTES
from tests.node.abilities import MUCH, ROLES, Ability, Hostile

HUGE: Final = (1 << 64) - 1
NAN: Final = float("nan")


async def one_id(hostile: Hostile, at: str) -> None:
    """Of three tasks, over two links, with words that nobody asked for."""
    task = hostile.rng.randbytes(16)
    for number, (function, type) in enumerate(
        [("echo.1", "query"), ("act.1", "action"), ("echo.1", "query")]
    ):
        peer = await hostile.link("A")
        await peer.send(Open(1, "task.run", {
            "channel": hostile.channel, "task": task, "function": function, "type": type,
            "again": False, "kwargs": b'{"n":%d}' % number}, MUCH))  # fmt: skip
        word = hostile.rng.choice(["cancel", "go"])
        if function == "echo.1":
            await peer.send(Data(1, [word], SEALED_TAIL, TAG_BYTES), b"")


async def pushes(hostile: Hostile, at: str) -> None:
    """The same over two links, of sizes that are not so, and dropped meanwhile."""
    content = bytes.fromhex(hostile.sha1)
    for size, count in [(hostile.size, 1), (10, 1), (1 << 50, 1_000_000), (hostile.size, 5)]:
        peer = await hostile.link("A")
        put = {"channel": hostile.channel, "content": content, "manifest": None, "size": size,
               "count": count, "seconds": 1e-9, "label": "\x1b[2J", "logs": []}  # fmt: skip
        await peer.send(Open(1, "keep.put", put, MUCH))
        await peer.send(Request(3, "keep.drop", {"channel": hostile.channel, "content": content}))
        await peer.send(
            Request(5, "keep.list", {"channel": hostile.channel, "after": b"\xff" * 32})
        )
        await peer.send(End(1, "not-found", {"what": "x", "detail": "y" * 10_000}))


async def copy_locks(hostile: Hostile, at: str) -> None:
    peer = await hostile.link(at)
    for number in range(1, 101, 2):
        sha1 = bytes.fromhex(hostile.sha1) if number % 3 else hostile.rng.randbytes(20)
        await peer.send(Request(number, "keep.lock", {"channel": hostile.channel, "sha1": sha1}))


async def feeds(hostile: Hostile, at: str) -> None:
    """Of which nobody knows anything, from behind their ends, and submissions that stop half-way."""
    peer = await hostile.link(at)
    where = {"channel": hostile.channel, "feed": hostile.rng.randbytes(32),
             "subfeed": hostile.rng.randbytes(20)}  # fmt: skip
    for number in range(1, 41, 4):
        await peer.send(Open(number, "feed.follow", where | {
            "position": 10**9, "stop": 1, "quiet": number % 8 > 1}, 10))  # fmt: skip
        await peer.send(Open(number + 2, "feed.submit", where | {
            "name": "x" * 100, "submission": bytes(16)}, MUCH))  # fmt: skip
        await peer.send(Data(number + 2, [1_000], SEALED_TAIL, 5 + TAG_BYTES), b"[[[[[")
    await peer.send(Request(101, "feed.evidence", where | {"index": 0}))


async def batches(hostile: Hostile, at: str) -> None:
    """One file many times, and guesses; without credit, or unread."""
    peer = await hostile.link(at)
    sha1s = [bytes.fromhex(hostile.sha1)] * 250 + [hostile.rng.randbytes(20) for _ in range(250)]
    for number in range(1, 41, 2):
        await peer.send(Open(number, "file.batch", {"channel": hostile.channel, "sha1s": sha1s}, 1))
        await peer.send(Open(number + 100, "file.ask", {
            "channel": hostile.channel, "key": hostile.blinded,
            "start": bytes.fromhex(hostile.sha1)[:3]}, 0))  # fmt: skip


async def gossip(hostile: Hostile, at: str) -> None:
    """Pulls by who is no proxy, digests of everybody's logs, and thanks for what was not sent."""
    peer = await hostile.link(at)
    origins = [[hostile.lab[name].context.key.public, (1 << 63) - 1, 1] for name in "ABC"]
    await peer.send(Open(1, "gossip.pull", {"channel": hostile.channel, "origins": origins}, MUCH))
    await peer.send(Note("gossip.digest", {
        "channel": hostile.channel, "low": b"\xff" * 32, "high": bytes(32), "origins": origins,
        "ask": True}))  # fmt: skip
    for count in (HUGE, -1, 0, 1):
        await peer.send(Note("gossip.heard", {"channel": hostile.channel, "count": count}))
    await peer.send(Note("appeared", {"channel": hostile.channel, "keys": [bytes(16)] * 100}))


async def guests_who_are_members(hostile: Hostile, at: str) -> None:
    """It is a member, and asks to join, and shows a pass that is none."""
    peer = await hostile.link(at)
    key, proof = bytes(32), bytes(64)
    await peer.send(Open(1, "join", {
        "channel": hostile.channel, "invitation": key, "proof": proof,
        "label": "\x1b]0;"}, MUCH))  # fmt: skip
    await peer.send(Request(3, "visit", {
        "channel": hostile.channel, "visitor_pass": b"\x90", "proof": proof, "secret": key,
        "stamp": b""}))  # fmt: skip
    await peer.send(Request(5, "visit.use", {
        "channel": hostile.channel, "visitor_pass": key, "proof": proof}))  # fmt: skip
    for number, method in ((7, "visit.circuit"), (9, "join.circuit"), (11, "join.in")):
        await peer.send(Open(number, method, {
            "channel": hostile.channel, "node": hostile.key.public}, MUCH))  # fmt: skip


async def frames_without_end(hostile: Hostile, at: str) -> None:
    """A message in a thousand fragments, pings in between, and half of the connection closed."""
    peer = await hostile.link(at)
    transport = peer.connection.transport
    transport.write(Frame(BINARY, b"x", fin=False).serialize(mask=True))
    for number in range(1_000):
        transport.write(Frame(CONT, b"x", fin=False).serialize(mask=True))
        if number % 10 == 0:
            transport.write(Frame(PING, bytes(125)).serialize(mask=True))
    with contextlib.suppress(NotImplementedError, OSError):
        transport.write_eof()


async def pings(hostile: Hostile, at: str) -> None:
    """A thousand of the session's own, and one that is no number of 64 bits."""
    peer = await hostile.link(at)
    for number in range(1_000):
        await peer.send(Ping(number))
    peer.connection.transport.pause_reading()
    await peer.send(Ping(HUGE))


async def other_channels(hostile: Hostile, at: str) -> None:
    """It is on a channel, and not, and on it with other versions and roles, and on a hundred others."""
    peer = await hostile.link(at)
    tag = channel_tag(hostile.channel, hostile.key.public, peer.session.handshake_hash)
    for number in range(20):
        version = hostile.rng.choice([0, 1, HUGE, hostile.version])
        channels: dict[bytes, Any] = {} if number % 3 else {tag: [version, ROLES]}
        channels |= {hostile.rng.randbytes(len(tag)): [1, []] for _ in range(100)}
        await peer.send(Note("channels", channels))
        await asyncio.sleep(0)
    await peer.send(Open(1, "channel.document", {"channel": hostile.channel}, 1))
    await peer.send(Request(3, "channel.online", {"channel": hostile.channel}))


async def absurd_values(hostile: Hostile, at: str) -> None:
    """Where a number, a time or a key should be; each on a link of its own, for it may be the last."""
    nested: Any = []
    for _ in range(400):
        nested = [nested]
    channel, sha1 = hostile.channel, bytes.fromhex(hostile.sha1)
    for frame in (
        Request(1, "file.open", {"channel": channel, "sha1": sha1 + b"x"}),
        Open(1, "file.read", {"channel": channel, "sha1": sha1, "ranges": [[HUGE, HUGE]],
                              "proofs": 1}, MUCH),
        Open(1, "file.read", {"channel": channel, "sha1": sha1, "ranges": [[-5, HUGE]],
                              "proofs": True}, MUCH),
        Note("file.doubt", {"channel": channel, "sha1": sha1, "start": 0, "stop": HUGE}),
        Note("watch", nested),
        Request(1, "who-has", {"channel": channel, "kind": "files", "keys": [bytes(16)],
                               "secret_version": HUGE, "hold": NAN}),
        Request(HUGE, "task.offers", {"channel": channel, "function": "\ud7ff", "after": "\x00"}),
        Request(1, "task.result", {"channel": channel, "key": bytes(32)}),
        Open(1, "keep.put", {"channel": channel, "content": sha1, "manifest": None, "size": 1,
                             "count": 1, "seconds": NAN, "label": "",
                             "logs": [[bytes(20), HUGE]]}, MUCH),
        Note("channel.revocations", {"channel": channel, "revocations": [b"\xc1" * 100]}),
        Note("channel.admissions", {"channel": channel, "admissions": [b"\x90"] * 10}),
    ):  # fmt: skip
        peer = await hostile.link(at)
        await peer.send(frame)


ABUSES: Final[tuple[Ability, ...]] = (
    one_id, pushes, copy_locks, feeds, batches, gossip, guests_who_are_members, frames_without_end,
    pings, other_channels, absurd_values,
)  # fmt: skip
