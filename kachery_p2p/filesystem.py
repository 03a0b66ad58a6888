"""kachery's URIs for pandas, xarray, zarr, pyarrow and whatever else opens files by fsspec.

>>> pd.read_csv("sha1://<hash>/table.csv")                      # doctest: +SKIP
>>> xr.open_zarr("sha1dir://<hash>.experiment/recording.zarr")  # doctest: +SKIP

It needs the extra: ``pip install 'kachery_p2p[fsspec]'``. fsspec finds this class by the entry points
``sha1`` and ``sha1dir``. What is read is fetched then, in ranges of many files at once where that is
asked for; nothing can be written: content is named by its hash, so use ``kc.store_file``.

Invariants: errors are those that Python's files raise where there is such a one (FileNotFoundError,
PermissionError, IsADirectoryError, and OSError with EROFS for what would write); others are ours. Of a
folder, FileNotFoundError means that its listing has no such name, and nothing else: zarr takes it for a
chunk that was never written, and puts fill values in its place. What the folder has and nobody
reachable gives is NotFound, and what may not be had AccessDenied, neither of which is an OSError.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import quote

from fsspec.asyn import AsyncFileSystem
from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from kachery_p2p.client.files.listings import load_listing
from kachery_p2p.client.files.loads import aload_bytes, aload_file
from kachery_p2p.client.files.opened import File, aopen
from kachery_p2p.client.files.turns import together
from kachery_p2p.client.session import portal
from kachery_p2p.protocol.errors import AccessDenied, NotFound
from kachery_p2p.protocol.files.directory import Directory, FileEntry
from kachery_p2p.protocol.limits import MANY_AT_ONCE
from kachery_p2p.protocol.uri import parse_uri

_KEPT_OPEN: Final = 64
"""Files that stay open for the next range of them."""
_MANIFEST: Final = re.compile(r"\?(?=manifest=[0-9a-f]{40})")
_NO_MAGIC: Final = "%3F"
"""What stands for the ``?`` of a manifest in paths, where fsspec would take it for a pattern."""


class KacheryFileSystem(AsyncFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Content behind ``sha1://`` URIs, and the folders behind ``sha1dir://`` ones.

    Args:
        channel: fetch on this channel only.
        local_only: do not ask the network.
        others: as fsspec's own.
    """

    protocol = ("sha1", "sha1dir")
    root_marker = ""
    cachable = True

    def __init__(
        self, *args: Any, channel: str | None = None, local_only: bool = False, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._channel = channel
        self._local_only = local_only
        self._files: OrderedDict[str, File] = OrderedDict()

    # --- paths -------------------------------------------------------------------------------

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """The whole URI is the path, as for fsspec's http: the scheme says what it is."""
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        text = os.fspath(path).rstrip("/")
        return _MANIFEST.sub(_NO_MAGIC, text)

    def unstrip_protocol(self, name: str) -> str:
        """The URI of a path."""
        return _uri(name)

    def ukey(self, path: str) -> str:
        """What changes when the content does, which it never does: its hash."""
        return parse_uri(_uri(self._strip_protocol(path))).hash

    # --- reading -----------------------------------------------------------------------------

    async def _opened(self, path: str) -> File:
        path = self._strip_protocol(path)
        file = self._files.get(path)
        if file is None:
            await self._check_listed(path)
            with _as_python_says(path):
                file = await aopen(_uri(path), local_only=self._local_only, channel=self._channel)
            self._files[path] = file
            while len(self._files) > _KEPT_OPEN:
                self._files.popitem(last=False)
        self._files.move_to_end(path)
        return file

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        if start is None and end is None:
            await self._check_listed(path)
            with _as_python_says(path):
                data = await aload_bytes(
                    _uri(self._strip_protocol(path)),
                    local_only=self._local_only,
                    channel=self._channel,
                    progress=False,
                )
            if data is None:
                raise _not_found(path)
            return data
        file = await self._opened(path)
        with _as_python_says(path):
            (data,) = await file.aread_many([_range(file.size, start, end)])
        return data

    async def _cat_ranges(
        self,
        paths: list[str],
        starts: Sequence[int | None] | int | None,
        ends: Sequence[int | None] | int | None,
        max_gap: int | None = None,
        batch_size: int | None = None,
        on_error: str = "return",
        **_: Any,
    ) -> list[bytes | BaseException]:
        """Ranges of any number of files, many at once; those of one file in as few round trips as can
        be."""
        count = len(paths)
        firsts = starts if isinstance(starts, Sequence) else [starts] * count
        lasts = ends if isinstance(ends, Sequence) else [ends] * count
        if len(firsts) != count or len(lasts) != count:
            raise ValueError("paths, starts and ends are to be equally many")
        found: list[bytes | BaseException] = [b""] * count
        of_file: dict[str, list[int]] = {}
        for at, path in enumerate(paths):
            of_file.setdefault(path, []).append(at)
        turns = asyncio.Semaphore(MANY_AT_ONCE)

        async def of_one(path: str, places: list[int]) -> None:
            try:
                async with turns:
                    file = await self._opened(path)
                    with _as_python_says(path):
                        came = await file.aread_many(
                            [_range(file.size, firsts[at], lasts[at]) for at in places]
                        )
            except Exception as error:
                if on_error == "raise":
                    raise
                for at in places:
                    found[at] = error
            else:
                for at, data in zip(places, came, strict=True):
                    found[at] = data

        await together(of_one(path, places) for path, places in of_file.items())
        return found

    def _open(self, path: str, mode: str = "rb", **_: Any) -> File:
        if mode != "rb":
            raise _read_only(path)

        async def opened() -> File:
            await self._check_listed(path)
            with _as_python_says(path):
                return await aopen(_uri(path), local_only=self._local_only, channel=self._channel)

        return portal.run(opened, name="open")

    async def _get_file(
        self, rpath: str, lpath: Any, callback: Callback = DEFAULT_CALLBACK, **_: Any
    ) -> None:
        if isinstance(await self._check_listed(rpath), Directory):
            os.makedirs(lpath, exist_ok=True)  # what is in it comes by itself
            return
        with _as_python_says(rpath):
            path = await aload_file(
                _uri(rpath),
                lpath,
                local_only=self._local_only,
                channel=self._channel,
                progress=False,
                replace=True,
            )
        if path is None:
            raise _not_found(rpath)
        size = os.path.getsize(path)
        callback.set_size(size)
        callback.absolute_update(size)

    # --- what there is -----------------------------------------------------------------------

    async def _info(self, path: str, **_: Any) -> dict[str, Any]:
        name = self._strip_protocol(path)
        inside = await self._inside(name)
        if isinstance(inside, Directory):
            return {"name": name, "size": 0, "type": "directory"}
        if inside is not None and inside.size is not None:
            return _described(name, inside)
        return {"name": name, "size": (await self._opened(name)).size, "type": "file"}

    async def _ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        name = self._strip_protocol(path)
        inside = await self._inside(name)
        if not isinstance(inside, Directory):
            found = [await self._info(name)]
        else:
            found = [
                {"name": f"{name}/{quote(below)}", "size": 0, "type": "directory"}
                for below in sorted(inside.dirs)
            ]
            found += [
                _described(f"{name}/{quote(below)}", entry)
                for below, entry in sorted(inside.files.items())
            ]
        return found if detail else [each["name"] for each in found]

    async def _inside(self, name: str) -> Directory | FileEntry | None:
        """What a sha1dir:// path leads to; None for another one. Raises FileNotFoundError."""
        with _as_python_says(name, whole=True):
            return await self._listed(name)

    async def _check_listed(self, path: str) -> Directory | FileEntry | None:
        """As :meth:`_inside`, before a file is read. Raises FileNotFoundError: it is not in its folder;
        NotFound: nobody reachable has the listing, which would say so."""
        return await self._listed(self._strip_protocol(path))

    async def _listed(self, name: str) -> Directory | FileEntry | None:
        uri = parse_uri(_uri(name))
        if uri.kind != "sha1dir":
            return None
        listing = await load_listing(uri.hash, self._local_only, self._channel, False)
        if listing is None:
            raise NotFound(what=f"sha1dir://{uri.hash}", detail="the listing of that folder")
        found = listing.at(uri.path)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such name in that folder", name)
        return found

    # --- what would write --------------------------------------------------------------------

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        raise _read_only(path)

    async def _put_file(self, lpath: Any, rpath: str, **_: Any) -> None:
        raise _read_only(rpath)

    async def _cp_file(self, path1: str, path2: str, **_: Any) -> None:
        raise _read_only(path2)

    async def _rm_file(self, path: str, **_: Any) -> None:
        raise _read_only(path)

    async def _mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        raise _read_only(path)

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        raise _read_only(path)


def _described(name: str, entry: FileEntry) -> dict[str, Any]:
    return {"name": name, "size": entry.size, "type": "file", "sha1": entry.sha1}


def _uri(path: str) -> str:
    """The URI that a path is made of."""
    return path.replace(f"{_NO_MAGIC}manifest=", "?manifest=")


def _range(size: int, start: int | None, end: int | None) -> tuple[int, int]:
    """[start, end) as Python's slices have it: negative ones count from the end."""
    first, last, _ = slice(start, end).indices(size)
    return first, max(first, last)


@contextlib.contextmanager
def _as_python_says(path: str, *, whole: bool = False) -> Iterator[None]:
    """Python's errors for ours, but of a file in a folder; ``whole``: of the folder itself, too."""
    try:
        yield
    except (NotFound, AccessDenied) as error:
        if _is_in_folder(path) and not whole:
            raise
        if isinstance(error, NotFound):
            raise FileNotFoundError(errno.ENOENT, str(error), path) from error
        raise PermissionError(errno.EACCES, str(error), path) from error


def _is_in_folder(path: str) -> bool:
    return path.startswith("sha1dir:")


def _not_found(path: str) -> Exception:
    """Nobody reachable has it."""
    if _is_in_folder(path):
        return NotFound(what=_uri(path), detail="its folder has it, but nobody reachable does")
    return FileNotFoundError(errno.ENOENT, "nobody reachable has it", path)


def _read_only(path: str) -> OSError:
    reason = "stored content cannot be changed; use kachery_p2p.store_file"
    return OSError(errno.EROFS, reason, path)
