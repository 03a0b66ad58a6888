"""Frames of streams that wait to be sent on one link, and which of them is next.

They are shared out by bytes, first between *groups* (the nodes on whose behalf they flow), then between
the streams of a group (:mod:`.fair_queue`). Long bodies go in fragments, so that others have their turn
in between. Frames of one stream stay in order.

Non-goals: credit, and whether the link may send at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

from kachery_p2p.protocol.codec import Buffer
from kachery_p2p.protocol.limits import FRAME_OVERHEAD

from .fair_queue import FairQueue
from .frames import PART_TAIL, SEALED_TAIL, TAG_BYTES, Data, Frame, Item, sealed_bytes


class BulkQueue:
    def __init__(self) -> None:
        self.bytes = 0
        """Of bodies that wait, but for those of circuits: their windows bound them."""
        self._outboxes: dict[int, deque[tuple[Frame, Buffer | None]]] = {}
        self._group_of: dict[int, Hashable] = {}
        self._groups: FairQueue[Hashable] = FairQueue()
        self._streams: dict[Hashable, FairQueue[int]] = {}

    def __bool__(self) -> bool:
        return bool(self._outboxes)

    def waiting(self, number: int) -> int:
        """Frames of a stream that wait."""
        return len(self._outboxes.get(number, ()))

    def put(self, number: int, group: Hashable, frame: Frame, body: Buffer | None) -> None:
        """A stream's next frame. Its group may be another one only when nothing of it waits."""
        outbox = self._outboxes.get(number)
        if outbox is None:
            outbox = self._outboxes[number] = deque()
            self._group_of[number] = group
            self._streams.setdefault(group, FairQueue()).add(number)
            self._groups.add(group)
        outbox.append((frame, body))
        self.bytes += sealed_bytes(frame)

    def next(self, most: int) -> Item:
        """What to send now, of a body at most so many bytes. Raises IndexError: nothing waits."""
        group = self._groups.first()
        streams = self._streams[group]
        number = streams.first()
        outbox = self._outboxes[number]
        item = self._fragment(outbox, most)
        size = FRAME_OVERHEAD + (0 if item[1] is None else len(item[1]))
        streams.charge(number, size)
        self._groups.charge(group, size)
        if not outbox:
            self._remove(number)
        return item

    def _fragment(self, outbox: deque[tuple[Frame, Buffer | None]], most: int) -> Item:
        frame, body = outbox[0]
        if (
            not isinstance(frame, Data)
            or frame.tail != SEALED_TAIL
            or body is None
            or len(body) <= most
        ):
            outbox.popleft()
            self.bytes -= sealed_bytes(frame)
            return frame, body
        view = memoryview(body)
        rest = Data(frame.id, frame.meta, SEALED_TAIL, frame.size - most)
        outbox[0] = rest, view[most:]
        self.bytes -= most
        return Data(frame.id, None, PART_TAIL, most + TAG_BYTES), view[:most]

    def drop(self, number: int) -> None:
        """What waits of a stream is not sent."""
        outbox = self._outboxes.get(number)
        if outbox is not None:
            self.bytes -= sum(sealed_bytes(frame) for frame, _ in outbox)
            self._remove(number)

    def _remove(self, number: int) -> None:
        del self._outboxes[number]
        group = self._group_of.pop(number)
        streams = self._streams[group]
        streams.remove(number)
        if not streams:
            del self._streams[group]
            self._groups.remove(group)
