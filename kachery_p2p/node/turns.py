"""Whose work is done next on the event loop: who has used least of it comes first.

What a peer sends costs time on the loop: it is deciphered, dealt with, answered. Without turns a member
that floods a node has as much of that time as it can ask for, and everybody else waits behind it. So
the work for each peer is :meth:`Turns.metered`: what its steps take goes on the peer's account, and
when all peers' work has taken ``TURN_SECONDS`` in one turn of the loop, further steps wait for the next
one, in which those with the least on their accounts go first.

Peers that have been linked for ``SETTLED_SECONDS`` pay ``SETTLED_WEIGHT`` of what newcomers pay: who
comes anew all the time, and leaves the work that it caused, does not hold up who stays. Newcomers
together have what those leave over (:class:`Allowance`).

Invariants: while there is time for all, nobody waits; everybody who waits has a turn in the end, for
what was used fades. What the node's own user asks for is not metered. Cancelling is safe.

Non-goals: bounding what anybody holds (:mod:`.links.budget`), threads (:mod:`.pool`).
"""

from __future__ import annotations

import asyncio
import math
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from kachery_p2p.protocol.limits import TURN_SECONDS
from kachery_p2p.protocol.links.usage import Usage

from .parties import OWN_USER, Allowance, Party, on_behalf_of

T = TypeVar("T")

_LEAST_STEP = 2e-5
"""Seconds that the loop itself needs for a step, about."""


class Turns:
    """``clock``: seconds, as exact as can be had; one that stands still makes everybody's work free."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self._usage = Usage()
        self._left = TURN_SECONDS
        self._waiting: dict[Party, deque[asyncio.Future[None]]] = {}
        self._spent: dict[Party, float] = {}
        """Seconds that steps took since the accounts were last written up. A step is often shorter than
        the writing, so that is done when ``TURN_SECONDS`` are used up, or somebody waits."""
        self._count = 0
        """How many steps there were since then."""
        self._step = _LEAST_STEP
        """What a step takes, about."""
        self._least = 0.0
        """What the one of those that waited for this turn had used that had used least."""
        self._begun: float | None = None
        """Since when a step runs."""
        self._next: asyncio.Handle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        """The running one: on Python 3.11 it takes a system call to find it out."""
        self._newcomers = Allowance()
        self._newcomers_may = self._newcomers.left(clock())
        """Whether they had time left when the accounts were written up."""

    def free(self, party: Party) -> bool:
        """Whether there is time left for a party in this turn of the loop, and nobody who comes before
        it waits."""
        running = 0.0 if self._begun is None else self.clock() - self._begun
        if self._left <= running:
            return False
        if not self._newcomers_may and party.new and not self._newcomers.left(self.clock()):
            return False
        if not self._waiting:
            return True
        now = self.clock()
        self._write_up(now)
        return party not in self._waiting and self._of(party, now) < self._least

    def spend(self, party: Party, seconds: float) -> None:
        """Work for a party has taken so long."""
        self._left -= seconds
        self._spent[party] = self._spent.get(party, 0.0) + seconds
        self._count += 1
        if self._left <= 0:
            self._go_on()

    def _write_up(self, now: float) -> None:
        """What was spent goes on the accounts."""
        if not self._count:
            return
        spent, self._spent = self._spent, {}
        mean = sum(spent.values()) / self._count
        self._step += (1 - 0.9**self._count) * (max(mean, _LEAST_STEP) - self._step)
        self._count = 0
        for party, seconds in spent.items():
            self._usage.add(party.name, party.weight * seconds, now)
            self._newcomers.spend(seconds, now, new=party.new)
        self._newcomers_may = self._newcomers.left(now)

    async def wait(self, party: Party) -> None:
        """Until it is this party's turn."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(party, deque()).append(future)
        self._go_on()
        await future

    async def pause(self) -> None:
        """In the middle of something long that is done for a peer: let others go on, if they wait. To
        be called while nothing is held that others want."""
        party = on_behalf_of.get()
        if party is not OWN_USER and not self.free(party):
            await self.wait(party)

    async def metered(
        self,
        whose: Callable[[], Party],
        work: Callable[[], Coroutine[Any, Any, T]],
        *,
        every_step: bool = True,
    ) -> T:
        """Do ``work`` for a party, on whose account all its steps go. They take turns; or only the
        first one does (of work that may hold a lock which others want)."""
        return await self._steps(whose, work(), every_step)

    @types.coroutine
    def _steps(
        self, whose: Callable[[], Party], work: Coroutine[Any, Any, T], every_step: bool
    ) -> Generator[Any, Any, T]:
        party: Party | None = None
        thrown: BaseException | None = None
        waits = True
        while True:
            if (current := whose()) is not party:
                party = current
                on_behalf_of.set(party)
            if waits and thrown is None and not self.free(party):
                try:
                    yield from self.wait(party).__await__()
                except GeneratorExit:
                    work.close()
                    raise
                except BaseException as error:  # it is cancelled, and has to hear of it
                    thrown = _inner(error)
            waits = every_step
            self._begun = begun = self.clock()
            try:
                waited_for = work.send(None) if thrown is None else work.throw(thrown)
            except StopIteration as stop:
                result: T = stop.value
                return result
            finally:
                # An error leads to the frames that it passed through, this one too: a circle, and all
                # that the work held would stay until somebody looks for circles.
                thrown = None
                self._begun = None
                self.spend(party, self.clock() - begun)
            try:
                yield waited_for
            except GeneratorExit:
                work.close()
                raise
            except BaseException as error:  # as above
                thrown = _inner(error)

    def _of(self, party: Party, now: float) -> float:
        return self._usage.of(party.name, now)

    def _go_on(self) -> None:
        if self._next is None:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._next = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """A turn of the loop has passed: let so many go on as the next one has time for, by what steps
        took of late."""
        self._next = None
        self._left = TURN_SECONDS
        self._least = math.inf
        now = self.clock()
        self._write_up(now)
        if not self._waiting:
            return
        may = self._newcomers.left(now)
        used = {x: self._of(x, now) for x in self._waiting if may or not x.new}
        if used:
            order = sorted(used, key=lambda party: used[party])
            self._least = used[order[0]]
            most = max(1, round(TURN_SECONDS / self._step))
            while most > 0 and (released := self._release(order[:most])):
                most -= released
        if self._waiting:
            if used:
                self._go_on()
            else:
                loop = asyncio.get_running_loop()
                self._next = loop.call_later(TURN_SECONDS, self._turn)

    def _release(self, parties: list[Party]) -> int:
        """Let the next step of each go on; how many there were."""
        count = 0
        for party in parties:
            waiting = self._waiting.get(party)
            while waiting:
                future = waiting.popleft()
                if not waiting:
                    del self._waiting[party]
                if not future.done():  # else who waited has gone
                    future.set_result(None)
                    count += 1
                    break
        return count


def _inner(error: BaseException) -> BaseException:
    """An error that was caught just now, without the frame that caught it: what is waited for may keep
    the error, and has no use for who else waits behind."""
    return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
