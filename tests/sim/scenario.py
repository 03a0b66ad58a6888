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
import logging
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from kachery_p2p.protocol.errors import KacheryError
from tests.sim.loop import SimLoop
from tests.sim.trouble import Channel, Trouble
from tests.sim.world import Peer, Violation, Watch, World

PREFIX = "kachery-sim-"
SETTLE_SECONDS = 150.0
"""Virtual time for everybody to reconnect after everything healed: the longest backoff and a dead
link, twice."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to. ``trace`` is the same in every run of the seed."""

    seed: int
    nodes: int
    trace: str
    loads: int
    loaded: int
    seconds: float
    removals: int = 0


class Story(Trouble):
    """See the module."""

    def __init__(self, world: World, nodes: int | None, steps: int) -> None:
        super().__init__(world)
        self._nodes = nodes
        self._steps = steps
        self.happenings: dict[Callable[[], Awaitable[None]], int] = {}
        """What may happen, each with its weight; empty: the usual."""

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

    # --- the middle ----------------------------------------------------------------------------

    async def middle(self) -> None:
        await self.store()
        await self.store()
        happenings = self.happenings or {
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
            self.restart: 2,
            self.copy_in: 2,
        }
        for _ in range(self._steps):
            happening = self.rng.choices(list(happenings), list(happenings.values()))[0]
            self.world.log("step", happening.__name__)
            await happening()
            self.world.check()
            await asyncio.sleep(self.rng.choice((0.0, 0.01, 0.2, 1.0, 5.0)) * self.rng.random())
            self.world.check()

    # --- the end -------------------------------------------------------------------------------

    async def end(self) -> None:
        """All calls end; everything heals; what is there can be had by whoever may have it."""
        world = self.world
        world.log("healing")
        world.internet.heal()
        await self._finish_calls()
        world.check()
        world.internet.spikes = 0.0
        for host in world.internet.hosts.values():
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


@contextlib.contextmanager
def _small_pieces() -> Iterator[None]:
    """What is announced goes in many pieces, as if there were a hundred times as much of it."""
    package = "kachery_p2p"
    sizes = {
        f"{package}.protocol.gossip.announcements.MAX_ANNOUNCE_ENTRIES": 12,
        f"{package}.protocol.gossip.announcements.ANNOUNCE_MERGE": 3,
        f"{package}.node.gossip.comparison._SLICE": 7,
        f"{package}.node.gossip.log_server.PULL_BODY": 400,
        f"{package}.node.gossip.pulls.PULL_CREDIT": 2_000,
        f"{package}.node.gossip.exchange.GOSSIP_PUSHES": 4,
        f"{package}.node.gossip.exchange.GOSSIP_HEARD_AFTER": 1,
    }
    with contextlib.ExitStack() as patches:
        for name, size in sizes.items():
            patches.enter_context(patch(name, size))
        yield


def _open_files() -> dict[str, str]:
    """What this process has open in any folder of a simulation."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            name = os.readlink(f"/proc/self/fd/{fd}")
            if PREFIX in name:
                found[fd] = name
    return found


async def _tell(story: Story, complaints: list[str]) -> Story:
    world = story.world
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


def run(
    seed: int,
    *,
    nodes: int | None = None,
    steps: int = 25,
    verbose: bool = False,
    story: type[Story] = Story,
) -> Outcome:
    """Run one seed of a kind of story.

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
    small = _small_pieces() if seed % 2 else contextlib.nullcontext()
    try:
        asyncio.set_event_loop(loop)
        world = World(loop, seed, folder)
        world.verbose = verbose
        with small:
            told = loop.run_until_complete(_tell(story(world, nodes, steps), complaints))
        left = [task.get_name() for task in asyncio.all_tasks(loop)]
    finally:
        logger.removeHandler(watch)
        loop.close()
        asyncio.set_event_loop(None)
        shutil.rmtree(folder, ignore_errors=True)
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
        told.loads,
        told.loaded,
        loop.time(),
        world.removals,
    )
