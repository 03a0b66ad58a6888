"""Who has a file. The async API, see :mod:`.files`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from kachery_p2p.client.session import offline
from kachery_p2p.client.session.connection import connection

from .listings import leads_to_folder
from .loads import file_uri
from .uris import parse_file_uri, without_nones


class FoundFile(dict[str, Any]):
    """What :func:`find_file` says. Its keys are read as those of any dict; iterating gives a dict for
    each node that has the file, this one first, as kachery_p2p 0.8 did."""

    def __init__(self, found: dict[str, Any], sha1: str, here: str) -> None:
        super().__init__(found)
        self._sha1 = sha1
        self._here = here

    def __iter__(self) -> Iterator[Any]:
        holders = self["holders"]
        if self["local"] is not None:
            mine = {"node": self._here, "label": "", "channel": None, "direct": True}
            holders = [mine, *holders]
        for holder in holders:
            yield {**holder, "nodeId": holder["node"], "fileKey": {"sha1": self._sha1}}


async def afind_file(uri: str, *, channel: str | None = None) -> FoundFile:
    """Who has a file; of a folder, who has its listing.

    Returns:
        A dict (iterating gives the nodes that have it, see :class:`FoundFile`):
        ``local`` (path or None), ``holders`` (dicts with node, label, channel, direct), ``detail``
        (who was asked, silent or offline, in words), ``error`` (what kept us from asking, in
        words; else empty), ``code`` and ``fields`` (the same for programs: the ``code`` of an error
        class and what its sentence was built from).

    Raises:
        BadUri, DaemonNotRunning, NeedsNode
    """
    named = parse_file_uri(uri)
    offline.require_node("find_file")
    parsed = await file_uri(uri, False, channel, False)
    node = await connection()
    # Where the listing of an old directory is not to be had, nor is the file; it says why.
    sha1 = named.hash if parsed is None else parsed.hash
    result = await node.call("find", without_nones(sha1=sha1, channel=channel))
    if result["local"] is not None:
        result["local"] = os.fsdecode(result["local"])
    if named.kind == "sha1dir" and parsed is None and await leads_to_folder(uri, channel):
        result["detail"] = "; ".join(filter(None, ["the listing of the folder", result["detail"]]))
    elif parsed is None and result["local"] is not None:
        detail = f"{named.path or 'what it names'} is no file in that directory"
        result |= {"local": None, "holders": [], "detail": detail}
    welcome = node.greeter.welcome
    return FoundFile(result, sha1, "" if welcome is None else welcome.node_id)
