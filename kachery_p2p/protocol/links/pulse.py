"""Whether the other end of a link lives, and how far away it is: pings, and when they are due.

Pings are answered in the order in which they were sent, and each measures the link's :mod:`.pace`.
Pure: ``now`` is an argument, in seconds.
"""

from __future__ import annotations

from collections import deque

from kachery_p2p.protocol.limits import (
    DEAD_SECONDS,
    PING_SECONDS,
    RTT_REMEMBERED_SECONDS,
    RTT_SECONDS,
    SUSPECT_SECONDS,
    SUSPECT_TRIPS,
)

from .pace import Pace

_RTTS = 64
"""Round-trip times that are remembered."""


class Pulse:
    def __init__(self, now: float, rtt: float = 0.0) -> None:
        """``rtt``: seconds of a round trip, if one was measured already; else 0."""
        self.pace = Pace(now, rtt)
        self._rtts: deque[tuple[float, float]] = deque()
        """(when, seconds), rising: those that can still come to be the least."""
        self._heard = self._pinged = now
        self._token = 0
        self._tokens: deque[int] = deque()

    @property
    def rtt(self) -> float | None:
        """Seconds: the least of the last minute. One that took long because somebody's computer slept
        counts as long as there is no other."""
        return self._rtts[0][1] if self._rtts else None

    @property
    def heard_at(self) -> float:
        return self._heard

    def heard(self, now: float) -> None:
        """Anything came."""
        self._heard = now

    def silent(self, now: float) -> float:
        """Seconds for which nothing has come."""
        return now - self._heard

    @property
    def is_waiting(self) -> bool:
        """Whether a ping is unanswered."""
        return bool(self._tokens)

    def is_doubtful(self, now: float) -> bool:
        """Whether a ping is unanswered for so long that the other end may be gone."""
        return bool(self._tokens) and self.doubtful_in(now) <= 0

    def doubtful_in(self, now: float) -> float:
        """Seconds until the ping that is under way is unanswered for so long, if nothing comes."""
        unanswered = min(self.silent(now), self.pace.oldest(now))
        return max(SUSPECT_SECONDS, SUSPECT_TRIPS * (self.rtt or 0.0)) - unanswered

    def next_ping(self, now: float) -> float:
        """Seconds until one is due, if nothing comes by then and none is under way."""
        quiet = self._heard + PING_SECONDS, self._pinged + RTT_SECONDS
        return max(0.0, min(quiet) - now)

    def is_dead(self, now: float) -> bool:
        return self.silent(now) >= DEAD_SECONDS

    def is_due(self, now: float) -> bool:
        """Whether it is time for a ping: nothing has come for a while, or none was sent for long."""
        quiet = self.silent(now) >= PING_SECONDS or now - self._pinged >= RTT_SECONDS
        return not self._tokens and quiet

    def ping(self, now: float) -> int:
        """One is sent now. Returns its token."""
        self._token += 1
        self._tokens.append(self._token)
        self._pinged = now
        self.pace.probe(now)
        return self._token

    def pong(self, token: int, now: float) -> float | None:
        """One was answered. Returns its round-trip time in seconds; None: it is no answer."""
        if not self._tokens or self._tokens[0] != token:
            return None
        self._tokens.popleft()
        seconds = self.pace.answered(now)
        while self._rtts and self._rtts[-1][1] >= seconds:
            self._rtts.pop()
        if len(self._rtts) < _RTTS:
            self._rtts.append((now, seconds))
        while self._rtts[0][0] < now - RTT_REMEMBERED_SECONDS and len(self._rtts) > 1:
            self._rtts.popleft()
        return seconds
