"""The URLs at which a node says that it is reached: signed by it, and of one form.

Other nodes learn them from a proxy, and dial them. So that nobody can have others dial what it likes,
they are signed by the node that they lead to, and name nothing but a host and a port: the path is
always :data:`PATH`. (A URL in a channel document, or one that a user typed, may have any path.)

Non-goals: which hosts may be dialled (addresses.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.identity import NodeKey, verify
from kachery_p2p.protocol.limits import MAX_CHECKED_URLS, MAX_HELLO_URLS

from .document import check_url

CONTEXT: Final = b"addresses"
"""What the signature is for."""
PATH: Final = "/kachery-p2p"


def member_url(url: str) -> str:
    """The URL that is dialled if a node says that it is reached at ``url``, written anew.

    Raises:
        BadInput: it is not ``ws://HOST:PORT`` or ``wss://HOST:PORT``, with or without :data:`PATH`.
    """
    check_url(url)
    parts = urlsplit(url)
    if parts.path not in ("", "/", PATH) or parts.query or parts.fragment:
        raise BadInput(
            what=f"URL {url[:200]!r}",
            reason=f"members are reached at the path {PATH} only; the channel's owner can name a URL "
            "with another one as a bootstrap",
        )
    host = parts.hostname or ""
    where = f"[{host}]" if ":" in host else host
    port = "" if parts.port is None else f":{parts.port}"
    return f"{parts.scheme}://{where}{port}{PATH}"


def member_urls(urls: Iterable[str]) -> list[str]:
    """Those of ``urls`` that other nodes would dial, as many as a hello may name."""
    found = []
    for url in urls:
        try:
            member_url(url)
        except BadInput:
            continue
        found.append(url)
    return found[:MAX_HELLO_URLS]


def sign_urls(key: NodeKey, urls: Sequence[str]) -> bytes:
    """The signature of the node that is reached there."""
    return key.sign(CONTEXT, codec.pack(list(urls)))


def verify_urls(node: bytes, urls: Sequence[str], signature: bytes) -> bool:
    """Whether the node with this public key says so. No URLs need no signature."""
    return not urls or _verify(node, tuple(urls), signature)


@lru_cache(maxsize=MAX_CHECKED_URLS)
def _verify(node: bytes, urls: tuple[str, ...], signature: bytes) -> bool:
    return verify(node, CONTEXT, codec.pack(list(urls)), signature)
