"""Many of the user's files at once, stored with few calls: what :mod:`.many` and :mod:`.directories`
share.

A file that has not changed since it was stored is not read again: the node remembers which content it
had (:mod:`kachery_p2p.storage.known_files`). Of the others the small ones go in batches, each one call
and one commit; the large ones by themselves, so many at once.

Invariants: what is told as stored was as its file is from when it was looked at until it was read; a
file that was written to meanwhile is an error. Of one batch at most ``BATCH_BYTES`` are in memory."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import NamedTuple

from kachery_p2p.client.display.progress import Transfer
from kachery_p2p.client.files.stores import link_opened, opened, store_opened, wish_of
from kachery_p2p.client.files.turns import together, turns
from kachery_p2p.client.files.uris import name_of, without_nones
from kachery_p2p.client.session import offline
from kachery_p2p.client.session.connection import Connection, connection
from kachery_p2p.local import places
from kachery_p2p.protocol.errors import BadInput, BadPath, KacheryError
from kachery_p2p.protocol.limits import BATCH_BYTES, BATCH_FILE
from kachery_p2p.storage.disk import pread_up_to
from kachery_p2p.storage.file_stamps import KnownFile, file_stamp, is_racy

from .scan import changed


class Candidate(NamedTuple):
    """A file to be stored. ``stamp``: what it was like when it was looked at; ``links``: whether a
    symbolic link is followed."""

    path: str
    stamp: bytes
    size: int
    links: bool


class Tally:
    """How many bytes of many files are done, told to one transfer."""

    def __init__(self, moving: Transfer) -> None:
        self._moving = moving
        self._done = 0
        self._under_way: dict[int, int] = {}

    def add(self, size: int) -> None:
        """So many more are done."""
        self._done += size
        self._tell()

    def part(self, key: int, done: int) -> None:
        """Of one file, so many are done."""
        self._under_way[key] = done
        self._tell()

    def end(self, key: int) -> None:
        """That file is done, or has failed."""
        self._under_way.pop(key, None)

    def _tell(self) -> None:
        self._moving.tell(self._done + sum(self._under_way.values()))


Outcome = KnownFile | KacheryError


class _Small(NamedTuple):
    place: int
    data: bytes
    racy: bool


async def store_files(
    files: Sequence[Candidate], *, channel: str | None, link: bool, tally: Tally
) -> list[Outcome]:
    """What each of at most ``BATCH_FILES`` files was stored as, or why it was not, in order.

    Raises:
        LocalError that is no BadInput: it is no single file's fault, and would be the same for the
        next.
    """
    node = None if places.offline_dir() is not None else await connection()
    found: list[Outcome | None] = [None] * len(files)
    if node is not None:
        params = without_nones(channel=channel)
        stamps = [each.stamp for each in files]
        answer = await node.call("store_known", {"stamps": stamps, "linked": link, **params})
        for place, known in enumerate(answer["files"]):
            if known is not None:
                found[place] = KnownFile(*known)
                tally.add(files[place].size)
    left = [place for place, known in enumerate(found) if known is None]
    small = [] if link else [place for place in left if files[place].size <= BATCH_FILE]
    large = left if link else [place for place in left if files[place].size > BATCH_FILE]
    await _store_small(node, files, small, found, channel, tally)
    await together(_store_one(node, files, place, found, channel, link, tally) for place in large)
    return [outcome for outcome in found if outcome is not None]


async def _store_small(
    node: Connection | None,
    files: Sequence[Candidate],
    places_: Sequence[int],
    found: list[Outcome | None],
    channel: str | None,
    tally: Tally,
) -> None:
    async for batch in _read_batches(files, places_, found):
        contents = [each.data for each in batch]
        folder = places.offline_dir()
        if node is None:
            assert folder is not None
            sha1s = await asyncio.to_thread(offline.store_batch, folder, contents)
        else:
            labels = [name_of(files[each.place].path) for each in batch]
            params = without_nones(data=contents, labels=labels, channel=channel)
            sha1s = [sha1.hex() for sha1 in (await node.call("store_batch", params))["sha1s"]]
        stored = [KnownFile(sha1, None) for sha1 in sha1s]
        for each, known in zip(batch, stored, strict=True):
            found[each.place] = known
        if node is not None:
            await _remember(
                node,
                (
                    (files[each.place].stamp, known)
                    for each, known in zip(batch, stored, strict=True)
                    if not each.racy
                ),
            )
        tally.add(sum(map(len, contents)))


async def _read_batches(
    files: Sequence[Candidate], places_: Sequence[int], found: list[Outcome | None]
) -> AsyncIterator[list[_Small]]:
    """The contents of small files, ``BATCH_BYTES`` at most at a time."""
    batch: list[int] = []
    size = 0
    for place in places_:
        if size + files[place].size > BATCH_BYTES and batch:
            yield await asyncio.to_thread(_read_small, files, batch, found)
            batch, size = [], 0
        batch.append(place)
        size += files[place].size
    if batch:
        yield await asyncio.to_thread(_read_small, files, batch, found)


def _read_small(
    files: Sequence[Candidate], places_: Sequence[int], found: list[Outcome | None]
) -> list[_Small]:
    batch = []
    for place in places_:
        try:
            batch.append(_Small(place, *_read(files[place])))
        except BadInput as error:
            found[place] = error
    return batch


def _read(file: Candidate) -> tuple[bytes, bool]:
    """All of a small file, and whether it may change once more without that being seen."""
    descriptor = open_source(file)
    try:
        status = os.fstat(descriptor)
        data = pread_up_to(descriptor, file.size + 1, 0)
        if len(data) != file.size or file_stamp(os.fstat(descriptor)) != file.stamp:
            raise changed(file.path)
        return data, is_racy(status)
    except OSError as error:
        raise BadPath(path=file.path, reason=(error.strerror or "?").lower()) from error
    finally:
        os.close(descriptor)


def open_source(file: Candidate) -> int:
    """A descriptor of it, if it still is as it was. Raises BadPath."""
    # Not blocking: what was put in its place may be a pipe that nobody writes to.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if file.links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(file.path, flags)
    except OSError as error:
        raise BadPath(path=file.path, reason=(error.strerror or "?").lower()) from error
    try:
        if file_stamp(os.fstat(descriptor)) != file.stamp:
            raise changed(file.path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


async def _store_one(
    node: Connection | None,
    files: Sequence[Candidate],
    place: int,
    found: list[Outcome | None],
    channel: str | None,
    link: bool,
    tally: Tally,
) -> None:
    file = files[place]
    try:
        async with turns():
            descriptor = open_source(file)
            try:
                racy = is_racy(os.fstat(descriptor))
                with Transfer("storing", "", lambda info: tally.part(place, info["done"])) as part:
                    if link:
                        path = os.path.realpath(file.path)
                        stored = await link_opened(descriptor, path, name_of(path), part)
                    else:
                        wish = wish_of(name_of(file.path), channel, None)
                        stored = await store_opened(descriptor, wish, part)
                if stored["size"] != file.size or file_stamp(os.fstat(descriptor)) != file.stamp:
                    raise changed(file.path)
            finally:
                os.close(descriptor)
                tally.end(place)
    except BadInput as error:
        found[place] = error
        return
    known = KnownFile(stored["sha1"], stored["manifest"])
    found[place] = known
    tally.add(file.size)
    if node is not None and not racy:
        await _remember(node, [(file.stamp, known)])


async def _remember(node: Connection, files: Iterable[tuple[bytes, KnownFile]]) -> None:
    rows = [(stamp, known.sha1, known.manifest) for stamp, known in files]
    if rows:
        await node.call("remember", {"files": rows})


def candidate(path: str) -> Candidate:
    """A file that the user has named, as it is now. Raises BadPath."""
    with opened(path) as descriptor:
        status = os.fstat(descriptor)
    assert stat.S_ISREG(status.st_mode)
    return Candidate(path, file_stamp(status), status.st_size, True)
