"""Files by content: the async API. The sync twins are in :mod:`.sync`.

A ``store_*`` returns a URI that names the content by its hash; any node of a common channel loads it
with that. A ``load_*`` looks in the local storage first, then asks the local node, which fetches from
the network. It returns None when everybody reachable was asked and nobody has the content, and
raises an error that says what else was the matter otherwise.

Everywhere: ``basename`` is the label in the URI and no part of the content; ``channel`` (a name or
id) limits a store or a load to one channel; ``on_progress`` gets a dict with size, verified (bytes),
seconds and sources a few times a second while something is fetched, and once at its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kachery_p2p.local import places
from kachery_p2p.protocol.errors import BadInput, BadPath, BadUri, CorruptContent, NotFound
from kachery_p2p.protocol.limits import LOCAL_PIECE, VERIFY_ON_READ
from kachery_p2p.protocol.uri import KacheryUri, build_uri, parse_uri
from kachery_p2p.storage.blobs import Blob

from . import blocking, codecs, offline, pickles, storage
from .connection import Connection, connection

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PathLike = str | os.PathLike[str]
OnProgress = Callable[[dict[str, Any]], None] | None


# --- storing -----------------------------------------------------------------------------------


async def astore_bytes(
    data: bytes | bytearray | memoryview, basename: str | None = None, *, channel: str | None = None
) -> str:
    """Store bytes and return their URI.

    Args:
        data: the content.
        basename: label in the URI; ``file.dat`` if not given.
        channel: provide it on this channel only; on all by default.

    Raises:
        DaemonNotRunning, StorageFull, ReadOnlyUser, BadInput
    """
    return await _store(memoryview(data).cast("B"), basename or "file.dat", channel)


async def astore_text(text: str, basename: str | None = None, *, channel: str | None = None) -> str:
    """Store text as UTF-8; label ``file.txt``. Raises as :func:`astore_bytes`."""
    data = codecs.text_to_bytes(text)
    return await _store(memoryview(data), basename or "file.txt", channel)


async def astore_json(
    object: Any,
    basename: str | None = None,
    *,
    separators: tuple[str, str] = (",", ":"),
    indent: int | None = None,
    channel: str | None = None,
) -> str:
    """Store a JSON value (dict, list, str, int, float, bool, None); label ``file.json``.

    The text is made as it always was, so the same object has the URI that older users know. NaN and
    infinities are refused. Raises as :func:`astore_bytes`.
    """
    data = codecs.json_to_bytes(object, separators=separators, indent=indent)
    return await _store(memoryview(data), basename or "file.json", channel)


async def astore_npy(
    array: NDArray[Any], basename: str | None = None, *, channel: str | None = None
) -> str:
    """Store a numpy array of any shape and any dtype but object, in npy format; label ``file.npy``.

    Raises as :func:`astore_bytes`.
    """
    data = await asyncio.to_thread(codecs.npy_to_bytes, array)
    return await _store(memoryview(data).cast("B"), basename or "file.npy", channel)


async def astore_pkl(x: Any, basename: str | None = None, *, channel: str | None = None) -> str:
    """Store a Python object of plain types and numpy arrays as a pickle; label ``file.pkl``.

    Raises:
        UnsafePickle: something in it is of another type; the error says where.
        Others as :func:`astore_bytes`.
    """
    data = await asyncio.to_thread(pickles.dumps, x)
    return await _store(memoryview(data), basename or "file.pkl", channel)


async def astore_file(
    path: PathLike, basename: str | None = None, *, channel: str | None = None
) -> str:
    """Store a copy of a file and return its URI, with ``?manifest=`` above 20,000,000 bytes.

    The file system shares the bytes between original and copy where it can (reflink).

    Raises:
        BadPath: there is no such file, it is a directory, or it cannot be read.
        Others as :func:`astore_bytes`.
    """
    label = basename or Path(path).name
    with _opened(path) as descriptor:
        folder = places.offline_dir()
        if folder is not None:
            root = folder
            return _uri(
                await blocking.run(lambda gone: offline.store_fd(root, descriptor, gone)), label
            )
        node = await connection()
        if node.passes_descriptors:
            return _uri(
                await node.call("store", _params(channel=channel), descriptor=descriptor), label
            )
        with _mapped(descriptor) as data:
            return _uri(await node.call("store", _params(channel=channel), pieces=data), label)


async def alink_file(path: PathLike, basename: str | None = None) -> str:
    """Make a file available without copying it, and return its URI.

    The file must stay as it is: if its size or time of change differs later, it is no longer
    available under the URI.

    Raises:
        BadPath, DaemonNotRunning, ReadOnlyUser
    """
    label = basename or Path(path).name
    with _opened(path) as descriptor:
        absolute = os.path.realpath(path)
        folder = places.offline_dir()
        if folder is not None:
            root = folder
            stored = await blocking.run(
                lambda gone: offline.link_fd(root, descriptor, absolute, gone)
            )
            return _uri(stored, label)
        node = await connection()
        if not node.passes_descriptors:
            raise BadInput(what="link_file", reason="it needs the node's Unix socket, not TCP")
        return _uri(await node.call("link", {"path": absolute}, descriptor=descriptor), label)


async def _store(data: memoryview, label: str, channel: str | None) -> str:
    folder = places.offline_dir()
    if folder is not None:
        return _uri(await asyncio.to_thread(offline.store_bytes, folder, data), label)
    node = await connection()
    if len(data) <= LOCAL_PIECE:
        stored = await node.call("store", _params(data=bytes(data), channel=channel))
    elif node.passes_descriptors and hasattr(os, "memfd_create"):
        with _in_memory_file() as descriptor:
            await blocking.run(lambda gone: blocking.fill(descriptor, data, gone))
            stored = await node.call("store", _params(channel=channel), descriptor=descriptor)
    else:
        stored = await node.call("store", _params(channel=channel), pieces=data)
    return _uri(stored, label)


def _uri(stored: dict[str, Any], label: str) -> str:
    return build_uri(sha1=stored["sha1"], label=label, manifest=stored["manifest"])


def _params(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


@contextlib.contextmanager
def _opened(path: PathLike) -> Iterator[int]:
    """A regular file, open for reading. Raises BadPath."""
    try:
        # Not blocking: opening a pipe that nobody writes to would hang.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BadPath(path=os.fspath(path), reason=(error.strerror or "?").lower()) from error
    try:
        if os.path.isdir(descriptor):
            raise BadPath(
                path=os.fspath(path), reason="it is a directory; store the files in it one by one"
            )
        if not os.path.isfile(descriptor):
            raise BadPath(path=os.fspath(path), reason="it is not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _mapped(descriptor: int) -> Iterator[memoryview]:
    import mmap

    if os.fstat(descriptor).st_size == 0:
        yield memoryview(b"")
        return
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
        yield view


@contextlib.contextmanager
def _in_memory_file() -> Iterator[int]:
    descriptor = os.memfd_create("kachery")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


# --- loading -----------------------------------------------------------------------------------


async def aload_file(
    uri: str,
    dest: PathLike | None = None,
    local_only: bool = False,
    *,
    channel: str | None = None,
    on_progress: OnProgress = None,
) -> str | None:
    """Load a file and return its path, in the storage or at ``dest``.

    Args:
        uri: a sha1:// URI; a path of an existing file is passed through, as it always was.
        dest: copy it to this file (shared bytes where the file system can), or into this folder
            under the name in the URI.
        local_only: do not ask the network.

    Returns:
        The path. Do not write to a path in the storage. None: nobody reachable has it.

    Raises:
        BadUri, AccessDenied, CorruptContent, Stalled, Unreachable, DaemonNotRunning, StorageFull
    """
    if not _is_uri(uri):
        path = os.fspath(uri)
        return await _copied(path, dest, os.path.basename(path))
    parsed = await _file_uri(uri, local_only, channel)
    found = None if parsed is None else await _locate(parsed, local_only, channel, on_progress)
    if parsed is None or found is None:
        return None
    return await _copied(str(found[1].path), dest, _file_name(parsed))


async def aload_bytes(
    uri: str,
    start: int | None = None,
    end: int | None = None,
    write_to_stdout: bool = False,
    local_only: bool = False,
    *,
    channel: str | None = None,
) -> bytes | None:
    """Load bytes [start, end) of a file; all of it by default.

    With ``?manifest=`` in the URI only what is asked for travels, verified block by block.

    Returns:
        At most ``end - start`` bytes (fewer at the end of the file), or None: nobody reachable has
        it, or they were written to standard output.

    Raises:
        as :func:`aload_file`, and BadInput for a malformed range.
    """
    first = 0 if start is None else start
    if first < 0 or (end is not None and end < first):
        raise BadInput(what="byte range", reason=f"{start} to {end} is no range within a file")
    data = await _load_range(uri, first, end, local_only, channel)
    if data is not None and write_to_stdout:
        import sys

        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return None
    return data


async def aload_text(
    uri: str,
    local_only: bool = False,
    *,
    channel: str | None = None,
    on_progress: OnProgress = None,
) -> str | None:
    """Load text. None: nobody reachable has it. Raises as :func:`aload_file`."""
    data = await _load_content(uri, local_only, channel, on_progress)
    return None if data is None else codecs.bytes_to_text(data)


async def aload_json(
    uri: str,
    local_only: bool = False,
    *,
    channel: str | None = None,
    on_progress: OnProgress = None,
) -> Any:
    """Load a JSON value. None: nobody reachable has it. Raises as :func:`aload_file`."""
    data = await _load_content(uri, local_only, channel, on_progress)
    return None if data is None else codecs.bytes_to_json(data)


async def aload_npy(
    uri: str,
    local_only: bool = False,
    *,
    mmap_mode: str | None = None,
    channel: str | None = None,
    on_progress: OnProgress = None,
) -> NDArray[np.generic] | None:
    """Load a numpy array. None: nobody reachable has it.

    Args:
        mmap_mode: ``'r'`` or ``'c'`` maps the file instead of reading it, as numpy.load does.

    Raises:
        as :func:`aload_file`; BadInput if the content is no array, or needs pickle.
    """
    if mmap_mode not in (None, "r", "c"):
        raise BadInput(what=f"mmap_mode {mmap_mode!r}", reason="stored content is read-only")
    if mmap_mode is None:
        blob = await _small_or_path(uri, local_only, channel, on_progress)
        if blob is None or isinstance(blob, bytes):
            return None if blob is None else codecs.bytes_to_npy(blob)
        return await asyncio.to_thread(codecs.load_npy_path, blob)
    path = await aload_file(uri, None, local_only, channel=channel, on_progress=on_progress)
    return None if path is None else codecs.load_npy_path(path, mmap_mode)


async def aload_pkl(
    uri: str,
    local_only: bool = False,
    *,
    channel: str | None = None,
    on_progress: OnProgress = None,
) -> Any:
    """Load a pickle that :func:`astore_pkl` or kachery_client wrote. None: nobody has it.

    Raises:
        UnsafePickle: it wants anything but plain types and numpy arrays; nothing was run.
        Others as :func:`aload_file`.
    """
    data = await _load_content(uri, local_only, channel, on_progress)
    return None if data is None else await asyncio.to_thread(pickles.loads, data)


async def afind_file(uri: str, *, channel: str | None = None) -> dict[str, Any]:
    """Who has a file.

    Returns:
        ``local`` (path or None), ``holders`` (dicts with node, label, channel, direct), ``detail``
        (who was asked, silent or offline, in words), ``error`` (what kept us from asking, in
        words; else empty), ``code`` and ``fields`` (the same for programs: the ``code`` of an error
        class and what its sentence was built from).

    Raises:
        BadUri, DaemonNotRunning, NeedsNode
    """
    parsed = _parse_file_uri(uri)
    offline.require_node("find_file")
    node = await connection()
    result: dict[str, Any] = await node.call("find", _params(sha1=parsed.hash, channel=channel))
    return result


def _is_uri(text: PathLike) -> bool:
    """Whether it is a URI; else it must be an existing file, which loads as it is."""
    try:
        path = os.fspath(text)
    except TypeError:
        raise BadUri(uri=text, reason="it is not even text") from None
    if "://" in path:
        return True
    if not os.path.isfile(path):
        raise BadPath(path=path, reason="it is neither a kachery URI nor an existing file")
    return False


def _parse_file_uri(uri: str) -> KacheryUri:
    parsed = parse_uri(uri)
    if parsed.kind == "feed":
        raise BadInput(what=uri, reason="this is a feed, not a file; use load_feed or load_subfeed")
    return parsed


async def _file_uri(uri: str, local_only: bool, channel: str | None) -> KacheryUri | None:
    """The URI of a file; an old directory URI is followed to it. None: nobody has the directory."""
    parsed = _parse_file_uri(uri)
    if parsed.kind != "sha1dir":
        return parsed
    listing = await aload_json(f"sha1://{parsed.hash}", local_only, channel=channel)
    if listing is None:
        return None
    name = ""
    for name in filter(None, parsed.path.split("/")):
        inside = [_entries(listing, kind).get(name) for kind in ("dirs", "files")]
        listing = inside[0] or inside[1]
        if listing is None:
            raise BadInput(what=uri, reason=f"there is no {name!r} in that directory")
    sha1 = listing.get("sha1") if isinstance(listing, dict) else None
    if not isinstance(sha1, str):
        raise BadInput(what=uri, reason="this is a directory; name a file in it")
    return replace(parse_uri(f"sha1://{sha1}"), label=name)


def _entries(listing: Any, kind: str) -> dict[str, Any]:
    entries = listing.get(kind, {}) if isinstance(listing, dict) else {}
    return entries if isinstance(entries, dict) else {}


def _file_name(uri: KacheryUri) -> str:
    """What to call a file in the user's folder: its label, which must not lead out of there."""
    name = uri.label.rpartition("/")[2]
    return uri.hash if name in ("", ".", "..") or "\0" in name else name


async def _locate(
    uri: KacheryUri, local_only: bool, channel: str | None, on_progress: OnProgress
) -> tuple[Path, Blob] | None:
    """(storage folder, blob) after fetching it if need be, or None."""
    folder = places.offline_dir()
    if folder is not None:
        blob = storage.find(folder, uri.hash)
        return None if blob is None else (folder, blob)
    node = await connection()
    root = node.storage_dir
    blob = storage.find(root, uri.hash)
    if blob is None and not local_only:
        if not await _fetch(node, uri, channel, on_progress):
            return None
        blob = storage.find(root, uri.hash)
        if blob is None:
            raise BadPath(
                path=str(root),
                reason="the node stored the file there, but this process cannot see it; is the "
                "folder mounted and readable here?",
            )
    return None if blob is None else (root, blob)


async def _fetch(
    node: Connection, uri: KacheryUri, channel: str | None, on_progress: OnProgress
) -> bool:
    params = _params(sha1=uri.hash, manifest=uri.manifest, channel=channel)
    try:
        result = await node.call("load", params, on_progress=on_progress)
    except NotFound:
        return False
    if on_progress is not None:
        on_progress(result)
    return True


async def _small_or_path(
    uri: str, local_only: bool, channel: str | None, on_progress: OnProgress
) -> bytes | Path | None:
    """Verified content if it is small, else the path of the blob."""
    if not _is_uri(uri):
        return Path(uri)
    parsed = await _file_uri(uri, local_only, channel)
    if parsed is None:
        return None
    for _ in range(2):
        found = await _locate(parsed, local_only, channel, on_progress)
        if found is None:
            return None
        root, blob = found
        if blob.size > VERIFY_ON_READ:
            return blob.path
        if blob.size > LOCAL_PIECE:
            data = await asyncio.to_thread(storage.read_checked, root, blob)
        else:
            data = storage.read_checked(root, blob)
        if data is not None:
            return data
        # Damaged on this disk. The node puts it aside; then it may be had from somewhere else.
        if places.offline_dir() is not None:
            break
        await (await connection()).call("damaged", {"sha1": parsed.hash})
    raise CorruptContent(what=f"sha1://{parsed.hash}", source="the local storage")


async def _load_content(
    uri: str, local_only: bool, channel: str | None, on_progress: OnProgress
) -> bytes | None:
    found = await _small_or_path(uri, local_only, channel, on_progress)
    if isinstance(found, Path):
        return await asyncio.to_thread(blocking.read_range, str(found), 0, None)
    return found


async def _load_range(
    uri: str, start: int, end: int | None, local_only: bool, channel: str | None
) -> bytes | None:
    if not _is_uri(uri):
        return await asyncio.to_thread(blocking.read_range, os.fspath(uri), start, end)
    parsed = await _file_uri(uri, local_only, channel)
    if parsed is None:
        return None
    folder = places.offline_dir()
    root = folder if folder is not None else (await connection()).storage_dir
    blob = storage.find(root, parsed.hash)
    if blob is not None and blob.size <= VERIFY_ON_READ:
        data = await _load_content(uri, local_only, channel, None)
        return None if data is None else data[start:end]
    if blob is not None:
        stop = blob.size if end is None else min(end, blob.size)
        return await asyncio.to_thread(storage.read_range, root, blob, min(start, stop), stop)
    if folder is not None or local_only:
        return None
    node = await connection()
    params = _params(
        sha1=parsed.hash, manifest=parsed.manifest, channel=channel, start=start, stop=end
    )
    try:
        _, received = await node.call_for_bytes("load_bytes", params)
    except NotFound:
        return None
    return received


async def _copied(path: str, dest: PathLike | None, name: str) -> str:
    """Where a file is: at ``dest``, as a copy, if that is given."""
    if dest is None:
        return path
    target = os.fspath(dest)
    return await blocking.run(lambda gone: blocking.copy(path, target, name, gone))
