"""What a content names: the files of a directory's listing, the URIs in a JSON value.

A listing (:mod:`.directory`) is JSON ``{"files": {name: {"size", "sha1", "manifest"}}, "dirs": {name:
listing}}``. A task's result, or any other JSON, may have URIs of files anywhere in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from kachery_p2p.protocol.errors import BadInput, BadUri
from kachery_p2p.protocol.limits import MAX_PINS
from kachery_p2p.protocol.uri import parse_uri

_SCHEMES: Final = ("sha1://", "sha1dir://")


def named_in(data: bytes) -> dict[str, bool]:
    """The hashes that a content names, and whether each is of a directory; none if it is neither a
    listing nor JSON with URIs.

    Raises:
        BadInput: more than ``MAX_PINS``.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    found: dict[str, bool] = {}
    for sha1, directory in _named(value):
        found[sha1] = directory or found.get(sha1, False)
        if len(found) > MAX_PINS:
            raise BadInput(what="that directory", reason=f"it names more than {MAX_PINS} files")
    return found


def _named(value: Any) -> Iterator[tuple[str, bool]]:
    # Not by recursion: a value may lie deeper than the stack of Python.
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str) and each.startswith(_SCHEMES):
            try:
                uri = parse_uri(each)
            except BadUri:
                continue
            yield uri.hash, uri.kind == "sha1dir"
            if uri.manifest is not None:
                yield uri.manifest, False
        elif isinstance(each, list):
            waiting += each
        elif isinstance(each, dict):
            files = each.get("files")
            if isinstance(files, dict):
                for entry in files.values():
                    yield from ((sha1, False) for sha1 in _hashes_of(entry))
            waiting += each.values()


def _hashes_of(entry: Any) -> Iterator[str]:
    """Of a file and its manifest."""
    for name in ("sha1", "manifest") if isinstance(entry, dict) else ():
        sha1 = entry.get(name)
        if isinstance(sha1, str) and len(sha1) == 40 and not set(sha1) - set("0123456789abcdef"):
            yield sha1
