"""What a node does now and then so that it does not grow: called by its housekeeping.

Each :meth:`Upkeep.step` is bounded: a slice of the storage in a worker thread, and some of the keys of
announcement logs that are no more, with pauses for others on the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from kachery_p2p.protocol.gossip.index import Index
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

    def __init__(self, context: Context, index: Index, served: Callable[[], int]) -> None:
        self._served = served
        self._workers = context.workers
        self._index = index
        self._sweeper = Sweeper(context.store, context.state)
        self._rounds = 0
        self._giving = memory.Giving()

    async def step(self) -> None:
        """Do a little of everything."""
        for _ in range(_VISITS):
            if not self._index.sweep():
                break
            await asyncio.sleep(0)
        await self._workers.disk(self._sweeper.step)

    async def give_memory_back(self) -> None:
        """In one of some rounds: what bulk passed through is used again within seconds."""
        self._rounds += 1
        if self._rounds % _ROUNDS_PER_TRIM == 0:
            quiet = self._served() < _FEW
            await self._workers.disk(self._giving.give_back, quiet=quiet)
