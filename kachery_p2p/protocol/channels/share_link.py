"""Share links: one URL that opens a file, a subfeed or a view in a browser.

    https://<proxy>/#<base64url of (check, packed)>

A browser sends nothing of what follows ``#`` to any server. The link has the seed of a visitor pass, so
who has the link has what it leads to, until the pass is void.

Non-goals: serving the page, making the pass.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Annotated, Final
from urllib.parse import urlsplit, urlunsplit

from msgspec import Meta, Struct

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import ProtocolViolation
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import (
    BLINDED_KEY_BYTES,
    MAX_CHANNEL_NAME,
    MAX_FUNCTION_ID,
    MAX_LINK_RUNNERS,
    MAX_PASS_SCOPE,
    MAX_URI,
    MAX_VIEW_DATA,
    MAX_VIEW_TITLE,
)

from .document import Bootstrap, Count, Key

VERSION: Final = 1
CHECK_BYTES: Final = 4
"""Of SHA-256: whether the link came through copying and pasting whole."""

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_PAGE_SCHEMES: Final = {"wss": "https", "ws": "http"}


_Keys = Annotated[
    tuple[Annotated[bytes, Meta(min_length=BLINDED_KEY_BYTES, max_length=BLINDED_KEY_BYTES)], ...],
    Meta(max_length=MAX_PASS_SCOPE),
]


class LinkedContent(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Content that a view may ask for. ``may_append``: it may also add messages to that subfeed."""

    uri: Annotated[str, Meta(max_length=MAX_URI)]
    keys: _Keys
    may_append: bool


class LinkedTask(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A function that a view may have run. ``keys``: under which those who run it are found."""

    function: Annotated[str, Meta(max_length=MAX_FUNCTION_ID)]
    keys: _Keys


class LinkedView(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """That the file of a link is a view's (:mod:`kachery_p2p.protocol.files.view_pack`), and what the
    view is given. ``data``: JSON. ``runners``: members whose word counts for what a task gave, as
    that of the node which made the link does; a visitor knows no others."""

    title: Annotated[str, Meta(max_length=MAX_VIEW_TITLE)]
    data: Annotated[bytes, Meta(max_length=MAX_VIEW_DATA)]
    contents: Annotated[tuple[LinkedContent, ...], Meta(max_length=MAX_PASS_SCOPE)]
    tasks: Annotated[tuple[LinkedTask, ...], Meta(max_length=MAX_PASS_SCOPE)] = ()
    runners: Annotated[tuple[Key, ...], Meta(max_length=MAX_LINK_RUNNERS)] = ()


class ShareLink(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What follows ``#``. ``visitor_pass``: packed. ``keys``: blinded keys of the contents under the
    channel's secret of ``secret_version``, by which a proxy finds who has them. ``proxy``: the node
    that must answer at the link's address. ``same_bytes``: the node that made the link has computed
    the file's SHA-1 and its manifest from the same bytes, so who has verified each block against the
    manifest need not compute the SHA-1 as well."""

    version: int
    channel_name: Annotated[str, Meta(max_length=MAX_CHANNEL_NAME)]
    visitor_pass: bytes
    seed: Key
    uri: Annotated[str, Meta(max_length=MAX_URI)]
    keys: _Keys
    secret_version: Count
    proxy: Key
    view: LinkedView | None = None
    same_bytes: bool = False


def page_proxy(bootstraps: tuple[Bootstrap, ...]) -> Bootstrap:
    """Of a channel's proxies, one at least, that whose page works for most: one from wss:// everywhere,
    one from this computer's own only here."""
    return max(bootstraps, key=lambda each: (each.url[:4] == "wss:", is_secure(each.url)))


def page_of(url: str) -> str:
    """The page that the proxy with this ``ws://`` or ``wss://`` URL serves, without a fragment."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/") + "/"
    return urlunsplit((_PAGE_SCHEMES[parts.scheme], parts.netloc, path, "", ""))


def is_secure(url: str) -> bool:
    """Whether a browser lets a page from there use its cryptography: https, or this computer's own."""
    parts = urlsplit(url)
    return parts.scheme == "wss" or (parts.hostname or "") in _LOOPBACK


def to_url(link: ShareLink, page: str) -> str:
    """The whole link. ``page``: of :func:`page_of`."""
    packed = codec.encode(link)
    data = sha256(packed).digest()[:CHECK_BYTES] + packed
    return f"{page}#{urlsafe_b64encode(data).decode().rstrip('=')}"


def id_of(url: str) -> str | None:
    """The id of the pass in a link, 64 hex digits; None if it is no whole link."""
    text = url.partition("#")[2].strip()
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        packed = data[CHECK_BYTES:]
        if not text or sha256(packed).digest()[:CHECK_BYTES] != data[:CHECK_BYTES]:
            return None
        return NodeKey(codec.decode(ShareLink, packed).seed).node_id
    except (binascii.Error, ValueError, ProtocolViolation):
        return None
