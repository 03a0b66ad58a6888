"""Sessions: after the handshake, records that only the two ends can read or make.

Opening. Each handshake message is preceded by :data:`MAGIC` and the sender's protocol version, so
that two nodes of different versions can say so to each other before any cryptography is tried. The
same bytes are the Noise prologue, so nobody on the way can have changed them.

Records. ``record = u32 n | sealed headers (n bytes) | tails``. A record carries one frame or several:
their headers are one msgpack array, and the tails follow in the same order. Record number k of a
direction uses the Noise nonce 2k for its headers and 2k + 1 for its sealed tail. Numbers are implicit:
a record that is lost, repeated, reordered or altered does not authenticate, and the session ends.
Because a tail's nonce follows from its number, tails may be opened later, in any order and in any
thread.

A tail is sealed (encrypted by this session; at most one in a record; all of a body or a part of it) or
opaque (a record of an end-to-end session that passes through a proxy: it is encrypted already,
encrypting it again would only cost time). Which of the two, and how long it is, stands in the
authenticated headers.

Keys are replaced (Noise REKEY) after each :data:`~.limits.REKEY_RECORDS` records of a direction.

Everything here is pure; :class:`Seal` and :class:`SealedBody` may be used from worker threads.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kachery_p2p.protocol.codec import Buffer
from kachery_p2p.protocol.errors import ProtocolViolation, VersionMismatch
from kachery_p2p.protocol.limits import MAX_HEADERS, MAX_RECORD, PROTOCOL_VERSION, REKEY_RECORDS

from . import noise
from .frames import (
    NO_TAIL,
    OPAQUE_TAIL,
    PART_TAIL,
    SEALED_TAIL,
    TAG_BYTES,
    Data,
    Frame,
    decode_headers,
    join_headers,
)

MAGIC = b"kachery-p2p"
_PREFIX = struct.Struct(">11sH")
_LENGTH = struct.Struct(">I")


def prologue(version: int = PROTOCOL_VERSION) -> bytes:
    """What both sides mix into the handshake, and what precedes each handshake message."""
    return _PREFIX.pack(MAGIC, version)


def unwrap_handshake(message: Buffer, version: int = PROTOCOL_VERSION) -> bytes:
    """Strip the prefix of a received handshake message.

    Raises:
        ProtocolViolation: the other side is no kachery_p2p node.
        VersionMismatch: it is one, of another protocol version.
    """
    if len(message) < _PREFIX.size:
        raise ProtocolViolation(reason="the other side is not a kachery_p2p node (short greeting)")
    magic, theirs = _PREFIX.unpack_from(message)
    if magic != MAGIC:
        raise ProtocolViolation(reason="the other side is not a kachery_p2p node (no magic)")
    if theirs != version:
        raise VersionMismatch(ours=version, theirs=theirs)
    return bytes(message[_PREFIX.size :])


def new_memory(length: int) -> memoryview:
    """So many bytes that nobody else has."""
    return memoryview(bytearray(length))


class _Direction:
    """One key and its record counter."""

    __slots__ = ("_aead", "_key", "_number")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._aead = AESGCM(key)
        self._number = 0

    def take(self) -> tuple[AESGCM, int]:
        number = self._number
        if number and number % REKEY_RECORDS == 0:
            self._key = noise.rekey(self._key)
            self._aead = AESGCM(self._key)
        self._number = number + 1
        return self._aead, number


@dataclass(frozen=True, slots=True)
class Seal:
    """The right to make one record. Records must be sent in the order their seals were taken."""

    aead: AESGCM
    number: int

    def parts(
        self,
        headers: list[bytes],
        tails: list[tuple[Data, Buffer]],
        memory: Callable[[int], memoryview] = new_memory,
    ) -> list[Buffer]:
        """The record of frames, by their encoded headers, in parts that follow one another: what only
        passes through is not copied. ``tails``: those of them that have one, with the plain body of a
        sealed tail (one at most) or the whole of an opaque one, which ``frame.size`` must fit.
        ``memory`` gives so many bytes to write to."""
        sealed = self.aead.encrypt(noise.nonce(2 * self.number), join_headers(headers), None)
        found: list[Buffer] = [_LENGTH.pack(len(sealed)) + sealed]
        for frame, body in tails:
            if frame.tail == OPAQUE_TAIL:
                found.append(body)
            else:
                tail = memory(frame.size)
                self.aead.encrypt_into(noise.nonce(2 * self.number + 1), body, None, tail)
                found.append(tail)
        return found

    def record(self, headers: list[bytes], tails: list[tuple[Data, Buffer]]) -> bytes:
        """As :meth:`parts`, in one piece."""
        return b"".join(self.parts(headers, tails))


@dataclass(frozen=True, slots=True)
class SealedBody:
    """A received tail that is still encrypted. ``open()`` is for a worker thread when it is big."""

    aead: AESGCM
    number: int
    tail: memoryview
    before: tuple[SealedBody, ...] = ()
    """The parts of the body that came before this one, each in a record of its own."""

    def __len__(self) -> int:
        return len(self.tail) - TAG_BYTES + sum(len(part) for part in self.before)

    def open(self) -> bytes:
        """The plain bytes.

        Raises:
            ProtocolViolation: they are not what the peer sent. The session must end.
        """
        if self.before:
            return b"".join([*(part.open() for part in self.before), self._open()])
        return self._open()

    def _open(self) -> bytes:
        with _authentic():
            return self.aead.decrypt(noise.nonce(2 * self.number + 1), self.tail, None)

    def open_into(self, memory: memoryview) -> memoryview:
        """As :meth:`open`, into the beginning of memory of the caller's; that part of it."""
        start = 0
        for part in (*self.before, self):
            size = len(part.tail) - TAG_BYTES
            with _authentic():
                part.aead.decrypt_into(
                    noise.nonce(2 * part.number + 1), part.tail, None, memory[start : start + size]
                )
            start += size
        return memory[:start]


@contextlib.contextmanager
def _authentic() -> Iterator[None]:
    try:
        yield
    except InvalidTag as error:
        raise ProtocolViolation(reason="a record's body does not authenticate") from error


Body = SealedBody | memoryview | None
"""A received tail: still sealed, opaque, or absent."""


class Session:
    """Both directions of one finished handshake."""

    def __init__(
        self,
        *,
        send_key: bytes,
        receive_key: bytes,
        peer: bytes,
        handshake_hash: bytes,
        rtt: float = 0.0,
    ) -> None:
        self.peer = peer
        """The other end's Ed25519 public key, 32 bytes."""
        self.handshake_hash = handshake_hash
        self.rtt = rtt
        """Seconds that the handshake's round trip took; 0: it was not measured."""
        self._sending = _Direction(send_key)
        self._receiving = _Direction(receive_key)

    def seal(self) -> Seal:
        """Take the next record number."""
        return Seal(*self._sending.take())

    def open(self, record: Buffer) -> list[tuple[Frame, Body]]:
        """Decrypt a record's headers, and say what each frame's tail is.

        Raises:
            ProtocolViolation: anything is wrong with it. The session must end.
        """
        if not _LENGTH.size <= len(record) <= MAX_RECORD:
            raise ProtocolViolation(reason=f"a record of {len(record)} bytes")
        (length,) = _LENGTH.unpack_from(record)
        start = _LENGTH.size + length
        if not TAG_BYTES < length <= MAX_HEADERS + TAG_BYTES or start > len(record):
            raise ProtocolViolation(reason=f"a record header of {length} bytes")
        view = memoryview(record)
        aead, number = self._receiving.take()
        try:
            headers = aead.decrypt(noise.nonce(2 * number), view[_LENGTH.size : start], None)
        except InvalidTag as error:
            raise ProtocolViolation(reason="a record's header does not authenticate") from error
        frames: list[tuple[Frame, Body]] = []
        sealed = False
        for frame in decode_headers(headers):
            if not isinstance(frame, Data):
                frames.append((frame, None))
                continue
            end = start + frame.size
            if not start <= end <= len(record):
                raise ProtocolViolation(reason="a tail that is shorter than announced")
            tail = view[start:end]
            start = end
            if frame.tail == NO_TAIL and not frame.size:
                frames.append((frame, None))
            elif frame.tail == OPAQUE_TAIL:
                frames.append((frame, tail))
            elif frame.tail in (SEALED_TAIL, PART_TAIL) and frame.size >= TAG_BYTES and not sealed:
                sealed = True
                frames.append((frame, SealedBody(aead, number, tail)))
            else:
                raise ProtocolViolation(reason="an unknown kind of tail, or a second sealed one")
        if start != len(record):
            raise ProtocolViolation(reason="a tail where none was announced")
        return frames
