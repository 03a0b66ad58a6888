"""A place among those that may work at once, which is left while there is nothing to do."""

from __future__ import annotations

import asyncio


class Slot:
    """One holder's place in ``slots``."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots
        self._held = False

    async def take(self) -> None:
        """Wait for a place."""
        await self._slots.acquire()
        self._held = True

    def leave(self) -> None:
        """Let somebody else have it; harmless without one."""
        if self._held:
            self._held = False
            self._slots.release()
