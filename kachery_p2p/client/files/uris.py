"""What names a file: URIs and paths, as the functions that load and store take them."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from kachery_p2p.protocol.errors import BadInput, BadPath, BadUri
from kachery_p2p.protocol.uri import KacheryUri, parse_uri

PathLike = str | os.PathLike[str]


def is_uri(text: PathLike) -> bool:
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


def parse_file_uri(uri: str) -> KacheryUri:
    parsed = parse_uri(uri)
    if parsed.kind == "feed":
        raise BadInput(what=uri, reason="this is a feed, not a file; use load_feed or load_subfeed")
    return parsed


def file_name(uri: KacheryUri) -> str:
    """What to call a file in the user's folder: its label, which must not lead out of there."""
    name = uri.label.rpartition("/")[2]
    return uri.hash if name in ("", ".", "..") or "\0" in name else name


def inside_directory(listing: Any, uri: KacheryUri) -> KacheryUri | None:
    """The file that the path of an old directory URI leads to; None if there is none, or a folder.

    Args:
        listing: the content of the directory: ``dirs`` and ``files`` by name.
    """
    name = ""
    for name in filter(None, uri.path.split("/")):
        # An old listing may have a name with %20 in it, which is a space in a URI.
        names = (name, name.replace(" ", "%20"))
        inside = [_entries(listing, kind).get(n) for n in names for kind in ("dirs", "files")]
        listing = next(filter(None, inside), None)
    sha1 = listing.get("sha1") if isinstance(listing, dict) else None
    if not isinstance(sha1, str) or not uri.path.strip("/"):
        return None
    return replace(parse_uri(f"sha1://{sha1}"), label=name)


def _entries(listing: Any, kind: str) -> dict[str, Any]:
    entries = listing.get(kind, {}) if isinstance(listing, dict) else {}
    return entries if isinstance(entries, dict) else {}


def without_nones(**fields: Any) -> dict[str, Any]:
    """The parameters of a call that are given."""
    return {name: value for name, value in fields.items() if value is not None}
