"""Having things kept by other nodes, and keeping for them. The async API, see :mod:`.files`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from kachery_p2p.client.display.progress import Progress, Transfer
from kachery_p2p.client.session import offline
from kachery_p2p.client.session.connection import call, connection
from kachery_p2p.client.session.thread_connection import need_loop
from kachery_p2p.protocol.errors import (
    AccessDenied,
    BadInput,
    NobodyKeeps,
    NotFound,
    TransportError,
)
from kachery_p2p.protocol.quantities import parse_seconds, parse_size
from kachery_p2p.protocol.uri import KacheryUri, build_uri, parse_uri

from .loads import aload_file, file_uri
from .uris import without_nones


async def apush(
    uri: str,
    *,
    to: str | None = None,
    copies: int = 1,
    keep_for: str | float | timedelta | None = None,
    channel: str | None = None,
    progress: Progress = None,
) -> dict[str, Any]:
    """Have something kept by nodes that offer to keep for this one, so that it can be loaded while this
    computer is off. Returns when so many keepers have all of it on their disks, compared with its
    hashes; what is not here is fetched first.

    Args:
        uri: a file; ``sha1dir://...``: with all that is in it; ``feed://...``: with the subfeeds that
            it has now and later, which the keepers then follow and serve. JSON, such as a task's
            result, is pushed with the files that it names.
        to: one keeper, by id or label; by default whoever keeps for this node.
        copies: by so many keepers.
        keep_for: seconds, or text such as ``30d``; for good by default.
        channel: on this channel alone.
        progress: None shows a bar if it takes long, False never does; or a function, which gets a
            :class:`ProgressInfo`.

    Returns:
        A dict with ``kept`` (dicts with node, label, channel and until, a Unix time or None), ``size``
        (bytes) and ``count`` (files, with their manifests).

    Raises:
        NobodyKeeps: no keeper can be reached.
        KeepRefused: the keeper says why not: its limit, say.
        NotKept: fewer than ``copies`` keep it.
        NotFound: something of it is not to be had.
        DaemonNotRunning, NeedsNode, ReadOnlyUser, BadInput
    """
    need_loop()
    offline.require_node("push")
    if isinstance(copies, bool) or not isinstance(copies, int) or copies < 1:
        raise BadInput(what=f"copies={copies!r}", reason="it is 1 or more")
    parsed = parse_uri(uri)
    params = await _content(parsed, uri) | {"copies": copies} | without_nones(channel=channel)
    params["label"] = parsed.label or parsed.path
    if keep_for is not None:
        params["seconds"] = parse_seconds(keep_for, "keep_for")
    if to is not None:
        params["to"] = await _node(to)
    with Transfer("pushing", parsed.label or uri, progress) as moving:
        moving.begin()
        node = await connection()
        while True:
            answer: dict[str, Any] = await node.call("keep.push", params, on_progress=moving.hear)
            if not answer["missing"]:
                break
            for sha1 in answer.pop("missing"):
                whole = uri if sha1 == params.get("sha1") and parsed.kind == "sha1" else None
                if await aload_file(whole or f"sha1://{sha1}", progress=False) is None:
                    detail = "it is to be pushed, and is not here"
                    raise NotFound(what=f"sha1://{sha1}", detail=detail)
        moving.complete(answer["size"] * len(answer["kept"]))
    del answer["missing"]
    return answer


async def pushed(
    uri: str,
    push: bool,
    channel: str | None,
    keep_for: str | float | timedelta | None,
    progress: Progress,
) -> str:
    """The URI of what was stored, which is pushed if that is wanted. Raises as :func:`apush`: it is
    stored all the same."""
    if push:
        await apush(uri, channel=channel, keep_for=keep_for, progress=progress)
    return uri


async def pushed_if_kept(uri: str, channel: str | None) -> str:
    """The same, if somebody keeps for this node and can be reached."""
    try:
        await aget_keepers(channel)
    except (NobodyKeeps, AccessDenied, TransportError):
        return uri
    return await pushed(uri, True, channel, None, None)


async def aget_keepers(channel: str | None = None) -> list[dict[str, Any]]:
    """Who keeps things for this node and can be reached: dicts with node, label and channel.

    Raises:
        NobodyKeeps: none; it says who is offline.
        DaemonNotRunning, UnknownChannel
    """
    answer = await call("get_keepers", "keep.keepers", without_nones(channel=channel))
    keepers: list[dict[str, Any]] = answer["keepers"]
    return keepers


async def alist_kept() -> dict[str, list[dict[str, Any]]]:
    """What is kept for others here, and for this node elsewhere.

    Returns:
        A dict of two lists of dicts. ``here``: uri, label, node and node_label (for whom), channel,
        size, count, since, until, whole (False: it is still coming, or something of it was deleted by
        force), member (False: that node is no member any more, and it goes 30 days after that).
        ``elsewhere``: uri, label, keeper and keeper_label, channel, size, count, since, until, and
        confirmed: whether the keeper says so now, None if it could not be asked.

    Raises:
        DaemonNotRunning, NeedsNode
    """
    answer: dict[str, list[dict[str, Any]]] = await call("list_kept", "keep.list", {})
    return {
        side: [{"uri": _uri(record), **record} for record in records]
        for side, records in answer.items()
    }


def _uri(record: dict[str, Any]) -> str:
    content = record.pop("content")
    if len(content) == 64:
        return f"feed://{content}"
    return build_uri(sha1=content, label=record["label"])


async def adrop_kept(uri: str, *, at: str | None = None) -> int:
    """Have something kept no longer.

    Args:
        uri: what was pushed.
        at: by this keeper alone, an id or label; by all by default.

    Returns:
        How many keepers that are.

    Raises:
        NotFound: nobody is known to keep it.
        Unreachable: a keeper could not be told. It keeps it on; the others do not.
        DaemonNotRunning, ReadOnlyUser
    """
    params = _kept(await _content(parse_uri(uri), uri))
    if at is not None:
        params["at"] = await _node(at)
    dropped: int = (await call("drop_kept", "keep.drop", params))["dropped"]
    return dropped


async def arelease_kept(uri: str, *, node: str | None = None) -> int:
    """Keep something for others no longer; what came only for that is deleted.

    Args:
        uri: of what is kept here.
        node: for this one alone, an id or label; for all by default.

    Returns:
        For how many nodes it was kept.

    Raises:
        NotFound: it is kept for nobody here.
        DaemonNotRunning, ReadOnlyUser
    """
    params = _kept(await _content(parse_uri(uri), uri))
    if node is not None:
        params["node"] = await _node(node)
    dropped: int = (await call("release_kept", "keep.release", params))["dropped"]
    return dropped


async def aset_keeping(
    channel: str, keep_for: str | Iterable[str], keep_limit: str | int | None = None
) -> dict[str, Any]:
    """Say for whom this node keeps things on a channel, from now on and after restarts. What is kept
    already stays.

    Args:
        channel: its name or id.
        keep_for: ``"all"``: every member; ``"none"``; or nodes, by id or label, in a list or with
            commas between them.
        keep_limit: bytes, or text such as ``2T``, for all of them together; None: as much as the
            storage holds.

    Returns:
        A dict with ``keep_for`` ("all", or a list of node ids), ``keep_limit`` and ``used``, in bytes.

    Raises:
        BadInput, UnknownChannel, DaemonNotRunning, ReadOnlyUser
    """
    words = keep_for.split(",") if isinstance(keep_for, str) else list(keep_for)
    words = [word.strip() for word in words if word.strip()]
    params: dict[str, Any] = {"channel": channel}
    if words != ["all"]:
        named = [] if words in ([], ["none"]) else words
        params["nodes"] = [await _node(word) for word in named]
    if keep_limit is not None:
        params["limit"] = parse_size(keep_limit, "keep_limit")
    answer: dict[str, Any] = await call("channel set", "keep.offer", params)
    return answer


async def _node(text: str) -> str:
    """The id of a member."""
    found: str = (await call("find-member", "channel.find-member", {"node": text}))["node"]
    return found


async def _content(parsed: KacheryUri, uri: str) -> dict[str, Any]:
    """What a URI names, as the node is told of it."""
    if parsed.kind == "feed":
        if parsed.path:
            raise BadInput(what=uri, reason="a feed is kept as a whole: leave out the subfeed")
        return {"feed": parsed.hash}
    if parsed.kind == "sha1dir" and parsed.path.strip("/"):
        inside = await file_uri(uri, False, None, False)
        if inside is None:
            raise NotFound(what=uri, detail="the directory's listing is not to be had")
        parsed = inside
    return {"sha1": parsed.hash} | without_nones(manifest=parsed.manifest)


def _kept(content: dict[str, Any]) -> dict[str, Any]:
    return {name: content[name] for name in ("sha1", "feed") if name in content}
