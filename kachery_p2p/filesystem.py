"""kachery's URIs for pandas, xarray, zarr, pyarrow and whatever else opens files by fsspec.

>>> pd.read_csv("sha1://<hash>/table.csv")                      # doctest: +SKIP
>>> xr.open_zarr("sha1dir://<hash>.experiment/recording.zarr")  # doctest: +SKIP

It needs the extra: ``pip install 'kachery_p2p[fsspec]'``. fsspec finds this class by the entry points
``sha1`` and ``sha1dir``. What is read is fetched then, in ranges of many files at once where that is
asked for; nothing can be written: content is named by its hash, so use ``kc.store_file``.

Paths: of a folder, its URI and then the names as they are in it, with nothing percent-encoded, since
libraries make keys, columns and local files of them (``year=2020``, ``firing rate``). Names that are
encoded as URIs have them are found too, if there are none that are spelled so. Of a file, the URI with
its manifest before the label, so that it ends with what the file is called. pandas looks at the URI
that it is given: of a compressed file with a manifest it has to be told the compression.

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
from fsspec.spec import AbstractBufferedFile

from kachery_p2p.client.files.listings import load_listing
from kachery_p2p.client.files.loads import aload_bytes, aload_file
from kachery_p2p.client.files.opened import File, aopen
from kachery_p2p.client.files.turns import together
from kachery_p2p.client.session import portal
from kachery_p2p.protocol.errors import AccessDenied, BadUri, NotFound
from kachery_p2p.protocol.files.directory import Directory, FileEntry
from kachery_p2p.protocol.limits import BLOCK, MANY_AT_ONCE, READ_BATCH_BYTES
from kachery_p2p.protocol.uri import KacheryUri, parse_uri

_KEPT_OPEN: Final = 64
"""Files that stay open for the next range of them."""
_QUERY: Final = "%3F"
"""What stands for the ``?`` of a query in paths, where fsspec would take it for a pattern."""
_PATTERN: Final = re.compile(r"[*?\[]")
"""What fsspec takes for one."""
_NOT_IN_URI: Final = re.compile(r"[ ?#\x00-\x1f\x7f]")
_FILE: Final = re.compile(rf"(sha1://[^/]*?){_QUERY}([^/]*)(/.*)?", re.IGNORECASE)


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
        """The path that a URI is; the scheme stays, as with fsspec's http, since it says what it is."""
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        text = os.fspath(path).rstrip("/")
        scheme, _, rest = text.partition("://")
        if scheme.lower() == "sha1":
            rest, _, query = rest.partition("?")
            host, slash, label = rest.partition("/")
            host += _QUERY + query if query else ""
            label = _PATTERN.sub(_encoded, label.replace("%20", " "))
            return f"{scheme}://{host}{slash}{label}"
        # The label of a folder says nothing of where things are.
        host, slash, tail = rest.partition("/")
        return f"{scheme}://{_PATTERN.sub('_', host)}{slash}{tail}"

    def unstrip_protocol(self, name: str) -> str:
        """The URI of a path."""
        return _uri(self._strip_protocol(name))

    def ukey(self, path: str) -> str:
        """What changes when the content does, which it never does: its hash."""
        scheme, _, rest = self._strip_protocol(path).partition("://")
        return parse_uri(f"{scheme}://{rest.partition('/')[0].partition(_QUERY)[0]}").hash

    async def _expand_path(
        self,
        path: str | list[str],
        recursive: bool = False,
        maxdepth: int | None = None,
        **options: Any,
    ) -> list[str]:
        """What is there by a name that looks like a pattern is meant by it, and nothing else."""
        paths = [self._strip_protocol(each) for each in ([path] if isinstance(path, str) else path)]
        meant = [
            _PATTERN.sub(r"[\g<0>]", each)
            if _PATTERN.search(each) and await self._exists(each)
            else each
            for each in paths
        ]
        found: list[str] = await super()._expand_path(meant, recursive, maxdepth, **options)
        return found

    # --- reading -----------------------------------------------------------------------------

    async def _opened(self, path: str) -> File:
        path = self._strip_protocol(path)
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = await self._open_anew(path)
            while len(self._files) > _KEPT_OPEN:
                self._files.popitem(last=False)
        self._files.move_to_end(path)
        return file

    async def _open_anew(self, path: str) -> File:
        uri = await self._file_uri(path)
        with _as_python_says(path):
            return await aopen(uri, local_only=self._local_only, channel=self._channel)

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        if start is None and end is None:
            uri = await self._file_uri(path)
            with _as_python_says(path):
                data = await aload_bytes(
                    uri,
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

    def _open(self, path: str, mode: str = "rb", cache_type: str = "", **_: Any) -> Any:
        if mode != "rb":
            raise _read_only(path)
        path = self._strip_protocol(path)
        file = portal.run(lambda: self._open_anew(path), name="open")
        # So asks who puts a cache of his own before it, as blockcache:: does.
        return _Buffered(self, path, file) if cache_type == "none" else file

    async def _get_file(
        self, rpath: str, lpath: Any, callback: Callback = DEFAULT_CALLBACK, **_: Any
    ) -> None:
        if isinstance(await self._listed(self._strip_protocol(rpath)), Directory):
            os.makedirs(lpath, exist_ok=True)  # what is in it comes by itself
            return
        if hasattr(lpath, "write"):
            await self._write_to(rpath, lpath, callback)
            return
        uri = await self._file_uri(rpath)
        with _as_python_says(rpath):
            path = await aload_file(
                uri,
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

    async def _write_to(self, rpath: str, target: Any, callback: Callback) -> None:
        """Give a file to an open one of the caller's."""
        file = await self._opened(rpath)
        callback.set_size(file.size)
        for at in range(0, file.size, READ_BATCH_BYTES):
            with _as_python_says(rpath):
                data = await file.aread_at(at, READ_BATCH_BYTES)
            await asyncio.to_thread(target.write, data)
            callback.absolute_update(at + len(data))

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
                {"name": f"{name}/{below}", "size": 0, "type": "directory"}
                for below in sorted(inside.dirs)
            ]
            found += [
                _described(f"{name}/{below}", entry)
                for below, entry in sorted(inside.files.items())
            ]
        return found if detail else [each["name"] for each in found]

    async def _inside(self, name: str) -> Directory | FileEntry | None:
        """What a sha1dir:// path leads to; None for another one. Raises FileNotFoundError."""
        with _as_python_says(name, whole=True):
            return await self._listed(name)

    async def _file_uri(self, path: str) -> str:
        """What to load or open for a path. Raises FileNotFoundError: it is not in its folder;
        IsADirectoryError; NotFound: nobody reachable has the listing, which would say so."""
        name = self._strip_protocol(path)
        inside = await self._listed(name)
        if inside is None:
            return _uri(name)
        if isinstance(inside, Directory):
            raise IsADirectoryError(errno.EISDIR, "it is a folder", name)
        if inside.sha1 is None:
            detail = "its folder lists it without a SHA-1, by which it could be found"
            raise NotFound(what=name, detail=detail)
        label = name.rpartition("/")[2]
        return str(KacheryUri("sha1", "sha1", inside.sha1, label, manifest=inside.manifest))

    async def _listed(self, name: str) -> Directory | FileEntry | None:
        scheme, _, rest = name.partition("://")
        if scheme.lower() != "sha1dir":
            parse_uri(_uri(name))
            return None
        host, _, inside = rest.partition("/")
        sha1 = parse_uri(f"sha1dir://{host}").hash
        listing = await load_listing(sha1, self._local_only, self._channel, False)
        if listing is None:
            raise NotFound(what=f"sha1dir://{sha1}", detail="the listing of that folder")
        found = _inside(listing, inside)
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


class _Buffered(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """A file for caches of fsspec, which see to what is kept of it themselves."""

    def __init__(self, fs: KacheryFileSystem, path: str, file: File) -> None:
        super().__init__(fs, path, "rb", block_size=BLOCK, cache_type="none", size=file.size)
        self._file = file

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self._file.read_at(start, max(0, end - start))


def _inside(listing: Directory, path: str) -> Directory | FileEntry | None:
    """What names lead to, each as it is, or else as it is written in a URI; None if to nothing."""
    found: Directory | FileEntry | None = listing
    for name in filter(None, path.split("/")):
        if not isinstance(found, Directory):
            return None
        inside = found.at(name)
        if inside is None:
            with contextlib.suppress(BadUri):
                inside = found.at(parse_uri(f"sha1dir://{'0' * 40}/{name}").path or name)
        found = inside
    return found


def _uri(path: str) -> str:
    """The URI that a path is made of."""
    file = _FILE.fullmatch(path)
    if file is not None:
        return f"{_labelled(file[1] + (file[3] or ''))}?{file[2]}"
    return _labelled(path)


def _labelled(path: str) -> str:
    scheme, _, rest = path.partition("://")
    host, slash, tail = rest.partition("/")
    if scheme.lower() == "sha1":
        tail = tail.replace("%2A", "*").replace("%5B", "[")
    return f"{scheme}://{host}{slash}{_NOT_IN_URI.sub(_encoded, tail)}"


def _encoded(found: re.Match[str]) -> str:
    return quote(found[0], safe="")


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
