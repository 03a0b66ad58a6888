"""Files that are read without being downloaded: :func:`aopen`, and what it gives.

A read fetches the blocks that it touches, all of them in one round trip; what was read last stays in
memory, and who reads one after another gets more fetched ahead. Of blocks that several readers want at
the same time, each is fetched once.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import io
import operator
import os
import threading
import weakref
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Self

from kachery_p2p.client.display.progress import Transfer
from kachery_p2p.client.session import portal, thread_connection
from kachery_p2p.protocol.errors import BadInput, KacheryError, NotFound
from kachery_p2p.protocol.limits import BLOCK, MAX_RANGES, READ_CACHE_BYTES
from kachery_p2p.protocol.numbers import whole

from .content import Content
from .loads import file_uri
from .ranges import ContentRanges, NoRanges, PathRanges, Range, Ranges
from .read_cache import ReadCache, runs
from .uris import file_name, is_uri, path_text

Coming = concurrent.futures.Future[bytes]
"""A block that somebody fetches."""

_OTHERS_SECONDS: Final = 1.0
"""For so long a sync call waits for what another one fetches."""


async def aopen(
    uri: str, mode: str = "rb", *, local_only: bool = False, channel: str | None = None
) -> File:
    """Open a file for reading without downloading it: what is read is fetched, and verified, then.

    >>> with kc.open(uri) as f, h5py.File(f) as h5:      # doctest: +SKIP
    ...     h5["recording/data"][:1000]

    Of a URI without ``?manifest=`` (a file of less than 20 MB, or one that old kachery stored) all is
    fetched at the first read, since its parts cannot be verified.

    HDF5 takes external links of a file that is opened so for links into that same file. A file that has
    some is loaded, with its folder (:func:`load_dir`).

    Args:
        uri: a sha1:// URI, or one of a file in a sha1dir://; a path of an existing file, too.
        mode: ``'rb'``. For text: ``io.TextIOWrapper(kc.open(uri), encoding='utf-8')``.
        local_only: do not ask the network.
        channel: fetch it on this channel only.

    Returns:
        A seekable, read-only file object, for use by any number of threads.

    Raises:
        NotFound: nobody reachable has it.
        BadUri, AccessDenied, CorruptContent, Stalled, Unreachable, DaemonNotRunning
    """
    if mode != "rb":
        reason = "content is read as bytes; for text, io.TextIOWrapper(kc.open(uri), 'utf-8')"
        raise BadInput(what=f"mode {mode!r}", reason=reason)
    if not is_uri(uri):
        # Whoever unpickles it may be somewhere else.
        path = os.path.abspath(path_text(uri))
        return File(os.path.basename(path), PathRanges(path), (path, local_only, channel))
    parsed = await file_uri(uri, local_only, channel, False)
    if parsed is None:
        raise NotFound(what=uri, detail="nobody has the folder, or there is no such file in it")
    name = file_name(parsed)
    with Transfer("opening", name, False) as moving:
        source = await ContentRanges.open(Content(parsed, local_only, channel, moving))
    return File(name, source, (uri, local_only, channel))


class File(io.BufferedIOBase):
    """A file behind a URI, open for reading; made by :func:`aopen`.

    Python's own methods wait for what they read; :meth:`aread_at` and :meth:`aread_many` are for async
    code. All may be called from any thread, and run at once; the position is shared, so threads use
    ``read_at``. A reader that fails may be used again: nothing is lost. A forked child may go on with
    it, and so may who unpickles it.
    """

    mode = "rb"

    def __init__(self, name: str, source: Ranges, reopen: tuple[Any, ...]) -> None:
        self.name = name
        self._source = source
        self._reopen = reopen
        self._cache = ReadCache(source.size)
        self._position = 0
        self._moving = threading.Lock()
        self._coming: dict[int, Coming] = {}
        _files.add(self)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._source.size

    # --- at any place ------------------------------------------------------------------------

    async def aread_at(self, start: int, size: int) -> bytes:
        """``size`` bytes from ``start`` on, fewer at the end of the file. The position stays.

        Raises:
            BadInput: a negative number. ValueError: the file is closed.
            NotFound, CorruptContent, Unreachable, Stalled: they cannot be had, or not now.
        """
        first = whole("start", start)
        (data,) = await self.aread_many([(first, first + whole("size", size))])
        return data

    async def aread_many(self, ranges: Iterable[Range]) -> list[bytes]:
        """Bytes [start, stop) of each range, in the order in which they are given, fetched in as few
        round trips as can be; what lies beyond the end of the file is left out. Raises as
        :meth:`aread_at`."""
        self._check_open()
        # numpy's numbers are of few bits, and what is computed with them would have as few.
        wanted = [
            self._clipped(whole("start of a range", start), whole("end of a range", stop))
            for start, stop in ranges
        ]
        found: list[bytes] = []
        while len(found) < len(wanted):
            # What is kept in memory meanwhile is bounded, however many ranges there are.
            some = wanted[len(found) : len(found) + MAX_RANGES]
            if sum(stop - start for start, stop in some) > READ_CACHE_BYTES // 2:
                some = some[: max(1, len(some) // 16)]
            found += await self._read(some)
        return found

    read_many = portal.twin(aread_many, asks_only=True)

    def read_at(self, start: int, size: int) -> bytes:
        """As :meth:`aread_at`; what is in memory takes no time."""
        return self._read_range(whole("start", start), whole("start", start) + whole("size", size))

    def _read_range(self, start: int, stop: int) -> bytes:
        self._check_open()
        start, stop = self._clipped(start, stop)
        if start == stop:
            return b""
        data = self._cache.get(start, stop)
        if data is None:
            return self.read_many([(start, stop)])[0]
        self._look_ahead(start, stop)
        return data

    # --- as a file object --------------------------------------------------------------------

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, which may be beyond the end. Raises ValueError: it is before the beginning."""
        self._check_open()
        offset = operator.index(offset)
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}.get(whence)
        if base is None:
            raise ValueError(f"whence {whence!r} is none of 0, 1 and 2")
        with self._moving:
            target = base + offset
            if target < 0:
                raise ValueError(f"cannot seek to {target}, before the beginning of the file")
            self._position = target
        return target

    def read(self, size: int | None = -1, /) -> bytes:
        """The next ``size`` bytes, fewer at the end of the file only; all of them by default."""
        size = None if size is None else operator.index(size)
        with self._moving:
            start = self._position
            stop = max(start, self.size) if size is None or size < 0 else start + size
            data = self._read_range(start, stop)
            self._position = start + len(data)
        return data

    def read1(self, size: int = -1, /) -> bytes:
        """As :meth:`read`; by default, up to the end of a block."""
        if size < 0:
            size = BLOCK - self._position % BLOCK
        return self.read(size)

    def readinto(self, buffer: Any, /) -> int:
        """Read into a buffer, and return how many bytes that were."""
        view = memoryview(buffer)
        if view.readonly:
            raise TypeError("readinto() needs a buffer that can be written to")
        # Memory of no bytes may have a shape that cannot be cast.
        view = view.cast("B") if view.nbytes else memoryview(bytearray())
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    readinto1 = readinto

    def peek(self, size: int = 0, /) -> bytes:
        """The bytes up to the end of a block, without moving; this makes reading lines quick."""
        start = self._position
        return self._read_range(start, (start // BLOCK + 1) * BLOCK)

    def close(self) -> None:
        """Forget what is in memory; a second time does nothing."""
        if not self.closed:
            self._cache.clear()
            self._source = NoRanges(self._source.size)
        super().close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (*self._reopen, self._position)

    def __repr__(self) -> str:
        return f"<kachery_p2p.File {self.name!r}, {self.size} bytes{', closed' * self.closed}>"

    # --- how ---------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _clipped(self, start: int, stop: int) -> Range:
        if start < 0 or stop < start:
            raise BadInput(what="byte range", reason=f"{start} to {stop} is none")
        return min(start, self.size), min(stop, self.size)

    async def _read(self, ranges: Sequence[Range]) -> list[bytes]:
        if sum(stop - start for start, stop in ranges) > READ_CACHE_BYTES // 2:
            return await self._source.read(ranges)  # more than is worth keeping
        if ranges:
            self._look_ahead(*ranges[-1])
        numbers = {
            number
            for start, stop in ranges
            if start < stop
            for number in range(start // BLOCK, -(-stop // BLOCK))
        }
        blocks = {n: data for n in numbers if (data := self._cache.block(n)) is not None}
        others = {n: each for n in numbers - blocks.keys() if (each := self._coming.get(n))}
        lacking = sorted(numbers - blocks.keys() - others.keys())
        if lacking and len(ranges) == 1:  # who asks for several knows what it wants
            self._fetch_beside(self._cache.around(lacking[0], lacking[-1]))
        blocks |= await self._fetch(lacking)
        if others:
            await _settled(list(others.values()))
            blocks |= {n: each.result() for n, each in others.items() if _is_good(each)}
            # Whoever fetched them has failed, or gone, or takes too long.
            blocks |= await self._fetch(sorted(numbers - blocks.keys()))
        return [_joined(blocks, start, stop) for start, stop in ranges]

    async def _fetch(self, numbers: list[int]) -> dict[int, bytes]:
        """These blocks, which nobody else is fetching; they are kept."""
        if not numbers:
            return {}
        coming: dict[int, Coming] = {n: Coming() for n in numbers}
        self._coming |= coming
        try:
            ranges = runs(numbers, self.size)
            blocks: dict[int, bytes] = {}
            for (start, _), data in zip(ranges, await self._source.read(ranges), strict=True):
                for at in range(0, len(data), BLOCK):
                    blocks[(start + at) // BLOCK] = data[at : at + BLOCK]
            for number, each in coming.items():
                each.set_result(blocks[number])
            if not self.closed:
                self._cache.put(blocks)
            return blocks
        finally:
            for number, each in coming.items():
                each.cancel()
                if self._coming.get(number) is each:
                    self._coming.pop(number, None)

    # --- ahead of the reader -----------------------------------------------------------------

    def _look_ahead(self, start: int, stop: int) -> None:
        self._fetch_beside(self._cache.coming_next(start, stop))

    def _fetch_beside(self, wanted: Sequence[int]) -> None:
        numbers = [n for n in wanted if n not in self._coming]
        if numbers:
            # On the portal's loop, whoever reads: it is there as long as anything is to be read.
            portal.start(lambda: self._try_to_fetch(numbers), name="read")

    async def _try_to_fetch(self, numbers: list[int]) -> None:
        with contextlib.suppress(KacheryError):  # who reads them will be told
            if not self.closed:
                await self._fetch([n for n in numbers if n not in self._coming])

    def forget(self) -> None:
        """In a forked child: what was under way is the parent's, and so is who holds the lock."""
        self._moving, self._coming = threading.Lock(), {}


async def _settled(coming: Sequence[Coming]) -> None:
    """Wait until somebody else's fetching has ended, one way or the other.

    A sync caller waits for so long only, and then fetches by itself: it may hold a lock of its own, as
    h5py does, which Python wants in the very thread that fetches, to tidy up there.
    """
    if thread_connection.lease() is not None:
        concurrent.futures.wait(coming, timeout=_OTHERS_SECONDS)
    else:
        await asyncio.wait([asyncio.wrap_future(each) for each in coming])


def _is_good(coming: Coming) -> bool:
    return coming.done() and not coming.cancelled()


def _joined(blocks: dict[int, bytes], start: int, stop: int) -> bytes:
    if start == stop:
        return b""
    first = start // BLOCK
    parts = [blocks[number] for number in range(first, -(-stop // BLOCK))]
    whole = parts[0] if len(parts) == 1 else b"".join(parts)
    return whole[start - first * BLOCK : stop - first * BLOCK]


class _NotReopened(File):
    """What cannot be opened where it was unpickled. It says so when it is used, since who unpickles has
    nobody to tell: the workers of a pool of multiprocessing die of it, and the pool waits for ever."""

    def __init__(self, reopen: tuple[Any, ...], error: KacheryError) -> None:
        super().__init__(os.path.basename(reopen[0]), NoRanges(0), reopen)
        self._error = error

    @property
    def size(self) -> int:
        raise self._error

    def _check_open(self) -> None:
        super()._check_open()
        raise self._error

    def __repr__(self) -> str:
        return f"<kachery_p2p.File {self.name!r}, which could not be opened here>"


def _reopened(uri: str, local_only: bool, channel: str | None, position: int) -> File:
    """An open file that was pickled, in another process."""
    try:
        file = portal.run(lambda: aopen(uri, local_only=local_only, channel=channel), name="open")
    except KacheryError as error:
        return _NotReopened((uri, local_only, channel), error)
    file.seek(position)
    return file


_files: weakref.WeakSet[File] = weakref.WeakSet()


def _forget_all() -> None:
    for file in list(_files):
        file.forget()


os.register_at_fork(after_in_child=_forget_all)
