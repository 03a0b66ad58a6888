"""Control frames that wait to be sent on one link: few, short, and all before any bulk.

They are kept encoded, so that what they hold is what is counted. Nothing is raised into whoever adds
one: of more than there may be, :attr:`ControlQueue.overflow` says so, and the link is to be closed.
"""

from __future__ import annotations

from collections import deque

from kachery_p2p.protocol.errors import LinkClosed
from kachery_p2p.protocol.limits import CONTROL_PAUSE_BYTES, MAX_CONTROL_BYTES, MAX_CONTROL_QUEUE

from .frames import Frame, encode_header


class ControlQueue:
    def __init__(self) -> None:
        self.bytes = 0
        self.overflow: LinkClosed | None = None
        """Set once too much is queued that the peer does not take; nothing is taken in any more."""
        self._headers: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._headers)

    def push(self, frame: Frame) -> None:
        """One more, unless there are too many."""
        if self.overflow is not None:
            return
        header = encode_header(frame)
        if len(self) >= MAX_CONTROL_QUEUE or self.bytes + len(header) > MAX_CONTROL_BYTES:
            self.overflow = LinkClosed(
                peer="the peer",
                reason=f"it does not read: {len(self)} control frames of {self.bytes} bytes wait",
            )
            return
        self._headers.append(header)
        self.bytes += len(header)

    def put(self, frame: Frame, *, first: bool = False) -> None:
        """One that must be sent, however many there are: a hello, or the last word."""
        header = encode_header(frame)
        if first:
            self._headers.appendleft(header)
        else:
            self._headers.append(header)
        self.bytes += len(header)

    def pop(self) -> bytes:
        """The next one, encoded."""
        header = self._headers.popleft()
        self.bytes -= len(header)
        return header

    def clear(self) -> None:
        self._headers.clear()
        self.bytes = 0

    @property
    def congested(self) -> bool:
        """So much waits that requests and answers should wait until the peer has taken some."""
        return self.bytes > CONTROL_PAUSE_BYTES
