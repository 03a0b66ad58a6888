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
    for sha1, directory, manifest in _named(value):
        found[sha1] = directory or found.get(sha1, False)
        if manifest is not None:
            found.setdefault(manifest, False)
        if len(found) > MAX_PINS:
            raise BadInput(what="that directory", reason=f"it names more than {MAX_PINS} files")
    return found


def manifests_in(data: bytes) -> dict[str, str]:
    """The manifests that it gives with the files that it names: by the hash of the file."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return {sha1: manifest for sha1, _, manifest in _named(value) if manifest is not None}


def _named(value: Any) -> Iterator[tuple[str, bool, str | None]]:
    """Hashes, whether each is of a directory, and of its manifest."""
    # Not by recursion: a value may lie deeper than the stack of Python.
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str) and each.startswith(_SCHEMES):
            try:
                uri = parse_uri(each)
            except BadUri:
                continue
            yield uri.hash, uri.kind == "sha1dir", uri.manifest
        elif isinstance(each, list):
            waiting += each
        elif isinstance(each, dict):
            files = each.get("files")
            if isinstance(files, dict):
                for entry in files.values():
                    yield from _of_entry(entry)
            waiting += each.values()


def _of_entry(entry: Any) -> Iterator[tuple[str, bool, str | None]]:
    """A file of a listing."""
    sha1, manifest = (_hash_of(entry, name) for name in ("sha1", "manifest"))
    if sha1 is not None:
        yield sha1, False, manifest
    elif manifest is not None:
        yield manifest, False, None


def _hash_of(entry: Any, name: str) -> str | None:
    sha1 = entry.get(name) if isinstance(entry, dict) else None
    whole = isinstance(sha1, str) and len(sha1) == 40 and not set(sha1) - set("0123456789abcdef")
    return sha1 if whole else None
