"""Storing: content, files and links to files become URIs. The async API, see :mod:`.files`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kachery_p2p.client.display.progress import Progress, Transfer, relay
from kachery_p2p.client.session import blocking, offline
from kachery_p2p.client.session.connection import connection
from kachery_p2p.client.session.pieces import FilePieces, MemoryPieces
from kachery_p2p.client.session.stream_pieces import StreamPieces
from kachery_p2p.client.session.thread_connection import need_loop
from kachery_p2p.client.values import codecs, pickles
from kachery_p2p.local import places
from kachery_p2p.protocol.errors import BadInput, BadPath
from kachery_p2p.protocol.limits import LOCAL_PIECE
from kachery_p2p.protocol.quantities import parse_seconds
from kachery_p2p.protocol.uri import build_uri
from kachery_p2p.storage.disk import disk_errors

from .pushing import pushed
from .turns import turns
from .uris import PathLike, checked_label, name_of, path_text, without_nones

if TYPE_CHECKING:
    from numpy.typing import NDArray


async def astore_bytes(
    data: bytes | bytearray | memoryview,
    basename: str | None = None,
    *,
    channel: str | None = None,
    keep_for: str | float | timedelta | None = None,
    push: bool = False,
    progress: Progress = None,
) -> str:
    """Store bytes and return their URI.

    Args:
        data: the content.
        basename: label in the URI; ``file.dat`` if not given.
        channel: provide it on this channel only; on all by default.
        keep_for: seconds, or text such as ``30d``, after which it goes by itself; for good by default.
        push: have it kept by another node too (:func:`push`), for the same time.
        progress: None shows a bar if it takes long, False never does; or a function, which gets a
            :class:`ProgressInfo`.

    Raises:
        DaemonNotRunning, StorageFull, ReadOnlyUser, BadInput
        BadUri: the label can be none; nothing was stored.
        NobodyKeeps, KeepRefused, NotKept: it is stored, and not kept elsewhere.
    """
    label = checked_label(basename, "file.dat")
    wish = wish_of(label, channel, keep_for, push)
    uri = await store_parts([codecs.buffer_of(data)], label, wish, progress)
    return await pushed(uri, push, channel, keep_for, progress)


async def astore_text(
    text: str,
    basename: str | None = None,
    *,
    channel: str | None = None,
    keep_for: str | float | timedelta | None = None,
    push: bool = False,
    progress: Progress = None,
) -> str:
    """Store text as UTF-8; label ``file.txt``. Raises as :func:`astore_bytes`."""
    label = checked_label(basename, "file.txt")
    wish = wish_of(label, channel, keep_for, push)
    uri = await store_parts([memoryview(codecs.text_to_bytes(text))], label, wish, progress)
    return await pushed(uri, push, channel, keep_for, progress)


async def astore_json(
    object: Any,
    basename: str | None = None,
    *,
    separators: tuple[str, str] = (",", ":"),
    indent: int | None = None,
    channel: str | None = None,
    keep_for: str | float | timedelta | None = None,
    push: bool = False,
    progress: Progress = None,
) -> str:
    """Store a JSON value (dict, list, str, int, float, bool, None); label ``file.json``.

    The text is made as it always was, so the same object has the URI that older users know: a tuple
    is written as an array, a named tuple as an object. numpy's numbers are numbers. What JSON does not
    have is refused, and the error says where it is: NaN, infinities, keys that are no text, other
    types. Raises as :func:`astore_bytes`.
    """
    label = checked_label(basename, "file.json")
    data = codecs.json_to_bytes(object, separators=separators, indent=indent)
    wish = wish_of(label, channel, keep_for, push)
    uri = await store_parts([memoryview(data)], label, wish, progress)
    return await pushed(uri, push, channel, keep_for, progress)


async def astore_npy(
    array: NDArray[Any],
    basename: str | None = None,
    *,
    channel: str | None = None,
    keep_for: str | float | timedelta | None = None,
    push: bool = False,
    progress: Progress = None,
) -> str:
    """Store a numpy array of any shape and any dtype but object, in npy format; label ``file.npy``.

    What such a file does not hold is refused: masks, units, dtypes that are not numpy's own. A mapped
    file is read piece by piece. Raises as :func:`astore_bytes`.
    """
    label = checked_label(basename, "file.npy")
    views, mapped = await asyncio.to_thread(codecs.npy_views, array)
    wish = wish_of(label, channel, keep_for, push)
    uri = await store_parts(views, label, wish, progress, in_pieces=mapped)
    return await pushed(uri, push, channel, keep_for, progress)


async def astore_pkl(
    x: Any,
    basename: str | None = None,
    *,
    channel: str | None = None,
    keep_for: str | float | timedelta | None = None,
    push: bool = False,
    progress: Progress = None,
) -> str:
    """Store a Python object of plain types and numpy arrays as a pickle; label ``file.pkl``.

    Raises:
        UnsafePickle: something in it is of another type; the error says where.
        Others as :func:`astore_bytes`.
    """
    label = checked_label(basename, "file.pkl")
    data = await asyncio.to_thread(pickles.dumps, x)
    wish = wish_of(label, channel, keep_for, push)
    uri = await store_parts([memoryview(data)], label, wish, progress)
    return await pushed(uri, push, channel, keep_for, progress)


async def astore_file(
    path: PathLike,
    basename: str | None = None,
    *,
    channel: str | None = None,
    keep_for: str | float | timedelta | None = None,
    push: bool = False,
    progress: Progress = None,
) -> str:
    """Store a copy of a file and return its URI, with ``?manifest=`` above 20,000,000 bytes.

    The file system shares the bytes between original and copy where it can (reflink).

    Raises:
        BadPath: there is no such file, it is a directory, or it cannot be read.
        Others as :func:`astore_bytes`.
    """
    path = path_text(path)
    label = checked_label(basename, name_of(path))
    wish = wish_of(label, channel, keep_for, push)
    async with turns():
        with opened(path) as descriptor, Transfer("storing", label, progress) as moving:
            moving.begin()
            stored = await store_opened(descriptor, wish, moving)
            moving.complete(stored["size"])
    return await pushed(uri_of(stored, label), push, channel, keep_for, progress)


async def store_opened(descriptor: int, params: dict[str, Any], moving: Transfer) -> dict[str, Any]:
    """Store an open file, which stays the caller's, as ``params`` (:func:`wish_of`) say: its hash,
    size and manifest."""
    folder = places.offline_dir()
    if folder is not None:
        root, advanced = folder, relay(moving)
        moving.total = os.fstat(descriptor).st_size
        return await blocking.run(lambda gone: offline.store_fd(root, descriptor, gone, advanced))
    node = await connection()
    stored: dict[str, Any]
    if node.passes_descriptors:
        stored = await node.call("store", params, descriptor=descriptor, on_progress=moving.hear)
        return stored
    stored = await node.call(
        "store", params, pieces=FilePieces(descriptor), on_progress=moving.hear
    )
    return stored


async def astore_stream(
    descriptor: int,
    basename: str | None = None,
    *,
    name: str = "standard input",
    channel: str | None = None,
    progress: Progress = None,
) -> str:
    """Store what a pipe, or another open file from where it is, still has to give: label ``file.dat``.

    Whoever writes to a pipe and fails ends it too: what came until then is stored. ``name``: what it is
    called in errors. Raises as :func:`astore_bytes`; BadPath if it cannot be read.
    """
    label = checked_label(basename, "file.dat")
    folder = places.offline_dir()
    with Transfer("storing", label, progress) as moving:
        moving.begin()
        if folder is None:
            stored = await (await connection()).call(
                "store",
                without_nones(channel=channel),
                pieces=StreamPieces(descriptor, name),
                on_progress=moving.hear,
            )
        else:
            advanced = relay(moving)
            stored = await blocking.run(
                lambda gone: offline.store_fd(folder, descriptor, gone, advanced)
            )
        moving.complete(stored["size"])
    return uri_of(stored, label)


async def alink_file(
    path: PathLike, basename: str | None = None, *, progress: Progress = None
) -> str:
    """Make a file available without copying it, and return its URI.

    The file must stay as it is: if its size or time of change differs later, it is no longer
    available under the URI. Its content is read once.

    Raises:
        BadPath, DaemonNotRunning, ReadOnlyUser
    """
    path = path_text(path)
    label = checked_label(basename, name_of(path))
    async with turns():
        with opened(path) as descriptor, Transfer("linking", label, progress) as moving:
            moving.begin()
            stored = await link_opened(descriptor, os.path.realpath(path), label, moving)
            moving.complete(stored["size"])
    return uri_of(stored, label)


async def link_opened(descriptor: int, path: str, label: str, moving: Transfer) -> dict[str, Any]:
    """As :func:`store_opened`, of a link to the file, whose real path is given."""
    folder = places.offline_dir()
    if folder is not None:
        root, advanced = folder, relay(moving)
        moving.total = os.fstat(descriptor).st_size
        return await blocking.run(
            lambda gone: offline.link_fd(root, descriptor, path, gone, advanced)
        )
    node = await connection()
    if not node.passes_descriptors:
        raise BadInput(what="link_file", reason="it needs the node's Unix socket, not TCP")
    stored: dict[str, Any] = await node.call(
        "link",
        {"path": os.fsencode(path), "label": label},
        descriptor=descriptor,
        on_progress=moving.hear,
    )
    return stored


def wish_of(
    label: str,
    channel: str | None,
    keep_for: str | float | timedelta | None,
    push: bool = False,
) -> dict[str, Any]:
    """What a node is told of content beside its bytes. Raises BadInput; NeedsNode: offline, nothing
    goes by itself, nor to others."""
    if push:
        need_loop()
        offline.require_node("push")
    seconds = None
    if keep_for is not None:
        seconds = parse_seconds(keep_for, "keep_for")
        offline.require_node("keep_for")
    return {"label": label} | without_nones(channel=channel, seconds=seconds)


async def store_parts(
    data: list[memoryview],
    label: str,
    params: dict[str, Any],
    progress: Progress,
    *,
    in_pieces: bool = False,
) -> str:
    """Store bytes that lie in several places. ``in_pieces``: take no memory for all of them."""
    size = sum(map(len, data))
    with Transfer("storing", label, progress) as moving:
        if size > LOCAL_PIECE:  # else it is one message, which has no progress
            need_loop()
            moving.begin()
        stored = await _store_data(data, size, params, moving, in_pieces)
        moving.complete(size)
    return uri_of(stored, label)


async def _store_data(
    data: list[memoryview], size: int, params: dict[str, Any], moving: Transfer, in_pieces: bool
) -> dict[str, Any]:
    folder = places.offline_dir()
    if folder is not None:
        need_loop()
        return await asyncio.to_thread(offline.store_bytes, folder, data)
    node = await connection()
    stored: dict[str, Any]
    if size <= LOCAL_PIECE:
        stored = await node.call("store", {"data": b"".join(data), **params})
    elif node.passes_descriptors and hasattr(os, "memfd_create") and not in_pieces:
        async with turns():
            with _in_memory_file() as descriptor:
                with disk_errors("what is being stored", Path("memory")):
                    await blocking.run(lambda gone: blocking.fill(descriptor, data, gone))
                stored = await node.call(
                    "store", params, descriptor=descriptor, on_progress=moving.hear
                )
    else:
        stored = await node.call(
            "store", params, pieces=MemoryPieces(data), on_progress=moving.hear
        )
    return stored


def uri_of(stored: dict[str, Any], label: str) -> str:
    """The URI of what a node says to be stored."""
    return build_uri(sha1=stored["sha1"], label=label, manifest=stored["manifest"])


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """A regular file, open for reading. Raises BadPath."""
    try:
        # Not blocking: opening a pipe that nobody writes to would hang.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BadPath(path=path, reason=(error.strerror or "?").lower()) from error
    try:
        if os.path.isdir(descriptor):
            raise BadPath(path=path, reason="it is a directory; store it with store_dir")
        if not os.path.isfile(descriptor):
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                reason = "it is a pipe: store what comes out of it as standard input, '-'"
                raise BadPath(path=path, reason=reason)
            raise BadPath(path=path, reason="it is not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _in_memory_file() -> Iterator[int]:
    descriptor = os.memfd_create("kachery")
    try:
        yield descriptor
    finally:
        os.close(descriptor)
