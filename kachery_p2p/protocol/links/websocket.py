"""The data frames of a WebSocket (RFC 6455), read straight into the buffers of the messages they make.

:class:`MessageReader` says where the next bytes belong (:meth:`~MessageReader.buffer`) and cuts what
came into messages (:meth:`~MessageReader.filled`). A large message is received into its own memory, and
no byte of it is copied on the way; small frames are taken out of one buffer, several at a time.

Frames that are not data (close, ping, pong) are handed on as they came, to whoever knows how a
WebSocket is opened and closed. What breaks the rules is an :class:`Offence`, once; nothing is read
after it.

Invariants: memory that is taken for a message is at most ``GROWTH`` times what has come of it, and
``SCRATCH``; its length is compared with ``most`` before that, and there is room for all of it
(``admit``). Until there is, no more is to be received. Pure: no sockets, no clock.

Non-goals: opening and closing, text (this wire is binary), extensions.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from kachery_p2p.protocol.codec import Buffer
from kachery_p2p.protocol.limits import KIB

from .session import new_memory

SCRATCH: Final = 16 * KIB
"""Bytes of the buffer for beginnings and small frames; so many of a large message are copied once."""
GROWTH: Final = 8
"""Who announces much and sends little makes a node hold so many times what it sends; a message of a
megabyte is copied by an eighth for that."""
MAX_FRAGMENTS: Final = 4_096
"""Frames of one message: middle boxes may cut it, but not without end."""
CLOSE_PROTOCOL: Final = 1002
CLOSE_UNSUPPORTED: Final = 1003
CLOSE_TOO_BIG: Final = 1009

_FIN: Final = 0x80
_RESERVED: Final = 0x70
_MASKED: Final = 0x80
_CONTINUATION, _TEXT, _BINARY, _CONTROL = 0x0, 0x1, 0x2, 0x8
_LONG: Final = struct.Struct(">BBQ")
_SHORT: Final = struct.Struct(">BBH")
_TINY: Final = struct.Struct(">BB")
_MOST_CONTROL: Final = 125


class Offence(NamedTuple):
    """Why the connection must be closed, with a close code of the RFC."""

    code: int
    reason: str


class _Head(NamedTuple):
    """The head of a frame that has come whole. ``end``: where its payload begins, from its start."""

    opcode: int
    fin: bool
    length: int
    mask: bytes
    end: int


def frame_head(length: int, mask: bytes = b"") -> bytes:
    """The head of a binary message that is one frame of so many bytes."""
    masked = _MASKED if mask else 0
    if length <= _MOST_CONTROL:
        return _TINY.pack(_FIN | _BINARY, masked | length) + mask
    if length < 1 << 16:
        return _SHORT.pack(_FIN | _BINARY, masked | 126, length) + mask
    return _LONG.pack(_FIN | _BINARY, masked | 127, length) + mask


class MessageReader:
    """What comes on one connection. ``most``: bytes of a message; ``first``: of the first one, where
    that is known to be less. ``unmask``: of what a client sends, takes its mask off a payload.
    ``memory`` gives so many bytes to a large message. ``admit`` says whether there is room for a
    message for which so many bytes may be held; if not, the reader is ``halted`` until
    :meth:`go_on`."""

    def __init__(
        self,
        *,
        most: int,
        first: int | None = None,
        unmask: Callable[[Buffer, bytes], Buffer] | None = None,
        memory: Callable[[int], memoryview] = new_memory,
        admit: Callable[[int], bool] = lambda count: True,
    ) -> None:
        self._memory = memory
        self._admit = admit
        self.messages: deque[Buffer] = deque()
        """What came whole and was not taken yet, in order."""
        self.rooms: deque[int] = deque()
        """For each of these, how many bytes were admitted for it; 0: it is small."""
        self.halted = False
        """Whether a message has begun for which there is no room: nothing more may come."""
        self.room = 0
        """What was admitted for the one that is coming."""
        self._later = b""
        """What was fed while it is halted."""
        self.control: deque[bytes] = deque()
        """Frames of control, whole, with their heads."""
        self.offence: Offence | None = None
        self._unmask = unmask
        self._most = most
        self._most_now = most if first is None else first
        self._scratch = memoryview(bytearray(SCRATCH))
        self._have = 0
        """Bytes in the scratch buffer."""
        self._large: memoryview | None = None
        """Memory for the payload that is being received, and how far it is."""
        self._at = 0
        self._head = _Head(0, True, 0, b"", 0)
        """Of that one."""
        self._begun = bytearray()
        """Of a message in several frames, those that came."""
        self._fragments = 0

    def buffer(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        if self.offence is not None:  # nobody looks at them
            return self._scratch
        if self._large is not None:
            return self._large[self._at :]
        return self._scratch[self._have :]

    def filled(self, count: int) -> None:
        """So many bytes came into :meth:`buffer`."""
        if self.offence is not None:
            self._have = 0
        elif self._large is None:
            self._have += count
            self._cut()
        else:
            self._at += count
            if self._at == self._head.length:
                payload, self._large = self._large, None
                self._take(self._head, self._unmasked(payload, self._head.mask))
            elif self._at == len(self._large):
                self._widen(self._large)

    def feed(self, data: Buffer) -> None:
        """Bytes that came some other way."""
        view = memoryview(data)
        while view and self.offence is None:
            if self.halted:
                self._later += view
                return
            space = self.buffer()
            count = min(len(space), len(view))
            space[:count] = view[:count]
            self.filled(count)
            view = view[count:]

    def forget(self) -> None:
        """Let go of what came and was not taken. Nothing more may come."""
        self.messages.clear()
        self.rooms.clear()
        self.abandon()

    def abandon(self) -> None:
        """What is coming will not come whole: nothing more may come. What came whole is still there."""
        self._large, self._begun, self._later = None, bytearray(), b""
        self._scratch, self._have, self.room = memoryview(b""), 0, 0

    def go_on(self) -> None:
        """There is room now for what it is halted for."""
        self.halted = False
        self._cut()
        later, self._later = self._later, b""
        self.feed(later)

    # --- frames --------------------------------------------------------------------------------

    def _cut(self) -> None:
        """Take out of the scratch buffer what has come whole."""
        start = 0
        while self.offence is None and (head := self._read_head(start)) is not None:
            payload = start + head.end
            stop = payload + head.length
            if stop > self._have and (stop - start <= SCRATCH or self._have - start < SCRATCH):
                break
            if not self._has_room(head, large=stop > self._have):
                break
            if stop > self._have:
                self._begin_large(head, payload)
                return
            start = self._take_small(head, start, payload, stop)
        self._keep_from(start)

    def _has_room(self, head: _Head, *, large: bool) -> bool:
        """Whether a frame may be received that is large, or begins a message of several."""
        several = not head.fin and not head.opcode & _CONTROL
        if self.room or not (large or several):
            return True
        # How long one in several frames will be is not known, and each frame is held beside it.
        self.room = 2 * self._most if several else head.length
        self.halted = not self._admit(self.room)
        return not self.halted

    def _take_small(self, head: _Head, start: int, payload: int, stop: int) -> int:
        if head.opcode & _CONTROL:
            self.control.append(bytes(self._scratch[start:stop]))
        else:
            part = self._scratch[payload:stop]
            self._take(head, self._unmasked(bytes(part), head.mask))
        return stop

    def _unmasked(self, payload: Buffer, mask: bytes) -> Buffer:
        return payload if self._unmask is None else self._unmask(payload, mask)

    def _begin_large(self, head: _Head, payload: int) -> None:
        self._head, self._at = head, self._have - payload
        self._widen(self._scratch[payload : self._have])
        self._have = 0

    def _widen(self, so_far: memoryview) -> None:
        """Have memory for what comes next of a large payload: what has come may be all of it."""
        self._large = self._memory(min(self._head.length, GROWTH * self._at))
        self._large[: self._at] = so_far

    def _keep_from(self, start: int) -> None:
        left = self._have - start
        if start and left:
            self._scratch[:left] = bytes(self._scratch[start : self._have])
        self._have = left

    def _read_head(self, start: int) -> _Head | None:
        """The head at ``start``; None: it is not there yet, or breaks the rules."""
        have = self._have - start
        if have < 2:
            return None
        first, second = self._scratch[start], self._scratch[start + 1]
        length, end = second & 0x7F, 2
        if length == 126:
            end = 4
        elif length == 127:
            end = 10
        at = end
        if self._unmask is not None:
            end += 4
        opcode = first & 0x0F
        if self._refuse(first, second, opcode, length):
            return None
        if have < end:
            return None
        if at > 2:
            length = int.from_bytes(self._scratch[start + 2 : start + at], "big")
        so_far = len(self._begun) if opcode == _CONTINUATION else 0
        if length > self._most_now - so_far and not opcode & _CONTROL:
            self.offence = Offence(CLOSE_TOO_BIG, f"a message of {so_far + length} bytes")
            return None
        mask = bytes(self._scratch[start + at : start + end])
        return _Head(opcode, bool(first & _FIN), length, mask, end)

    def _refuse(self, first: int, second: int, opcode: int, length: int) -> bool:
        """Whether a frame must not begin like that here; it is said then."""
        whole = not self._fragments
        reason = ""
        if first & _RESERVED:
            reason = "reserved bits must be 0"
        elif bool(second & _MASKED) == (self._unmask is None):
            reason = "incorrect masking"
        elif opcode & _CONTROL:
            if opcode > 0xA:
                reason = "invalid opcode"
            elif length > _MOST_CONTROL or not first & _FIN:
                reason = "a control frame that is too long or in parts"
        elif opcode == _TEXT:
            self.offence = Offence(CLOSE_UNSUPPORTED, "a text message came; this wire is binary")
            return True
        elif opcode > _BINARY:
            reason = "invalid opcode"
        elif (opcode == _CONTINUATION) == whole:
            reason = "unexpected continuation" if whole else "expected a continuation"
        if reason:
            self.offence = Offence(CLOSE_PROTOCOL, reason)
        return bool(reason)

    def _take(self, head: _Head, payload: Buffer) -> None:
        """A data frame has come whole."""
        if head.fin and not self._fragments:
            self._add(payload)
            return
        self._begun += payload
        self._fragments += 1
        if head.fin:
            self._add(self._begun)
        elif self._fragments < MAX_FRAGMENTS:
            return
        else:
            self.offence = Offence(CLOSE_TOO_BIG, "too many fragments")
        self._begun, self._fragments = bytearray(), 0

    def _add(self, message: Buffer) -> None:
        self._most_now = self._most
        self.messages.append(message)
        self.rooms.append(self.room)
        self.room = 0
