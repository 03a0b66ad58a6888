"""The sources of a download, and what each of them was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kachery_p2p.protocol.limits import READ_BATCH_BYTES

from .delivery import Delivery
from .ranges import Range, common, length


@dataclass(slots=True, eq=False)
class Giver:
    """A source. ``has``: what it has, None is all of it."""

    node: str
    delivery: Delivery
    has: Sequence[Range] | None
    since: float
    segments: dict[int, Segment] = field(default_factory=dict)
    last: int = 0
    """Bytes of the segment before."""
    silent: bool = False
    rests_until: float = 0.0

    @property
    def asked(self) -> int:
        """Bytes that it has yet to give."""
        return sum(length(each.ranges) for each in self.segments.values())

    def offered(self, ranges: list[Range]) -> list[Range]:
        """What of these it has."""
        return ranges if self.has is None else common(ranges, self.has)


@dataclass(slots=True, eq=False)
class Segment:
    """What a source was asked for at a time."""

    giver: Giver
    ranges: list[Range]
    """What of it has not come."""
    urgent: bool
    shared: bool = False
    """Asked of others as well."""
    since: float = 0.0

    def soon(self) -> list[Range]:
        """What of it is worth waiting for."""
        if self.urgent:
            return self.ranges
        return [(start, min(stop, start + READ_BATCH_BYTES)) for start, stop in self.ranges[:1]]
