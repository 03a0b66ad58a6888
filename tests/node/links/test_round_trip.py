"""The round-trip time that a link tells."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kachery_p2p.node.links.link import Link
from tests.node.harness import laboratory


async def test_it_is_the_least_of_the_last_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    async with laboratory() as lab:
        link = cast(Link, next(iter(lab["A"].network.links)))
        now = 1_000.0
        fake: Any = SimpleNamespace(time=lambda: now)
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: fake)
        link._rtts.clear()
        told = []
        for seconds, rtt in [
            (0, 0.010),
            (15, 2.101),
            (15, 0.040),
            (15, 0.030),
            (30, 0.050),
            (61, 0.2),
        ]:
            now += seconds
            link._measured(rtt)
            told.append(link.rtt)
        monkeypatch.undo()
        assert told == [0.010, 0.010, 0.010, 0.010, 0.030, 0.2]
