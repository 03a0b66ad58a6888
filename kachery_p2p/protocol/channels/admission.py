"""Admissions: how a node that the owner authorised makes others members while the owner is away.

The channel's document says which nodes may admit, and for which roles at most; these are reading
roles only (``request-*``). An admission is signed by such a node. It counts next to the document, for
everybody who verifies it, until the owner's own node comes by and takes the newcomer into the
document.

An admission is void as soon as

* its admitter is not authorised any more for all of its roles, or has lost one of them itself,
* the document lists the newcomer: then the document says what it may do,
* the channel has another secret: so that nobody whom the owner removed comes back by one.

Invariant: :func:`check_admission` is the only way from a foreign record to one that counts.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.document import SECRET_BYTES
from kachery_p2p.protocol.errors import BadInput, ProtocolViolation
from kachery_p2p.protocol.identity import SEAL_OVERHEAD, SIGNATURE_BYTES, NodeKey, seal_to, verify
from kachery_p2p.protocol.limits import MAX_LABEL

from .document import Bits, ChannelDocument, Count, Key, Seconds, check_label
from .roles import from_bits, to_bits

CONTEXT: Final = b"admission"
"""What an admitter's signature is for."""

_SEALED_BYTES: Final = SECRET_BYTES + SEAL_OVERHEAD


class Admission(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """``admitter`` says that ``node`` is a member. ``sealed``: the secret, for the newcomer alone.
    ``invitation``: the id of that by which it came, for whoever has to remove it."""

    channel: Key
    admitter: Key
    node: Key
    label: Annotated[str, Meta(max_length=MAX_LABEL)]
    bits: Bits
    secret_version: Count
    sealed: Annotated[bytes, Meta(min_length=_SEALED_BYTES, max_length=_SEALED_BYTES)]
    issued_at: Seconds
    invitation: Key
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]

    @property
    def node_id(self) -> str:
        """The newcomer, 64 hex digits."""
        return self.node.hex()

    @property
    def roles(self) -> frozenset[str]:
        return from_bits(self.bits)


def admit(
    signer: NodeKey,
    document: ChannelDocument,
    node: bytes,
    label: str,
    roles: frozenset[str],
    secret: bytes,
    now: float,
    invitation: bytes,
) -> Admission:
    """Make a node a member of the channel of ``document``.

    Args:
        signer: the admitter's key.
        node: the newcomer's public key.
        label: for people.
        roles: no more than the document lets the admitter give.
        secret: the channel's, of the version in the document.
        now: Unix time in seconds.
        invitation: the id of the newcomer's, 32 bytes.

    Raises:
        BadInput: the admitter may not do that, the newcomer is listed already, or a malformed value.
    """
    check_label(label)
    made = Admission(
        document.channel_id,
        signer.public,
        node,
        label,
        to_bits(roles),
        document.secret_version,
        seal_to(node, secret),
        int(now),
        invitation,
        bytes(SIGNATURE_BYTES),
    )
    if not _counts(made, document):
        raise BadInput(
            what=f"node {node.hex()}",
            reason="the channel's owner has not authorised this node to admit it with these roles",
        )
    return replace(made, signature=signer.sign(CONTEXT, _signed_bytes(made)))


def check_admission(data: bytes, document: ChannelDocument) -> Admission | None:
    """An admission from anywhere, if it counts under ``document``; else None.

    Raises:
        ProtocolViolation: it is none, or not signed by the node that is named in it.
    """
    admission = codec.decode(Admission, data)
    try:
        check_label(admission.label)
    except BadInput as error:
        raise ProtocolViolation(reason=str(error.fields["reason"])) from error
    if not _counts(admission, document):
        return None
    signature = admission.signature
    if not verify(admission.admitter, CONTEXT, _signed_bytes(admission), signature):
        raise ProtocolViolation(reason="an admission that its admitter did not sign")
    return admission


def still_counts(admission: Admission, document: ChannelDocument) -> bool:
    """Whether a checked admission counts under a newer document too."""
    return _counts(admission, document)


def _counts(admission: Admission, document: ChannelDocument) -> bool:
    return (
        admission.channel == document.channel_id
        and admission.secret_version == document.secret_version
        and bool(admission.roles)
        and admission.roles <= document.may_admit(admission.admitter.hex())
        and document.member(admission.node_id) is None
    )


def _signed_bytes(admission: Admission) -> bytes:
    return codec.pack(codec.plain(admission)[:-1])
