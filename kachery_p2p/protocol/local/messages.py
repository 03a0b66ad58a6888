"""The wire between a client and its own daemon: a Unix socket, or loopback TCP.

A frame is a big-endian u32, the number of bytes that follow, and one msgpack array of so many
bytes. The array is a message: a small integer, the tag, and then the message's fields in order.

    tag  message     from    fields
    1    Greeting    client  version, nonce | None, pid, right
    2    Call        client  id, method, params, descriptors
    3    Piece       client  id, data           a piece of a streamed upload
    4    Finish      client  id                 the upload is complete
    5    CancelCall  client  id
    6    Granted     client  id, credit         so many bytes more of Items may come
    7    Proof       client  proof              TCP only: the client knows the token
    11   Welcome     daemon  version, software, node_id, storage_dir, label, read_only, marker
    12   Answer      daemon  id, result         the call ended well
    13   Failure     daemon  id, code, fields   the call ended badly (:func:`.errors.from_wire`)
    14   Progress    daemon  id, info           any number, before the end
    15   Chunk       daemon  id, data           bytes of a streamed result, in order, before the end
    16   Item        daemon  id, meta, data     one of many results, in order, before the end
    17   Challenge   daemon  nonce, proof, signature   TCP only: the daemon knows the token

The client's first message is a Greeting, the daemon's answer a Welcome, or a Failure with id 0. Over
TCP there are a Challenge and a Proof in between (:mod:`.proof`); before the Challenge was found
right, the client says nothing else, and believes nothing. Until then frames have at most
``limits.MAX_LOCAL_GREETING`` bytes. ``storage_dir`` counts if the folder has the ``marker``. Each
Call ends with exactly one Answer or Failure; the client chooses ids, from 1 up. ``descriptors`` is
the number of file descriptors (0 or 1) that ride on that frame's first byte (SCM_RIGHTS).

A call has ``limits.LOCAL_ITEM_CREDIT`` bytes of credit for its Items; each uses up :func:`item_cost`,
and none is sent when there is no credit left. The client grants again what it has dealt with.

A message may have more fields than this version knows: they are ignored, so that a greeting from
another version can be answered with VersionMismatch. Invariant: a :class:`FrameReader` never holds
more than one frame beyond what it was fed last, and looks at a length before it keeps a byte of it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, NamedTuple

import msgspec

from kachery_p2p.protocol import codec, limits
from kachery_p2p.protocol.codec import Buffer
from kachery_p2p.protocol.errors import BadInput, ProtocolViolation

from .proof import FULL

LENGTH_BYTES: Final = 4
_ITEM_HEADER: Final = bytes([0x90 | 4, 16])
"""In msgpack: an array of four, of which the first is Item's tag."""

CallId = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""Chosen by the client; 0 is the connection itself."""


class Greeting(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The client says who it is; over TCP with a nonce, and for which right it has a token."""

    version: int
    nonce: bytes | None
    pid: int
    right: str = FULL


class Call(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Do ``method``; ``descriptors`` file descriptors come along with this frame."""

    id: CallId
    method: str
    params: dict[str, Any]
    descriptors: Annotated[int, msgspec.Meta(ge=0, le=1)] = 0


class Piece(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """At most ``limits.LOCAL_PIECE`` bytes of what call ``id`` uploads."""

    id: CallId
    data: bytes


class Finish(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """All pieces of call ``id`` were sent."""

    id: CallId


class CancelCall(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Nobody waits for call ``id`` any more; it still ends with an Answer or a Failure."""

    id: CallId


class Granted(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The client has dealt with Items of call ``id``: ``credit`` bytes more of them may come."""

    id: CallId
    credit: Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Proof(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """The client shows that it knows the token: :meth:`.proof.Challenge.client_proof`."""

    proof: bytes


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """The daemon lets the client in; ``read_only`` if this user may not change anything."""

    version: int
    software: str
    node_id: str
    storage_dir: str
    label: str
    read_only: bool
    marker: str = ""


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """Call ``id`` ended well."""

    id: CallId
    result: Any


class Failure(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """Call ``id`` ended badly: what :func:`.errors.to_wire` made of the error."""

    id: CallId
    code: str
    fields: dict[str, Any]


class Progress(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """How far call ``id`` has come."""

    id: CallId
    info: dict[str, Any]


class Chunk(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """The next bytes of what call ``id`` results in."""

    id: CallId
    data: bytes


class Item(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """One of the results of call ``id``, of which there are many, in order."""

    id: CallId
    meta: Any
    data: bytes


class Challenge(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """The daemon shows that it knows the token and which node it is:
    :meth:`.proof.Challenge.is_daemon`."""

    nonce: bytes
    proof: bytes
    signature: bytes


def item_cost(data: bytes) -> int:
    """The credit that an item with such data takes, in bytes."""
    return len(data) + limits.LOCAL_ITEM_OVERHEAD


class PackedItem(NamedTuple):
    """What is the same in the items that carry one result to many calls; made by :func:`pack_item`."""

    tail: bytes
    cost: int


ClientMessage = Greeting | Call | Piece | Finish | CancelCall | Granted | Proof
DaemonMessage = Welcome | Answer | Failure | Progress | Chunk | Item | Challenge
Message = ClientMessage | DaemonMessage

_BY_TAG: Final[dict[int, type[Message]]] = {
    1: Greeting,
    2: Call,
    3: Piece,
    4: Finish,
    5: CancelCall,
    6: Granted,
    7: Proof,
    11: Welcome,
    12: Answer,
    13: Failure,
    14: Progress,
    15: Chunk,
    16: Item,
    17: Challenge,
}


def encode_frame(value: Any) -> bytes:
    """A message (or any plain value) with its length in front.

    Raises:
        BadInput: it holds something that msgpack cannot carry, or packs to more than
            ``limits.MAX_LOCAL_FRAME`` bytes.
    """
    try:
        packed = codec.encode(value)
    except _UNSENDABLE as error:
        what, reason = _culprit(value) or ("message to the node", error)
        raise BadInput(what=what, reason=f"cannot be sent: {reason}") from error
    return _framed(packed)


_UNSENDABLE: Final = (TypeError, ValueError, OverflowError, RecursionError)


def _culprit(value: Any) -> tuple[str, Exception] | None:
    """Which parameter of a call it is that cannot be sent, and why."""
    for name, given in value.params.items() if isinstance(value, Call) else ():
        try:
            codec.encode(given)
        except _UNSENDABLE as error:
            return name, error
    return None


def _framed(packed: bytes) -> bytes:
    if len(packed) > limits.MAX_LOCAL_FRAME:
        most = limits.MAX_LOCAL_FRAME
        reason = f"it takes {len(packed)} bytes, more than the {most} that fit into one frame"
        raise BadInput(what="message to the node", reason=reason)
    return len(packed).to_bytes(LENGTH_BYTES, "big") + packed


def encode_message(message: Message) -> bytes:
    """One message as a frame, ready to be sent. Raises like :func:`encode_frame`."""
    return encode_frame(message)


def pack_item(meta: Any, data: bytes) -> PackedItem:
    """A result that is to go to several calls. ``meta`` is plain."""
    return PackedItem(codec.pack(meta) + codec.pack(data), item_cost(data))


def item_header(number: int) -> bytes:
    """What is the same in all items of a call."""
    return _ITEM_HEADER + codec.pack(number)


def encode_item(header: bytes, packed: PackedItem) -> bytes:
    """``Item(number, meta, data)`` as a frame, as :func:`encode_message` has it.

    Raises:
        BadInput: it is longer than ``limits.MAX_LOCAL_FRAME``.
    """
    return _framed(header + packed.tail)


def decode_message(value: Any) -> Message:
    """What :meth:`FrameReader.feed` returned, checked and typed.

    Raises:
        ProtocolViolation: it is no message, or one with wrong fields.
    """
    if not isinstance(value, list) or not value:
        raise ProtocolViolation(reason="a frame that is not a message")
    tag = value[0]
    kind = _BY_TAG.get(tag) if type(tag) is int else None
    if kind is None:
        raise ProtocolViolation(reason=f"unknown message {str(tag)[:40]!r}")
    return codec.convert(kind, value)


class FrameReader:
    """Cuts a byte stream into frames. After an error it refuses everything."""

    __slots__ = ("_broken", "_buffer", "most")

    def __init__(self, most: int = limits.MAX_LOCAL_FRAME) -> None:
        self.most = most
        """Bytes of the longest frame that is taken in."""
        self._buffer = bytearray()
        self._broken = False

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame; if not 0 at the end of the stream, it was cut off."""
        return len(self._buffer)

    def feed(self, data: Buffer) -> list[Any]:
        """Take in the next bytes; returns the values of the frames that they complete.

        Raises:
            ProtocolViolation: a frame is longer than :attr:`most`, or is not one
                msgpack value.
        """
        if self._broken:
            raise ProtocolViolation(reason="bytes after a broken frame")
        self._buffer += data
        try:
            return self._take()
        except ProtocolViolation:
            self._broken = True
            self._buffer = bytearray()
            raise

    def _take(self) -> list[Any]:
        values: list[Any] = []
        start, have = 0, len(self._buffer)
        with memoryview(self._buffer) as view:
            while have - start >= LENGTH_BYTES:
                length = int.from_bytes(view[start : start + LENGTH_BYTES], "big")
                if length > self.most:
                    raise ProtocolViolation(
                        reason=f"a frame of {length} bytes, {self.most} allowed"
                    )
                end = start + LENGTH_BYTES + length
                if end > have:
                    break
                with view[start + LENGTH_BYTES : end] as body:
                    values.append(codec.unpack(body))
                start = end
        del self._buffer[:start]
        return values
