"""The heartbeat of a link: pings that are due, whether the other end lives, and whether it may not.

A link on which a ping is unanswered for ``SUSPECT_SECONDS``, and nothing else came, is *doubtful*: a
cable was pulled, an address has changed, a computer sleeps. It may yet go on, so it stays; but others
are preferred to it, and one that takes its place is looked for (:mod:`.replacing`). After
``DEAD_SECONDS`` it is over. Who waits for something calls :meth:`Heartbeat.doubt`, which pings at once.

A quiet link costs a wake-up when its next ping is due, and none between. A process that was stopped for
a while does not take its peers for dead because it heard nothing meanwhile: it asks them first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from kachery_p2p.protocol.errors import LinkClosed
from kachery_p2p.protocol.limits import (
    DOUBT_SECONDS,
    STOPPED_SECONDS,
    TICK_SECONDS,
    WRITE_STALL_SECONDS,
)
from kachery_p2p.protocol.links.mux import Mux

from .writer import Writer

_SOON_SECONDS = 0.01


class Heartbeat:
    """``flush``: the mux may have what to send."""

    def __init__(self, mux: Mux, writer: Writer, peer: str, flush: Callable[[], None]) -> None:
        self.trouble = asyncio.Event()
        """The link is doubtful, or over."""
        self._mux = mux
        self._writer = writer
        self._peer = peer
        self._flush = flush
        self._woken = asyncio.Event()
        self._busy = self._resting = False

    @property
    def is_doubtful(self) -> bool:
        return self._mux.pulse.is_doubtful(asyncio.get_running_loop().time())

    def stir(self) -> None:
        """Something is under way: look after it every TICK_SECONDS."""
        self._busy = True
        if self._resting:
            self._woken.set()

    def wake(self) -> None:
        """The link is to end: look after it now."""
        self._woken.set()

    def doubt(self) -> None:
        """What is waited for does not come."""
        now = asyncio.get_running_loop().time()
        pulse = self._mux.pulse
        if not pulse.is_waiting and pulse.silent(now) >= DOUBT_SECONDS:
            self._mux.ping(now)
            self._flush()
            self.stir()

    def release(self) -> None:
        """The link is over."""
        self._flush = lambda: None
        self.trouble.set()
        self.wake()

    async def beat(self) -> None:
        """Wait until it is time, and look after the link once.

        Raises:
            LinkClosed: the other end is dead, or takes nothing.
        """
        loop = asyncio.get_running_loop()
        pulse = self._mux.pulse
        busy = self._busy or pulse.is_waiting or self._writer.stuck_for(loop.time()) > 0
        self._busy, self._resting = False, not busy
        pause = TICK_SECONDS if busy else max(TICK_SECONDS, pulse.next_ping(loop.time()))
        if pulse.is_waiting and not pulse.is_doubtful(loop.time()):
            pause = min(pause, pulse.doubtful_in(loop.time()) + _SOON_SECONDS)
        until = loop.time() + pause
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._woken.wait()
        self._woken.clear()
        self._resting = False
        now = loop.time()
        if now > until + STOPPED_SECONDS:
            pulse.heard(now)  # nobody listened
            self._mux.ping(now)
        elif not self._mux.tick(now):
            raise LinkClosed(peer=self._peer[:8], reason="it has been silent for too long")
        elif self._writer.stuck_for(now) >= WRITE_STALL_SECONDS:
            reason = f"it has read nothing for {WRITE_STALL_SECONDS:g} s"
            raise LinkClosed(peer=self._peer[:8], reason=reason)
        if pulse.is_doubtful(now):
            self.trouble.set()
        else:
            self.trouble.clear()
        self._flush()
