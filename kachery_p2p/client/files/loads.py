"""Loading: the content behind a URI, from this computer or the network. The async API, see
:mod:`.files`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from kachery_p2p.client.display.progress import Progress, Transfer, relay
from kachery_p2p.client.session import blocking
from kachery_p2p.client.values import codecs, pickles
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.numbers import whole
from kachery_p2p.protocol.uri import KacheryUri

from .content import Content
from .listings import load_listing
from .uris import (
    PathLike,
    file_name,
    inside_directory,
    is_uri,
    parse_file_uri,
    path_text,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

R = TypeVar("R")


async def aload_file(
    uri: str,
    dest: PathLike | None = None,
    local_only: bool = False,
    *,
    channel: str | None = None,
    progress: Progress = None,
    replace: bool | None = None,
) -> str | None:
    """Load a file and return its path, in the storage or at ``dest``.

    Args:
        uri: a sha1:// URI; a path of an existing file is passed through, as it always was.
        dest: copy it to this file (shared bytes where the file system can), or into this folder
            under the name in the URI; what ends with a slash is a folder, and is made if need be.
        local_only: do not ask the network; if no node runs here, look in its storage folder.
        channel: fetch it on this channel only.
        progress: None shows a bar if it takes long, False never does; or a function, which gets a
            :class:`ProgressInfo`.
        replace: whether another file that is at ``dest`` is replaced; it keeps its mode. By default a
            file that ``dest`` names is, and one in a folder that the URI names is not: that is a
            BadPath. A file that has the content already is left alone.

    Returns:
        The path. Do not write to a path in the storage. None: nobody reachable has it.

    Raises:
        BadUri, AccessDenied, CorruptContent, Stalled, Unreachable, DaemonNotRunning, StorageFull
    """
    if not is_uri(uri):
        path = path_text(uri)
        with _loading(os.path.basename(path), progress) as moving:
            return await _copied(path, dest, os.path.basename(path), moving, replace)
    parsed = await file_uri(uri, local_only, channel, progress)
    if parsed is None:
        return None
    name = file_name(parsed)
    with _loading(name, progress) as moving:
        content = Content(parsed, local_only, channel, moving)
        if dest is None:
            return await content.path()
        return await content.copied(
            lambda path, right: _copied(path, dest, name, moving, replace, right)
        )


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
    first = 0 if start is None else whole("start", start)
    end = None if end is None else whole("end", end)
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
    """Load a numpy array, or the arrays of an npz file as numpy.load gives them: a mapping from names
    to arrays. None: nobody reachable has it.

    Args:
        mmap_mode: ``'r'`` or ``'c'`` maps the file instead of reading it, as numpy.load does; an npz
            file's arrays are read.

    Raises:
        as :func:`aload_file`; BadInput if the content is no array, or needs pickle.
    """
    if mmap_mode not in (None, "r", "c"):
        raise BadInput(what=f"mmap_mode {mmap_mode!r}", reason="stored content is read-only")
    if mmap_mode is None:
        return await made_into(_arrays_of, uri, local_only, channel, progress)
    path = await aload_file(uri, None, local_only, channel=channel, progress=progress)
    return None if path is None else codecs.load_arrays_path(path, mmap_mode)


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


# --- parts ---------------------------------------------------------------------------------------


def _loading(name: str, progress: Progress) -> Transfer:
    return Transfer("loading", name, progress)


async def file_uri(
    uri: str, local_only: bool, channel: str | None, progress: Progress
) -> KacheryUri | None:
    """The URI of a file; an old directory URI is followed to it. None: nobody has the directory."""
    parsed = parse_file_uri(uri)
    if parsed.kind != "sha1dir":
        return parsed
    bar = False if callable(progress) else progress  # the function is told of the file alone
    listing = await load_listing(parsed.hash, local_only, channel, bar)
    return None if listing is None else inside_directory(listing, parsed)


def _arrays_of(source: bytes | str) -> Any:
    if isinstance(source, str):  # an array takes its memory once
        return codecs.load_arrays_path(source)
    return codecs.bytes_to_arrays(source)


async def made_into(
    make: Callable[[bytes | str], R],
    uri: str,
    local_only: bool,
    channel: str | None,
    progress: Progress,
) -> R | None:
    """What ``make`` makes of content, in a thread: of the bytes if it is small, else of the path of it;
    checked. None: nobody reachable has it."""
    if not is_uri(uri):
        return await asyncio.to_thread(make, path_text(uri))
    parsed = await file_uri(uri, local_only, channel, progress)
    if parsed is None:
        return None
    with _loading(file_name(parsed), progress) as moving:
        return await Content(parsed, local_only, channel, moving).made_into(make)


async def _load_content(
    uri: str, local_only: bool, channel: str | None, progress: Progress
) -> bytes | None:
    if not is_uri(uri):
        return await asyncio.to_thread(blocking.read_range, path_text(uri), 0, None)
    parsed = await file_uri(uri, local_only, channel, progress)
    if parsed is None:
        return None
    with _loading(file_name(parsed), progress) as moving:
        return await Content(parsed, local_only, channel, moving).data()


async def _load_range(
    uri: str,
    start: int,
    end: int | None,
    local_only: bool,
    channel: str | None,
    progress: Progress,
) -> bytes | None:
    if not is_uri(uri):
        return await asyncio.to_thread(blocking.read_range, path_text(uri), start, end)
    parsed = await file_uri(uri, local_only, channel, progress)
    if parsed is None:
        return None
    with _loading(file_name(parsed), progress) as moving:
        return await Content(parsed, local_only, channel, moving).range(start, end)


async def _copied(
    path: str,
    dest: PathLike | None,
    name: str,
    moving: Transfer,
    replace: bool | None,
    right: blocking.Right | None = None,
) -> str:
    """Where a file is: at ``dest``, as a copy, if that is given."""
    if dest is None:
        return path
    target = path_text(dest)
    try:
        size = os.path.getsize(path)
    except FileNotFoundError:
        if right is None:
            raise
        raise blocking.changed("the file") from None
    moving.turn_to("copying", size)
    advanced = relay(moving)
    copied = await blocking.run(
        lambda gone: blocking.copy(path, target, name, gone, advanced, replace, right)
    )
    moving.complete(size)
    return copied
