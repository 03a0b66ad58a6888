"""Who stores many files at once has only so many of them open: a process runs out of descriptors sooner
than of files, and so does the node, which gets them."""

from __future__ import annotations

import asyncio
import weakref

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
