"""The internet between simulated nodes: messages in order, over links that are slow, break and fall
silent.

A :class:`Connection` is what a WebSocket is to the daemon: reliable and in order while it lasts.
Loss shows as a spike of latency, or as a connection that breaks. A partition holds messages back;
connections over it end when one side gives up, or go on when it heals. A killed process closes its
connections, a power cut does not: the other end finds out by itself.

Everything is decided by the :class:`random.Random` of the run.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from kachery_p2p.node.links.dialling import Rules
from kachery_p2p.node.parties import STRANGERS, Party
from kachery_p2p.protocol.errors import LinkClosed, Unreachable
from kachery_p2p.protocol.limits import DIAL_SECONDS, KIB
from tests.sim.loop import SimLoop

_ROOM = 256 * KIB
"""Bytes under way in one direction beyond which a sender waits."""
_DEAF_ROOM = 2 * KIB
"""The same to a host that reads nothing: what its sender's computer would hold is soon full."""

Accept = Callable[["End", Callable[[], None]], Awaitable[None]]


@dataclass
class Host:
    """A computer's place on the network, whether or not its node runs."""

    name: str
    latency: float
    """Seconds, one way, to the middle of the network."""
    rate: float
    """Bytes per second."""
    url: str | None = None
    accept: Callable[[End], None] | None = None
    """Takes an incoming connection; None while the node does not run."""
    silent: bool = False
    """Without power: nothing is answered, not even by a reset."""
    ends: dict[int, End] = field(default_factory=dict)
    deaf: bool = False
    """Its node reads nothing of what arrives, and goes on speaking."""
    reading: float | None = None
    """Bytes per second that its node reads, if that is less than what arrives."""

    def hear(self) -> None:
        """Read again, and quickly."""
        self.deaf, self.reading = False, None
        for end in list(self.ends.values()):
            end._ready.set()


class End:
    """One end of a connection: a Transport."""

    taken_at = None
    party = STRANGERS

    def __init__(self, internet: Internet, host: Host, serial: int) -> None:
        self.name = ""
        self.rate: float | None = None
        self.host = host
        self.serial = serial
        self.other: End
        self.error: LinkClosed | None = None
        self._internet = internet
        self._inbox: deque[bytes] = deque()
        self._under_way: deque[bytes] = deque()
        self._due = 0
        """Messages under way whose time has come; a partition holds them back."""
        self._closing = False
        self._bytes = 0
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._last = 0.0

    async def send(self, *parts: Any) -> None:
        data = b"".join(parts)
        other = self.other
        while self.error is None and other._bytes > (_DEAF_ROOM if other.host.deaf else _ROOM):
            self._room.clear()
            await self._room.wait()
        if self.error is not None:
            raise LinkClosed(peer=self.name, reason=str(self.error.fields["reason"]))
        self._internet.carry(self, data)

    async def receive(self) -> bytes:
        while self.host.deaf or not self._inbox:
            if self.error is not None:
                raise LinkClosed(peer=self.name, reason=str(self.error.fields["reason"]))
            self._ready.clear()
            await self._ready.wait()
        data = self._inbox.popleft()
        if self.host.reading is not None:
            await asyncio.sleep(len(data) / self.host.reading)
        self._bytes -= len(data)
        self.other._room.set()
        return data

    def belong_to(self, party: Party) -> None:
        """Its own bound is that of the simulated path."""

    def doubt(self) -> None:
        pass

    async def close(self) -> None:
        if self.error is None:
            self._internet.log("close", self.name)
            self._internet.hang_up(self)
            self.fail("closed by this side")
        await asyncio.sleep(0)

    @property
    def whole(self) -> bool:
        """Whether what is sent now will arrive, and an answer come back."""
        cut = self._internet.cut(self.host.name, self.other.host.name)
        ends = (self, self.other)
        heard = not any(end.error or end.host.deaf or end.host.reading for end in ends)
        return heard and not cut

    def fail(self, reason: str) -> None:
        """This end is over; what has arrived can still be read."""
        if self.error is None:
            self.error = LinkClosed(peer=self.name, reason=reason)
            self.host.ends.pop(self.serial, None)
        self._ready.set()
        self._room.set()


class Internet:
    """All internet of one simulated network."""

    def __init__(self, loop: SimLoop, rng: random.Random, log: Callable[..., None]) -> None:
        self.loop = loop
        self.rng = rng
        self.log = log
        self.hosts: dict[str, Host] = {}
        self.cuts: dict[tuple[str, str], None] = {}
        self.spikes = 0.02
        """The chance that a message is delayed as if packets were lost."""
        self._serial = 0
        self._outside = contextvars.copy_context()

    def later(self, seconds: float, callback: Callable[..., None], *args: Any) -> None:
        """Call from outside all nodes: it happens even if whoever caused it is killed."""
        self.loop.call_later(seconds, callback, *args, context=self._outside)

    # --- the state of the network --------------------------------------------------------------

    def cut(self, a: str, b: str) -> bool:
        return (a, b) in self.cuts

    def part(self, a: str, b: str) -> None:
        self.cuts[a, b] = self.cuts[b, a] = None

    def heal(self) -> None:
        """All partitions end; what was held back arrives."""
        self.cuts.clear()
        for host in self.hosts.values():
            for end in list(host.ends.values()):
                self._arrive(end)

    def break_one(self) -> None:
        """One connection, any, is reset."""
        ends = [end for host in self.hosts.values() for end in host.ends.values()]
        if ends:
            end = self.rng.choice(ends)
            self.log("reset", end.name)
            end.fail("the connection was reset")
            end.other.fail("the connection was reset")

    def gone(self, host: Host, *, silent: bool) -> None:
        """The host's process was killed or, ``silent``, its power was cut."""
        host.accept = None
        host.silent = silent
        for end in list(host.ends.values()):
            if not silent:
                self.hang_up(end)
            end.fail("the process was killed")

    # --- connecting ----------------------------------------------------------------------------

    def of(self, host: Host) -> Dialer:
        return Dialer(self, host)

    async def dial(self, source: Host, url: str) -> End:
        target = next((host for host in self.hosts.values() if host.url == url), None)
        if target is None:
            await asyncio.sleep(0.02)
            raise Unreachable(what=url, reason="no such host")
        await asyncio.sleep(2 * self._latency(source, target))
        if self.cut(source.name, target.name) or target.silent:
            await asyncio.sleep(DIAL_SECONDS)
            raise Unreachable(what=url, reason=f"no answer within {DIAL_SECONDS:g} s")
        if target.accept is None:
            raise Unreachable(what=url, reason="connection refused")
        self._serial += 1
        here, there = End(self, source, self._serial), End(self, target, self._serial)
        here.other, there.other = there, here
        here.name = f"{source.name}>{target.name}#{self._serial}"
        there.name = f"{target.name}<{source.name}#{self._serial}"
        source.ends[self._serial] = here
        target.ends[self._serial] = there
        self.log("connect", here.name)
        self.loop.call_soon(target.accept, there, context=self._outside)
        return here

    # --- carrying ------------------------------------------------------------------------------

    def _latency(self, a: Host, b: Host) -> float:
        delay = (a.latency + b.latency) * (0.9 + 0.2 * self.rng.random())
        if self.rng.random() < self.spikes:
            delay += 0.2 + self.rng.random()
        return delay

    def carry(self, end: End, data: bytes) -> None:
        other = end.other
        rate = min(end.host.rate, other.host.rate)
        arrival = (
            max(self.loop.time() + self._latency(end.host, other.host), end._last)
            + len(data) / rate
        )
        end._last = arrival
        other._bytes += len(data)
        other._under_way.append(data)
        self.log("send", end.name, len(data))
        self.later(arrival - self.loop.time(), self._arrive_one, other)

    def _arrive_one(self, end: End) -> None:
        end._due += 1
        self._arrive(end)

    def _arrive(self, end: End) -> None:
        if self.cut(end.host.name, end.other.host.name):
            return
        while end._due and end._under_way:
            end._due -= 1
            data = end._under_way.popleft()
            if end.error is None:
                end._inbox.append(data)
                end._ready.set()
        if end._closing and not end._under_way:
            end.fail("closed by the other side")

    def hang_up(self, end: End) -> None:
        """Tell the other end, after what was sent, that this one has closed."""
        delay = max(end._last - self.loop.time(), 0.0) + self._latency(end.host, end.other.host)
        self.later(delay, self._hung_up, end.other)

    def _hung_up(self, end: End) -> None:
        end._closing = True
        self._arrive(end)


class Dialer:
    """The internet as one node sees them."""

    def __init__(self, internet: Internet, host: Host) -> None:
        self._internet = internet
        self._host = host

    async def dial(self, url: str, *, knock: str = "") -> End:
        return await self._internet.dial(self._host, url)

    async def dial_member(self, url: str, rules: Rules, *, knock: str = "") -> End:
        return await self._internet.dial(self._host, url)
