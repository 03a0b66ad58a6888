"""Whose work is done next on the event loop: who has used least of it comes first.

What a peer sends costs time on the loop: it is deciphered, dealt with, answered. Without turns a member
that floods a node has as much of that time as it can ask for, and everybody else waits behind it. So
the work for each peer is :meth:`Turns.metered`: what its steps take goes on the peer's account, and
when all peers' work has taken ``TURN_SECONDS`` in one turn of the loop, further steps wait for the next
one, in which those with the least on their accounts go first.

Who stays (:mod:`kachery_p2p.protocol.links.standing`) comes before all newcomers, whatever it has used:
among a hundred that flood a node, each has used next to nothing. So who comes anew all the time, and
leaves the work that it caused, does not hold up who stays. Newcomers together have what is left over
(:class:`Allowance`), and only ``NEWCOMERS_TURN_SECONDS`` at a time while somebody else needs the loop.

Invariants: while there is time for all, nobody waits; everybody who waits has a turn in the end, for
what was used fades, and newcomers have a part of the time that nobody can take from them. What the
node's own user asks for is not metered. Cancelling is safe.

Non-goals: bounding what anybody holds (:mod:`.links.budget`), threads (:mod:`.pool`).
"""

from __future__ import annotations

import asyncio
import heapq
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from kachery_p2p.protocol.limits import NEWCOMERS_TURN_SECONDS, SETTLED_WEIGHT, TURN_SECONDS
from kachery_p2p.protocol.links.standing import Standings
from kachery_p2p.protocol.links.usage import Usage

from .parties import OWN_USER, Allowance, Party, on_behalf_of

T = TypeVar("T")

_LEAST_STEP = 2e-5
"""Seconds that the loop itself needs for a step, about."""


class _Waiting:
    """Parties of which steps wait, in the order of what they have used."""

    def __init__(self, usage: Usage) -> None:
        self._usage = usage
        self._steps: dict[Party, deque[asyncio.Future[None]]] = {}
        self._order: list[tuple[float, str, Party]] = []
        """A heap, with a place for each party: it may have used more since it was put there."""

    def __bool__(self) -> bool:
        return bool(self._steps)

    def add(self, party: Party, step: asyncio.Future[None]) -> None:
        steps = self._steps.get(party)
        if steps is None:
            steps = self._steps[party] = deque()
            self._put(party)
        steps.append(step)

    def before(self, party: Party) -> bool:
        """Whether others come before a party, or steps of its own."""
        if party in self._steps:
            return True
        first = self._first()
        return first is not None and first <= self._usage.rank(party.name)

    def release(self, most: int) -> int:
        """Let the next steps go on, one of each party and then another; how many there were."""
        count = 0
        while count < most and self._steps:
            again: list[Party] = []
            while count < most and self._first() is not None:
                party = heapq.heappop(self._order)[2]
                steps = self._steps[party]
                while steps:
                    step = steps.popleft()
                    if not step.done():  # else who waited has gone
                        step.set_result(None)
                        count += 1
                        break
                if steps:
                    again.append(party)
                else:
                    del self._steps[party]
            for party in again:
                self._put(party)
        return count

    def _put(self, party: Party) -> None:
        heapq.heappush(self._order, (self._usage.rank(party.name), party.name, party))

    def _first(self) -> float | None:
        """The rank of who comes next, which is at the top of the heap then; None if nobody waits."""
        while self._order:
            known, name, party = self._order[0]
            rank = self._usage.rank(name)
            if rank <= known:
                return known
            heapq.heapreplace(self._order, (rank, name, party))
        return None


class Turns:
    """``clock``: seconds, as exact as can be had; one that stands still makes everybody's work free."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self._standings = Standings()
        self._usage = Usage()
        self._waiting = _Waiting(self._usage)
        """Of those who stay."""
        self._new = _Waiting(self._usage)
        """Of newcomers."""
        self._left = TURN_SECONDS
        self._new_left = TURN_SECONDS
        """Of this turn of the loop: for those who stay, and for newcomers."""
        self._spent: dict[Party, float] = {}
        """Seconds that steps took since the accounts were last written up. A step is often shorter than
        the writing, so that is done when a turn's seconds are used up, or somebody waits."""
        self._count = 0
        """How many steps there were since then."""
        self._step = _LEAST_STEP
        """What a step takes, about."""
        self._begun: float | None = None
        """Since when a step runs."""
        self._next: asyncio.Handle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        """The running one: on Python 3.11 it takes a system call to find it out."""
        self._newcomers = Allowance()
        self._newcomers_may = self._newcomers.left(clock())
        """Whether they had time left when the accounts were written up."""

    def party_of(self, peer: str, age: float = 0.0) -> Party:
        """The account of a member, of which a link has lasted so many seconds."""
        now = self.clock()
        self._standings.linked(peer, now - age, now)
        return Party(peer, SETTLED_WEIGHT) if self._standings.stays(peer, now) else Party(peer)

    def came_to(self, peer: str, end: bool, count: int = 1) -> None:
        """So many things that a peer asked for came to an end; or, if it is none, to nothing."""
        if end:
            self._standings.kept(peer, self.clock())
        else:
            self._standings.wasted(peer, self.clock(), count)

    @property
    def anybody_waits(self) -> bool:
        return bool(self._waiting or self._new)

    def free(self, party: Party) -> bool:
        """Whether there is time left for a party in this turn of the loop, and nobody who comes before
        it waits."""
        running = 0.0 if self._begun is None else self.clock() - self._begun
        if not party.new:
            if self._left <= running:
                return False
            if not self._waiting:
                return True
            self._write_up(self.clock())
            return not self._waiting.before(party)
        if self._new_left <= running or self._waiting:
            return False
        if not self._newcomers_may and not self._newcomers.left(self.clock()):
            return False
        if not self._new:
            return True
        self._write_up(self.clock())
        return not self._new.before(party)

    def spend(self, party: Party, seconds: float) -> None:
        """Work for a party has taken so long."""
        self._spent[party] = self._spent.get(party, 0.0) + seconds
        self._count += 1
        if party.new:
            self._new_left -= seconds
        else:
            self._left -= seconds
        if self._left <= 0 or self._new_left <= 0:
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
        (self._new if party.new else self._waiting).add(party, future)
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

    def _go_on(self) -> None:
        if self._next is None:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._next = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """A turn of the loop has passed: let so many go on as the next one has time for, by what steps
        took of late."""
        self._next = None
        now = self.clock()
        self._write_up(now)
        shared = self._newcomers.is_shared(now)
        self._left = TURN_SECONDS
        self._new_left = NEWCOMERS_TURN_SECONDS if shared else TURN_SECONDS
        if not self.anybody_waits:
            return
        may = self._newcomers.left(now)
        self._waiting.release(max(1, round(self._left / self._step)))
        if may:
            self._new.release(max(1, round(self._new_left / self._step)))
        if self._waiting or (self._new and may):
            self._go_on()
        elif self._new:
            self._next = asyncio.get_running_loop().call_later(TURN_SECONDS, self._turn)


def _inner(error: BaseException) -> BaseException:
    """An error that was caught just now, without the frame that caught it: what is waited for may keep
    the error, and has no use for who else waits behind."""
    return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
