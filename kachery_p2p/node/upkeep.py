"""What a node does now and then so that it does not grow: called by its housekeeping.

Each :meth:`Upkeep.step` is bounded: a slice of the storage in a worker thread, and some of the keys of
announcement logs that are no more, with pauses for others on the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Final

from kachery_p2p.protocol.gossip.index import Index
from kachery_p2p.protocol.limits import INDEX_WAIT_SECONDS
from kachery_p2p.storage.sweeper import Sweeper

from . import memory
from .context import Context

_VISITS: Final = 64
"""Pieces of dead logs that are cleared in one step, each in a round of the loop of its own."""

_ROUNDS_PER_TRIM: Final = 2
"""Rounds of housekeeping after which free memory is given back to the system."""
_FEW: Final = 64
"""Exchanges that a node serves that is not busy: the feeds that others follow, mostly."""


class Upkeep:
    """``served``: how many exchanges peers have under way."""

    def __init__(
        self,
        context: Context,
        index: Index,
        served: Callable[[], int],
        *,
        provide: Callable[[str], None],
        withdraw: Callable[[str], None],
    ) -> None:
        """``provide`` and ``withdraw``: of files that somebody else put into the folder, or took
        out."""
        self._context = context
        self._provide, self._withdraw = provide, withdraw
        self._differences: Counter[str] = Counter()
        self._loop = asyncio.get_running_loop()
        self._served = served
        self._workers = context.workers
        self._index = index
        self._sweeper = Sweeper(
            context.store, context.state, inventory=context.inventory, moved=self._moved
        )
        self._rounds = 0
        self._giving = memory.Giving()

    async def index(self, announced: asyncio.Event) -> None:
        """Bring the index of the storage in line with it, if that was never done or it is another
        folder; then let go what is over the limit.

        That takes twice as long as announcing what is there, and both at once take as long as one after
        the other: first comes what others wait for, ``announced``, unless it takes very long.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(INDEX_WAIT_SECONDS):
                await announced.wait()
        while not self._context.inventory.complete:
            if not await self._workers.disk(self._sweeper.step):
                return
        await self._workers.disk(self._context.quota.keep_within)

    async def compare(self) -> tuple[int, int]:
        """Bring the index in line with the whole folder: how much was not known, and how much had
        gone."""
        before = Counter(self._differences)
        await self._workers.disk(self._sweeper.begin)
        while await self._workers.disk(self._sweeper.step):
            pass
        found = self._differences - before
        return found["fresh"], found["gone"]

    def _moved(self, fresh: list[str], gone: list[str]) -> None:
        self._differences.update(fresh=len(fresh), gone=len(gone))
        if not self._context.inventory.complete:
            return  # all that is there is announced by who compares it with the log
        for sha1 in fresh:
            self._loop.call_soon_threadsafe(self._provide, sha1)
        for sha1 in gone:
            self._loop.call_soon_threadsafe(self._withdraw, sha1)

    async def step(self) -> None:
        """Do a little of everything."""
        for _ in range(_VISITS):
            if not self._index.sweep():
                break
            await asyncio.sleep(0)
        await self._workers.disk(self._tidy)

    def _tidy(self) -> None:
        self._sweeper.step()
        self._context.inventory.flush()
        self._context.quota.keep_within()

    async def give_memory_back(self) -> None:
        """In one of some rounds: what bulk passed through is used again within seconds."""
        self._rounds += 1
        if self._rounds % _ROUNDS_PER_TRIM == 0:
            quiet = self._served() < _FEW
            await self._workers.disk(self._giving.give_back, quiet=quiet)
