"""Links that open a view: a folder with an ``index.html``, in a frame that can reach its data and
nothing else. The async API. How to write one is in docs/views.md."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from kachery_p2p.client.channels.shares import ashare_info
from kachery_p2p.client.files.listings import load_folder
from kachery_p2p.client.files.loads import aload_bytes
from kachery_p2p.client.files.stores import astore_bytes
from kachery_p2p.client.files.uris import PathLike
from kachery_p2p.client.folders.directories import astore_dir
from kachery_p2p.protocol.arguments import several, text
from kachery_p2p.protocol.errors import BadInput, NotFound
from kachery_p2p.protocol.files.directory import Directory
from kachery_p2p.protocol.files.view_pack import check_view, make_pack
from kachery_p2p.protocol.limits import MAX_VIEW_DATA, MAX_VIEW_TITLE, PASS_SECONDS
from kachery_p2p.protocol.uri import build_uri

_LABEL: Final = "view"
_FOLDER: Final = "sha1dir://"
_CONTENT: Final = ("sha1://", "feed://")


async def aview_url(
    view: PathLike,
    data: Any = None,
    *,
    title: str = "",
    append: Iterable[str] = (),
    tasks: Iterable[str] = (),
    channel: str | None = None,
    expires_in: float = PASS_SECONDS,
    once: bool = False,
) -> str:
    """A link that opens a view in any browser, with nothing installed.

    The view runs in a frame of its own that has no network, storage or other page: it gets ``data``,
    and may read what ``data`` names. Whoever has the link can do the same, until it expires or is
    revoked (:func:`revoke_share`).

    Args:
        view: ``sha1dir://...`` as :func:`store_dir` returns it, or a folder, which is stored then. It
            has an ``index.html``.
        data: what the view is given: a URI, or any JSON value. Each text in it that is a URI of a file
            or a subfeed is what the view may read.
        title: for people.
        append: subfeeds of this node (``feed://.../<subfeed>``) to which the view may add messages:
            so what somebody chooses in the browser arrives here.
        tasks: ids of task functions that the view may have run, with any arguments, by the nodes of the
            channel that offer them. Before an action runs, the person at the browser is asked.
        channel, expires_in, once: as for :func:`share`.

    Returns:
        The link. It is kept nowhere.

    Raises:
        BadInput: the folder is no view, it or ``data`` is too large, or ``data`` names what no link can
            be to.
        NotFound: nobody reachable has a file of the folder.
        Others as :func:`store_dir` and :func:`share`.
    """
    made = await aview_info(
        view,
        data,
        title=title,
        append=append,
        tasks=tasks,
        channel=channel,
        expires_in=expires_in,
        once=once,
    )
    return str(made["link"])


async def aview_info(
    view: PathLike,
    data: Any = None,
    *,
    title: str = "",
    append: Iterable[str] = (),
    tasks: Iterable[str] = (),
    channel: str | None = None,
    expires_in: float = PASS_SECONDS,
    once: bool = False,
) -> dict[str, Any]:
    """As :func:`aview_url`: link, id, channel, uri, uses, expires_at, and whether all of it is
    ``here``."""
    title = text("title", title)
    if len(title) > MAX_VIEW_TITLE:
        raise BadInput(what="title", reason=f"it has more than {MAX_VIEW_TITLE} characters")
    appended = [append] if isinstance(append, str) else several("append", append)
    functions = [tasks] if isinstance(tasks, str) else several("tasks", tasks)
    packed = _json(data)
    # A subfeed to which a view appends is one that it reads, once.
    named = dict.fromkeys([*appended, *_uris_in(data)])
    folder = view if isinstance(view, str) and view.startswith(_FOLDER) else await astore_dir(view)
    contents = [{"uri": uri, "may_append": uri in appended} for uri in named]
    return await ashare_info(
        await _store_pack(folder, channel),
        channel=channel,
        expires_in=expires_in,
        once=once,
        view={"title": title, "data": packed, "contents": contents, "tasks": functions},
    )


def _json(data: Any) -> bytes:
    try:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(what="data", reason=f"it is no JSON value: {error}") from error
    if len(text) > MAX_VIEW_DATA:
        reason = (
            f"it is {len(text)} bytes of JSON, and a link carries {MAX_VIEW_DATA}: store it with "
            "store_json(), and give its URI"
        )
        raise BadInput(what="data", reason=reason)
    return text


def _uris_in(data: Any) -> Iterator[str]:
    """Each text in a JSON value that names content; a folder is refused, with what to do instead."""
    if isinstance(data, str):
        if data.startswith(_CONTENT):
            yield data
        elif data.startswith(_FOLDER):
            reason = "a view reads files and subfeeds: name the files of that folder (list_dir)"
            raise BadInput(what=f"data: {data[:200]!r}", reason=reason)
    elif isinstance(data, dict):
        for value in data.values():
            yield from _uris_in(value)
    elif isinstance(data, list | tuple):
        for value in data:
            yield from _uris_in(value)


async def _store_pack(uri: PathLike, channel: str | None) -> str:
    """The URI of the pack of a folder."""
    what = str(uri)
    found = await load_folder(what, False, channel, None)
    if found is None:
        raise NotFound(what=what, detail="nobody reachable has its listing")
    folder = found[1]
    check_view(folder, what)
    contents = await _contents(folder, channel)
    pack = await asyncio.to_thread(make_pack, folder, contents, what)
    return await astore_bytes(pack, _LABEL, channel=channel, progress=False)


async def _contents(folder: Directory, channel: str | None) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for path, entry in folder.walk():
        assert entry.sha1 is not None
        if entry.sha1 in found:
            continue
        uri = build_uri(sha1=entry.sha1, label=path.rpartition("/")[2], manifest=entry.manifest)
        data = await aload_bytes(uri, channel=channel, progress=False)
        if data is None:
            raise NotFound(what=f"{path!r} of the view", detail="nobody reachable has it")
        found[entry.sha1] = data
    return found
