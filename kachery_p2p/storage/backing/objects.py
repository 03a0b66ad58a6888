"""The files of an origin: reading, listing and writing them through fsspec, whatever it is.

In an origin content lies as in a storage folder, ``sha1/aa/bb/cc/<hash>``; beside it may lie its hash
tree, ``<hash>.tree``, and the name of its manifest, ``<hash>.manifest`` (40 hex digits).

A web server cannot list what it has. There a file ``index.txt`` says it, a line for each file, its name
and its size, as ``find sha1 -type f -printf '%f %s\\n'`` prints it; an archive keeps none.

Invariants: what comes back from a read has the length that was asked for, or is an error; nothing
that is written appears under its name before all of it is there, as far as the store can say so (a
rename, or an upload that counts when it is completed). Errors are those of
:mod:`kachery_p2p.protocol.errors`.

Everything blocks, without a bound of its own: for threads whose caller has a deadline. Nothing read is
believed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple

from kachery_p2p.protocol.errors import (
    BadInput,
    KacheryError,
    OriginError,
    OriginNotWritten,
    OriginObjectGone,
    OriginRefused,
    OriginSlow,
    OriginTruncated,
    OriginUnreachable,
)
from kachery_p2p.protocol.limits import (
    ARCHIVE_STRAY_SECONDS,
    MAX_ORIGIN_INDEX_LINE,
    MIB,
    ORIGIN_CALL_SECONDS,
    ORIGIN_CONNECT_SECONDS,
)
from kachery_p2p.storage import paths
from kachery_p2p.storage.disk import move

from .setting import shown

MANIFEST: Final = ".manifest"
INDEX_FILE: Final = "index.txt"
_TEMPORARY: Final = "kachery-upload-"
_WHOLE_OR_NOTHING: Final = ("s3", "s3a", "gs", "gcs")
"""Protocols by which an upload counts when it is completed, and not before."""
_NO_LISTING: Final = ("http", "https")
_REFUSED_STATUS: Final = (401, 403, 407)
_REFUSED_NAMES: Final = re.compile(r"Credential|Authenti|Token|Unauthorized|Forbidden|AccessDenied")
_SLOW_NAMES: Final = re.compile(r"Timeout|TimedOut")
_PART: Final = 8 * MIB
_MOST_PARTS: Final = 9_000
"""Of an upload; S3 takes 10,000."""


class Found(NamedTuple):
    """One file of ours. ``stamp``: changes when it is written anew, as far as the store tells."""

    sha1: str
    suffix: str
    size: int
    stamp: int


class Objects:
    """Of the origin at ``url``. Raises BadInput: fsspec, or what it needs for this, is not there."""

    def __init__(self, url: str) -> None:
        self.name = shown(url)
        try:
            from fsspec.core import url_to_fs
        except ImportError:
            raise _lacking(self.name, "fsspec", "") from None
        protocol = url.partition("://")[0] if "://" in url else "file"
        try:
            self._fs, root = url_to_fs(url, **_options(protocol))
        except ImportError as error:
            raise _lacking(self.name, error.name or "", str(error)) from None
        except ValueError as error:
            raise BadInput(what=f"origin {self.name}", reason=str(error)) from None
        except Exception as error:  # whatever a store's own package raises
            raise self._error(error, "connecting") from error
        self._root = root.rstrip("/")
        names = self._fs.protocol
        self._protocols = {names} if isinstance(names, str) else set(names)
        self.lists = not self._protocols & set(_NO_LISTING)

    def path(self, sha1: str, suffix: str = "") -> str:
        return paths.text_of(self._root, sha1, suffix)

    # --- reading ---------------------------------------------------------------------------------

    def read(self, sha1: str, suffix: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop), all of them.

        Raises:
            OriginTruncated: it ends before. OriginObjectGone: it is not there.
            OriginRefused: nothing may be read there. OriginError: it could not be read.
        """
        try:
            return self._read(sha1, suffix, start, stop)
        except OriginRefused as error:
            self.check()  # raises the same if it is the place that may not be read, and not this one
            what, told = f"sha1://{sha1}{suffix}", error.fields["reason"]
            reason = f"{what} may not be read there, though others may ({told})"
            raise OriginError(origin=self.name, reason=reason) from error

    def _read(self, sha1: str, suffix: str, start: int, stop: int) -> bytes:
        path, what = self.path(sha1, suffix), f"sha1://{sha1}{suffix}"
        with self._errors(what):
            if self.lists:
                data = self._fs.cat_file(path, start=start, end=stop)
            else:
                # It looks at what the server answers: one that ignores ranges would send it all.
                options = {"size": stop, "block_size": 4 * MIB, "cache_type": "none"}
                with self._fs.open(path, "rb", **options) as file:
                    file.seek(start)
                    data = file.read(stop - start)
        if len(data) != stop - start:
            reason = f"it has {start + len(data)} bytes or fewer, not {stop}"
            raise OriginTruncated(what=what, origin=self.name, reason=reason)
        return bytes(data)

    def size(self, sha1: str, suffix: str = "") -> Found | None:
        """What is there under that name now; None: nothing."""
        try:
            with self._errors(f"sha1://{sha1}{suffix}"):
                info = self._fs.info(self.path(sha1, suffix))
        except OriginObjectGone:
            return None
        return Found(sha1, suffix, int(info.get("size") or 0), _stamp(info))

    def is_file(self, sha1: str, path: Path) -> bool:
        """Whether what is there under that name is this very file of this computer."""
        try:
            return self._is_local() and os.path.samefile(self.path(sha1), path)
        except OSError:
            return False

    # --- listing ---------------------------------------------------------------------------------

    def check(self) -> bool:
        """Look whether anything can be read there; whether there is a folder ``sha1``.

        Raises:
            OriginError
        """
        with self._errors("its folder"):
            if not self.lists:
                self._fs.cat_file(f"{self._root}/{INDEX_FILE}", start=0, end=1)
                return True
            if self._is_local():
                os.listdir(self._root)  # a folder that is not there is none that is empty
            return bool(self._fs.exists(f"{self._root}/sha1"))

    def page(self, prefix: str) -> list[Found]:
        """All files of ours whose hashes begin so, an even number of digits, 6 at most."""
        pairs = [prefix[at : at + 2] for at in range(0, len(prefix), 2)]
        folder = "/".join([f"{self._root}/sha1", *pairs])
        found = []
        with self._errors("its listing"):
            for path, info in self._walk(folder):
                named = paths.parse_name(path.rpartition("/")[2])
                if named is None or named[1] not in ("", paths.TREE, MANIFEST):
                    continue
                if path == self.path(*named) and info.get("size") is not None:
                    found.append(Found(*named, int(info["size"]), _stamp(info)))
        return found

    def _walk(self, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if self._is_local():
            yield from _walk_folder(folder)
            return
        try:
            listing = self._fs.find(folder, detail=True)
        except FileNotFoundError:
            return
        finally:
            self._fs.invalidate_cache()
        yield from listing.items()

    def index_stamp(self) -> str:
        """Changes when the index file does, if the server tells. Raises OriginError."""
        with self._errors("its index.txt"):
            info = self._fs.info(f"{self._root}/{INDEX_FILE}")
        told = {key: str(info[key]) for key in ("ETag", "Last-Modified") if key in info}
        return f"{info.get('size')} {sorted(told.items())}" if told else ""

    def index_lines(self) -> Iterator[Found]:
        """What the index file says, in its order; lines that are not of ours are left out."""
        with self._errors("its index.txt"):
            info = self._fs.info(f"{self._root}/{INDEX_FILE}")
            options = {"block_size": 0} if info.get("size") is None else {}
            with self._fs.open(f"{self._root}/{INDEX_FILE}", "rb", **options) as file:
                for line in _lines(file):
                    found = _indexed(line)
                    if found is not None:
                        yield found

    # --- writing ---------------------------------------------------------------------------------

    def put(
        self,
        sha1: str,
        suffix: str,
        size: int,
        pieces: Iterator[bytes],
        *,
        cancelled: Callable[[], bool],
    ) -> Found:
        """Write a file, all of it or nothing, and look that it is there; ``pieces`` are its ``size``
        bytes.

        Raises:
            OriginNotWritten, OriginError: nothing of it is there under its name.
        """
        target, what = self.path(sha1, suffix), f"sha1://{sha1}{suffix}"
        whole = bool(self._protocols & set(_WHOLE_OR_NOTHING))
        with self._errors(what, writing=True):
            if whole:
                self._upload(target, size, pieces, cancelled)
            else:
                self._write_beside(target, pieces, cancelled)
        found = self.size(sha1, suffix)
        if found is None or found.size != size:
            told = "nothing" if found is None else f"{found.size} bytes"
            self._remove(target)
            raise OriginNotWritten(
                what=what, origin=self.name, reason=f"{told} of {size} bytes came to be there"
            )
        return found

    def _upload(
        self, target: str, size: int, pieces: Iterator[bytes], cancelled: Callable[[], bool]
    ) -> None:
        part = max(_PART, -(-size // _MOST_PARTS))
        # Not in a ``with``: that completes the upload, and so does forgetting the file, even after an
        # error half-way. One that is to be committed does neither.
        file = self._fs.open(target, "wb", block_size=part, autocommit=False)
        try:
            for piece in pieces:
                _stop_if(cancelled)
                file.write(piece)
            file.close()
            _stop_if(cancelled)
            file.commit()
        except BaseException:
            with contextlib.suppress(Exception):  # the store ends what nobody completes
                file.discard()
            file.closed = True  # else it is closed once more when it is forgotten
            raise

    def _write_beside(
        self, target: str, pieces: Iterator[bytes], cancelled: Callable[[], bool]
    ) -> None:
        folder = f"{self._root}/{paths.TEMPORARY_FOLDER}"
        self._fs.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/{_TEMPORARY}{secrets.token_hex(8)}"
        try:
            with self._fs.open(temporary, "wb") as file:
                for piece in pieces:
                    _stop_if(cancelled)
                    file.write(piece)
                if self._is_local():
                    file.flush()
                    os.fsync(file.fileno())
            _stop_if(cancelled)
            if self._is_local():
                move(Path(temporary), Path(target), durable=True)
            else:
                self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._fs.mv(temporary, target)
        except BaseException:
            self._remove(temporary)
            raise

    def _remove(self, path: str) -> None:
        with contextlib.suppress(Exception):  # it cannot be reached, or is not there
            self._fs.rm_file(path)

    def remove(self, sha1: str, suffix: str) -> None:
        """Take away what turned out to be wrong, if that can be done."""
        self._remove(self.path(sha1, suffix))

    def tidy(self) -> None:
        """Remove what uploads that were broken off have left under temporary names."""
        if self._protocols & set(_WHOLE_OR_NOTHING):
            return
        with contextlib.suppress(Exception):  # it is only tidying
            for info in self._fs.ls(f"{self._root}/{paths.TEMPORARY_FOLDER}", detail=True):
                name = info["name"].rpartition("/")[2]
                changed = info.get("mtime")
                if isinstance(changed, datetime):
                    changed = changed.timestamp()
                old = changed is not None and changed < time.time() - ARCHIVE_STRAY_SECONDS
                if name.startswith(_TEMPORARY) and old:
                    self._fs.rm_file(info["name"])

    # --- errors ----------------------------------------------------------------------------------

    def _is_local(self) -> bool:
        return "file" in self._protocols

    @contextlib.contextmanager
    def _errors(self, what: str, *, writing: bool = False) -> Iterator[None]:
        try:
            yield
        except KacheryError:
            raise
        except Exception as error:  # each store's package raises what it likes
            raise self._error(error, what, writing=writing) from error

    def _error(self, error: Exception, what: str, *, writing: bool = False) -> KacheryError:
        told = _told(error)
        status = getattr(error, "status", None)
        chain = [type(each).__name__ for each in _chain(error)]
        if isinstance(error, PermissionError) or status in _REFUSED_STATUS:
            return OriginRefused(origin=self.name, reason=told)
        if isinstance(error, FileNotFoundError) or status == HTTPStatus.NOT_FOUND:
            if what.startswith("sha1://") and not writing:
                return OriginObjectGone(what=what, origin=self.name)
            return OriginUnreachable(origin=self.name, reason=f"there is no such place ({told})")
        if isinstance(error, TimeoutError) or any(map(_SLOW_NAMES.search, chain)):
            return OriginSlow(origin=self.name, seconds=ORIGIN_CALL_SECONDS, what=what)
        if any(map(_REFUSED_NAMES.search, chain)):
            return OriginRefused(origin=self.name, reason=told)
        if isinstance(error, ValueError) and "range requests" in told:
            reason = "the server sends no parts of files, and whole ones are too much"
            return OriginError(origin=self.name, reason=reason)
        if "InvalidRange" in str(error) or "InvalidRange" in "".join(map(str, _chain(error))):
            reason = "it ends before the part that is wanted"
            return OriginTruncated(what=what, origin=self.name, reason=reason)
        if writing:
            return OriginNotWritten(what=what, origin=self.name, reason=told)
        return OriginUnreachable(origin=self.name, reason=told)


def _lacking(name: str, package: str, told: str) -> BadInput:
    """``told``: what fsspec says of it, where it does not say which package it is."""
    lacking = f"the Python package {package}" if package else "a Python package"
    more = "" if package or not told else f" ({told})"
    return BadInput(
        what=f"origin {name}",
        reason=f"{lacking} is needed for it and not installed{more}; 'pip install "
        "kachery_p2p[origins]' has what folders, web servers and S3 need",
    )


def _options(protocol: str) -> dict[str, Any]:
    """For fsspec: nothing is remembered of listings, and connections have bounds of their own, so that
    a thread whose caller has gone comes free."""
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if protocol in ("s3", "s3a"):
        options["config_kwargs"] = {
            "connect_timeout": ORIGIN_CONNECT_SECONDS,
            "read_timeout": ORIGIN_CALL_SECONDS,
            "retries": {"max_attempts": 1},
        }
    elif protocol in _NO_LISTING:
        import aiohttp

        # What a server compresses for this answer alone has no parts that could be asked for.
        options["headers"] = {"Accept-Encoding": "identity"}
        options["client_kwargs"] = {
            "timeout": aiohttp.ClientTimeout(
                total=None, sock_connect=ORIGIN_CONNECT_SECONDS, sock_read=ORIGIN_CALL_SECONDS
            )
        }
    return options


def _stop_if(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise OSError("it was broken off")


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, OSError) and text else f"{type(error).__name__}: {text}"


def _walk_folder(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """As fsspec's, of a folder of this computer; one that cannot be read is an error, not empty."""

    def failed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for top, _, names in os.walk(folder, onerror=failed):
        for name in names:
            path = f"{top}/{name}"
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(path)
                yield path, {"size": status.st_size, "mtime": status.st_mtime}


def _stamp(info: dict[str, Any]) -> int:
    """A number that is another when the object is, and the same however that was looked at: a listing
    may tell times more finely than a look at one object, but not another tag."""
    tag = info.get("ETag") or info.get("etag")
    changed = tag or info.get("mtime") or info.get("LastModified") or ""
    told = [str(info.get("size", "")), str(changed)]
    digest = hashlib.blake2b("\0".join(told).encode(), digest_size=7).digest()
    return int.from_bytes(digest)


def _lines(file: Any) -> Iterator[bytes]:
    left = b""
    while data := file.read(MIB):
        *lines, left = (left + data).split(b"\n")
        yield from lines
        if len(left) > MAX_ORIGIN_INDEX_LINE:
            raise ValueError("a line of the index is too long")
    yield left


def _indexed(line: bytes) -> Found | None:
    """A line of an index file: a name and a size."""
    name, _, size = line.decode("ascii", "replace").strip().rpartition(" ")
    named = paths.parse_name(name.strip().rpartition("/")[2])
    if named is None or named[1] not in ("", paths.TREE, MANIFEST) or not size.isdigit():
        return None
    return Found(*named, int(size), _stamp({"size": size}))
