"""The newest messages of logs, in memory, for those who have all that came before them.

Invariant: what is here is the end of its log, whole, and may be known to everybody.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from kachery_p2p.protocol.feeds.feed import Head, Slice
from kachery_p2p.protocol.limits import MAX_RECENT_BYTES, MAX_RECENT_LOGS, MAX_SLICE_RUNS
from kachery_p2p.storage.feeds.log import Log, drop_first


class Served(NamedTuple):
    """Some messages, with what proves them under ``head``."""

    slice: Slice
    peaks: list[bytes]
    right: list[bytes]
    head: Head


class NewestMessages:
    """By log: a slice that ends where the head does that is remembered with it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Log, Served] = OrderedDict()

    def remember(self, log: Log, slice: Slice, head: Head) -> None:
        """The log has grown to ``head`` by these; without any, or if they are not its end, only what
        was known before is forgotten."""
        self.forget(log)
        whole = bool(slice.texts) and slice.stop == head.size
        # What a reader gets from here goes out in one part.
        small = len(slice.runs) <= MAX_SLICE_RUNS and sum(map(len, slice.texts)) <= MAX_RECENT_BYTES
        if whole and small:
            self._kept[log] = Served(slice, [], [], head)
            while len(self._kept) > MAX_RECENT_LOGS:
                self._kept.popitem(last=False)

    def forget(self, log: Log) -> None:
        self._kept.pop(log, None)

    def serve(self, log: Log, position: int) -> Served | None:
        """What is new from ``position`` on, if all of that is here, and there is something."""
        kept = self._kept.get(log)
        if kept is None or not kept.slice.start <= position < kept.slice.stop:
            return None
        if position > kept.slice.start:
            return kept._replace(slice=drop_first(kept.slice, position - kept.slice.start))
        return kept

    def ends_at(self, log: Log, position: int) -> bool:
        """Whether it is clear that a log, on which there is no fork, ends here."""
        kept = self._kept.get(log)
        return kept is not None and kept.slice.stop == position
