"""How much bulk may be under way on a link, so that nothing waits long behind it.

What has left a link's queues stands before all that is said afterwards: in the buffers of both
computers, of routers between them, and of the proxies that a circuit goes through. So a link lets only
so much leave as the path carries in its round-trip time, and :data:`~.limits.QUEUE_SECONDS` beyond
that, which keep the path busy while acknowledgements come back unevenly.

Participants: the link's writer says what it :meth:`~Pace.sent`, and puts a ping behind it when one is
:attr:`~Pace.due`; the pong, which cannot come before all that was sent ahead of the ping, is told to
:meth:`~Pace.answered`. So the same machine measures a TCP connection, one through an HTTP proxy or a
balancer, and a circuit from end to end, with whatever queues on the way.

The model is that of BBR: the rate is the highest that was measured of late, the round-trip time
without a queue the shortest. It differs in that a queue that was measured counts: with none there is
more to be had, and the window opens. Once in :data:`PROBE_SECONDS` the window is made so small that
the queue runs empty, for otherwise the queue would be taken for the path; and so it is when a queue
stays too long however small the window is, for then the path has become longer.

Where answers come in bursts, as from a busy computer, the window has room for one burst, up to
:data:`BURST_SECONDS`.

A peer that answers too early or too late is believed, and harms its own link: what others get is shared
out by the mux, by bytes (:mod:`.fair_queue`). Pure: ``now`` is an argument, in seconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from kachery_p2p.protocol.limits import (
    BULK_FRAME_SECONDS,
    MAX_BODY,
    MAX_PROBES,
    MIN_BODY,
    MIN_FRAGMENT,
    QUEUE_SECONDS,
    WINDOW_FIRST,
    WINDOW_LEAST,
    WINDOW_MOST,
)

PROBE_SECONDS = 10.0
"""A round-trip time that was measured so long ago is measured anew."""
_RATE_SECONDS = 3.0
_RATE_TRIPS = 8.0
"""A measurement of the rate counts for so long, the longer of the two."""
_LONG_SECONDS = 1.0
_LONG_TRIPS = 4.0
"""A queue that is too long for so long, the longer of the two, is doubted."""
_LONGER = 2.0
"""A path that has become so many times longer is explored anew."""
BURST_SECONDS = 0.02
"""Seconds of bulk that the window may have more because answers come in bursts."""
_BURST_REMEMBERED = 2.0
_CLUMP = 2
"""Records that come together on any path."""
_PROBES_A_WINDOW = 16
_LEAST_INTERVAL = 0.001
"""Seconds over which a rate can be measured."""
_GROWTH = 1.25
"""A round trip in which the rate has grown by less was no growth; of :data:`_FLAT_TRIPS` such, the
path's rate is reached."""
_FLAT_TRIPS = 3
_STANDING_SECONDS = 2.0
_STANDING_TRIPS = 3.0
"""A queue is one if it has not been empty for so long, the longer of the two. What comes late now and
then comes from a computer that is busy, and a smaller window would only make that slower."""
_SLOW_PROBES = 3
"""A queue is believed to be there when so many in a row have seen it."""


@dataclass(slots=True)
class _Probe:
    """What was known when a ping was sent."""

    at: float
    sent: int
    acked: int
    acked_at: float
    acked_sent_at: float
    size: int
    idle: bool
    """The window was not full all the while: the rate is that of the sender."""
    full: bool
    """So much was under way that the window mattered."""
    clear: bool
    """It went when nothing else was under way, or the queue had run empty."""


class Pace:
    """One direction of one link."""

    def __init__(self, now: float, rtt: float = 0.0) -> None:
        self.rtt: float | None = rtt or None
        """Seconds: the round-trip time of the path without its queue, as far as is known."""
        self.queue = 0.0
        """Seconds that each ping of late waited beyond that, at least."""
        self._waited: deque[tuple[float, float]] = deque()
        """(when, seconds), rising: the first is the least."""
        self._sent = self._acked = self._probed = self._size = 0
        self._acked_at = self._acked_sent_at = now
        self._idle, self._idle_until = True, 0
        self._burst: deque[tuple[float, float]] = deque()
        """(when, bytes), falling: by how much more than the path carries came at once."""
        self._since, self._came = now, 0.0
        self._probes: deque[_Probe] = deque()
        self._rates: deque[tuple[float, float]] = deque()
        """(when, bytes a second), the rates falling: the first is the highest that counts."""
        self._rtt_at = now
        self._long_since: float | None = None
        self._draining = self._drained = False
        self._starting = True
        self._window = float(WINDOW_FIRST)
        self._flat = self._slow = 0
        self._full_rate = 0.0
        self._trip_ends = 0

    @property
    def rate(self) -> float:
        """Bytes per second that the path carries, 0 while unknown."""
        return self._rates[0][1] if self._rates else 0.0

    @property
    def under_way(self) -> int:
        """Bytes that were sent and are not known to have arrived."""
        return self._sent - self._acked

    @property
    def waits(self) -> bool:
        """Whether a ping is under way."""
        return bool(self._probes)

    def oldest(self, now: float) -> float:
        """Seconds for which the oldest ping is unanswered; 0 if none is under way."""
        return now - self._probes[0].at if self._probes else 0.0

    @property
    def window(self) -> int:
        """Bytes that may be under way."""
        return max(WINDOW_LEAST, min(WINDOW_MOST, int(self._window)))

    def _open_to(self, came: int) -> None:
        """Set the window, now that so many bytes are known to have come. It opens by half of them at
        most, or all would go at once, and stand in the queue that is to be short."""
        assert self.rtt is not None
        if not self._rates:
            return
        if self._draining:
            wanted = self.rate * max(0.75 * self.rtt, self.rtt - QUEUE_SECONDS)
        else:
            more = min((_GROWTH - 1) * self.rtt, QUEUE_SECONDS)
            more *= max(0.0, 1 - self.queue / QUEUE_SECONDS)
            burst = min(self._burst[0][1] if self._burst else 0.0, self.rate * BURST_SECONDS)
            wanted = self.rate * (self.rtt + QUEUE_SECONDS + more) + burst
        self._window = max(WINDOW_LEAST, min(WINDOW_MOST, wanted, self._window + came / 2))

    @property
    def allows(self) -> bool:
        """Whether something may follow, whatever its size: else long frames would wait for a path that
        has run empty."""
        return self.under_way < self.window

    @property
    def due(self) -> bool:
        """Whether a ping should follow what was just sent."""
        since = self._sent - self._probed
        if not since or len(self._probes) >= MAX_PROBES:
            return False
        return since >= max(MIN_FRAGMENT, self.window // _PROBES_A_WINDOW) or not self.allows

    def sent(self, size: int) -> None:
        """So many bytes have left the queues."""
        self._sent += size
        self._size = size

    def idle(self) -> None:
        """More might have been sent, and there was nothing."""
        self._idle, self._idle_until = True, self._sent

    def probe(self, now: float) -> None:
        """A ping follows what was sent."""
        if not self.under_way:
            self._acked_at = self._acked_sent_at = now
        self._probed = self._sent
        self._probes.append(
            _Probe(
                now,
                self._sent,
                self._acked,
                self._acked_at,
                self._acked_sent_at,
                self._size,
                self._idle,
                2 * self.under_way >= self.window,
                self._drained or self.under_way <= self._size,
            )
        )

    def answered(self, now: float) -> float:
        """The oldest ping was. Returns its round-trip time, in seconds; to be called while one
        :attr:`waits`."""
        probe = self._probes.popleft()
        rtt = now - probe.at
        came = probe.sent - self._acked
        self._acked, self._acked_at, self._acked_sent_at = probe.sent, now, probe.at
        if self._acked > self._idle_until:
            self._idle = False
        self._hear_rtt(rtt, now, probe.size, clear=probe.clear)
        self._hear_rate(probe, now)
        self._hear_burst(came, now)
        if self._starting:
            self._start(probe, came)
        else:
            self._open_to(came)
        return rtt

    def _hear_rtt(self, rtt: float, now: float, size: int, *, clear: bool) -> None:
        """``size``: bytes right before the ping, which took their time to pass and are no queue."""
        old = self._draining or now - self._rtt_at > PROBE_SECONDS
        if self.rtt is None or rtt <= self.rtt or (clear and old):
            if self.rtt is not None and rtt > _LONGER * self.rtt + QUEUE_SECONDS:
                self._starting, self._flat, self._full_rate = True, 0, 0.0
            self.rtt, self._rtt_at = rtt, now
            self._draining = self._drained = False
            self._long_since = None
        own = size / self.rate if self.rate else 0.0
        waited = max(0.0, rtt - self.rtt - own)
        while self._waited and self._waited[-1][1] >= waited:
            self._waited.pop()
        self._waited.append((now, waited))
        while self._waited[0][0] < now - max(_STANDING_SECONDS, _STANDING_TRIPS * self.rtt):
            self._waited.popleft()
        self.queue = self._waited[0][1]
        if self.queue <= 2 * QUEUE_SECONDS:
            self._long_since = None
        elif self._long_since is None:
            self._long_since = now
        # What does not get shorter as the window does may be no queue: the path has become longer.
        long = self._long_since is not None and now - self._long_since > max(
            _LONG_SECONDS, _LONG_TRIPS * rtt
        )
        if not self._starting and (long or now - self._rtt_at > PROBE_SECONDS):
            self._draining = True
        if self._draining and self.allows:
            self._drained = True

    def _hear_rate(self, probe: _Probe, now: float) -> None:
        interval = max(now - probe.acked_at, probe.at - probe.acked_sent_at)
        if interval < _LEAST_INTERVAL:
            return
        rate = (probe.sent - probe.acked) / interval
        assert self.rtt is not None
        seconds = max(_RATE_SECONDS, _RATE_TRIPS * self.rtt)
        if self.queue > 4 * QUEUE_SECONDS:
            seconds = self.rtt + self.queue
        if probe.idle and rate < self.rate:
            return  # a sender that has little to send says nothing about the path
        while self._rates and self._rates[-1][1] <= rate:
            self._rates.pop()
        self._rates.append((now, rate))
        while self._rates[0][0] < now - seconds:
            self._rates.popleft()

    def _hear_burst(self, came: int, now: float) -> None:
        """On a busy computer answers come several at once, and between them the path must not run
        empty."""
        expected = self.rate * (now - self._since)
        if self._came <= expected:
            self._since, self._came, expected = now, 0.0, 0.0
        self._came += came
        more = self._came - expected - _CLUMP * self._size
        while self._burst and self._burst[-1][1] <= more:
            self._burst.pop()
        self._burst.append((now, more))
        while self._burst[0][0] < now - _BURST_REMEMBERED:
            self._burst.popleft()

    def _start(self, probe: _Probe, came: int) -> None:
        """The window doubles each round trip until a queue is seen, or the rate grows no more."""
        if probe.full:
            self._window = min(WINDOW_MOST, self._window + came)
        self._slow = self._slow + 1 if self._waited[-1][1] > 2 * QUEUE_SECONDS else 0
        if self._slow == _SLOW_PROBES and self._rates:
            self._starting = False
        elif probe.sent >= self._trip_ends:
            self._trip_ends = self._sent
            if probe.idle or not probe.full or self.rate >= _GROWTH * self._full_rate:
                self._full_rate, self._flat = self.rate, 0
            else:
                self._flat += 1
                self._starting = self._flat < _FLAT_TRIPS


def bulk_bytes(rate: float) -> int:
    """How long a body should be made for a path of this rate: a power of two between ``MIN_BODY`` and
    ``MAX_BODY`` that takes about ``BULK_FRAME_SECONDS``."""
    return _about(rate, MIN_BODY)


def fragment_bytes(rate: float) -> int:
    """How much of a body should go at a time, so that others have their turn soon."""
    return _about(rate, MIN_FRAGMENT)


def _about(rate: float, least: int) -> int:
    size = MAX_BODY
    while size > rate * BULK_FRAME_SECONDS and size > least:
        size //= 2
    return size
