"""What the local node's storage holds, and what of it goes or stays. The async API, see
:mod:`.files`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any, Final, Literal, get_args

from kachery_p2p.client.display.progress import Progress, Transfer
from kachery_p2p.client.session import offline, portal
from kachery_p2p.client.session.connection import call, connection
from kachery_p2p.protocol.errors import BadInput, NotFound
from kachery_p2p.protocol.quantities import parse_seconds, parse_size
from kachery_p2p.protocol.uri import build_uri

from .loads import aload_file, file_uri
from .uris import parse_file_uri, without_nones

Which = Literal["", "mine", "fetched", "linked", "pinned", "partial", "archived"]
Sort = Literal["", "size", "used", "stored"]

_WHAT: Final = "list_files"


async def alist_files(
    pattern: str = "", *, which: Which = "", sort: Sort = "", manifests: bool = False
) -> AsyncIterator[dict[str, Any]]:
    """What is in the node's storage: ``async for record in alist_files()``.

    Args:
        pattern: of the label or a linked file's path, as in a shell (``*.dat``), or the first digits of
            the hash; all by default.
        which: ``mine`` (stored here, linked, or found in the folder), ``fetched``, ``linked``,
            ``pinned`` or ``partial`` (downloads in progress); all by default.
        sort: the largest, or the latest, first; by default the order of the hashes. What is pinned
            comes in that order always.
        manifests: the manifests of large files, too.

    Yields:
        dicts with ``uri``, ``label``, ``size``, ``kind`` (file, link, partial, damaged), ``source``
        (stored, found, linked, fetched, archived), ``held`` (bytes that it takes here), ``stored``
        and ``used`` (Unix times), ``path`` (of a linked file), ``channel``, ``node`` and
        ``node_label`` (where it was fetched), ``pins`` (dicts with uri, name, until) and ``until``
        (when it goes by itself, or None).

    Raises:
        BadInput, DaemonNotRunning, NeedsNode
    """
    params = _list_params(pattern, which, sort, manifests)
    after: Any = None
    while True:
        page = await _page(params, after)
        for record in page["files"]:
            yield record
        after = page["after"]
        if after is None:
            return


def list_files(
    pattern: str = "", *, which: Which = "", sort: Sort = "", manifests: bool = False
) -> Iterator[dict[str, Any]]:
    """What is in the node's storage: an iterator of dicts, as :func:`alist_files` has it. The first
    come at once, however many there are."""
    params = _list_params(pattern, which, sort, manifests)
    after: Any = None
    while True:
        at = after
        page = portal.run(lambda at=at: _page(params, at), name=_WHAT)  # type: ignore[misc]
        yield from page["files"]
        after = page["after"]
        if after is None:
            return


def _list_params(pattern: str, which: str, sort: str, manifests: bool) -> dict[str, Any]:
    if which not in get_args(Which):
        reason = "it is mine, fetched, linked, pinned, partial or archived"
        raise BadInput(what=f"which={which!r}", reason=reason)
    if sort not in ("", "size", "used", "stored"):
        raise BadInput(what=f"sort={sort!r}", reason="it is size, used or stored")
    return {"pattern": pattern, "which": which, "sort": sort or "sha1", "parts": manifests}


async def _page(params: dict[str, Any], after: Any) -> dict[str, Any]:
    page: dict[str, Any] = await call(_WHAT, "list_files", params | without_nones(after=after))
    page["files"] = [_with_uri(record) for record in page["files"]]
    return page


def _with_uri(record: dict[str, Any]) -> dict[str, Any]:
    uri = build_uri(sha1=record["sha1"], label=record["label"], manifest=record.pop("manifest"))
    return {"uri": uri, **record}


async def astorage_usage() -> dict[str, Any]:
    """What takes the room of the node's storage.

    Returns:
        A dict with ``dir``, ``used`` and ``reserved`` (bytes that are about to be written), ``limit``
        (None: there is none), ``kinds`` (dicts with kind, source, count, bytes, and aside, the bytes of
        damaged copies), ``pinned`` (how many contents), ``free`` and ``disk`` (bytes of the file
        system) and ``complete`` (False while the folder is read for the first time).

    Raises:
        DaemonNotRunning, NeedsNode
    """
    usage: dict[str, Any] = await call("storage_usage", "storage_usage", {})
    return usage


async def adelete_file(uri: str, *, force: bool = False, copies: int = 1) -> int:
    """Delete a file from the node's storage; other nodes are told at once that it is not here any more.

    A linked file itself is never touched: only the link goes. Who is reading the file reads on to its
    end.

    Args:
        uri: of what is to go; its label does not matter.
        force: also if it is pinned, or would be the last copy.
        copies: what was stored here goes only if so many other nodes show that they have it, and that
            it stays there; 0: nobody is asked. A node that is on no channel has nobody to ask.

    Returns:
        How many bytes that freed.

    Raises:
        NotFound: it is not here.
        ContentPinned: it is pinned.
        LastCopy: too few others have it; it says who was asked.
        CopyLocked: another node deletes its own copy at this moment, and relies on this one.
        DaemonNotRunning, ReadOnlyUser, StorageDamaged, BadUri
    """
    params = {"sha1": await sha1_of(uri), "force": force, "copies": copies}
    freed: int = (await call("delete_file", "delete_file", params))["freed"]
    return freed


async def aunshare_file(uri: str, channel: str) -> None:
    """Keep a file, and give it to nobody on this channel (a name or id) any more, until it is stored
    for that channel anew. Raises as :func:`delete_file`, and UnknownChannel."""
    params = {"sha1": await sha1_of(uri), "channel": channel}
    await call("unshare_file", "unshare", params)


async def apin(
    uri: str, name: str = "", *, keep_for: str | float | timedelta | None = None
) -> dict[str, Any]:
    """Pin a file, so that it never goes to make room; what is not here is fetched first.

    What the file names is pinned with it: all files of a directory, the URIs in a JSON value such as a
    task's result.

    Args:
        uri: what to pin; ``sha1dir://...`` for a directory.
        name: why, for listings; one thing may have several pins.
        keep_for: seconds, or text such as ``30d``; by default until it is unpinned.

    Returns:
        A dict with ``pinned``, how many contents that are, and ``until``, a Unix time or None.

    Raises:
        NotFound: nobody has it, or something that it names; what is here is pinned all the same.
        DaemonNotRunning, ReadOnlyUser, StorageFull, BadInput
    """
    sha1 = await sha1_of(uri)
    seconds = None if keep_for is None else parse_seconds(keep_for, "keep_for")
    params = {"sha1": sha1, "name": name} | without_nones(seconds=seconds)
    await _fetch(sha1)
    while True:
        answer: dict[str, Any] = await call("pin", "pin", params)
        if not answer["missing"]:
            return {"pinned": answer["pinned"], "until": answer["until"]}
        for missing in answer["missing"]:
            await _fetch(missing)


async def _fetch(sha1: str) -> None:
    if await aload_file(f"sha1://{sha1}", progress=False) is None:
        raise NotFound(what=f"sha1://{sha1}", detail="it is to be pinned, and is not here")


async def aunpin(uri: str, name: str | None = None) -> int:
    """End the pins of a file, and of all that was pinned with it; what was fetched may go again.

    Args:
        uri: what was pinned.
        name: end the pin of that name alone.

    Returns:
        How many contents they held.

    Raises:
        BadInput: it is not pinned so.
        DaemonNotRunning, ReadOnlyUser
    """
    params = {"sha1": await sha1_of(uri)} | without_nones(name=name)
    ended: int = (await call("unpin", "unpin", params))["ended"]
    return ended


async def acollect_garbage(to: str | int | None = None, *, dry_run: bool = False) -> dict[str, Any]:
    """Let go what was fetched and is not pinned, least recently used first.

    Args:
        to: until so many bytes are used, such as ``300G``; the node's limit by default.
        dry_run: only say what would go.

    Returns:
        A dict with ``freed`` (bytes), ``count``, ``files`` (records as those of :func:`list_files`, the
        first 500) and ``used``, what is used now.

    Raises:
        BadInput: there is no limit.
        DaemonNotRunning, ReadOnlyUser
    """
    size = None if to is None else parse_size(to, "to")
    params = {"pretend": dry_run} | without_nones(to=size)
    answer: dict[str, Any] = await call("collect_garbage", "collect", params)
    answer["files"] = [_with_uri(record) for record in answer["files"]]
    return answer


async def aset_max_storage(size: str | int | None) -> dict[str, Any]:
    """Set how much the node's storage may hold, from now on and after restarts.

    What is over goes at once, as far as it may: what was fetched and is not pinned.

    Args:
        size: bytes, or text such as ``500G``; None for no limit.

    Returns:
        A dict with ``limit`` and ``used``, in bytes.

    Raises:
        BadInput, DaemonNotRunning, ReadOnlyUser
    """
    bytes = None if size is None else parse_size(size, "size")
    if bytes == 0:
        raise BadInput(what="size", reason="it is 0; None is without a limit")
    answer: dict[str, Any] = await call("set_max_storage", "set_limit", without_nones(bytes=bytes))
    return answer


async def averify(
    rate: str | int | None = None, *, again: bool = False, progress: Progress = None
) -> dict[str, Any]:
    """Compare all that the node's storage holds with its hashes. What is damaged is put aside,
    offered to nobody any more, and fetched anew if another node has it.

    A round that was broken off is gone on with, also after a restart of the node.

    Args:
        rate: bytes a second, such as ``50M``; by default as fast as it goes.
        again: begin at the beginning.
        progress: None shows a bar if it takes long, False never does; or a function, which gets a
            :class:`ProgressInfo`.

    Returns:
        A dict with ``files``, ``links`` and ``partials`` (how many), ``bytes``, and lists of hashes:
        ``damaged``, of which ``restored`` are here again and ``lost`` are not, ``stale`` (links whose
        file changed) and ``unreadable``; ``unknown`` and ``vanished``: how many files the index did not
        know, or had no more.

    Raises:
        Busy: it is being done already.
        BadInput, DaemonNotRunning, ReadOnlyUser
    """
    offline.require_node("verify")
    size = None if rate is None else parse_size(rate, "rate")
    with Transfer("verifying", "the storage", progress) as moving:
        moving.begin()
        node = await connection()
        params = {"again": again} | without_nones(rate=size)
        report: dict[str, Any] = await node.call("verify", params, on_progress=moving.hear)
        moving.complete(report["bytes"])
    return report


async def sha1_of(uri: str) -> str:
    """The hash of what a URI names; of a directory's, of its listing. Raises NotFound."""
    parsed = parse_file_uri(uri)
    if parsed.kind != "sha1dir" or not parsed.path.strip("/"):
        return parsed.hash
    inside = await file_uri(uri, False, None, False)
    if inside is None:
        raise NotFound(what=uri, detail="the directory's listing is not to be had")
    return inside.hash
