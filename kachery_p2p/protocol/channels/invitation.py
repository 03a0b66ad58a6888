"""Invitations: one line that a colleague pastes, and the proof that the line was had.

An invitation is an Ed25519 key pair. The line carries its seed; the node that made it, the *admitter*,
keeps the public half, which is the invitation's id. Who has the line proves it by a signature over the
channel, both nodes and the handshake hash of their session, so that the proof is worth nothing to
anybody else, on another link or to another node, and the seed itself is never sent.

How often an invitation may be used, until when, and for which roles, is the admitter's to know: of
that the line has the date only, so that who pastes it late is told so at once.

Non-goals: finding the admitter, counting uses, making anybody a member.
"""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Annotated, Final

from msgspec import Meta, Struct

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput, BadInvitation, ProtocolViolation
from kachery_p2p.protocol.identity import NodeKey, verify
from kachery_p2p.protocol.limits import (
    MAX_CHANNEL_NAME,
    MAX_INVITATION_BOOTSTRAPS,
    MAX_INVITATION_TEXT,
)

from .document import Bootstrap, Key, Seconds, check_name, check_url

CONTEXT: Final = b"invitation"
"""What the signature that proves an invitation is for."""
PREFIX: Final = "kachery-invite:"

_VERSION: Final = 1
_CHECK_BYTES: Final = 4
"""Of SHA-256: whether the line came through copying and pasting whole."""
_LINE: Final = re.compile(rf"{PREFIX}([A-Za-z0-9_=\s>-]*)")


class Invitation(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is in the line. ``admitter``: the node to ask. ``seed``: of the invitation's key."""

    version: int
    channel: Key
    name: Annotated[str, Meta(max_length=MAX_CHANNEL_NAME)]
    admitter: Key
    seed: Key
    expires_at: Seconds
    bootstraps: Annotated[
        tuple[Bootstrap, ...], Meta(min_length=1, max_length=MAX_INVITATION_BOOTSTRAPS)
    ]

    @property
    def key(self) -> NodeKey:
        """The invitation's key; its public half is the invitation's id."""
        return NodeKey(self.seed)


def make_invitation(
    *,
    channel: bytes,
    name: str,
    admitter: bytes,
    seed: bytes,
    expires_at: float,
    bootstraps: tuple[Bootstrap, ...],
) -> Invitation:
    """An invitation by the node ``admitter`` (32 bytes); ``seed``: 32 random bytes, never used before.

    Of the channel's bootstraps only the first ``MAX_INVITATION_BOOTSTRAPS`` are named in it.
    """
    return Invitation(
        _VERSION,
        channel,
        name,
        admitter,
        seed,
        int(expires_at),
        bootstraps[:MAX_INVITATION_BOOTSTRAPS],
    )


def is_invitation(text: str) -> bool:
    """Whether there is an invitation line in it, be it damaged."""
    return PREFIX in text


def to_line(invitation: Invitation) -> str:
    """The line, without a newline: a prefix and base64 with letters that no shell minds."""
    packed = codec.encode(invitation)
    data = sha256(packed).digest()[:_CHECK_BYTES] + packed
    return PREFIX + urlsafe_b64encode(data).decode().rstrip("=")


def parse_line(text: str) -> Invitation:
    """The invitation in a text; around it may be what mail programs put there.

    Raises:
        BadInvitation: there is none, or it is damaged or of another version.
    """
    if len(text) > MAX_INVITATION_TEXT:
        raise BadInvitation(reason=f"longer than {MAX_INVITATION_TEXT} characters")
    found = _LINE.search(text)
    if found is None:
        raise BadInvitation(reason=f"it does not begin with '{PREFIX}'")
    # Up to the first line that is empty: below it may stand a greeting.
    letters = re.split(r"\n[\s>]*\n", found[1].lstrip(), maxsplit=1)[0]
    for text in (re.sub(r"[\s>=]", "", letters), (letters.split() or [""])[0].rstrip("=")):
        data = _decoded(text)
        packed = data[_CHECK_BYTES:]
        if data and sha256(packed).digest()[:_CHECK_BYTES] == data[:_CHECK_BYTES]:
            return _checked(packed)
    raise BadInvitation(reason="it was cut short or changed on the way")


def _decoded(letters: str) -> bytes:
    try:
        return urlsafe_b64decode(letters + "=" * (-len(letters) % 4))
    except (binascii.Error, ValueError):
        return b""


def _checked(packed: bytes) -> Invitation:
    try:
        value = codec.unpack(packed)
        version = value[0] if isinstance(value, list) and value else None
        if type(version) is int and version != _VERSION:
            raise BadInvitation(
                reason=f"it is of version {version}, this node reads {_VERSION}; upgrade it"
            )
        invitation = codec.convert(Invitation, value)
        check_name(invitation.name)
        for bootstrap in invitation.bootstraps:
            check_url(bootstrap.url)
    except (ProtocolViolation, BadInput) as error:
        if isinstance(error, BadInvitation):
            raise
        raise BadInvitation(reason=str(error.fields["reason"])) from error
    return invitation


def prove(
    key: NodeKey, *, channel: bytes, admitter: bytes, newcomer: bytes, handshake_hash: bytes
) -> bytes:
    """The proof that the node ``newcomer`` has the invitation, for one session with ``admitter``.

    Args:
        key: the invitation's.
        channel, admitter, newcomer: public keys.
        handshake_hash: of the session between the two nodes.
    """
    return key.sign(CONTEXT, codec.pack([channel, admitter, newcomer, handshake_hash]))


def is_proven(
    invitation: bytes,
    proof: bytes,
    *,
    channel: bytes,
    admitter: bytes,
    newcomer: bytes,
    handshake_hash: bytes,
) -> bool:
    """Whether :func:`prove` made ``proof`` with the invitation whose id this is, for this session."""
    message = codec.pack([channel, admitter, newcomer, handshake_hash])
    return verify(invitation, CONTEXT, message, proof)
