"""Two nodes with one key, since a state folder was copied: their users are told."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.node.harness import Lab, laboratory, until

_MOST = 1_000
"""Files that each of the two stores, at most: how often they say something."""


def is_told(lab: Lab, name: str) -> bool:
    return any("on another computer" in text for _, text in lab[name].context.warnings)


@asynccontextmanager
async def copied(what: str) -> AsyncIterator[Lab]:
    """B is a node that has stored three files since its folder was copied to one called ``what``."""
    async with laboratory("A", "B") as lab:
        await lab.stop("B")
        shutil.copytree(lab.root / "B", lab.root / what)
        await lab.restart("B")
        await lab.linked("B", "lab")
        for number in range(3):
            await lab.store("B", b"since the copy %d" % number, tell=None)
        await lab.announced("B")
        yield lab


async def test_a_copy_of_a_node_that_runs_beside_it_is_told_of_at_both() -> None:
    """What only one of the two had was not found by anybody, and all was said to be well."""
    async with copied("copy") as lab:
        await lab.start("copy")
        await lab.linked("copy", "lab")
        for number in range(_MOST):
            for name in ("B", "copy"):
                await lab.store(name, b"%d of %s" % (number, name.encode()), tell=None)
            # What a node says anew reaches the other one, which says all of its own anew.
            for name in ("B", "copy"):
                log = lab[name].announcer
                await until(lambda: not log.state(lab.channels["lab"])[2])  # noqa: B023
            if is_told(lab, "B") and is_told(lab, "copy"):
                return
        raise AssertionError("it was not told")


async def test_a_restored_node_is_told_of_its_backup_only() -> None:
    async with copied("backup") as lab:
        await lab.stop("B")
        shutil.rmtree(lab.root / "B")
        (lab.root / "backup").rename(lab.root / "B")
        await lab.restart("B")
        await lab.linked("B", "lab")
        sha1, _ = await lab.store("B", b"after the backup")
        await lab.load("A", sha1)
        assert not is_told(lab, "B")
