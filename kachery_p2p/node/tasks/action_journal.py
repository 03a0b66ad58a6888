"""What this node's disk knows of the actions that its backends run, so that each begins at most once.

Invariant: that an action begins is on disk before a backend gets it, and how it ended before its
requester hears of it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from kachery_p2p.node.context import Context
from kachery_p2p.protocol.tasks.task import Payload
from kachery_p2p.storage.tasks.store import Action, ActionEnd, TaskStore

from .jobs import Job

RETURN_SECONDS: Final = 10.0
"""After a start, so long is waited for backends to say which actions they still run."""


class ActionJournal:
    """``returned``: actions of before the last start that a backend says it still runs."""

    def __init__(self, context: Context, store: TaskStore) -> None:
        self.returned: set[bytes] = set()
        self._clock = context.clock
        self._disk = context.workers.disk
        self._store = store
        self._opened = asyncio.get_running_loop().time()
        self._settled = False
        """Whether what did not return has been given up."""

    async def row(self, task: bytes) -> Action | None:
        """What is known of an action."""
        row: Action | None = await self._disk(self._store.action, task)
        return row

    async def begin(self, job: Job) -> bool:
        """Note that it begins now; False if it was begun before. Raises StorageFull, StorageDamaged."""
        begun: bool = await self._disk(
            self._store.action_started,
            job.id,
            bytes.fromhex(job.requester),
            job.function,
            self._clock(),
        )
        return begun

    async def end(
        self,
        task: bytes,
        state: ActionEnd,
        payload: Payload | None = None,
        reason: str = "",
        traceback: str = "",
    ) -> None:
        """Note how it ended. Raises StorageFull, StorageDamaged."""
        await self._disk(self._store.action_ended, task, state, payload, reason, traceback)

    def left_to_return(self) -> float:
        """Seconds until what did not return is given up."""
        return self._opened + RETURN_SECONDS - asyncio.get_running_loop().time()

    async def settle(self, live: set[bytes]) -> None:
        """Give up what did not return after a start, but for what is live; once."""
        if not self._settled and self.left_to_return() < 0:
            await self._disk(self._store.abandon_started, live | self.returned)
            self._settled = True
