"""Who stores many files at once has only so many of them open: a process runs out of descriptors sooner
than of files, and so does the node, which gets them."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Coroutine, Iterable
from typing import Any

from kachery_p2p.protocol.limits import MAX_OPEN_STORES

_turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
    weakref.WeakKeyDictionary()
)


def turns() -> asyncio.Semaphore:
    """To be held while a file is open. Who comes first is first; one for each event loop."""
    loop = asyncio.get_running_loop()
    found = _turns.get(loop)
    if found is None:
        found = _turns[loop] = asyncio.Semaphore(MAX_OPEN_STORES)
    return found


async def together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of these at once. What one of them raises first is raised, when the others have ended."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
