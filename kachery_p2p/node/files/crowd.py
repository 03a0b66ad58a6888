"""The sources that one download reads from at once.

They work side by side until all is there. More may come while they do, and one that failed is tried
again while others go on, unless it lied or refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from kachery_p2p.node.context import Context
from kachery_p2p.protocol.errors import (
    KacheryError,
    LinkClosed,
    LocalError,
    NotFound,
    TransportError,
)
from kachery_p2p.protocol.gossip.holders import Holder
from kachery_p2p.protocol.limits import (
    MAX_SOURCES,
    SOURCE_RETRY_FIRST,
    SOURCE_RETRY_MOST,
)

from .sources import Source, Sources

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
"""So often it is looked whether it is stuck, and whether its sources are there."""
_NEXT_LINK_SECONDS = 0.2
"""Until a source whose link ended is asked over another one."""


class Slot:
    """One download's place among those that may work at once, which it leaves while there is nothing to
    do."""

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


class Crowd:
    """Of one download. ``work`` has one source give what it can, until it fails or is ended."""

    def __init__(
        self, context: Context, sources: Sources, work: Callable[[Source], Awaitable[None]]
    ) -> None:
        self._context = context
        self._sources = sources
        self._work = work
        self._holders: dict[str, Holder] = {}
        self._working: dict[str, asyncio.Task[None]] = {}
        self._asked: dict[str, Source] = {}
        self._again: dict[str, float] = {}
        """When a source that failed is tried again."""
        self._failed: dict[str, float] = {}
        """How long that took last time."""
        self._come = asyncio.Event()

    def add(self, holders: Iterable[Holder]) -> None:
        """These can be asked, too."""
        for holder in holders:
            known = self._holders.get(holder.node)
            if known is None or (known.partial and not holder.partial):
                self._holders[holder.node] = holder
                self._again.pop(holder.node, None)
        self._come.set()

    async def run(
        self, holders: Iterable[Holder], *, until: asyncio.Event, stuck: Callable[[], bool]
    ) -> list[tuple[Holder, KacheryError]]:
        """Have them work until there is no more to do, all have failed or they are stuck. Returns those
        that failed and were blamed.

        Raises:
            LocalError: it is nobody's fault, and the others are stopped.
        """
        failures: list[tuple[Holder, KacheryError]] = []
        self._holders.clear()
        self._again.clear()
        self.add(holders)
        over: asyncio.Task[Any] = asyncio.create_task(until.wait())
        come: asyncio.Task[Any] = asyncio.create_task(self._come.wait())
        try:
            while not until.is_set() and not stuck():
                self._begin(failures)
                if not self._working:
                    break
                await asyncio.wait(
                    {*self._working.values(), over, come},
                    timeout=_LOOK_SECONDS,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for source in self._asked.values():
                    source.doubt_link()
                if over.done() and not until.is_set():  # somebody wants more already
                    over = asyncio.create_task(until.wait())
                if come.done():
                    self._come.clear()
                    come = asyncio.create_task(self._come.wait())
                for node, task in list(self._working.items()):
                    if task.done():
                        del self._working[node]
                        task.result()
        finally:
            tasks = {*self._working.values(), over, come}
            self._working.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return failures

    def _begin(self, failures: list[tuple[Holder, KacheryError]]) -> None:
        now = asyncio.get_running_loop().time()
        for holder in self._sources.ranked(self._sources.usable(self._holders.values())):
            node = holder.node
            if len(self._working) == MAX_SOURCES:
                return
            if node not in self._working and now >= self._again.get(node, 0.0):
                self._working[node] = asyncio.create_task(
                    self._one(holder, failures), name=f"source {node[:8]}"
                )

    async def _one(self, holder: Holder, failures: list[tuple[Holder, KacheryError]]) -> None:
        loop = asyncio.get_running_loop()
        wait = min(SOURCE_RETRY_MOST, 2 * self._failed.get(holder.node, SOURCE_RETRY_FIRST / 2))
        try:
            source = self._asked[holder.node] = await self._sources.connect(holder)
            await self._work(source)
        except LocalError:
            raise
        except NotFound:
            # It is itself still downloading: others go on, it may have more later.
            self._sources.failed(holder.node)
        except KacheryError as error:
            failures.append((holder, error))
            self._sources.blame(holder, error)
            log.info("source %s failed: %s", holder.name, error)
            if not isinstance(error, TransportError):
                self._context.warn(f"{holder.name}: {error}")
            if isinstance(error, LinkClosed):  # there may be another link already
                wait = _NEXT_LINK_SECONDS
        finally:
            self._asked.pop(holder.node, None)
        self._failed[holder.node] = wait
        self._again[holder.node] = loop.time() + wait
