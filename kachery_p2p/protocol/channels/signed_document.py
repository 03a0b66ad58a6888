"""Signed channel documents: from and to bytes and text.

A channel is an Ed25519 key; its public half is the channel id, and whoever holds the other half is
the owner, the only one who can make a valid document (document.py says what is in it). Documents
travel as files or by gossip, and the highest version wins (membership.py).

Invariant: :func:`parse` is the only way from bytes to a :class:`SignedDocument`; what it returns is
well-formed, in canonical form, and signed by its owner.

Non-goals: keeping documents, deciding whether a request is allowed, hiding who the members are from
one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from hashlib import blake2b
from typing import Final

from msgspec import Struct

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadChannelDocument, BadInput, ProtocolViolation
from kachery_p2p.protocol.identity import NodeKey, verify
from kachery_p2p.protocol.limits import MAX_CHANNEL_DOCUMENT

from .document import (
    FORMAT,
    VERSION_OF_FORMAT,
    Bootstrap,
    ChannelDocument,
    Key,
    Member,
    check,
    check_name,
)
from .roles import ROLES, parse_roles
from .text_encoding import from_text, to_text

__all__ = [
    "ROLES",
    "Bootstrap",
    "ChannelDocument",
    "Member",
    "SignedDocument",
    "check_name",
    "from_text",
    "grant",
    "parse",
    "parse_roles",
    "peek",
    "sign",
]

CONTEXT: Final = b"channel"
"""What the owner's signature is for."""


@dataclass(frozen=True)
class SignedDocument:
    """A document with its owner's signature. Made by :func:`sign` and :func:`parse` only."""

    document: ChannelDocument
    body: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        """The form that is stored and gossiped; it never contains the secret in the clear."""
        return codec.pack([self.body, self.signature])

    def to_text(self, secret: bytes | None = None) -> str:
        """The form that people paste; see armour.py.

        Args:
            secret: that of an open channel, for nodes that are not listed.

        Raises:
            BadInput: a secret is given though the channel is not open.
        """
        if secret is not None and not self.document.open:
            raise BadInput(
                what=f"channel {self.document.name!r}",
                reason="only an open channel's secret is exported; members have theirs sealed",
            )
        return to_text(self.document.name, self.to_bytes(), secret)

    @cached_property
    def digest(self) -> bytes:
        """BLAKE2b-256 of the body: decides between two documents of one version."""
        return blake2b(self.body, digest_size=32).digest()


class _Outer(Struct, array_like=True, forbid_unknown_fields=True):
    body: bytes
    signature: bytes


class _Head(Struct):
    """What is read before the format version is known to be ours."""

    format: str
    version_of_format: int
    channel_id: Key
    version: int


def sign(body: ChannelDocument, channel_key: NodeKey) -> SignedDocument:
    """Sign a document with the channel's key.

    Raises:
        BadInput: the key is not that of the channel, or the document is malformed or too large.
    """
    if channel_key.public != body.channel_id:
        raise BadInput(what=f"channel {body.name!r}", reason="the key is not that of its owner")
    check(body)
    packed = codec.encode(body)
    signed = SignedDocument(body, packed, channel_key.sign(CONTEXT, packed))
    if len(signed.to_bytes()) > MAX_CHANNEL_DOCUMENT:
        raise BadInput(
            what=f"channel {body.name!r}", reason=f"larger than {MAX_CHANNEL_DOCUMENT} bytes"
        )
    return signed


def peek(data: bytes) -> tuple[bytes, int]:
    """The channel id and version that ``data`` claims, unverified: to drop what is not wanted.

    Raises:
        BadChannelDocument: it is too large, no channel document, or of another format version.
    """
    _, head = _open(data)
    return head.channel_id, head.version


def parse(data: bytes, *, now: float, check_expiry: bool = True) -> SignedDocument:
    """Bytes from anywhere to a verified document.

    Args:
        data: what :meth:`SignedDocument.to_bytes` gave.
        now: Unix time in seconds.
        check_expiry: whether an expired document is an error.

    Raises:
        BadChannelDocument: too large, not a channel document, of another format version, not signed
            by its owner, malformed, or expired.
    """
    outer, head = _open(data)
    if not verify(head.channel_id, CONTEXT, outer.body, outer.signature):
        raise BadChannelDocument(reason="not signed by its owner, or changed since")
    try:
        document = codec.decode(ChannelDocument, outer.body)
        if codec.encode(document) != outer.body:
            raise BadInput(what="its encoding", reason="not the canonical one")
        check(document)
    except (ProtocolViolation, BadInput) as error:
        raise BadChannelDocument(reason=_reason(error)) from error
    if check_expiry and document.expired(now):
        date = datetime.fromtimestamp(document.expires_at or 0, UTC)
        raise BadChannelDocument(reason=f"expired on {date:%Y-%m-%d %H:%M} UTC")
    return SignedDocument(document, outer.body, outer.signature)


def grant(document: ChannelDocument, node_id: str) -> frozenset[str]:
    """The roles that the owner granted to a node; nothing for who is not a member.

    A listed node of an open channel has what its entry says, be it less than the default.
    """
    entry = document.member(node_id)
    if entry is not None:
        return entry.roles
    return document.default_roles if document.open else frozenset()


def _open(data: bytes) -> tuple[_Outer, _Head]:
    if len(data) > MAX_CHANNEL_DOCUMENT:
        raise BadChannelDocument(reason=f"larger than {MAX_CHANNEL_DOCUMENT} bytes")
    try:
        outer = codec.decode(_Outer, data)
        head = codec.decode(_Head, outer.body)
    except ProtocolViolation as error:
        raise BadChannelDocument(reason=_reason(error)) from error
    if head.format != FORMAT:
        raise BadChannelDocument(reason="not a channel document")
    if head.version_of_format != VERSION_OF_FORMAT:
        theirs = head.version_of_format
        raise BadChannelDocument(
            reason=f"its format is version {theirs}, this node reads version {VERSION_OF_FORMAT}"
        )
    return outer, head


def _reason(error: BadInput | ProtocolViolation) -> str:
    what = error.fields.get("what")
    return f"{what}: {error.fields['reason']}" if what else str(error.fields["reason"])
