"""What names a file: URIs and paths, as the functions that load and store take them."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Any, Final

from kachery_p2p.local import places
from kachery_p2p.protocol.errors import BadInput, BadPath, BadUri
from kachery_p2p.protocol.files.directory import Directory, FileEntry
from kachery_p2p.protocol.limits import MAX_FILE_NAME
from kachery_p2p.protocol.uri import KacheryUri, build_uri, parse_uri

PathLike = str | os.PathLike[str]

_SHOWN_CHARS: Final = 80
_MAX_ENDING: Final = 32
"""Bytes of what counts as an ending."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What a name in the user's folder does not have: line ends, and what has letters shown in another
order, so that a name seems to end as it does not."""


def is_uri(text: PathLike) -> bool:
    """Whether it is a URI; else it must be an existing file, which loads as it is."""
    try:
        path = path_text(text)
    except BadPath as error:
        raise BadUri(uri=error.fields["path"], reason=error.fields["reason"]) from None
    if "://" in path:
        return True
    if not os.path.isfile(path):
        raise BadPath(path=path, reason="it is neither a kachery URI nor an existing file")
    return False


def path_text(path: PathLike) -> str:
    """The text of a path, as :func:`.places.user_path` reads it. Raises BadPath: it is none."""
    try:
        text = os.fsdecode(path)
    except (TypeError, ValueError):
        reason = f"a {type(path).__name__} is no path; give text, or a pathlib.Path"
        raise BadPath(path=repr(path)[:_SHOWN_CHARS], reason=reason) from None
    if not text:
        raise BadPath(path=text, reason="it is empty, as a variable that is not set is")
    if "\0" in text:
        raise BadPath(path=text, reason="a path has no zero byte")
    return places.user_path(str(text))  # of numpy's text, one that os.scandir knows


def name_of(path: str) -> str:
    """The label of a file: its name, with a replacement character where that is no UTF-8."""
    return os.fsencode(os.path.basename(path.rstrip("/"))).decode("utf-8", "replace")


def checked_label(basename: str | None, default: str) -> str:
    """What the URI will call it. Raises BadUri, before anything is stored, if it can be no label."""
    label = default if basename is None or basename == "" else basename
    build_uri(sha1="0" * 40, label=label, manifest="0" * 40)
    return label


def parse_file_uri(uri: str) -> KacheryUri:
    parsed = parse_uri(uri)
    if parsed.kind == "feed":
        raise BadInput(what=uri, reason="this is a feed, not a file; use load_feed or load_subfeed")
    return parsed


def file_name(uri: KacheryUri) -> str:
    """What to call a file in the user's folder: its label, which somebody else may have chosen. So it
    does not lead out of there, is no hidden file, and is no longer than a name can be."""
    name = _CONTROL.sub("_", uri.label.rpartition("/")[2])
    bare = name.lstrip(".")
    if not bare:
        return uri.hash
    return _shortened("_" * (bare != name) + bare)


def _shortened(name: str) -> str:
    """A name that file systems take: its end, which says what is in the file, is kept."""
    if len(name.encode()) <= MAX_FILE_NAME:
        return name
    stem, ending = os.path.splitext(name)
    stem, before = os.path.splitext(stem)  # two, as of .nii.gz
    if len((before + ending).encode()) <= _MAX_ENDING:
        ending = before + ending
    elif len(ending.encode()) > _MAX_ENDING:
        ending = ""
    room = MAX_FILE_NAME - len(ending.encode())
    return name.encode()[:room].decode("utf-8", "ignore") + ending


def inside_directory(listing: Directory, uri: KacheryUri) -> KacheryUri | None:
    """The file that the path of a directory URI leads to; None if there is none, or a folder."""
    found = listing.at(uri.path)
    if not isinstance(found, FileEntry) or found.sha1 is None:
        return None
    name = uri.path.rstrip("/").rpartition("/")[2]
    return replace(parse_uri(f"sha1://{found.sha1}"), label=name, manifest=found.manifest)


def without_nones(**fields: Any) -> dict[str, Any]:
    """The parameters of a call that are given."""
    return {name: value for name, value in fields.items() if value is not None}
