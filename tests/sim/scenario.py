"""One seed, one story: who is there, what they do, what goes wrong, and how it must end.

A story has three parts. A channel or two are set up; then things happen one after another (stores,
loads, changes of membership, crashes, partitions, mischief), the invariants being checked after
each; then everything heals, and whatever an honest member holds must be loadable by every member
who may have it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import logging
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kachery_p2p.protocol.errors import KacheryError
from kachery_p2p.protocol.manifest import Chunk, Manifest, Tree
from kachery_p2p.storage.trees import ensure_tree

from .loop import SimLoop
from .roads import End
from .world import Peer, Violation, Watch, World

PREFIX = "kachery-sim-"
CALL_SECONDS = 400.0
"""Virtual time within which every call must have ended: a stall, after asking everybody in turn."""
SETTLE_SECONDS = 150.0
"""Virtual time for everybody to reconnect after everything healed: the longest backoff and a dead
link, twice."""
REVOKE_SECONDS = 6.0
"""Virtual time in which a removal reaches everybody who is connected."""


@dataclass
class Content:
    """A file that somebody stored."""

    sha1: str
    manifest: str | None
    data: bytes
    holder: Peer
    stored_at: float


@dataclass
class Channel:
    """A channel as its owner has it."""

    name: str
    owner: Peer
    removed: dict[str, float] = field(default_factory=dict)
    """Name of a removed peer -> when everybody knew; infinity until then."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to. ``trace`` is the same in every run of the seed."""

    seed: int
    nodes: int
    trace: str
    loads: int
    loaded: int
    seconds: float


class Story:
    """See the module."""

    def __init__(self, world: World, nodes: int | None, steps: int) -> None:
        self.world = world
        self.rng = world.rng
        self.loop = world.loop
        self._nodes = nodes
        self._steps = steps
        self.contents: list[Content] = []
        self.channels: list[Channel] = []
        self.calls: dict[asyncio.Task[Any], str] = {}
        self.loads = self.loaded = 0
        self._last_call: asyncio.Task[Any] | None = None

    # --- the beginning -------------------------------------------------------------------------

    async def begin(self) -> None:
        rng, world = self.rng, self.world
        count = self._nodes or rng.choice((3, 3, 4, 4, 5, 6, 8))
        proxies = 1 if count < 4 else rng.choice((1, 2, 2))
        for number in range(proxies):
            world.add(f"proxy-{number}", proxy=True, url=f"ws://proxy-{number}")
        for number in range(count - proxies):
            public = rng.random() < 0.25
            name = f"node-{number}"
            world.add(name, proxy=False, url=f"ws://{name}" if public else None)
        leaves = [peer for peer in world.peers.values() if not peer.proxy]
        owner = rng.choice(leaves)
        if rng.random() < 0.8:
            candidates = [peer for peer in leaves if peer is not owner]
            if proxies > 1:
                candidates.append(world.peers["proxy-1"])
            rng.choice(candidates).hostile = True
        for peer in world.peers.values():
            await peer.start()
        for name in ("lab", "two")[: rng.choice((1, 1, 2))]:
            await self._channel(name, owner, count)
        world.log("begun", count, proxies, owner.name)
        await asyncio.sleep(rng.random() * 3)

    async def _channel(self, name: str, owner: Peer, count: int) -> None:
        proxies = [peer for peer in self.world.peers.values() if peer.proxy]
        bootstraps = [f"{peer.host.url}#{peer.node_id}" for peer in proxies]
        await owner.call("channel.create", name=name, bootstraps=bootstraps)
        channel = Channel(name, owner)
        self.channels.append(channel)
        for peer in self.world.peers.values():
            if peer is owner or (name == "two" and not peer.proxy and self.rng.random() < 0.3):
                continue
            if not peer.proxy:
                await self._add(channel, peer)
        exported, _ = await owner.call("channel.export", channel=name)
        for peer in self.world.peers.values():
            if peer is not owner:
                await peer.call("channel.join", document=exported["text"])

    async def _add(self, channel: Channel, peer: Peer) -> None:
        channel.removed.pop(peer.name, None)
        await channel.owner.call(
            "channel.add-node", channel=channel.name, node=peer.node_id, label=peer.name
        )

    # --- the middle ----------------------------------------------------------------------------

    async def middle(self) -> None:
        await self.store()
        await self.store()
        happenings = {
            self.store: 5,
            self.load: 12,
            self.load_range: 3,
            self.load_nothing: 1,
            self.cancel: 2,
            self.remove: 2,
            self.add_again: 2,
            self.set_roles: 2,
            self.revoke_midway: 2,
            self.crash: 2,
            self.stop: 1,
            self.start: 4,
            self.part: 2,
            self.heal: 3,
            self.reset: 2,
            self.slow: 1,
        }
        for _ in range(self._steps):
            happening = self.rng.choices(list(happenings), list(happenings.values()))[0]
            self.world.log("step", happening.__name__)
            await happening()
            self.world.check()
            await asyncio.sleep(self.rng.choice((0.0, 0.01, 0.2, 1.0, 5.0)) * self.rng.random())
            self.world.check()

    def _some(self, peers: list[Peer]) -> Peer | None:
        return self.rng.choice(peers) if peers else None

    def _content(self) -> bytes:
        size = self.rng.choice((0, 1, 300, 20_000, 33_000, 100_000, 300_000, 65_536 * 3))
        return self.rng.randbytes(size)

    async def store(self) -> None:
        peer = self._some(
            [p for p in self.world.honest() if not p.proxy or self.rng.random() < 0.1]
        )
        if peer is None or peer.node is None:
            return
        data = self._content()
        stored, _ = await peer.call("store", data=data)
        sha1 = hashlib.sha1(data).hexdigest()
        if stored["sha1"] != sha1 or stored["size"] != len(data):
            raise Violation(f"{peer.name} stored {stored}")
        self.world.contents[sha1] = data
        manifest = None
        if len(data) > 60_000 and self.rng.random() < 0.7:
            manifest = await self._manifest(peer, sha1, data)
        content = Content(sha1, manifest, data, peer, self.loop.time())
        self.contents.append(content)
        self.world.log("stored", peer.name, sha1[:8], len(data), manifest is not None)

    async def _manifest(self, peer: Peer, sha1: str, data: bytes) -> str:
        """Small files have none by themselves; with one by hand, they go the way of big ones."""
        node = peer.node
        assert node is not None
        tree = None
        if self.rng.random() < 0.8:
            blob = node.store.find(sha1)
            assert blob is not None
            with ensure_tree(node.store, blob) as made:
                tree = Tree("blake3", 65_536, made.root)
        cut = len(data) // 2
        chunks = tuple(
            Chunk(start, end, hashlib.sha1(data[start:end]).hexdigest())
            for start, end in ((0, cut), (cut, len(data)))
        )
        text = Manifest(len(data), sha1, chunks, tree).to_json()
        stored, _ = await peer.call("store", data=text)
        self.world.contents[stored["sha1"]] = text
        return str(stored["sha1"])

    def _start(self, peer: Peer, content: Content, part: tuple[int, int] | None) -> None:
        """Begin a call in the background; its end is checked whenever it comes."""
        self.loads += 1
        name = f"load {self.loads} of {content.sha1[:8]} on {peer.name}"
        life = peer.life
        params: dict[str, Any] = {"sha1": content.sha1, "manifest": content.manifest}
        if part is None:
            call = peer.call("load", **params)
        else:
            call = peer.call("load_bytes", **params, start=part[0], stop=part[1])

        async def watch() -> None:
            began = self.loop.time()
            done, _ = await asyncio.wait([call], timeout=CALL_SECONDS)
            if life is not None and life.frozen:
                return  # killed with its node
            if not done:
                raise Violation(f"{name} did not end in {CALL_SECONDS:g} s")
            seconds = self.loop.time() - began
            if call.cancelled():
                self.world.log("cancelled", name)
                return
            error = call.exception()
            if error is not None:
                self.world.check_error(name, error)
                self.world.log("failed", name, type(error).__name__, error, f"{seconds:.3f}")
                return
            _, received = call.result()
            self._check_bytes(name, peer, content, part, received)
            self.loaded += 1
            self.world.log("loaded", name, f"{seconds:.3f}")

        self.calls[self.loop.create_task(watch(), name=name)] = peer.name
        self._last_call = call

    def _check_bytes(
        self,
        name: str,
        peer: Peer,
        content: Content,
        part: tuple[int, int] | None,
        received: bytes,
    ) -> None:
        if part is not None:
            wanted = content.data[part[0] : part[1]]
        else:
            wanted = content.data
            blob = peer.node.store.find(content.sha1) if peer.node is not None else None
            if peer.node is None:
                return
            if blob is None:
                raise Violation(f"{name} succeeded, and there is no blob")
            received = blob.path.read_bytes()
        if received != wanted:
            raise Violation(f"{name} returned wrong bytes")

    async def load(self) -> None:
        peer = self._some(
            [p for p in self.world.honest() if not p.proxy or self.rng.random() < 0.2]
        )
        if peer is not None and self.contents:
            for _ in range(self.rng.choice((1, 1, 1, 3))):
                self._start(peer, self.rng.choice(self.contents), None)

    async def load_range(self) -> None:
        peer = self._some(self.world.honest())
        if peer is not None and self.contents:
            content = self.rng.choice(self.contents)
            start = self.rng.randrange(len(content.data) + 1)
            stop = self.rng.randrange(start, len(content.data) + 1)
            self._start(peer, content, (start, stop))

    async def load_nothing(self) -> None:
        peer = self._some(self.world.honest())
        if peer is not None:
            call = peer.call("load", sha1=self.rng.randbytes(20).hex())
            name = f"load of nothing on {peer.name}"
            life = peer.life

            async def watch() -> None:
                done, _ = await asyncio.wait([call], timeout=CALL_SECONDS)
                if life is not None and life.frozen:
                    return
                if call.cancelled():
                    return
                if not done or call.exception() is None:
                    raise Violation(f"{name} did not end in an error")
                error = call.exception()
                assert error is not None
                self.world.check_error(name, error)
                self.world.log("failed", name, type(error).__name__)

            self.calls[self.loop.create_task(watch(), name=name)] = peer.name

    async def cancel(self) -> None:
        await self.load()
        await asyncio.sleep(self.rng.random() * 0.3)
        if self._last_call is not None:
            self._last_call.cancel()

    # --- membership ----------------------------------------------------------------------------

    def _channel_of_owner(self) -> Channel | None:
        channels = [channel for channel in self.channels if channel.owner.up]
        return self.rng.choice(channels) if channels else None

    async def remove(self, who: Peer | None = None) -> None:
        channel = self._channel_of_owner()
        if channel is None or channel.owner.node is None:
            return
        document = channel.owner.node.context.book.signed(self._id(channel)).document
        listed = {member.node_id for member in document.members}
        peer = self._some(
            [
                p
                for p in self.world.peers.values()
                if p is not channel.owner and not p.proxy and p.node_id in listed
                if who in (None, p)
            ]
        )
        if peer is None:
            return
        await channel.owner.call("channel.remove-node", channel=channel.name, node=peer.node_id)
        channel.removed[peer.name] = float("inf")
        self.world.log("removed", peer.name, channel.name)
        task = self.loop.create_task(self._revoked(channel, peer), name=f"removal of {peer.name}")
        self.calls[task] = ""

    def _id(self, channel: Channel) -> bytes:
        node = channel.owner.node
        assert node is not None
        return node.context.book.resolve(channel.name)

    async def _revoked(self, channel: Channel, peer: Peer) -> None:
        """Where the road is good, everybody knows within seconds."""
        node = channel.owner.node
        assert node is not None
        identity = self._id(channel)
        version = node.network.version_of(identity)
        reached = {
            p.name: p.life
            for p in self.world.honest()
            if any(
                link.peer == p.node_id and isinstance(link.transport, End) and link.transport.whole
                for link in node.network.links_on(identity)
            )
        }
        changes = self._changes
        await asyncio.sleep(REVOKE_SECONDS)
        if self._changes != changes or channel.owner.node is not node:
            return
        for other in self.world.honest():
            if reached.get(other.name) is other.life and other.node is not None:
                known = other.node.network.version_of(identity)
                if known < version and other is not peer:
                    raise Violation(
                        f"{other.name} did not hear of version {version} in {REVOKE_SECONDS} s"
                    )

    _changes = 0
    """Counts what may delay a message."""

    async def add_again(self) -> None:
        channel = self._channel_of_owner()
        if channel is not None and channel.removed:
            peer = self.world.peers[self.rng.choice(sorted(channel.removed))]
            await self._add(channel, peer)
            self.world.log("added", peer.name, channel.name)

    async def set_roles(self, who: Peer | None = None, roles: str = "") -> None:
        channel = self._channel_of_owner()
        if channel is None or channel.owner.node is None:
            return
        document = channel.owner.node.context.book.signed(self._id(channel)).document
        names = [
            self.world.label(member.node_id)
            for member in document.members
            if member.node_id != channel.owner.node_id
            and (who is None or member.node_id == who.node_id)
        ]
        if not names:
            return
        name = self.rng.choice(sorted(names))
        peer = self.world.peers[name]
        roles = roles or self.rng.choice(("all", "all", "request", "provide", "none"))
        if peer.proxy:
            roles += ",proxy"
        await channel.owner.call(
            "channel.set-roles", channel=channel.name, node=peer.node_id, roles=roles
        )
        self.world.log("roles", name, roles)

    async def revoke_midway(self) -> None:
        """A role is taken away, or a node removed, while it loads over a slow road."""
        peers = [p for p in self.world.honest() if not p.proxy]
        large = [content for content in self.contents if len(content.data) >= 100_000]
        peer = self._some(peers)
        if peer is None or not large:
            return
        host = peer.host
        rate, host.rate = host.rate, 1e5
        self._start(peer, self.rng.choice(large), None)
        await asyncio.sleep(0.2 + self.rng.random())
        if self.rng.random() < 0.5:
            await self.remove(peer)
        else:
            await self.set_roles(peer, "none")
        self.world.check()
        await asyncio.sleep(1.0)
        host.rate = rate

    # --- trouble -------------------------------------------------------------------------------

    async def crash(self) -> None:
        peer = self._some([p for p in self.world.peers.values() if p.up])
        if peer is not None:
            self._changes += 1
            silent = self.rng.random() < 0.4
            self.world.log("crash", peer.name, silent)
            peer.crash(silent=silent)

    async def stop(self) -> None:
        peer = self._some(self.world.honest())
        if peer is not None:
            self._changes += 1
            self.world.log("stop", peer.name)
            await peer.stop()

    async def start(self) -> None:
        peer = self._some([p for p in self.world.peers.values() if not p.up])
        if peer is not None:
            self.world.log("start", peer.name)
            await peer.start()

    async def part(self) -> None:
        self._changes += 1
        names = sorted(self.world.peers)
        side = set(self.rng.sample(names, self.rng.randrange(1, len(names))))
        if self.rng.random() < 0.5:
            a, b = self.rng.sample(names, 2)
            self.world.roads.part(a, b)
            return
        for a in sorted(side):
            for b in names:
                if b not in side:
                    self.world.roads.part(a, b)

    async def heal(self) -> None:
        self._changes += 1
        self.world.roads.heal()

    async def reset(self) -> None:
        self._changes += 1
        self.world.roads.break_one()

    async def slow(self) -> None:
        self._changes += 1
        host = self.rng.choice(list(self.world.roads.hosts.values()))
        host.latency = self.rng.choice((0.001, 0.1, 0.4))
        host.rate = self.rng.choice((1e5, 1e6, 1e8))

    # --- the end -------------------------------------------------------------------------------

    async def end(self) -> None:
        """All calls end; everything heals; what is there can be had by whoever may have it."""
        world = self.world
        world.log("healing")
        world.roads.heal()
        await self._finish_calls()
        world.check()
        world.roads.spikes = 0.0
        for host in world.roads.hosts.values():
            host.latency, host.rate = 0.01, 1e7
        for peer in world.peers.values():
            if peer.hostile and peer.proxy and peer.up:
                # Who can only be reached through a liar is not to be reached.
                peer.crash(silent=False)
            elif not peer.up and not (peer.hostile and peer.proxy):
                await peer.start()
        await asyncio.sleep(SETTLE_SECONDS)
        world.check()
        self._check_documents()
        world.check_disks()
        await self._check_liveness()
        await self._check_revoked()
        world.check()
        world.check_disks()

    async def _finish_calls(self) -> None:
        while self.calls:
            done, _ = await asyncio.wait(list(self.calls), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                del self.calls[task]
                task.result()

    def _check_documents(self) -> None:
        for channel in self.channels:
            owner = channel.owner.node
            assert owner is not None
            identity = self._id(channel)
            document = owner.context.book.signed(identity).document
            for peer in self.world.honest():
                assert peer.node is not None
                if document.member(peer.node_id) is None:
                    continue
                known = peer.node.context.book.signed(identity).document.version
                if known != document.version:
                    raise Violation(
                        f"{peer.name} has version {known} of {channel.name}, "
                        f"the owner {document.version}"
                    )

    def _roles(self, channel: Channel, peer: Peer) -> frozenset[str]:
        """What the owner grants and the peer's own user wants."""
        assert peer.node is not None
        assert channel.owner.node is not None
        identity = self._id(channel)
        if identity not in peer.node.context.book:
            return frozenset()
        granted = channel.owner.node.context.book.effective(identity, peer.node_id)
        return granted & peer.node.context.book.wanted(identity)

    async def _check_liveness(self) -> None:
        pairs = []
        for content in self.contents:
            holder = content.holder
            if not self.world.has(holder, content.sha1):
                raise Violation(f"{holder.name} lost {content.sha1}, which it had stored")
            for peer in self.world.honest():
                if peer is holder or self.world.has(peer, content.sha1):
                    continue
                for channel in self.channels:
                    if "provide-files" in self._roles(
                        channel, holder
                    ) and "request-files" in self._roles(channel, peer):
                        pairs.append((peer, content))
                        break
        for peer, content in self.rng.sample(pairs, min(8, len(pairs))):
            self._start(peer, content, None)
            call, name = self._last_call, f"{content.sha1[:8]} of {content.holder.name}"
            await self._finish_calls()
            assert call is not None
            if call.exception() is not None:
                raise Violation(
                    f"{peer.name} cannot load {name} although all is well: {call.exception()}"
                ) from call.exception()

    async def _check_revoked(self) -> None:
        """Who was removed from everything gets nothing that is new."""
        for peer in self.world.honest():
            if any(self._roles(c, peer) for c in self.channels):
                continue
            holder = next(
                (
                    other
                    for other in self.world.honest()
                    if any("provide-files" in self._roles(c, other) for c in self.channels)
                ),
                None,
            )
            if holder is None or not any(peer.name in c.removed for c in self.channels):
                continue
            data = self.rng.randbytes(5_000)
            stored, _ = await holder.call("store", data=data)
            self.world.contents[stored["sha1"]] = data
            await asyncio.sleep(1.0)
            try:
                await peer.call("load", sha1=stored["sha1"])
            except KacheryError as error:
                self.world.log("refused", peer.name, type(error).__name__)
            else:
                raise Violation(f"{peer.name} was removed and still got a file")


def _open_files() -> dict[str, str]:
    """What this process has open in any folder of a simulation."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            name = os.readlink(f"/proc/self/fd/{fd}")
            if PREFIX in name:
                found[fd] = name
    return found


async def _tell(world: World, nodes: int | None, steps: int, complaints: list[str]) -> Story:
    story = Story(world, nodes, steps)
    try:
        await story.begin()
        await story.middle()
        await story.end()
        await world.stop()
        if complaints:
            raise Violation(f"logged as errors: {complaints[:3]}")
    finally:
        await world.close()
    return story


def run(seed: int, *, nodes: int | None = None, steps: int = 25, verbose: bool = False) -> Outcome:
    """Run one seed.

    Raises:
        Violation, or another AssertionError: an invariant does not hold.
    """
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    complaints: list[str] = []
    watch = Watch(complaints)
    logger = logging.getLogger("kachery_p2p")
    logger.addHandler(watch)
    descriptors = _open_files()
    gc.disable()  # objects must not die at another moment in a second run
    loop = SimLoop()
    loop.set_exception_handler(
        lambda _, context: complaints.append(
            f"{context.get('message')} {context.get('exception')!r}"
        )
    )
    try:
        asyncio.set_event_loop(loop)
        world = World(loop, seed, folder)
        world.verbose = verbose
        story = loop.run_until_complete(_tell(world, nodes, steps, complaints))
        left = [task.get_name() for task in asyncio.all_tasks(loop)]
    finally:
        logger.removeHandler(watch)
        loop.close()
        asyncio.set_event_loop(None)
        gc.enable()
    if left:
        raise Violation(f"tasks left: {left[:5]}")
    del world.dead[:]
    gc.collect(0)
    unclosed = [name for fd, name in _open_files().items() if fd not in descriptors]
    if unclosed:
        raise Violation(f"files were not closed: {unclosed[:3]}")
    return Outcome(
        seed,
        len(world.peers),
        world.trace.hexdigest(),
        story.loads,
        story.loaded,
        loop.time(),
    )
