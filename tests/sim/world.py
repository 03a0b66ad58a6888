"""A simulated network: hosts, the nodes on them, and what must hold of them at every moment.

A :class:`Peer` is a computer with folders that outlive its node's crashes. :class:`World` owns all
of them, the internet and the run's randomness, and raises :class:`Violation` when an invariant is
broken: unverified bytes, bytes for who may not have them, links that should not be, calls that end
in anything but a result or an error of the tree.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
import logging
import random
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kachery_p2p.node.config import Config
from kachery_p2p.node.context import Context
from kachery_p2p.node.links.circuit import CircuitTransport
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.node.node import Node
from kachery_p2p.node.turns import Turns
from kachery_p2p.protocol.channels.membership import Update
from kachery_p2p.protocol.errors import InternalError, KacheryError, StorageFull
from kachery_p2p.protocol.files.messages import FILE_OPEN, FILE_READ, FileOpen, FileRead
from kachery_p2p.protocol.limits import CIRCUIT_CREDIT
from kachery_p2p.storage.paths import scan
from tests.sim.hostile import Villain
from tests.sim.internet import End, Host, Internet
from tests.sim.loop import WHOSE, Incarnation, SimLoop, SlowDisk

EPOCH = 1_800_000_000.0
"""Unix time at virtual time 0."""
REMOVED_SECONDS = 2.0
"""Virtual time from a document's arrival at a node until whoever it removed has nothing there."""


class Violation(AssertionError):
    """Something that must never happen has happened."""


class Caller:
    """Stands in for a client of the local API."""

    read_only = False

    def require_write(self) -> None:
        """This one may."""


class Live:
    """One call of a client, as :class:`~kachery_p2p.node.local.calls.Calls` sees it."""

    descriptor = None

    def __init__(self) -> None:
        self.caller = Caller()
        self.received = bytearray()

    def progress(self, told: dict[str, Any]) -> None:
        """Not looked at."""

    async def send(self, data: bytes) -> None:
        self.received += data

    async def send_piece(
        self, read: Callable[[], Awaitable[bytes | None]], *, last: bool = False
    ) -> bool:
        data = await read()
        if data is None:
            return False
        await self.send(data)
        return True


class Peer:
    """A computer and the node on it."""

    def __init__(self, world: World, name: str, host: Host, *, proxy: bool) -> None:
        self.world = world
        self.name = name
        self.host = host
        self.proxy = proxy
        self.hostile = False
        self.node: Node | None = None
        self.node_id = ""
        self.life: Incarnation | None = None
        self.calls: dict[asyncio.Task[Any], None] = {}
        self.full = False
        """Its disk takes nothing more of what the node remembers."""
        self._disk: SlowDisk | None = None
        self._lives = 0

    @property
    def up(self) -> bool:
        return self.node is not None

    @property
    def folder(self) -> Path:
        return self.world.folder / self.name

    # --- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        world = self.world
        self._lives += 1
        life = self.life = Incarnation(f"{self.name}/{self._lives}")
        rng = random.Random(f"{world.seed} {life.name}")
        disk = self._disk = SlowDisk(world.loop, rng, life)

        def adjust(context: Context) -> Context:
            return replace(
                context,
                clock=lambda: EPOCH + world.loop.time(),
                random_bytes=rng.randbytes,
                random=rng.random,
                turns=Turns(lambda: 0.0),  # no work takes time here
                urls=[self.host.url] if self.host.url else [],
            )

        config = Config(
            state_dir=self.folder / "state",
            storage_dir=self.folder / "storage",
            runtime_dir=self.folder / "run",
            label=self.name,
            proxy=self.proxy,
            local_api=False,
            durable=False,
        )
        node = Node(config, dialer=world.internet.of(self.host), workers=disk, adjust=adjust)  # type: ignore[arg-type]

        async def begin() -> None:
            await node.start()
            if self.hostile:
                Villain(node, rng, lambda: world.contents, world.log)
            else:
                self._watch(node)
                self._watch_removals(node)
            self._fill(node)

        await self._inside(begin(), name=f"start {self.name}")
        self.node = node
        self.node_id = node.context.node_id
        self.host.silent = False
        self.host.accept = lambda end: self._accept(node, end)

    def context(self) -> contextvars.Context:
        context = contextvars.copy_context()
        context.run(WHOSE.set, self.life)
        return context

    def _inside(self, work: Any, *, name: str) -> asyncio.Task[Any]:
        """A task of this node's process: it stops when the process is killed."""
        return self.world.loop.create_task(work, name=name, context=self.context())

    def _accept(self, node: Node, end: End) -> None:
        self._inside(node.accept(end, lambda: None), name=f"accept {end.name}")

    async def stop(self) -> None:
        """An orderly stop: everything must be closed after it."""
        node, life = self.node, self.life
        assert node is not None
        assert life is not None
        self.node = None
        self.host.accept = None
        for call in list(self.calls):  # as the local API does
            call.cancel()
        if self.calls:
            await asyncio.wait(list(self.calls))
        await self._inside(node.stop(), name=f"stop {self.name}")
        await asyncio.sleep(5.0)
        left = [task.get_name() for task in life.alive()]
        if left or self.host.ends:
            open_ends = [end.name for end in self.host.ends.values()]
            raise Violation(f"{self.name} stopped and left {left}, {open_ends}")

    def crash(self, *, silent: bool) -> None:
        """The process is killed, or the power is cut: nothing is said, nothing is cleaned up."""
        node, life, disk = self.node, self.life, self._disk
        assert node is not None
        assert life is not None
        assert disk is not None
        self.node = None
        self.calls.clear()
        disk.dead = True
        self.world.loop.freeze(life)
        self.world.dead.append(life)
        self.world.internet.gone(self.host, silent=silent)
        # What the system does for a dead process: close its files.
        for download in node.downloader.downloads.values():
            if (partial := download._content.partial) is not None:
                partial._files.close()
        node.state.close()
        node.inventory.close()
        node.origin_index.close()
        node.feed_store.close()
        node.task_store.close()
        node.store.close()

    # --- calls ---------------------------------------------------------------------------------

    def call(self, method: str, **params: Any) -> asyncio.Task[tuple[Any, bytes]]:
        """Start a call as a local client would; gives the result and the bytes that came."""
        node = self.node
        assert node is not None
        live = Live()

        async def run() -> tuple[Any, bytes]:
            result = await node.calls.run(method, params, live)  # type: ignore[arg-type]
            return result, bytes(live.received)

        task = self._inside(run(), name=f"{method} on {self.name}")
        self.calls[task] = None
        task.add_done_callback(lambda task: self.calls.pop(task, None))
        return task

    # --- trouble -------------------------------------------------------------------------------

    def _fill(self, node: Node) -> None:
        """Let the node's state fail to change while the disk is full."""
        inner = node.state.transaction

        @contextlib.contextmanager
        def transaction() -> Iterator[sqlite3.Connection]:
            with inner() as db:
                before = db.total_changes
                yield db
                if self.full and db.total_changes != before:
                    raise StorageFull(what="the node's state", path=str(node.state.path))

        node.state.transaction = transaction  # type: ignore[method-assign]

    # --- watching ------------------------------------------------------------------------------

    def _watch_removals(self, node: Node) -> None:
        """REMOVED_SECONDS after a document has reached this node, whoever it removed has nothing."""

        def on_change(channel: bytes, update: Update | None) -> None:
            since = self.world.loop.time()
            for gone in sorted(update.removed) if update is not None else ():
                self.world.removals += 1
                self.world.loop.call_later(REMOVED_SECONDS, look, channel, gone, since)

        def look(channel: bytes, gone: str, since: float) -> None:
            if not node.context.book.is_member(channel, gone):
                self.world.guard(self._check_gone, node, channel, gone, since)

        node.documents.on_change.append(on_change)

    def _check_gone(self, node: Node, channel: bytes, gone: str, since: float) -> None:
        who = self.world.label(gone)
        for link in node.network.links:
            old = link.peer == gone and link.opened_at < since
            if old and not node.network.shared(link) and not link.closed.is_set():
                raise Violation(f"{self.name} still has a link with {who}, which was removed")
        for stream, (circuit, *ends) in node.relay._circuits.items():
            if circuit == channel and gone in ends and not stream.ended:
                raise Violation(f"{self.name} still relays for {who}, which was removed")
        served: list[tuple[Stream, Link, bytes]] = [
            *((s, up.link, up.params.channel) for s, up in node.provider._reading.items()),
            *((s, link, p.channel) for s, (link, p) in node.feed_server.following.items()),
            *((s, link, where) for s, (link, where, _) in node.task_server._running.items()),
        ]
        for stream, link, where in served:
            if where == channel and link.peer == gone and not stream.ended:
                raise Violation(f"{self.name} still serves {who}, which was removed")

    def _watch(self, node: Node) -> None:
        """Check, whenever this honest node gives something away, that it may."""
        network = node.network
        opened, read = (
            network.handlers.requests[FILE_OPEN][1],
            network.handlers.streams[FILE_READ][1],
        )

        def check(link: Link, channel: bytes, what: str) -> None:
            if "request-files" not in node.context.book.effective(channel, link.peer):
                who = self.world.label(link.peer)
                raise Violation(f"{self.name} gave {what} to {who}, who may not have it")

        async def on_open(link: Link, params: FileOpen) -> Any:
            answer = await opened(link, params)
            if link.closed_by is None:
                self.world.guard(check, link, params.channel, "an answer to file.open")
            return answer

        async def on_read(link: Link, stream: Stream, params: FileRead) -> None:
            send = stream.send

            async def checked(*args: Any, **kwargs: Any) -> None:
                await send(*args, **kwargs)
                if link.closed_by is None and not stream.ended:
                    self.world.guard(check, link, params.channel, "a piece of a file")

            stream.send = checked  # type: ignore[method-assign]
            await read(link, stream, params)

        network.on_request_of(FILE_OPEN, FileOpen, on_open)
        network.on_stream_of(FILE_READ, FileRead, on_read)


class World:
    """Everything in one run. Use it inside :meth:`closing`."""

    def __init__(self, loop: SimLoop, seed: int, folder: Path) -> None:
        self.loop = loop
        self.seed = seed
        self.folder = folder
        self.rng = random.Random(f"kachery {seed}")
        self.trace = hashlib.blake2b(digest_size=16)
        self.verbose = False
        self.peers: dict[str, Peer] = {}
        self.dead: list[Incarnation] = []
        self.contents: dict[str, bytes] = {}
        """All bytes that were ever stored, manifests included, by SHA-1."""
        self.violations: list[str] = []
        self.removals = 0
        """Removals that reached a node, and were looked at."""
        self.internet = Internet(loop, random.Random(f"routes {seed}"), self.log)

    def log(self, event: str, *details: Any) -> None:
        """Into the trace: two runs of one seed must agree on every one of these."""
        line = f"{self.loop.time():.9f} {event} {' '.join(map(str, details))}"
        self.trace.update(line.encode() + b"\n")
        if self.verbose and event not in ("send", "close", "connect"):
            print(line)

    def guard(self, check: Callable[..., None], *args: Any) -> None:
        """Note a violation that is found where an exception would be taken for a peer's error."""
        try:
            check(*args)
        except Violation as violation:
            self.violations.append(f"{self.loop.time():.3f} {violation}")

    def add(self, name: str, *, proxy: bool, url: str | None) -> Peer:
        latency = self.rng.choice((0.0005, 0.005, 0.02, 0.08))
        rate = self.rng.choice((1e6, 1e7, 1e8))
        host = self.internet.hosts[name] = Host(name, latency, rate, url)
        peer = self.peers[name] = Peer(self, name, host, proxy=proxy)
        return peer

    def label(self, node_id: str) -> str:
        for peer in self.peers.values():
            if peer.node_id == node_id:
                return peer.name
        return node_id[:8]

    def honest(self) -> list[Peer]:
        return [peer for peer in self.peers.values() if peer.up and not peer.hostile]

    # --- invariants ----------------------------------------------------------------------------

    def check(self) -> None:
        """What must hold at every moment."""
        for peer in self.honest():
            assert peer.node is not None
            self._check_links(peer, peer.node)
        if self.violations:
            raise Violation("; ".join(self.violations[:5]))

    def _check_links(self, peer: Peer, node: Node) -> None:
        book = node.context.book
        for link in node.network.links:
            if link.closed_by is not None:
                continue
            for channel in node.network.shared(link):
                if not (
                    book.is_member(channel, link.peer)
                    and book.is_member(channel, node.context.node_id)
                ):
                    raise Violation(
                        f"{peer.name} shares a channel with {self.label(link.peer)}, no member"
                    )
            for stream in link._streams.values():
                held = sum(cost for _, _, cost in stream._inbox or ())
                limit = CIRCUIT_CREDIT if stream in node.relay._circuits else 8 * (1 << 20)
                if held > limit:
                    raise Violation(f"{peer.name} holds {held} bytes of one stream")
            if isinstance(link.transport, CircuitTransport) and link.via is None:
                raise Violation(f"{peer.name} takes a circuit for a direct link")
        for channel in book:
            for stream, (circuit, source, target) in node.relay._circuits.items():
                if circuit == channel and not stream.ended:
                    for end in (source, target):
                        if not book.is_member(channel, end):
                            raise Violation(f"{peer.name} relays for {self.label(end)}, no member")

    def check_disks(self) -> None:
        """Everything that any node has under a name is what the name says."""
        for peer in self.peers.values():
            root = peer.folder / "storage"
            for entry in scan(root) if root.exists() else ():
                path = root / "sha1" / entry.sha1[:2] / entry.sha1[2:4] / entry.sha1[4:6]
                data = (path / entry.sha1).read_bytes()
                if hashlib.sha1(data).hexdigest() != entry.sha1:
                    raise Violation(f"{peer.name} has wrong bytes under {entry.sha1}")

    def has(self, peer: Peer, sha1: str) -> bool:
        path = peer.folder / "storage" / "sha1" / sha1[:2] / sha1[2:4] / sha1[4:6] / sha1
        return path.exists()

    @staticmethod
    def check_error(what: str, error: BaseException) -> None:
        """A call may end in an error of the tree, never in a bug."""
        if not isinstance(error, KacheryError) or isinstance(error, InternalError):
            raise Violation(f"{what} ended in {error!r}") from error

    # --- the end -------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Every honest node closes what it opened."""
        for peer in self.honest():
            await peer.stop()

    async def close(self) -> None:
        """Leave nothing behind, whatever has happened."""
        for peer in self.peers.values():
            if peer.up:
                peer.crash(silent=False)
            elif peer.life is not None:
                self.dead.append(peer.life)
        for life in self.dead:
            self.loop.thaw(life)
        for life in self.dead:
            for _ in range(10):  # unwinding may start tasks of its own
                if tasks := life.alive():
                    await asyncio.wait(tasks, timeout=20.0)
        shutil.rmtree(self.folder, ignore_errors=True)


class Watch(logging.Handler):
    """Collects what the product logs as an error: in a simulation, a bug."""

    def __init__(self, complaints: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._complaints = complaints

    def emit(self, record: logging.LogRecord) -> None:
        self._complaints.append(self.format(record))
