"""What the users of a simulated network store and load, and how each call must end."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Any

from kachery_p2p.protocol.errors import NotFound
from kachery_p2p.protocol.files.manifest import Chunk, Manifest, Tree
from kachery_p2p.storage.files.trees import ensure_tree
from kachery_p2p.storage.paths import path_of
from tests.sim.world import Peer, Violation, World

TELL_SECONDS = 3.0
"""Virtual time in which what was just stored has been announced, whatever the route is like."""
CALL_SECONDS = 400.0
"""Virtual time within which every call must have ended: a stall, after asking everybody in turn."""


@dataclass
class Content:
    """A file that somebody stored."""

    sha1: str
    manifest: str | None
    data: bytes
    holder: Peer
    stored_at: float


class Files:
    """Stores and loads. A load runs beside what happens next; its end is checked when it comes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = world.rng
        self.loop = world.loop
        self.contents: list[Content] = []
        self.calls: dict[asyncio.Task[Any], str] = {}
        self.loads = self.loaded = 0
        self._last_call: asyncio.Task[Any] | None = None

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
        internet = self._internet(peer, content)
        params: dict[str, Any] = {"sha1": content.sha1, "manifest": content.manifest}
        if part is None:
            call = peer.call("load", **params)
        else:
            call = peer.call("load_bytes", **params, ranges=[part])

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
                if isinstance(error, NotFound) and internet & self._internet(peer, content):
                    raise Violation(f"{name}: {content.holder.name} has it, and is there: {error}")
                return
            _, received = call.result()
            self._check_bytes(name, peer, content, part, received)
            self.loaded += 1
            self.world.log("loaded", name, f"{seconds:.3f}")

        self.calls[self.loop.create_task(watch(), name=name)] = peer.name
        self._last_call = call

    def _internet(self, peer: Peer, content: Content) -> set[tuple[Any, ...]]:
        """Honest proxies over which a peer could reach who stored a content, if both may: the links
        themselves, so that what holds at two moments has held in between."""
        holder, found = content.holder, set[tuple[Any, ...]]()
        if peer.node is None or holder.node is None or holder.hostile or holder is peer:
            return found
        if self.loop.time() < content.stored_at + TELL_SECONDS:
            return found
        for proxy in self.world.honest():
            if not proxy.proxy or proxy.node is None:
                continue
            for channel in proxy.node.context.book:
                books = [each.node.context.book for each in (peer, holder, proxy) if each.node]
                if not all(
                    channel in book
                    and "request-files" in book.effective(channel, peer.node_id)
                    and "provide-files" in book.effective(channel, holder.node_id)
                    for book in books
                ):
                    continue
                versions = tuple(book.signed(channel).document.version for book in books)
                ours = self._links(peer, proxy, channel)
                theirs = self._links(holder, proxy, channel)
                found |= {(channel, versions, a, b) for a in ours for b in theirs}
        return found

    @staticmethod
    def _links(peer: Peer, proxy: Peer, channel: bytes) -> list[Any]:
        """The proxy's direct links to a peer, where both think that they share the channel."""
        if peer is proxy:
            return [peer.life]
        assert peer.node is not None
        assert proxy.node is not None
        if not peer.node.network.links_to(proxy.node_id, channel):
            return []
        links = proxy.node.network.links_to(peer.node_id, channel)
        return [link for link in links if link.via is None]

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

    async def restart(self, peer: Peer | None = None) -> None:
        """A node, most often a proxy, is restarted, and asked as soon as it is back."""
        peer = peer or self._some(
            [p for p in self.world.honest() if p.proxy or self.rng.random() < 0.2]
        )
        if peer is None:
            return
        self.world.log("restart", peer.name)
        if self.rng.random() < 0.5:
            await peer.stop()
        else:
            peer.crash(silent=False)
        await peer.start()
        for _ in range(2):
            await asyncio.sleep(self.rng.random())
            await self.load()

    async def copy_in(self) -> None:
        """Files are put into a node's storage while it does not run: many, all at once."""
        peer = self._some([p for p in self.world.honest() if not p.proxy])
        if peer is None:
            return
        peer.crash(silent=False)
        count = self.rng.choice((10, 20, 60))
        self.world.log("copy in", peer.name, count)
        for _ in range(count):
            data = self.rng.randbytes(50)
            sha1 = hashlib.sha1(data).hexdigest()
            path = path_of(peer.folder / "storage", sha1)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            self.world.contents[sha1] = data
            content = Content(sha1, None, data, peer, self.loop.time() - TELL_SECONDS)
        self.contents += [content]
        await peer.start()
        for _ in range(2):
            await asyncio.sleep(self.rng.random())
            await self.load_newest()

    async def load_newest(self) -> None:
        """What has come last is asked for by everybody."""
        for peer in self.world.honest():
            if self.contents and self.contents[-1].holder is not peer:
                self._start(peer, self.contents[-1], None)
