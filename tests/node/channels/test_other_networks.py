"""A node that has no link, and comes to another network or wakes up, does not wait out its pause."""

from __future__ import annotations

from typing import Any

import pytest

from kachery_p2p.node.channels import bootstraps
from tests.node.harness import laboratory, until


class Long:
    """Pauses that nobody waits out."""

    def __init__(self, *args: Any) -> None:
        pass

    def next(self) -> float:
        return 1_000.0

    def reset(self) -> None:
        pass


@pytest.mark.parametrize("what", ["it has other addresses", "it has slept"])
async def test_it_tries_again_at_once(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where = ["home"]
    monkeypatch.setattr(bootstraps, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(bootstraps, "own_addresses", lambda: tuple(where))
    async with laboratory("A") as lab:
        # Not before: who makes a channel may dial its proxy before that one has joined, and waits.
        monkeypatch.setattr(bootstraps, "Backoff", Long)
        await lab.restart("A")
        await lab.linked("A", "lab")
        await lab.restart("P")
        [status] = lab["A"].bootstraps.status.values()
        await until(lambda: status.state == "waiting")
        if what == "it has slept":
            monkeypatch.setattr(bootstraps, "STOPPED_SECONDS", -1.0)  # any timer is late by as much
        else:
            where[0] = "elsewhere"
        await lab.linked("A", "lab")
