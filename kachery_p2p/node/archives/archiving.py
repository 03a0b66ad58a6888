"""Putting content into an archive: whole or not at all, and read back before it counts.

What a content names goes first, and the content itself last: a directory that is in an archive has
all its files there. The bytes are compared with their hash on the way there, and again on the way
back; then its hash tree and the name of its manifest are put beside it. Killed at any point, what is
there under a name is whole, and archiving it again goes on from there.

Invariant: ``verified`` in the index, by which what was stored here may go, is only said of what was
read back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from kachery_p2p.node.backing.backing import Backing
from kachery_p2p.node.backing.origin import Moving, Origin
from kachery_p2p.node.context import Context
from kachery_p2p.node.files.downloader import Downloader
from kachery_p2p.node.files.keeping import Keeping
from kachery_p2p.protocol.errors import (
    BadInput,
    CorruptContent,
    NotFound,
    OriginNotWritten,
)
from kachery_p2p.protocol.limits import LIST_PAGE, MIB, VERIFY_ON_READ
from kachery_p2p.storage import paths
from kachery_p2p.storage.backing.index import Object
from kachery_p2p.storage.backing.objects import MANIFEST, Found, Objects
from kachery_p2p.storage.backing.setting import shown
from kachery_p2p.storage.files.blobs import Blob
from kachery_p2p.storage.files.treefile import OWN_STORAGE
from kachery_p2p.storage.files.trees import ensure_tree

_PIECE: Final = 4 * MIB

Report = dict[str, Any]


class Archiving:
    """``provide`` announces one content; it is called on the loop."""

    def __init__(
        self,
        context: Context,
        backing: Backing,
        downloader: Downloader,
        keeping: Keeping,
        *,
        provide: Callable[[str], None],
    ) -> None:
        self._context = context
        self._backing = backing
        self._downloader = downloader
        self._keeping = keeping
        self._provide = provide

    async def archive(
        self, root: str, url: str | None, tell: Callable[[Report], None] = lambda report: None
    ) -> Report:
        """Put a content and all that it names into an archive, the one at ``url`` if there are several.
        What is not here is fetched first.

        Returns:
            plain values: ``archive`` (its URL), ``files`` and ``bytes`` (what was put there),
            ``already`` (how many were there).

        Raises:
            BadInput: there is no such archive.
            NotFound, CorruptContent, OriginNotWritten, OriginError, StorageFull, ...: the first that
                failed; what was put there before stays.
        """
        origin = self._archive(url)
        report: Report = {"archive": origin.name, "files": 0, "bytes": 0, "already": 0}
        disk = self._context.workers.disk
        await self._backing.require(origin)
        await origin.call("tidying", Objects.tidy)
        await self._have(root)
        names = await disk(self._keeping.belonging, root)
        for sha1 in names:
            if await self._is_there(sha1, origin) is None:
                await self._have(sha1)
        names = await disk(self._keeping.belonging, root)  # with the names in what was fetched
        for sha1 in reversed(names):
            size = await self._one(sha1, origin)
            report["already" if size is None else "files"] += 1
            report["bytes"] += size or 0
            tell(report)
        return report

    async def archive_pinned(
        self, url: str | None, tell: Callable[[Report], None] = lambda report: None
    ) -> Report:
        """As :meth:`archive`, of all that is pinned and here."""
        origin = self._archive(url)
        report: Report = {"archive": origin.name, "files": 0, "bytes": 0, "already": 0}
        await self._backing.require(origin)
        state, disk = self._context.state, self._context.workers.disk
        after = ""
        while page := await disk(state.all_pinned, after, LIST_PAGE):
            after = page[-1]
            for sha1 in await disk(state.pinned, page, self._context.clock()):
                if await disk(self._context.store.find, sha1) is None:
                    continue
                size = await self._one(sha1, origin)
                report["already" if size is None else "files"] += 1
                report["bytes"] += size or 0
                tell(report)
        return report

    def _archive(self, url: str | None) -> Origin:
        archives = [each for each in self._backing.origins.values() if each.setting.archive]
        if url is not None:
            for each in archives:
                if url.rstrip("/") in (each.setting.url, each.name):
                    return each
            raise BadInput(what=f"archive {shown(url)}", reason="this node has none at that URL")
        if len(archives) != 1:
            told = (
                "several: say which, with --to" if archives else "none: 'daemon set --archive URL'"
            )
            raise BadInput(what="archive", reason=f"this node has {told}")
        return archives[0]

    async def _have(self, sha1: str) -> None:
        """Fetch it if it is not here. Raises NotFound."""
        disk = self._context.workers.disk
        if await disk(self._context.store.find, sha1) is None:
            await self._downloader.load(sha1, await disk(self._context.state.manifest, sha1))

    async def _is_there(self, sha1: str, origin: Origin) -> Object | None:
        for other, found in await self._backing.find(sha1):
            if other is origin and found.verified:
                return found
        return None

    async def _one(self, sha1: str, origin: Origin) -> int | None:
        """Put one content there, and what goes beside it; its size, or None if all of it was there."""
        disk, store = self._context.workers.disk, self._context.store
        before = await self._is_there(sha1, origin)
        name = await disk(self._context.state.manifest, sha1)
        if before is not None:
            treeless = before.size > VERIFY_ON_READ and not before.tree
            if not treeless and (name is None or before.manifest):
                await disk(self._may_go, sha1, origin)
                return None
        blob = await disk(store.find, sha1)
        if blob is None:
            raise NotFound(what=f"sha1://{sha1}", detail="it is not on this computer any more")

        def work(files: Objects, moving: Moving) -> tuple[Found, int]:
            with store.held(blob) as held:
                return _put(files, _Content(self._context, held, name), moving)

        found, tree = await origin.move(f"archiving sha1://{sha1}", work)
        thing = self._context.inventory.thing(sha1)
        label = "" if thing is None else thing.label

        def known() -> None:
            add, number = self._backing.index.add, origin.number
            add(number, found, tree=tree, manifest=name is not None, label=label)
            self._may_go(sha1, origin)

        await disk(known)
        self._provide(sha1)
        return found.size

    def _may_go(self, sha1: str, origin: Origin) -> None:
        if origin.setting.own:
            self._context.inventory.set_archived(sha1, True)


class _Content:
    """What is put there. ``manifest``: the hash of its manifest."""

    def __init__(self, context: Context, blob: Blob, manifest: str | None) -> None:
        self.store = context.store
        self.blob = blob
        self.manifest = manifest

    def pieces(self, moving: Moving) -> Iterator[bytes]:
        """All of it. Raises CorruptContent, before the end: it is not what its name says."""
        sha1 = hashlib.sha1()
        for start in range(0, self.blob.size, _PIECE):
            data = self.store.read(self.blob, start, min(_PIECE, self.blob.size - start))
            sha1.update(data)
            if start + _PIECE >= self.blob.size:
                self._check(sha1.hexdigest())
            moving.done += 1
            yield data
        if not self.blob.size:
            self._check(sha1.hexdigest())

    def _check(self, sha1: str) -> None:
        if sha1 != self.blob.sha1:
            self.store.quarantine(self.blob.sha1, self.blob)
            raise CorruptContent(what=f"sha1://{self.blob.sha1}", source=OWN_STORAGE)


def _put(files: Objects, content: _Content, moving: Moving) -> tuple[Found, int]:
    """In a thread: put it there, read it back, and put its tree and its manifest's name beside it. The
    content as it is there, and the bytes of the tree."""
    sha1, size = content.blob.sha1, content.blob.size
    gone = moving.gone.is_set
    if files.is_file(sha1, content.blob.path):
        reason = (
            "what lies there is the file in this node's storage by another name, and no copy of it"
        )
        raise OriginNotWritten(what=f"sha1://{sha1}", origin=files.name, reason=reason)
    found = files.size(sha1)
    if found is None or found.size != size or not _is_good(files, sha1, size, moving):
        found = files.put(sha1, "", size, content.pieces(moving), cancelled=gone)
        if not _is_good(files, sha1, size, moving):
            files.remove(sha1, "")
            raise OriginNotWritten(
                what=f"sha1://{sha1}",
                origin=files.name,
                reason="what was read back is not the same",
            )
    tree = 0
    if size > VERIFY_ON_READ:
        ensure_tree(content.store, content.blob, cancelled=gone).close()
        path = content.store.path(sha1, paths.TREE)
        tree = path.stat().st_size
        files.put(sha1, paths.TREE, tree, _of_file(str(path), moving), cancelled=gone)
    if content.manifest is not None:
        data = content.manifest.encode()
        files.put(sha1, MANIFEST, len(data), iter([data]), cancelled=gone)
    return found, tree


def _is_good(files: Objects, sha1: str, size: int, moving: Moving) -> bool:
    """Whether what lies there is what its name says; all of it is read."""
    hashed = hashlib.sha1()
    try:
        for start in range(0, size, _PIECE):
            if moving.gone.is_set():
                raise OriginNotWritten(
                    what=f"sha1://{sha1}", origin=files.name, reason="it was broken off"
                )
            hashed.update(files.read(sha1, "", start, min(size, start + _PIECE)))
            moving.done += 1
    except OriginNotWritten:
        raise
    except CorruptContent:
        return False
    return hashed.hexdigest() == sha1


def _of_file(path: str, moving: Moving) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while data := file.read(_PIECE):
            moving.done += 1
            yield data
