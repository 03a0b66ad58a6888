"""What a node remembers of its channels, written off the event loop and in the order it was asked for.

A commit waits for the disk, and a look waits for the commit that is under way: neither may hold up the
loop, nor may a later change be overtaken by an earlier one.

Non-goals: what is written, and trying again; see :mod:`.documents`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from kachery_p2p.node.workers import InOrder, Workers

R = TypeVar("R")


class Ledger:
    def __init__(self, workers: Workers) -> None:
        self._order = InOrder(workers, asyncio.Lock())

    async def do(self, work: Callable[[], R]) -> R:
        """Run ``work`` in a worker thread after all that was asked before; what it returns or raises.
        It is done even if the caller is cancelled."""
        results: list[R] = []
        await self._order.run(lambda: results.append(work()))
        return results[0]

    async def close(self) -> None:
        """Until all that was asked for is done."""
        await self._order.wait()
