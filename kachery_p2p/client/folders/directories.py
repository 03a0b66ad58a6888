"""Folders: stored as one thing, loaded, and looked into. The async API, as :mod:`..files` has it.

What a folder's URI names is a listing (:mod:`kachery_p2p.protocol.files.directory`); its files are
content like any other, so what two folders have in common is stored and sent once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeVar

from kachery_p2p.client.display.progress import Progress, Transfer
from kachery_p2p.client.files.listings import load_folder
from kachery_p2p.client.files.pushing import pushed
from kachery_p2p.client.files.stores import store_parts, wish_of
from kachery_p2p.client.files.uris import PathLike, name_of, path_text
from kachery_p2p.client.session import blocking
from kachery_p2p.client.session.connection import connection
from kachery_p2p.local import places
from kachery_p2p.protocol.errors import BadInput, BadPath, KacheryError, NotFound
from kachery_p2p.protocol.files.directory import Directory, FileEntry
from kachery_p2p.protocol.limits import BATCH_FILES, BATCHES_AHEAD, BATCHES_LOADED, MAX_FILE_LABEL
from kachery_p2p.protocol.uri import KacheryUri

from .batches import Candidate, Outcome, Tally, store_files
from .fetching import Come, fetch_files
from .placing import Target
from .scan import Ignored, Source, scan_folder

T = TypeVar("T")

_TRIES: Final = 3
"""What goes from the storage before it is copied is fetched so often."""


class DirEntry(NamedTuple):
    """One entry of a folder that was stored. ``size``: bytes, of a folder those of all files below it;
    None if an older listing does not say. ``uri`` loads it."""

    name: str
    uri: str
    size: int | None
    is_dir: bool
    executable: bool = False


async def astore_dir(
    path: PathLike,
    label: str | None = None,
    *,
    ignore: str | Iterable[str] = (),
    link: bool = False,
    channel: str | None = None,
    push: bool = False,
    progress: Progress = None,
) -> str:
    """Store a folder with all that is in it, and return its ``sha1dir://`` URI.

    The same files under the same names always have the same URI; whether a file can be executed counts,
    times and owners do not. Files that have not changed since they were stored are not read again.

    Args:
        path: the folder.
        label: its name in the URI; default: its own.
        ignore: patterns of what to leave out, as a shell has them: ``'*.tmp'`` or ``'.git'`` by name,
            ``'cache/*'`` by the path from the top, ``'build/'`` folders only. Nothing else is left out.
        link: make the files available where they are, as :func:`link_file` does, without a copy.
        channel: provide it on this channel only; on all by default.
        push: have it kept by another node too (:func:`push`), with all that is in it.
        progress: as for :func:`store_file`, over the whole folder.

    Raises:
        BadPath: something in it cannot be stored (a symbolic link, a pipe, a name that is no UTF-8,
        what
            you may not read), or changed while it was stored. Nothing is left out unsaid.
        BadInput: it has more entries than a listing holds.
        Others as :func:`store_file`.
    """
    top = path_text(path)
    if not os.path.isdir(top):
        reason = "it is no directory; a file is stored with store_file"
        raise BadPath(path=top, reason=reason if os.path.exists(top) else "no such directory")
    if link and channel is not None:
        raise BadInput(what="channel", reason="a link is provided on all channels; leave it out")
    label = folder_label(label, name_of(os.path.abspath(top)))
    ignored = Ignored(ignore)
    own = await _own_folders()
    with Transfer("linking" if link else "storing", label, progress) as moving:
        moving.begin()
        scan = await blocking.run(lambda gone: scan_folder(top, ignored, own, gone))
        moving.tell(0, scan.size)
        tally = Tally(moving)

        async def store(sources: Sequence[Source]) -> None:
            files = [Candidate(each.path, each.stamp, each.size, False) for each in sources]
            outcomes = await store_files(files, channel=channel, link=link, tally=tally)
            for source, outcome in zip(sources, outcomes, strict=True):
                source.folder.files[source.name] = _entry(source, outcome)

        await _in_batches(scan.files, store, 1 + BATCHES_AHEAD)
        await asyncio.to_thread(scan.check_unchanged)
        data = await asyncio.to_thread(scan.root.to_json)
        moving.complete(scan.size)
    wish = wish_of("folder.json", channel, None, push)
    listing = await store_parts([memoryview(data)], "folder.json", wish, False)
    uri = str(KacheryUri("sha1dir", "sha1", listing.split("/")[2], label))
    return await pushed(uri, push, channel, None, progress)


def folder_label(label: str | None, default: str) -> str:
    """What a folder is called in its URI. Raises BadUri, before anything is stored, if it cannot be."""
    text = default.replace("/", "_")[:MAX_FILE_LABEL] if label is None else label
    return KacheryUri("sha1dir", "sha1", "0" * 40, text).label


async def _own_folders() -> list[tuple[int, int]]:
    """Device and inode of the folder in which things are stored."""
    folder = places.offline_dir()
    if folder is None:
        folder = (await connection()).greeter.storage_dir
    with contextlib.suppress(OSError):
        status = os.stat(folder)
        return [(status.st_dev, status.st_ino)]
    return []


def _entry(source: Source, outcome: Outcome) -> FileEntry:
    if isinstance(outcome, KacheryError):
        raise outcome
    return FileEntry(outcome.sha1, source.size, outcome.manifest, source.executable)


async def _in_batches(
    items: Sequence[T], work: Callable[[Sequence[T]], Awaitable[None]], at_once: int
) -> None:
    """Do ``work`` with batches of them. Raises what one of them raises first."""
    turns = asyncio.Semaphore(at_once)
    tasks: set[asyncio.Task[None]] = set()

    async def one(start: int) -> None:
        try:
            await work(items[start : start + BATCH_FILES])
        finally:
            turns.release()

    try:
        for start in range(0, len(items), BATCH_FILES):
            await turns.acquire()
            for task in [task for task in tasks if task.done()]:
                tasks.discard(task)
                task.result()
            tasks.add(asyncio.ensure_future(one(start)))
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def aload_dir(
    uri: str,
    dest: PathLike,
    *,
    replace: bool = False,
    local_only: bool = False,
    channel: str | None = None,
    progress: Progress = None,
) -> str | None:
    """Load a folder, or a folder of it (``sha1dir://.../sub``), to ``dest``, and return that path.

    ``dest`` becomes the folder: it is made if need be, and what else is in it stays. Each file appears
    when it is whole. What has the right content already is neither fetched nor written: so a load that
    was interrupted goes on where it was, and of a folder that has changed only the changes come.

    Args:
        uri: a ``sha1dir://`` URI, of kachery too.
        dest: the folder.
        replace: replace files that are there and have other content; else that is a BadPath.
        local_only: do not ask the network.
        channel: fetch it on this channel only.
        progress: as for :func:`load_file`, over the whole folder.

    Returns:
        The path of ``dest``. None: nobody reachable has the listing.

    Raises:
        NotFound: nobody reachable has one of its files; the others are there.
        BadInput: the URI leads to no folder, or its listing is none.
        BadPath: something in the way at ``dest``, or names that are one on its file system.
        Others as :func:`load_file`.
    """
    bar = False if callable(progress) else progress
    found = await load_folder(uri, local_only, channel, bar)
    if found is None:
        return None
    parsed, folder = found
    _check_loadable(uri, folder)
    path = path_text(dest)
    name = parsed.path.rstrip("/").rpartition("/")[2] or parsed.label or parsed.hash
    with Transfer("loading", name, progress) as moving:
        moving.begin()
        target = await asyncio.to_thread(lambda: Target(path, replace=replace))
        try:
            load = _Load(uri, target, folder, Tally(moving), channel, local_only)
            moving.tell(0, sum(entry.size or 0 for _, entry in folder.walk()))
            await asyncio.to_thread(load.make_folders)
            await _in_batches(list(folder.walk()), load.batch, BATCHES_LOADED)
            load.raise_missing()
            moving.complete(moving.total or 0)
        finally:
            await asyncio.to_thread(target.close)
    return path


def _check_loadable(uri: str, folder: Directory) -> None:
    unknown = [path for path, entry in folder.walk() if entry.sha1 is None]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        reason = f"{unknown[0]!r}{more} is listed without a SHA-1, by which it could be found"
        raise BadInput(what=uri, reason=reason)


class _Load:
    """One folder on its way to its destination."""

    def __init__(
        self,
        uri: str,
        target: Target,
        folder: Directory,
        tally: Tally,
        channel: str | None,
        local_only: bool,
    ) -> None:
        self._uri = uri
        self._target = target
        self._folder = folder
        self._tally = tally
        self._channel = channel
        self._local_only = local_only
        self._missing: list[tuple[str, KacheryError | None]] = []
        self._twins: dict[tuple[str, str], str] = {}
        self._size = 0

    def make_folders(self) -> None:
        """All of them, the empty ones too."""
        for inside in ("", *self._folder.folders()):
            with self._target.folder(inside) as opened:
                folder = self._folder.at(inside)
                assert isinstance(folder, Directory)
                for one, other in folder.twins():
                    self._twins[inside, one] = other
                    self._twins[inside, other] = one
                    if other in folder.dirs or one in folder.dirs:
                        assert opened is not None
                        self._target.check_twin(opened, inside, other, one)

    async def batch(self, files: Sequence[tuple[str, FileEntry]]) -> None:
        """Bring some of its files to where they belong."""
        left = await asyncio.to_thread(self._not_right, files)
        for tries_left in reversed(range(_TRIES)):
            left = await self._bring(left)
            if not left:
                return
            if not tries_left:
                gone = [(path, blocking.changed(f"sha1://{entry.sha1}")) for path, entry in left]
                self._missing += gone

    async def _bring(self, left: Sequence[tuple[str, FileEntry]]) -> list[tuple[str, FileEntry]]:
        """Those of these that changed, or had to make room for others, before they were copied."""
        again: list[tuple[str, FileEntry]] = []
        keys = {place: id(each) for place, each in enumerate(left)}
        comes = fetch_files(
            [_uri_of(path, entry) for path, entry in left],
            channel=self._channel,
            local_only=self._local_only,
            advanced=lambda place, done: self._tally.part(keys[place], done),
        )
        try:
            async for group in comes:
                await blocking.run(partial(self._put, left, group, again))
                for come in group:
                    self._tally.end(keys[come.place])
                late = {path for path, _ in again}
                done = (left[come.place] for come in group)
                self._tally.add(sum(entry.size or 0 for path, entry in done if path not in late))
        finally:
            await comes.aclose()
        return again

    def _not_right(self, files: Sequence[tuple[str, FileEntry]]) -> list[tuple[str, FileEntry]]:
        """Those that are not at the destination yet."""
        left, done = [], 0
        for inside, some in itertools.groupby(files, lambda each: _folder_of(each[0])):
            with self._target.folder(inside) as folder:
                assert folder is not None
                for path, entry in some:
                    name = path[len(inside) :].lstrip("/")
                    self._check_twin(folder, inside, name)
                    if self._target.is_right(folder, inside, name, entry):
                        done += entry.size or 0
                    else:
                        left.append((path, entry))
        self._tally.add(done)
        return left

    def _check_twin(self, folder: int, inside: str, name: str) -> None:
        twin = self._twins.get((inside, name))
        if twin is not None:
            self._target.check_twin(folder, inside, name, twin)

    def _put(
        self,
        files: Sequence[tuple[str, FileEntry]],
        come: Sequence[Come],
        again: list[tuple[str, FileEntry]],
        gone: blocking.Gone,
    ) -> None:
        for inside, some in itertools.groupby(come, lambda each: _folder_of(files[each.place][0])):
            with self._target.folder(inside) as folder:
                assert folder is not None
                for each in some:
                    path, entry = files[each.place]
                    content = each.path if each.content is None else each.content
                    if content is None:
                        self._missing.append((path, each.error))
                        continue
                    name = path[len(inside) :].lstrip("/")
                    self._check_twin(folder, inside, name)
                    try:
                        self._target.put(folder, inside, name, entry, content, gone, each.right)
                    except NotFound:
                        again.append((path, entry))

    def raise_missing(self) -> None:
        """Raise what kept files from coming, if anything did."""
        if not self._missing:
            return
        self._missing.sort(key=lambda each: each[0])
        path, error = next((each for each in self._missing if each[1]), self._missing[0])
        more = len(self._missing) - 1
        what = f"{path!r} of {self._uri}" + (f" (and {more} more of its files)" if more else "")
        if error is None:
            raise NotFound(what=what, detail="nobody reachable has it; what came is in its place")
        error.add_note(f"It was {what}.")
        raise error


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def _uri_of(path: str, entry: FileEntry) -> KacheryUri:
    assert entry.sha1 is not None
    label = path.rpartition("/")[2]
    return KacheryUri("sha1", "sha1", entry.sha1, label, manifest=entry.manifest)


async def alist_dir(
    uri: str,
    *,
    recursive: bool = False,
    local_only: bool = False,
    channel: str | None = None,
    progress: Progress = None,
) -> list[DirEntry] | None:
    """What is in a folder that was stored, or in a folder of it (``sha1dir://.../sub``), sorted by
    name.

    Args:
        recursive: the files of all folders below it, each with its path for a name, and no folders.

    Returns:
        Entries with ``name``, ``uri``, ``size``, ``is_dir`` and ``executable``. None: nobody reachable
        has the listing; its files may still be nowhere.

    Raises:
        BadInput: the URI leads to no folder. Others as :func:`load_file`.
    """
    found = await load_folder(uri, local_only, channel, progress)
    if found is None:
        return None
    parsed, folder = found
    if recursive:
        return [_listed(path, entry) for path, entry in folder.walk()]
    return sorted(_level(parsed, folder))


def _level(parsed: KacheryUri, folder: Directory) -> Iterator[DirEntry]:
    base = parsed.path.strip("/")
    for name, inside in folder.dirs.items():
        sizes = [entry.size for _, entry in inside.walk()]
        size = None if None in sizes else sum(each or 0 for each in sizes)
        path = f"{base}/{name}" if base else name
        below = KacheryUri("sha1dir", "sha1", parsed.hash, parsed.label, path=path)
        yield DirEntry(name, str(below), size, True)
    for name, entry in folder.files.items():
        yield _listed(name, entry)


def _listed(path: str, entry: FileEntry) -> DirEntry:
    uri = "" if entry.sha1 is None else str(_uri_of(path, entry))
    return DirEntry(path, uri, entry.size, False, entry.executable)
