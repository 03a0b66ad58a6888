"""Loading: the content behind a URI, from this computer or the network. The async API, see
:mod:`.files`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kachery_p2p.client.display.progress import Progress, Transfer, relay
from kachery_p2p.client.session import blocking, offline
from kachery_p2p.client.session.connection import Connection, connection
from kachery_p2p.client.values import codecs, pickles
from kachery_p2p.local import places
from kachery_p2p.local.notice import read_notice
from kachery_p2p.protocol.errors import (
    BadInput,
    BadPath,
    CorruptContent,
    DaemonNotRunning,
    NotFound,
)
from kachery_p2p.protocol.limits import LOCAL_PIECE, VERIFY_ON_READ
from kachery_p2p.protocol.uri import KacheryUri
from kachery_p2p.storage.files.blobs import Blob

from . import local_storage as storage
from .scope import scope
from .uris import PathLike, file_name, inside_directory, is_uri, parse_file_uri, without_nones

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


async def aload_file(
    uri: str,
    dest: PathLike | None = None,
    local_only: bool = False,
    *,
    channel: str | None = None,
    progress: Progress = None,
) -> str | None:
    """Load a file and return its path, in the storage or at ``dest``.

    Args:
        uri: a sha1:// URI; a path of an existing file is passed through, as it always was.
        dest: copy it to this file (shared bytes where the file system can), or into this folder
            under the name in the URI.
        local_only: do not ask the network; if no node runs here, look in its storage folder.
        channel: fetch it on this channel only.
        progress: None shows a bar if it takes long, False never does; or a function, which gets a
            :class:`ProgressInfo`.

    Returns:
        The path. Do not write to a path in the storage. None: nobody reachable has it.

    Raises:
        BadUri, AccessDenied, CorruptContent, Stalled, Unreachable, DaemonNotRunning, StorageFull
    """
    if not is_uri(uri):
        path = os.fspath(uri)
        with _loading(os.path.basename(path), progress) as moving:
            return await _copied(path, dest, os.path.basename(path), moving)
    parsed = await _file_uri(uri, local_only, channel, progress)
    if parsed is None:
        return None
    name = file_name(parsed)
    with _loading(name, progress) as moving:
        found = await _locate(parsed, local_only, channel, moving)
        return None if found is None else await _copied(str(found[1].path), dest, name, moving)


async def aload_bytes(
    uri: str,
    start: int | None = None,
    end: int | None = None,
    write_to_stdout: bool = False,
    local_only: bool = False,
    *,
    channel: str | None = None,
    progress: Progress = None,
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
    data = await _load_range(uri, first, end, local_only, channel, progress)
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
    progress: Progress = None,
) -> str | None:
    """Load text. None: nobody reachable has it. Raises as :func:`aload_file`."""
    data = await _load_content(uri, local_only, channel, progress)
    return None if data is None else codecs.bytes_to_text(data)


async def aload_json(
    uri: str,
    local_only: bool = False,
    *,
    channel: str | None = None,
    progress: Progress = None,
) -> Any:
    """Load a JSON value. None: nobody reachable has it. Raises as :func:`aload_file`."""
    data = await _load_content(uri, local_only, channel, progress)
    return None if data is None else codecs.bytes_to_json(data)


async def aload_npy(
    uri: str,
    local_only: bool = False,
    *,
    mmap_mode: str | None = None,
    channel: str | None = None,
    progress: Progress = None,
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
        blob = await _small_or_path(uri, local_only, channel, progress)
        if blob is None or isinstance(blob, bytes):
            return None if blob is None else codecs.bytes_to_npy(blob)
        return await asyncio.to_thread(codecs.load_npy_path, blob)
    path = await aload_file(uri, None, local_only, channel=channel, progress=progress)
    return None if path is None else codecs.load_npy_path(path, mmap_mode)


async def aload_pkl(
    uri: str,
    local_only: bool = False,
    *,
    channel: str | None = None,
    progress: Progress = None,
) -> Any:
    """Load a pickle that :func:`astore_pkl` or kachery_client wrote. None: nobody has it.

    Raises:
        UnsafePickle: it wants anything but plain types and numpy arrays; nothing was run.
        Others as :func:`aload_file`.
    """
    data = await _load_content(uri, local_only, channel, progress)
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
    parsed = parse_file_uri(uri)
    offline.require_node("find_file")
    node = await connection()
    params = without_nones(sha1=parsed.hash, channel=channel)
    result: dict[str, Any] = await node.call("find", params)
    return result


# --- parts ---------------------------------------------------------------------------------------


def _loading(name: str, progress: Progress) -> Transfer:
    return Transfer("loading", name, progress)


async def _file_uri(
    uri: str, local_only: bool, channel: str | None, progress: Progress
) -> KacheryUri | None:
    """The URI of a file; an old directory URI is followed to it. None: nobody has the directory."""
    parsed = parse_file_uri(uri)
    if parsed.kind != "sha1dir":
        return parsed
    bar = False if callable(progress) else progress  # the function is told of the file alone
    listing = await aload_json(f"sha1://{parsed.hash}", local_only, channel=channel, progress=bar)
    return None if listing is None else inside_directory(listing, parsed)


async def _locate(
    uri: KacheryUri, local_only: bool, channel: str | None, moving: Transfer
) -> tuple[Path, Blob] | None:
    """(storage folder, blob) after fetching it if need be, or None."""
    folder = await _without_node(local_only)
    if folder is not None:
        blob = storage.find(folder, uri.hash)
        root = folder
    else:
        node = await connection()
        root = node.greeter.storage_dir
        within = _within(channel)
        blob = await _found(node, uri.hash, within)
        if blob is None and not local_only:
            blob = await _fetched(node, uri, within or channel, moving, only=within is not None)
    if blob is None:
        return None
    moving.complete(blob.size)
    return root, blob


async def _without_node(local_only: bool) -> Path | None:
    """The storage folder to read in without any node: that of offline mode; or, of what is to be had on
    this computer alone, that of a node that is not running, or not here. None: ask the node."""
    folder = places.offline_dir()
    if folder is not None or not local_only or places.target() is not None:
        return folder
    try:
        await connection()
    except DaemonNotRunning:
        notice = read_notice(places.default_state_dir())
        here = places.default_storage_dir() if notice is None else Path(notice.storage_dir)
        if scope() is None and here.is_dir():
            return here
        raise
    return None


def _within(channel: str | None) -> str | None:
    """The channel on which anything must be, if the caller works for others: they must not come by
    what this computer has from elsewhere. None if it does not."""
    behalf = scope()
    return None if behalf is None else channel or behalf


async def _found(node: Connection, sha1: str, within: str | None) -> Blob | None:
    """What lies in the storage, if it may be read here."""
    if within is not None:
        answer = await node.call("here", {"sha1": sha1, "channel": within})
        if not answer["here"]:
            return None
    return _in_storage(node, sha1)


async def _fetched(
    node: Connection, uri: KacheryUri, channel: str | None, moving: Transfer, *, only: bool
) -> Blob | None:
    moving.begin()
    params = without_nones(sha1=uri.hash, manifest=uri.manifest, channel=channel) | {"only": only}
    try:
        moving.hear(await node.call("load", params, on_progress=moving.hear))
    except NotFound:
        return None
    blob = _in_storage(node, uri.hash)
    if blob is None:
        raise BadPath(
            path=str(node.greeter.storage_dir),
            reason="the node stored the file there, but this process cannot see it; is the node's "
            "own folder, and no other one of that name, mounted and readable here?",
        )
    return blob


def _in_storage(node: Connection, sha1: str) -> Blob | None:
    """A blob in the node's folder, if that can be seen from here."""
    greeter = node.greeter
    return storage.find(greeter.storage_dir, sha1) if greeter.owns_storage else None


async def _small_or_path(
    uri: str, local_only: bool, channel: str | None, progress: Progress
) -> bytes | Path | None:
    """Verified content if it is small, else the path of the blob."""
    if not is_uri(uri):
        return Path(uri)
    parsed = await _file_uri(uri, local_only, channel, progress)
    if parsed is None:
        return None
    with _loading(file_name(parsed), progress) as moving:
        for _ in range(2):
            found = await _locate(parsed, local_only, channel, moving)
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
            if await _without_node(local_only) is not None:
                break
            await (await connection()).call("damaged", {"sha1": parsed.hash})
        raise CorruptContent(what=f"sha1://{parsed.hash}", source="the local storage")


async def _load_content(
    uri: str, local_only: bool, channel: str | None, progress: Progress
) -> bytes | None:
    found = await _small_or_path(uri, local_only, channel, progress)
    if isinstance(found, Path):
        return await asyncio.to_thread(blocking.read_range, str(found), 0, None)
    return found


async def _load_range(
    uri: str,
    start: int,
    end: int | None,
    local_only: bool,
    channel: str | None,
    progress: Progress,
) -> bytes | None:
    if not is_uri(uri):
        return await asyncio.to_thread(blocking.read_range, os.fspath(uri), start, end)
    parsed = await _file_uri(uri, local_only, channel, progress)
    if parsed is None:
        return None
    folder = await _without_node(local_only)
    within = None
    if folder is not None:
        root, blob = folder, storage.find(folder, parsed.hash)
    else:
        within, node = _within(channel), await connection()
        root, blob = node.greeter.storage_dir, await _found(node, parsed.hash, within)
    if blob is not None and blob.size <= VERIFY_ON_READ:
        data = await _load_content(uri, local_only, channel, progress)
        return None if data is None else data[start:end]
    if blob is None and (folder is not None or local_only):
        return None
    with _loading(file_name(parsed), progress) as moving:
        if blob is not None:
            stop = blob.size if end is None else min(end, blob.size)
            data = await asyncio.to_thread(storage.read_range, root, blob, min(start, stop), stop)
        else:
            data = await _fetched_range(
                parsed, start, end, within or channel, moving, only=within is not None
            )
        if data is not None:
            moving.complete(len(data))
        return data


async def _fetched_range(
    uri: KacheryUri,
    start: int,
    end: int | None,
    channel: str | None,
    moving: Transfer,
    *,
    only: bool,
) -> bytes | None:
    moving.begin()
    node = await connection()
    params = without_nones(
        sha1=uri.hash, manifest=uri.manifest, channel=channel, start=start, stop=end, only=only
    )
    try:
        _, data = await node.call_for_bytes("load_bytes", params, on_progress=moving.hear)
    except NotFound:
        return None
    return data


async def _copied(path: str, dest: PathLike | None, name: str, moving: Transfer) -> str:
    """Where a file is: at ``dest``, as a copy, if that is given."""
    if dest is None:
        return path
    target = places.user_path(dest)
    size = os.path.getsize(path)
    moving.turn_to("copying", size)
    advanced = relay(moving)
    copied = await blocking.run(lambda gone: blocking.copy(path, target, name, gone, advanced))
    moving.complete(size)
    return copied
