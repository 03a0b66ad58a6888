"""Rows in a browser, as a table and as points beside it; what is chosen there arrives in a subfeed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kachery_p2p.client.files.stores import astore_json
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.limits import PASS_SECONDS

from .built_in import built_in
from .views import aview_url


async def aview_table(
    rows: str | Sequence[Mapping[str, Any]],
    *,
    x: str | None = None,
    y: str | None = None,
    key: str | None = None,
    labels: Sequence[str] = ("accept", "reject"),
    curation: str | None = None,
    title: str = "",
    channel: str | None = None,
    expires_in: float = PASS_SECONDS,
    once: bool = False,
) -> str:
    """A link that shows rows in any browser, as a table that can be sorted and as points beside it:
    what is chosen in one is chosen in the other.

    Args:
        rows: the URI of a ``.csv``, ``.tsv`` or ``.json`` file; or a list of dicts, which is stored.
        x, y: the columns of the points; default: the first two of numbers.
        key: the column that names a row in what is sent; default: the row's number, from 0.
        labels: what a choice can be called.
        curation: a subfeed of this node (``feed://.../<subfeed>``). Each choice that is saved in the
            browser is a message of it: ``{"label": ..., "rows": [<keys>]}``. None: choices stay there.
        title, channel, expires_in, once: as for :func:`view_url`.

    Raises:
        BadInput: as :func:`view_url`; or the rows are none.
    """
    folder = built_in("table")
    if not isinstance(rows, str):
        if not rows or not all(isinstance(row, Mapping) for row in rows):
            raise BadInput(what="rows", reason="a list of dicts with at least one, or a URI")
        rows = await astore_json([dict(row) for row in rows], "rows.json", channel=channel)
    data = {
        "rows": rows,
        "x": x,
        "y": y,
        "key": key,
        "labels": [str(label) for label in labels],
        "curation": curation,
    }
    append = () if curation is None else (curation,)
    return await aview_url(
        folder,
        data,
        title=title,
        append=append,
        channel=channel,
        expires_in=expires_in,
        once=once,
    )
