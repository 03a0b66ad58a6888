"""What nodes say to one another about channels: documents, who is online, admissions, joining.

``channel.document`` sends plain bodies until the end, ``join`` the same with :class:`Joined` as meta of
the first.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from kachery_p2p.protocol.limits import (
    ADMISSIONS_PER_NOTE,
    MAX_CHANNEL_NAME,
    MAX_LABEL,
    MAX_ONLINE,
    REVOCATIONS_PER_NOTE,
)
from kachery_p2p.protocol.links.messages import CircuitTo
from kachery_p2p.protocol.method import Method

CHANNEL_DOCUMENT = "channel.document"
CHANNEL_ONLINE = "channel.online"
CHANNEL_ADMISSIONS = "channel.admissions"
JOIN = "join"
JOIN_CIRCUIT = "join.circuit"
JOIN_IN = "join.in"
CHANNELS = "channels"
CHANNEL_REVOCATIONS = "channel.revocations"
VISIT = "visit"
VISIT_USE = "visit.use"
VISIT_CIRCUIT = "visit.circuit"
VISIT_IN = "visit.in"

_Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]


class ChannelQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``channel.document`` and ``channel.online``: which one."""

    channel: bytes


class Online(msgspec.Struct, frozen=True):
    """The answer to ``channel.online``: other members that are linked to this proxy, by id; those of
    the lowest ids, if there are more than ``MAX_ONLINE``."""

    nodes: Annotated[list[bytes], Meta(max_length=MAX_ONLINE)]


class Admissions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``channel.admissions``: packed :class:`~.channels.admission.Admission` records."""

    channel: bytes
    admissions: Annotated[list[bytes], Meta(max_length=ADMISSIONS_PER_NOTE)]


class Join(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``join``: make me a member. ``invitation`` is its id, ``proof`` of
    :func:`~.channels.invitation.prove`, ``label`` what the newcomer calls itself."""

    channel: bytes
    invitation: Annotated[bytes, Meta(min_length=32, max_length=32)]
    proof: Annotated[bytes, Meta(min_length=64, max_length=64)]
    label: Annotated[str, Meta(max_length=MAX_LABEL)]


class Joined(msgspec.Struct, frozen=True):
    """Meta of the first body of the answer, the signed document: the admission, if there is one."""

    admission: bytes | None


class Visit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``visit``: I hold this pass (packed). ``secret``: of its marks, and empty to a proxy, which has
    no use for it. ``proof``: of :func:`~.channels.visitor_pass.prove_pass`. ``stamp``: 64 bytes, or
    empty if the pass needs none."""

    channel: bytes
    visitor_pass: Annotated[bytes, Meta(max_length=1_024)]
    secret: Annotated[bytes, Meta(max_length=32)]
    proof: _Signature
    stamp: Annotated[bytes, Meta(max_length=64)]


class Visited(msgspec.Struct, frozen=True):
    """The answer to ``visit``: the channel's name."""

    name: Annotated[str, Meta(max_length=MAX_CHANNEL_NAME)]


class VisitUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``visit.use``: let me have a use of the pass with this id."""

    channel: bytes
    visitor_pass: _Key
    proof: _Signature


class Stamped(msgspec.Struct, frozen=True):
    """The answer to ``visit.use``."""

    stamp: _Signature


class Revocations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``channel.revocations``: packed :class:`~.channels.visitor_pass.Revocation` records."""

    channel: bytes
    revocations: Annotated[list[bytes], Meta(max_length=REVOCATIONS_PER_NOTE)]


METHODS: Final = (
    Method(
        CHANNELS, "note", None, "both ways, when the sender's channels or versions change", "linked"
    ),
    Method(
        CHANNEL_DOCUMENT,
        "stream",
        ChannelQuery,
        "member -> member: the signed document, newest version",
        "member",
    ),
    Method(
        CHANNEL_ONLINE,
        "request",
        ChannelQuery,
        "member -> proxy: who else is linked to you",
        "member",
    ),
    Method(
        CHANNEL_ADMISSIONS,
        "note",
        Admissions,
        "both ways: who was admitted while the owner was away",
        "member",
    ),
    Method(JOIN, "stream", Join, "guest -> admitter (end to end): I hold an invitation", "guest"),
    Method(
        JOIN_CIRCUIT, "stream", CircuitTo, "guest -> proxy: connect me with the admitter", "guest"
    ),
    Method(
        JOIN_IN, "stream", CircuitTo, "proxy -> admitter: a guest wants to talk to you", "proxy"
    ),
    Method(
        CHANNEL_REVOCATIONS,
        "note",
        Revocations,
        "both ways: share links that were taken back",
        "member",
    ),
    Method(VISIT, "request", Visit, "guest -> proxy or holder: I hold a pass", "guest"),
    Method(VISIT_USE, "request", VisitUse, "guest -> who made the pass: count me", "guest"),
    Method(
        VISIT_CIRCUIT, "stream", CircuitTo, "visitor -> proxy: connect me with a member", "visitor"
    ),
    Method(
        VISIT_IN, "stream", CircuitTo, "proxy -> member: a visitor wants to talk to you", "proxy"
    ),
)
