"""Open channels for tests, which follow from their name: nodes that are given the same name share one.

Whoever knows the name knows the channel's keys, and so is its owner. Such a channel protects nothing:
it is for nodes on one machine that listen on 127.0.0.1 only.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from hashlib import blake2b

from kachery_p2p.protocol.channels.document import ChannelDocument
from kachery_p2p.protocol.channels.signed_document import from_text, parse, sign
from kachery_p2p.protocol.errors import BadInput, Unreachable
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import DIAL_SECONDS

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_AGAIN_SECONDS = 0.1


def open_channel(name: str, proxies: Sequence[tuple[str, str]]) -> str:
    """The document, as text, of the open test channel with this name.

    Args:
        proxies: pairs (``ws://`` URL on this machine, node id).

    Raises:
        BadInput: it is no name, or a URL is malformed.
    """
    key = NodeKey(_derived(name, b"kachery-test-key"))
    secret = _derived(name, b"kachery-test-sec")
    document = ChannelDocument.create(
        name,
        key,
        secret,
        proxies,
        time.time(),
        members=[(node, "", "all,proxy") for node in dict.fromkeys(node for _, node in proxies)],
        open=True,
        default_roles="all",
    )
    return sign(document, key).to_text(secret)


def with_proxy(text: str, url: str, node: str) -> str:
    """The same channel with one more proxy, or as it is if it has that one.

    Raises:
        BadChannelDocument, BadInput: ``text`` is not the document of a test channel.
    """
    now = time.time()
    data, secret = from_text(text)
    document = parse(data, now=now).document
    if any((each.url, each.node_id) == (url, node) for each in document.bootstraps):
        return text
    if any(each.url == url for each in document.bootstraps):
        document = document.without_bootstrap(url, now)
    if document.member(node) is None:
        document = document.with_member(node, "", "all,proxy", secret or b"", now)
    key = NodeKey(_derived(document.name, b"kachery-test-key"))
    return sign(document.with_bootstrap(url, node, now), key).to_text(secret)


def _derived(name: str, purpose: bytes) -> bytes:
    return blake2b(name.encode(), digest_size=32, person=purpose).digest()


def loopback_url(host: str, port: int) -> str:
    """``ws://127.0.0.1:PORT``. Raises BadInput if the host is not this machine."""
    if host not in LOOPBACK:
        raise BadInput(
            what=f"bootstrap {host}:{port}",
            reason="test channels are open to whoever knows their name, so they stay on this "
            "machine; use 127.0.0.1, or a channel of your own (kachery_p2p.channel_create)",
        )
    return f"ws://127.0.0.1:{port}"


async def identify(url: str, patience: float) -> str:
    """The id of the node that answers at a URL, which may still be starting.

    Raises:
        Unreachable: nobody did for ``patience`` seconds.
    """
    from kachery_p2p.node.links import transport
    from kachery_p2p.node.links.opening import handshake

    deadline = time.monotonic() + patience
    while True:
        try:
            connection = await transport.dial(url)
            break
        except Unreachable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(_AGAIN_SECONDS)
    try:
        async with asyncio.timeout(DIAL_SECONDS):
            key = NodeKey.generate(os.urandom)
            session = await handshake(connection, initiator=True, key=key, random_bytes=os.urandom)
    except TimeoutError:
        raise Unreachable(what=url, reason=f"no handshake within {DIAL_SECONDS:g} s") from None
    finally:
        await connection.close()
    return session.peer.hex()
