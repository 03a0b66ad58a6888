"""Origins and archives: the storage elsewhere that the node stands for, and what it puts there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from kachery_p2p.client.display.progress import Progress, Transfer
from kachery_p2p.client.session import offline
from kachery_p2p.client.session.connection import call, connection
from kachery_p2p.protocol.arguments import several
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.json_values import one

from .keeping import sha1_of
from .uris import without_nones


async def alist_origins(*, refresh: bool = False) -> list[dict[str, Any]]:
    """The node's origins and archives, and how they are.

    Args:
        refresh: list what lies in them now, and wait for that; a node does it once an hour by itself.

    Returns:
        Dicts with ``url``; ``archive`` (whether it is written, too) and ``own`` (whether what was
        stored here may go once it is there); ``state``, ``ok`` or the code of an error, and ``error``,
        its sentence; ``listing`` (now), ``listed`` (when it was, a Unix time or None), ``objects`` and
        ``bytes`` found then, and ``damaged``, how many of them turned out to be.

    Raises:
        DaemonNotRunning, ReadOnlyUser
    """
    answer: dict[str, Any] = await call("list_origins", "origins", {"refresh": refresh})
    told: list[dict[str, Any]] = answer["origins"]
    return told


async def aset_origins(
    origins: Iterable[str | os.PathLike[str]] = (),
    *,
    archives: Iterable[str | os.PathLike[str]] = (),
    archive_own: bool = False,
) -> list[dict[str, Any]]:
    """Have the node stand for what lies in these places, and no others, from now on and after restarts.

    Args:
        origins: folders, or URLs that fsspec knows, such as ``s3://bucket/prefix``, with content in
            kachery's layout (``sha1/aa/bb/cc/<hash>``). They are read.
        archives: the same; they are read, and :func:`archive` writes there.
        archive_own: what was stored here may go to make room, once it is in an archive.

    Returns:
        As :func:`list_origins`. What lies there is listed in the background.

    Raises:
        BadInput: not a URL or a folder's path, or too many.
        DaemonNotRunning, ReadOnlyUser, StorageFull
    """
    settings = settings_of(origins, archives, archive_own)
    answer: dict[str, Any] = await call("set_origins", "set_origins", {"origins": settings})
    told: list[dict[str, Any]] = answer["origins"]
    return told


def settings_of(
    origins: Iterable[str | os.PathLike[str]],
    archives: Iterable[str | os.PathLike[str]],
    archive_own: bool,
) -> list[dict[str, Any]]:
    """As the node takes them: a folder's path is made absolute. Raises BadInput."""
    written = [absolute(url) for url in several("archives", archives)]
    if archive_own and not written:
        raise BadInput(what="archive_own", reason="there is no archive that could hold it")
    read = [
        {"url": absolute(url), "archive": False, "own": False}
        for url in several("origins", origins)
    ]
    return [*read, *({"url": url, "archive": True, "own": archive_own} for url in written)]


def absolute(place: str | os.PathLike[str]) -> str:
    """A URL as it is, a path from the root: the node runs in another folder. Raises BadInput."""
    try:
        url = os.fsdecode(place)
    except TypeError:
        reason = f"{one(place)}; give the URL, or the path of a folder"
        raise BadInput(what="an origin or archive", reason=reason) from None
    return url if "://" in url else os.path.abspath(os.path.expanduser(url))


async def aarchive(
    uri: str | None = None, *, to: str | os.PathLike[str] | None = None, progress: Progress = None
) -> dict[str, Any]:
    """Put a file into the node's archive, and read it back there before that counts.

    What it names goes with it: all files of a directory, the URIs in a JSON value such as a task's
    result. What is not here is fetched first.

    Args:
        uri: what to archive; ``sha1dir://...`` for a directory. None: all that is pinned.
        to: which archive, if the node has several.
        progress: None shows a bar if it takes long, False never does; or a function, which gets a
            :class:`ProgressInfo`.

    Returns:
        A dict with ``archive`` (its URL), ``files`` and ``bytes`` (what was put there now) and
        ``already`` (how many were there).

    Raises:
        BadInput: the node has no such archive.
        NotFound: something is not here, and nobody has it.
        OriginNotWritten, OriginUnreachable, OriginSlow, OriginRefused, CorruptContent: the first thing
            that could not be put there. What was there before stays, and a repeated call goes on.
        DaemonNotRunning, ReadOnlyUser
    """
    offline.require_node("archive")
    sha1 = None if uri is None else await sha1_of(uri)
    url = None if to is None else absolute(to)
    with Transfer("archiving", uri or "what is pinned", progress) as moving:
        moving.begin()
        node = await connection()
        params = without_nones(sha1=sha1, archive=url)
        report: dict[str, Any] = await node.call("archive", params, on_progress=moving.hear)
        moving.complete(report["bytes"])
    return report
