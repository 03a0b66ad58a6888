"""What a node says of itself in its local network, by multicast DNS: a card with its id and where it is
reached there, signed by it.

Anybody in that network can read a card, repeat an old one, or make one up of a node of its own; so a
card is no more than an address that may be worth dialling, by who already knows the node.

Non-goals: which of these are dialled (node/routes/neighbours.py), and to whom a card is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput, ProtocolViolation
from kachery_p2p.protocol.identity import NodeKey, verify
from kachery_p2p.protocol.limits import MAX_CARD, MAX_HELLO_URLS

from .member_urls import member_url

SERVICE: Final = "_kachery-p2p._tcp.local."
CONTEXT: Final = b"neighbour"
"""What the signature is for: it says nothing to who is not in that network."""
_NODE, _URLS, _SIGNATURE = b"n", b"u", b"s"


def make_card(key: NodeKey, urls: Sequence[str]) -> dict[bytes, bytes]:
    """The values of a DNS service's TXT record; as many of the URLs as there is room for."""
    urls = list(urls[:MAX_HELLO_URLS])
    while len(packed := codec.pack(urls)) > MAX_CARD:
        urls.pop()
    return {_NODE: key.public, _URLS: packed, _SIGNATURE: key.sign(CONTEXT, packed)}


def read_card(values: Mapping[bytes, bytes | None]) -> tuple[bytes, list[str]]:
    """Which node says that it is reached where.

    Raises:
        ProtocolViolation: it is no card, or not one of that node.
    """
    node, packed, signature = (values.get(name) or b"" for name in (_NODE, _URLS, _SIGNATURE))
    if len(node) != 32 or len(packed) > MAX_CARD or not verify(node, CONTEXT, packed, signature):
        raise ProtocolViolation(reason="a neighbour's card that its node has not signed")
    try:
        urls = codec.decode(list[str], packed)[:MAX_HELLO_URLS]
        return node, [member_url(each) for each in urls]
    except BadInput as error:
        raise ProtocolViolation(reason=str(error)) from error
