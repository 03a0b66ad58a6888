"""Which origins and archives a node has: what its user said last."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import msgspec

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.limits import MAX_ORIGIN_URL, MAX_ORIGINS
from kachery_p2p.storage.state import StateDB

_KEY: Final = "origins"


class OriginSetting(msgspec.Struct, frozen=True):
    """``archive``: it is written, too. ``own``: what was stored here may go once it is there."""

    url: str
    archive: bool = False
    own: bool = False


def origins_of(state: StateDB) -> list[OriginSetting]:
    """As they were said last."""
    text = state.get_meta(_KEY)
    return [] if text is None else msgspec.json.decode(text, type=list[OriginSetting])


def set_origins(state: StateDB, settings: Iterable[OriginSetting]) -> None:
    """Remember them for the next start."""
    state.set_meta(_KEY, msgspec.json.encode(list(settings)).decode())


def checked(settings: Iterable[OriginSetting]) -> list[OriginSetting]:
    """Each once, by its URL. Raises BadInput for what can never work."""
    found: dict[str, OriginSetting] = {}
    for each in settings:
        url = each.url.rstrip("/") or "/"
        if not 0 < len(url) <= MAX_ORIGIN_URL or not url.isprintable():
            raise BadInput(what="origin", reason=f"a URL has 1 to {MAX_ORIGIN_URL} characters")
        if "://" not in url and not os.path.isabs(url):
            raise BadInput(
                what=f"origin {url}",
                reason="it must be a URL such as s3://bucket/prefix, or the absolute path of a folder",
            )
        if url.startswith("memory:"):
            reason = "it is in the memory of the node, and would end with it"
            raise BadInput(what=f"origin {url}", reason=reason)
        if each.archive and url.startswith(("http://", "https://")):
            raise BadInput(what=f"archive {shown(url)}", reason="a web server can only be read")
        before = found.get(url)
        if before is None or each.archive:
            found[url] = OriginSetting(url, each.archive, each.own)
    if len(found) > MAX_ORIGINS:
        raise BadInput(what="origins", reason=f"more than {MAX_ORIGINS} of them")
    return list(found.values())


def is_folder(url: str, folder: Path) -> bool:
    """Whether an origin is this very folder, by whatever name."""
    path = url.removeprefix("file://")
    return "://" not in path and os.path.realpath(path) == os.path.realpath(folder)


def shown(url: str) -> str:
    """A URL without the password in it, for people and logs."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}@{host}"))
