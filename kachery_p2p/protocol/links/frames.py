"""Frames: what two linked nodes say to each other, and how it is packed.

A frame has a *header*, a msgpack array whose first item is the frame's tag, and, for :class:`Data`
alone, a *tail* of bulk bytes. The header is always encrypted and authenticated by the session that
carries it; it says how long the tail is and whether the tail is sealed by the same session or is
opaque, that is, a record of some other session that is only passing through (see
:mod:`.session`). Frames that are there at the same time travel in one record, their headers as one
msgpack array.

Two kinds of exchange share one number space (the initiator of the session opens odd numbers, the
responder even ones, each strictly growing):

* a *request*: ``Request`` -> ``Response`` | ``Failure``;
* a *stream*: ``Open`` -> any number of ``Data`` both ways, as far as ``Credit`` allows -> ``End``
  from either side ends both directions.

``Note`` is one way and unanswered; ``Ping``/``Pong`` prove life; ``Hello`` is the first frame of
each side and ``Bye`` the last, with the reason.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import ProtocolViolation
from kachery_p2p.protocol.limits import FRAME_OVERHEAD, MAX_HEADER, MAX_RECORD_FRAMES

NO_TAIL = 0
SEALED_TAIL = 1
OPAQUE_TAIL = 2
PART_TAIL = 3
"""As SEALED_TAIL, of a body whose next bytes come in the stream's next frame, and so does its meta."""
TAG_BYTES = 16
"""By so much a sealed tail is longer than what is in it."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """First frame of each side.

    ``channels`` maps a channel's tag under this session (see :mod:`.channels.membership`) to
    ``[document version, wanted roles]``, so that two nodes find what they have in common and name
    nothing else. ``now`` is Unix time in seconds. ``signature`` is the node's over ``urls``, so that
    they can be passed on (see :mod:`.channels.member_urls`).
    """

    software: str
    now: float
    label: str
    urls: list[str]
    channels: dict[bytes, tuple[int, list[str]]]
    signature: bytes = b""


class Request(msgspec.Struct, frozen=True, array_like=True, tag=1):
    id: int
    method: str
    params: Any


class Response(msgspec.Struct, frozen=True, array_like=True, tag=2):
    id: int
    result: Any


class Failure(msgspec.Struct, frozen=True, array_like=True, tag=3):
    id: int
    code: str
    fields: dict[str, Any]


class Open(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """``credit`` is what the opener lets the other side send, in bytes."""

    id: int
    method: str
    params: Any
    credit: int


class Data(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """``size`` is the length of the tail on the wire in bytes, tag included."""

    id: int
    meta: Any
    tail: int
    size: int


class Credit(msgspec.Struct, frozen=True, array_like=True, tag=6):
    id: int
    more: int


class End(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """``code`` is empty for a good end."""

    id: int
    code: str
    fields: dict[str, Any]


class Note(msgspec.Struct, frozen=True, array_like=True, tag=8):
    topic: str
    params: Any


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=9):
    token: int


class Pong(msgspec.Struct, frozen=True, array_like=True, tag=10):
    token: int


class Bye(msgspec.Struct, frozen=True, array_like=True, tag=11):
    code: str
    fields: dict[str, Any]


Frame = Hello | Request | Response | Failure | Open | Data | Credit | End | Note | Ping | Pong | Bye

Item = tuple[Frame | bytes, codec.Buffer | None]
"""A frame to be sent, or its encoded header, and its body."""
_STARTS = [codec.array_start(length) for length in range(MAX_RECORD_FRAMES + 1)]
_KINDS = (Hello, Request, Response, Failure, Open, Data, Credit, End, Note, Ping, Pong, Bye)


def encode_header(frame: Frame) -> bytes:
    """Pack a frame's header.

    Raises:
        ValueError: it is longer than ``MAX_HEADER``: the caller must use a stream instead.
    """
    tag = frame.__struct_config__.tag
    header = codec.pack((tag, *msgspec.structs.astuple(frame)))
    if len(header) > MAX_HEADER:
        raise ValueError(
            f"a {type(frame).__name__} of {len(header)} bytes is over the limit of {MAX_HEADER}"
        )
    return header


def join_headers(headers: list[bytes]) -> bytes:
    """What a record says of its frames, at most ``MAX_RECORD_FRAMES``: an array of their headers."""
    return _STARTS[len(headers)] + b"".join(headers)


def decode_headers(headers: codec.Buffer) -> list[Frame]:
    """The inverse of :func:`join_headers`.

    Raises:
        ProtocolViolation: the bytes are no frames, or too many.
    """
    frames = codec.unpack(headers)
    if not isinstance(frames, list) or not 0 < len(frames) <= MAX_RECORD_FRAMES:
        raise ProtocolViolation(reason="a record that is no list of frames")
    return [_decoded(fields) for fields in frames]


def _decoded(fields: Any) -> Frame:
    kind: Any = Frame
    if isinstance(fields, list) and fields and type(fields[0]) is int:
        # One struct checks faster than the union of all, and its messages name the frame.
        kind = _KINDS[fields[0]] if 0 <= fields[0] < len(_KINDS) else Frame
    frame: Frame = codec.convert(kind, fields)
    return frame


def cost_of(tail_bytes: int) -> int:
    """What a data frame costs in credit, in however many parts it comes."""
    return tail_bytes + FRAME_OVERHEAD


def sealed_bytes(frame: Frame | bytes) -> int:
    """Bytes of a body that is not that of a circuit; 0 of other frames."""
    if isinstance(frame, Data) and frame.tail in (SEALED_TAIL, PART_TAIL):
        return frame.size
    return 0
