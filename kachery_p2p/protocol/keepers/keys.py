"""Under which content keys a keeper is announced and looked up: one for whoever it may be, and one for
each node that it keeps for. Who looks up the latter must know the node: a proxy does not learn for whom
somebody keeps."""

from __future__ import annotations

from typing import Final

from kachery_p2p.protocol.gossip.keys import ContentKey
from kachery_p2p.protocol.identity import check_node_id

KEEPER_CONTEXT: Final = b"kachery-keeper"
"""Personalisation of these keys; the identifier is the node's id, 32 bytes, or empty."""


def keeper_key(node: str | None) -> ContentKey:
    """Somebody who keeps for a node (64 hex digits), or (None) for every member."""
    identifier = b"" if node is None else bytes.fromhex(check_node_id(node))
    return ContentKey("files", KEEPER_CONTEXT, identifier, "a keeper")
