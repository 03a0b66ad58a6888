"""A node that stands for origins, and one that asks it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from kachery_p2p.storage.backing.setting import OriginSetting
from tests.node.harness import Lab, laboratory


@contextlib.asynccontextmanager
async def lab_with(*urls: str, archive: bool = False, own: bool = False) -> AsyncIterator[Lab]:
    """A stands for these origins, B asks."""
    async with laboratory("A", "B") as lab:
        await lab["A"].backing.set([OriginSetting(url, archive, own) for url in urls])
        await lab.call("A", "origins", refresh=True)
        await lab.announced("A")
        yield lab
