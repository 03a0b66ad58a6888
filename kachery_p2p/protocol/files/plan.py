"""Which bytes of a download to ask of whom: pure decisions, no I/O.

Participants: a download (:mod:`kachery_p2p.node.files.content`) owns one :class:`Plan`; a *source* is
a node id, which has all of the file or a part of it. ``missing`` is what shall be fetched, and
``urgent`` what of it somebody waits for now. ``now`` is the time in seconds on any steady clock.

A *segment* is what is asked of one source in one request: up to ``MAX_RANGES`` ranges, in file order.
Ranges are half-open, and split only at multiples of ``unit``.

Rules.

* A segment takes about ``SEGMENT_SECONDS`` at the rate that was measured, and no more than the
  source's share of what is left, so that all finish together. The next one is asked for before the
  one before it ends. Segments grow from a small one; a source that is alone begins with a larger
  one, but others may come.
* What is urgent is asked for although a segment of the whole has it, unless it is about to come.
* With one source, or several that have all, bytes are asked in file order, so that the hash of the
  whole follows closely. Beside sources that have a part, the rarest bytes go first, beginning at a
  place that is another one for each requester; and who has all is spared what the others will soon
  have given.
* When all is asked for, who has nothing to do takes the end of the segment that will take longest,
  or, of the last blocks, asks for the same: whoever gives them first wins, the other is stopped.
* Who crawls keeps what it can give in ``SEGMENT_SECONDS``. Who is silent keeps its segments, for it
  may come back, but others are asked for the same.

Where parts cannot be verified by themselves, bytes must come in order, so nothing is asked of two: a
segment is stopped before another source goes on with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from kachery_p2p.protocol.limits import (
    FIRST_SEGMENT,
    LONGEST_SEGMENT,
    MAX_RANGES,
    MAX_SEGMENTS_EACH,
    SEGMENT,
    SEGMENT_SECONDS,
    SILENCE_REST_SECONDS,
)

from .delivery import Delivery
from .givers import Giver, Segment
from .ranges import Range, common, intersect, length, merge, rarest, subtract

Taken = tuple[int, list[Range]]
"""A ticket, to be given back, and what is to be asked."""

_GROWTH: Final = 4
"""A segment is at most so many times as long as the one before it."""
_LEAD_SECONDS: Final = 0.1
"""The next segment is asked for so long, and a round trip, before the one before it ends."""
_CRAWLS: Final = 3
"""A segment that takes so many times SEGMENT_SECONDS is too long for its source."""
_GAIN_SECONDS: Final = 0.05
_GAIN: Final = 0.2
"""Work is taken from another only if that saves so much time, and such a part of it."""


class Review(NamedTuple):
    """``freed``: there is work for others. ``stop``: segments that are to be given back now."""

    freed: bool
    stop: list[int]


class Plan:
    """What is missing, and who is fetching which part of it. ``me`` is the node that fetches;
    ``races``: parts are verified by themselves."""

    def __init__(self, size: int, unit: int, *, me: str = "", races: bool = True) -> None:
        self._size = size
        self._unit = unit
        self._me = me
        self._races = races
        self._free: list[Range] = []
        self._urgent: list[Range] = []
        self._taken: dict[int, Segment] = {}
        self._givers: dict[str, Giver] = {}
        self._next = 0

    # --- what is wanted ----------------------------------------------------------------------

    def set_missing(self, missing: Sequence[Range], urgent: Sequence[Range] = ()) -> None:
        """(Re)start from what is missing; segments that are under way stay out of it, unless their
        source is silent."""
        taken = [each for each in self._taken.values() if not each.giver.silent]
        asked = merge(item for each in taken for item in each.ranges)
        self._free = subtract(merge([*missing, *urgent]), asked)
        soon = merge(item for each in taken for item in each.soon())
        self._urgent = subtract(merge(urgent), soon)

    @property
    def done(self) -> bool:
        return not self.free and not self._taken

    @property
    def free(self) -> bool:
        """There is something to be asked for."""
        return bool(self._free or self._urgent)

    # --- who gives ---------------------------------------------------------------------------

    def join(
        self, node: str, now: float, *, rtt: float = 0.0, has: Sequence[Range] | None = None
    ) -> None:
        """A source is there to be asked; ``has``: what it has, None is all of it."""
        self._givers[node] = Giver(node, Delivery(rtt), None, now)
        self.holds(node, has)

    def holds(self, node: str, has: Sequence[Range] | None) -> None:
        """What a source has now, as it says: of what it says anything is taken that makes sense."""
        if node not in self._givers:
            return
        if has is not None:
            unit, size = self._unit, self._size
            inside = ((max(0, start), min(stop, size)) for start, stop in has)
            has = merge(
                (-(-start // unit) * unit, stop if stop == size else stop // unit * unit)
                for start, stop in inside
            )
        self._givers[node].has = has

    def leave(self, node: str) -> None:
        """A source is asked no more; its segments have been given back."""
        self._givers.pop(node, None)

    def hold(self, node: str, size: int, now: float) -> None:
        """What came of a source is not taken yet; it is not slow, nor silent, until :meth:`let_go`."""
        if node in self._givers:
            self._givers[node].delivery.hold(size, now)

    def let_go(self, node: str, now: float) -> None:
        """It is taken now, or thrown away."""
        if node in self._givers:
            self._givers[node].delivery.let_go(now)

    @property
    def crowded(self) -> bool:
        """There are several sources: :meth:`review` is to be called every ``REVIEW_SECONDS``."""
        return len(self._givers) > 1

    # --- what to ask -------------------------------------------------------------------------

    def ask(self, node: str, now: float) -> Taken | None:
        """The next segment to ask a source for, if it is time. Ask until there is none."""
        giver = self._givers[node]
        if giver.silent:
            if giver.segments or (now < giver.rests_until and self.crowded):
                return None
            giver.silent, giver.last = False, 0
            giver.delivery = Delivery(giver.delivery.rtt)
        quick = not self._urgent or self._is_quick(giver, now)
        if self._urgent and quick and len(giver.segments) < MAX_SEGMENTS_EACH:
            taken = self._take(giver, giver.offered(self._urgent), SEGMENT, now, urgent=True)
            if taken is not None:
                return taken
        if not self.hungry(node, now):
            return None
        pool = self._pool(giver, now)
        if not quick:
            pool = subtract(pool, self._urgent)
        taken = self._take(giver, pool, self._length(giver, now), now)
        if taken is None and self._races and not self._free and self.crowded:
            taken = self._rob(giver, now)
        return taken

    def hungry(self, node: str, now: float) -> bool:
        """Whether it is time for the next segment of the whole."""
        giver = self._givers.get(node)
        if giver is None:
            return False
        asked = [each.ranges for each in giver.segments.values() if not each.urgent]
        if not asked:
            return True
        rate = giver.delivery.rate(now)
        if len(asked) > 1 or rate is None:
            return False
        return length(asked[0]) <= rate * (giver.delivery.rtt + _LEAD_SECONDS)

    def _is_quick(self, giver: Giver, now: float) -> bool:
        """Whether to ask it for what somebody waits for: not if others are much faster."""
        rate, best = giver.delivery.rate(now), self._best(giver, now)
        return rate is None or best is None or rate * _GROWTH >= best

    def _best(self, giver: Giver, now: float) -> float | None:
        """The highest rate of the others that can be asked."""
        others = (each for each in self._givers.values() if each is not giver and not each.silent)
        rates = [rate for each in others if (rate := each.delivery.rate(now)) is not None]
        return max(rates, default=None)

    def _pool(self, giver: Giver, now: float) -> list[Range]:
        """From what the next segment of the whole is to be taken."""
        partial = [each for each in self._givers.values() if each.has is not None]
        if not partial or not self._free:
            return self._free
        maps = [each.has for each in partial if each is not giver and each.has is not None]
        offered = giver.offered(self._free)
        if giver.has is None:
            rare = subtract(offered, merge(item for ranges in maps for item in ranges))
            offered = rare or subtract(offered, self._coming_soon(partial, now))
        pool = rarest(offered, maps)
        return intersect(pool, self._begin(partial), self._size) or pool

    def _coming_soon(self, partial: Sequence[Giver], now: float) -> list[Range]:
        """What will soon have come from those who have a part."""
        soon: list[Range] = []
        for each in partial:
            has = each.offered(self._free)
            rate = each.delivery.rate(now)
            if rate is None:
                is_soon = now - each.since < SEGMENT_SECONDS
            else:
                is_soon = length(has) < rate * SEGMENT_SECONDS
            if is_soon and not each.silent:
                soon += has
        return merge(soon)

    def _begin(self, partial: Sequence[Giver]) -> int:
        """Where this node begins: those that fetch at the same time begin at other places."""
        nodes = sorted({self._me, *(each.node for each in partial)})
        return self._size * nodes.index(self._me) // len(nodes) // self._unit * self._unit

    def _length(self, giver: Giver, now: float) -> int:
        first = FIRST_SEGMENT if self.crowded else _GROWTH * FIRST_SEGMENT
        rate = giver.delivery.rate(now)
        if rate is None or not giver.last:
            return first
        wanted = min(rate * SEGMENT_SECONDS, _GROWTH * giver.last, LONGEST_SEGMENT)
        if not self.crowded:
            return int(max(wanted, first))
        if giver.has is not None:  # others leave it what it will soon have given
            return int(wanted)
        asked = sum(length(each.ranges) for each in self._taken.values())
        helping = (each for each in self._givers.values() if each is giver or self._helps(each))
        rates = sum(each.delivery.rate(now) or 0.0 for each in helping)
        share = (length(self._free) + asked) * rate / rates
        # With less than is under way at a time it would wait for us most of the time, and seem slow.
        least = rate * (giver.delivery.rtt + _LEAD_SECONDS)
        return int(min(wanted, max(least, share - giver.asked)))

    def _helps(self, giver: Giver) -> bool:
        """Whether it will give some of what is left."""
        return not giver.silent and bool(giver.segments or giver.offered(self._free))

    def _take(
        self, giver: Giver, pool: list[Range], most: int, now: float, *, urgent: bool = False
    ) -> Taken | None:
        ranges = self._cut(pool, most)
        if not ranges:
            return None
        self._free = subtract(self._free, ranges)
        self._urgent = subtract(self._urgent, ranges)
        if not urgent:
            giver.last = max(giver.last, length(ranges))
        return self._give(Segment(giver, ranges, urgent), now)

    def _give(self, segment: Segment, now: float) -> Taken:
        ticket = self._next
        self._next += 1
        segment.since = now
        segment.giver.delivery.asked(now)
        self._taken[ticket] = segment.giver.segments[ticket] = segment
        return ticket, list(segment.ranges)

    def _cut(self, pool: Sequence[Range], most: int) -> list[Range]:
        """The first ranges of a pool, about so many bytes of them."""
        left = max(self._unit, most // self._unit * self._unit)
        ranges: list[Range] = []
        for start, stop in pool[:MAX_RANGES]:
            cut = min(stop, start + left)
            if cut < stop:
                cut -= cut % self._unit
                if cut <= start:
                    if ranges:
                        break
                    cut = min(stop, start + self._unit)
            ranges.append((start, cut))
            left -= cut - start
            if cut < stop or left <= 0:
                break
        return ranges

    # --- what is taken from another ----------------------------------------------------------

    def _rob(self, giver: Giver, now: float) -> Taken | None:
        """Part of what another source is slow to give, or the same once more."""
        rate = giver.delivery.rate(now) or self._best(giver, now) or FIRST_SEGMENT / SEGMENT_SECONDS
        wait = giver.delivery.rtt + giver.asked / rate
        slowest: tuple[float, int, list[Range]] | None = None
        for ticket, segment in self._taken.items():
            if segment.giver is giver:
                continue
            offered = giver.offered(segment.ranges)
            if segment.shared:
                offered = subtract(
                    offered, merge(x for y in giver.segments.values() for x in y.ranges)
                )
            if not offered:
                continue
            until = self._until(ticket, segment, now)
            if segment.shared:  # as soon as it comes from the other
                until = min(
                    self._until(at, each, now)
                    for at, each in self._taken.items()
                    if each is segment or (each.shared and common(each.ranges, offered))
                )
            if giver.has is None and segment.giver.has is not None and until < SEGMENT_SECONDS:
                continue
            if slowest is None or until > slowest[0]:
                slowest = until, ticket, offered
        if slowest is None:
            return None
        until, ticket, offered = slowest
        victim = self._taken[ticket]
        other = length(victim.ranges) / max(until, 1e-6)
        size = max(self._unit, int((until - wait) * rate * other / (rate + other)))
        tail = _last(offered, size, self._unit)
        head = subtract(victim.ranges, tail)
        saved = until - max(wait + length(tail) / rate, length(head) / other)
        if saved < max(_GAIN_SECONDS, _GAIN * until):
            return None
        victim.shared |= not head or head[-1][1] > tail[0][0] or victim.giver.silent
        if not victim.shared:
            victim.ranges = head
        return self._give(Segment(giver, tail, victim.urgent, victim.shared), now)

    def _until(self, ticket: int, segment: Segment, now: float) -> float:
        """In how many seconds a segment will have come."""
        giver = segment.giver
        before = sum(length(each.ranges) for at, each in giver.segments.items() if at <= ticket)
        rate = giver.delivery.least_rate(now)
        if rate is not None:  # who was silent for a while may well be so for as long again
            return max(before / rate, giver.delivery.silence(now))
        usual = self._best(giver, now) or FIRST_SEGMENT / SEGMENT_SECONDS
        return giver.delivery.rtt + now - segment.since + before / usual

    def review(self, now: float) -> Review:
        """Look after those who are silent, or crawl."""
        freed, stop = False, list[int]()
        for giver in self._givers.values() if self.crowded else ():
            if not giver.segments or giver.silent:
                continue
            best = self._best(giver, now)
            rate = giver.delivery.rate(now)
            if giver.delivery.is_silent(now):
                giver.silent, giver.rests_until = True, now + SILENCE_REST_SECONDS
                freed |= self._set_free(giver, stop)
            elif rate is not None and giver.asked > _CRAWLS * SEGMENT_SECONDS * rate:
                if self._races and best is not None and best > 2 * rate:
                    freed |= self._shorten(giver, int(rate * SEGMENT_SECONDS))
                elif not self._races and self._may_be_faster(giver, rate, now):
                    giver.silent, giver.rests_until = True, now + SILENCE_REST_SECONDS
                    stop += giver.segments
        return Review(freed, stop)

    def _may_be_faster(self, giver: Giver, rate: float, now: float) -> bool:
        idle = (each for each in self._givers.values() if not (each.segments or each.silent))
        rates = [each.delivery.rate(now) for each in idle if each is not giver]
        return any(other is None or other > 2 * rate for other in rates)

    def _set_free(self, giver: Giver, stop: list[int]) -> bool:
        """Others shall do what is asked of this source, too."""
        if not self._races:
            if any(not each.silent for each in self._givers.values()):
                stop += giver.segments
            return False
        theirs = merge(item for each in giver.segments.values() for item in each.ranges)
        others = [each for each in self._taken.values() if not each.giver.silent]
        fresh = subtract(theirs, merge(item for each in others for item in each.ranges))
        self._free = merge([*self._free, *fresh])
        return bool(fresh)

    def _shorten(self, giver: Giver, most: int) -> bool:
        """Leave a source so many bytes."""
        freed: list[Range] = []
        for segment in giver.segments.values():
            kept = self._cut(segment.ranges, most) if most > 0 else []
            most -= length(kept)
            if not segment.shared:
                freed += subtract(segment.ranges, kept)
                segment.ranges = kept
        self._free = merge([*self._free, *freed])
        return bool(freed)

    # --- what comes --------------------------------------------------------------------------

    def came(self, ticket: int, start: int, stop: int, now: float) -> list[int]:
        """The bytes [start, stop) of a segment have been verified and written. Returns the segments of
        others of which nothing is wanted any more."""
        segment = self._taken.get(ticket)
        if segment is None:
            return []
        segment.giver.delivery.came(stop - start, now)
        segment.ranges = intersect(segment.ranges, stop, self._size)
        piece = [(start, stop)]
        if self._urgent:
            self._urgent = subtract(self._urgent, piece)
        over: list[int] = []
        if len(self._givers) > 1:
            self._free = subtract(self._free, piece)
            for other, each in self._taken.items():
                ranges = each.ranges
                if ranges and ranges[0][0] < stop and start < ranges[-1][1] and other != ticket:
                    each.ranges = subtract(ranges, piece)
                    if not each.ranges:
                        over.append(other)
        if segment.giver.silent:  # it is back
            segment.giver.silent = False
            theirs = (item for each in segment.giver.segments.values() for item in each.ranges)
            self._free = subtract(self._free, merge(theirs))
        return over

    def end_of(self, ticket: int) -> int:
        """Where what is wanted of a segment ends now."""
        segment = self._taken.get(ticket)
        return segment.ranges[-1][1] if segment is not None and segment.ranges else 0

    def give_back(self, ticket: int) -> int:
        """The source is done with a segment; what it did not deliver, and nobody else is asked for, is
        free again. Returns how many bytes that is."""
        segment = self._taken.pop(ticket)
        giver = segment.giver
        del giver.segments[ticket]
        if not giver.segments:
            giver.delivery.idle()
        left = segment.ranges
        if left:
            others = (each for each in self._taken.values() if not each.giver.silent)
            left = subtract(left, merge(item for each in others for item in each.ranges))
            self._free = merge([*self._free, *left])
        return length(left)


def _last(ranges: Sequence[Range], size: int, unit: int) -> list[Range]:
    """About the last ``size`` bytes, from a multiple of ``unit`` on."""
    tail: list[Range] = []
    for start, stop in reversed(ranges):
        begin = max(start, (stop - size) // unit * unit)
        tail.append((begin, stop))
        size -= stop - begin
        if size <= 0:
            break
    return tail[: -MAX_RANGES - 1 : -1]
