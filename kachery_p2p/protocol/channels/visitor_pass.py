"""Visitor passes: what a share link gives to who opens it, and to nobody for longer than it says.

A pass is an Ed25519 key pair and a record about it, signed by the channel's owner or by a node that may
admit. It names what may be fetched, without saying what that is: its *scope* is a list of marks, which
are blinded keys of contents under a secret of the pass's own. The link has the seed of the key, from
which that secret follows. Who holds the seed proves it for each session; a holder of content is told
the secret, end to end, and compares the mark of what is asked for. A proxy is told of neither.

A visitor is no member: it changes no channel document, has request roles on what is in the scope and no
others, and never gets the channel's secret.

A pass is void as soon as it is over, as its channel expires, as the node that made it may not give its
roles any more or is no member, as that node revokes it, or as the owner ends all invitations (the
document's ``invitations_from``). One with a number of uses counts only with a *stamp*: the word of the
node that made it that this visitor has one of them.

Non-goals: counting uses, spreading revocations (node/channels/visits.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Annotated, Final, NamedTuple

from msgspec import Meta, Struct
from msgspec.structs import replace

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.document import SECRET_BYTES
from kachery_p2p.protocol.errors import AccessDenied, ProtocolViolation, ShareRefused
from kachery_p2p.protocol.identity import SIGNATURE_BYTES, NodeKey, verify
from kachery_p2p.protocol.limits import BLINDED_KEY_BYTES, MAX_PASS_SCOPE, MAX_PASS_USES

from .document import Bits, ChannelDocument, Count, Key, Seconds
from .roles import REQUEST_ROLES, from_bits, to_bits

CONTEXT: Final = b"pass"
"""What the signature of a pass is for."""
PROOF_CONTEXT: Final = b"pass proof"
"""What the signature by the pass's own key is for."""
USE_CONTEXT: Final = b"pass use"
"""What a stamp is for."""
REVOCATION_CONTEXT: Final = b"pass revocation"
"""What the signature of a revocation is for."""

_PERSON: Final = b"kachery-pass"

Mark = Callable[[bytes], bytes]
"""The blinded key of some content under any secret."""
_Signature = Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
_Marks = Annotated[
    tuple[Annotated[bytes, Meta(min_length=BLINDED_KEY_BYTES, max_length=BLINDED_KEY_BYTES)], ...],
    Meta(min_length=1, max_length=MAX_PASS_SCOPE),
]


class VisitorPass(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """``home``: the node that made it. ``by_owner``: the channel's key signed it, not that of
    ``home``. ``id``: the public half of its key. ``uses``: 0 for any number. ``document_version``: of
    the channel's document when it was made."""

    channel: Key
    home: Key
    by_owner: bool
    id: Key
    scope: _Marks
    bits: Bits
    uses: Annotated[int, Meta(ge=0, le=MAX_PASS_USES)]
    document_version: Count
    issued_at: Seconds
    expires_at: Seconds
    signature: _Signature

    @property
    def roles(self) -> frozenset[str]:
        return from_bits(self.bits)


class Revocation(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The node ``home`` takes a pass back. ``until``: when the pass is over by itself, and this is of
    no use any more."""

    channel: Key
    home: Key
    id: Key
    until: Seconds
    signature: _Signature


class Visiting(NamedTuple):
    """What somebody on one link has shown. ``secret`` is empty where the scope cannot be looked into:
    at a proxy. ``counted``: the visitor has a use of the pass, or needs none."""

    visitor_pass: VisitorPass
    secret: bytes
    counted: bool

    def covers(self, mark: Mark) -> bool:
        """Whether that content is in the scope."""
        return bool(self.secret) and mark(self.secret) in self.visitor_pass.scope


def secret_of(seed: bytes) -> bytes:
    """The secret of the marks, from the seed of a pass's key; both 32 bytes."""
    return blake2b(seed, digest_size=SECRET_BYTES, person=_PERSON).digest()


def make_pass(
    signer: NodeKey,
    document: ChannelDocument,
    *,
    home: bytes,
    seed: bytes,
    contents: Iterable[Mark],
    roles: frozenset[str],
    uses: int,
    now: float,
    expires_at: float,
) -> VisitorPass:
    """A pass for the contents whose marks are made by ``contents``.

    Args:
        signer: the channel's key, or that of the node ``home``, which may admit then.
        home: public key of the node that makes it and can revoke it.
        seed: of the pass's key; 32 random bytes, never used before.
        roles: request roles.
        uses: by how many visitors; 0: any number.
        now, expires_at: Unix time in seconds.
    """
    secret = secret_of(seed)
    made = VisitorPass(
        document.channel_id,
        home,
        signer.public == document.channel_id,
        NodeKey(seed).public,
        tuple(mark(secret) for mark in contents),
        to_bits(roles),
        uses,
        document.version,
        int(now),
        int(expires_at),
        bytes(SIGNATURE_BYTES),
    )
    return replace(made, signature=signer.sign(CONTEXT, _signed_bytes(made)))


def check_pass(data: bytes, document: ChannelDocument, now: float) -> VisitorPass:
    """A pass from anywhere, if it counts under ``document`` at ``now`` (Unix seconds).

    Raises:
        ProtocolViolation: it is none, or not signed by whom it names.
        ShareRefused: it does not count any more, and why.
    """
    found = codec.decode(VisitorPass, data)
    signer = found.channel if found.by_owner else found.home
    if not verify(signer, CONTEXT, _signed_bytes(found), found.signature):
        raise ProtocolViolation(reason="a pass that nobody signed who is named in it")
    require_valid(found, document, now)
    return found


def require_valid(visitor_pass: VisitorPass, document: ChannelDocument, now: float) -> None:
    """Raise ShareRefused if a checked pass does not count now."""
    reason = _why_void(visitor_pass, document, now)
    if reason:
        raise ShareRefused(reason=reason)


def _why_void(found: VisitorPass, document: ChannelDocument, now: float) -> str:
    home = found.home.hex()
    if found.channel != document.channel_id:
        return "it is to another channel"
    if document.expired(now):
        return "the channel expired"
    if now >= found.expires_at:
        return "its time is over"
    if found.document_version < document.invitations_from:
        return "the channel's owner revoked it"
    given = REQUEST_ROLES if found.by_owner else document.may_admit(home)
    if document.member(home) is None or not found.roles or not found.roles <= given:
        return "the node that made it may not share any more"
    return ""


def require_covered(visiting: Visiting, role: str, mark: Mark, channel_name: str) -> None:
    """Raise AccessDenied unless the pass is for that role and that content."""
    if role not in visiting.visitor_pass.roles or not visiting.covers(mark):
        raise AccessDenied(
            channel=channel_name,
            who="the visitor",
            role=role,
            cause="its link is to something else",
        )


def prove_pass(
    key: NodeKey, *, channel: bytes, verifier: bytes, visitor: bytes, handshake_hash: bytes
) -> bytes:
    """The proof that the node ``visitor`` holds a pass, for one session with the node ``verifier``."""
    return key.sign(PROOF_CONTEXT, codec.pack([channel, verifier, visitor, handshake_hash]))


def is_pass_proven(
    id: bytes,
    proof: bytes,
    *,
    channel: bytes,
    verifier: bytes,
    visitor: bytes,
    handshake_hash: bytes,
) -> bool:
    """Whether :func:`prove_pass` made ``proof`` with the pass of that id, for this session."""
    message = codec.pack([channel, verifier, visitor, handshake_hash])
    return verify(id, PROOF_CONTEXT, message, proof)


def stamp(home: NodeKey, channel: bytes, id: bytes, visitor: bytes) -> bytes:
    """The word of the node that made a pass that ``visitor`` has one of its uses."""
    return home.sign(USE_CONTEXT, codec.pack([channel, id, visitor]))


def is_stamped(visitor_pass: VisitorPass, visitor: bytes, signature: bytes) -> bool:
    """Whether this visitor has a use of the pass, or needs none."""
    if not visitor_pass.uses:
        return True
    message = codec.pack([visitor_pass.channel, visitor_pass.id, visitor])
    return verify(visitor_pass.home, USE_CONTEXT, message, signature)


def revoke(home: NodeKey, channel: bytes, id: bytes, until: float) -> Revocation:
    """Take a pass back that the node ``home`` made; ``until``: its end, Unix seconds."""
    made = Revocation(channel, home.public, id, int(until), bytes(SIGNATURE_BYTES))
    return replace(made, signature=home.sign(REVOCATION_CONTEXT, _signed_bytes(made)))


def check_revocation(data: bytes) -> Revocation:
    """A revocation from anywhere. Raises ProtocolViolation: it is none, or not its node's."""
    found = codec.decode(Revocation, data)
    if not verify(found.home, REVOCATION_CONTEXT, _signed_bytes(found), found.signature):
        raise ProtocolViolation(reason="a revocation that its node did not sign")
    return found


def _signed_bytes(record: VisitorPass | Revocation) -> bytes:
    return codec.pack(codec.plain(record)[:-1])
