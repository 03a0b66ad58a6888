"""Several nodes fetch one file: from all who have it, from those who come to have it, and from one
another."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from kachery_p2p.node.files import provider
from tests.node.files.contents import BIG, content
from tests.node.harness import laboratory


@pytest.fixture
def slow_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has all of a file reads 15 MB of it a second, for all who ask together."""
    read = provider.TreeReader.read_proved
    turn = threading.Lock()

    def slowly(self: Any, start: int, stop: int) -> tuple[bytes, list[bytes]]:
        with turn:
            time.sleep((stop - start) / 15e6)
        return read(self, start, stop)

    monkeypatch.setattr(provider.TreeReader, "read_proved", slowly)


def given_by(result: dict[str, Any]) -> dict[str, int]:
    return {source["label"]: source["bytes"] for source in result["sources"]}


async def test_those_who_fetch_a_file_give_each_other_what_they_have(slow_disks: None) -> None:
    async with laboratory("A", "B", "C", listening=("B", "C")) as lab:
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        results = await asyncio.gather(*(lab.load(name, sha1, manifest) for name in "BC"))
        by = [given_by(result) for result in results]
        assert lab.bytes_of("B", sha1) == lab.bytes_of("C", sha1) == data
        assert sum(each["A"] for each in by) < 1.6 * BIG, by
        assert by[0].get("C", 0) + by[1].get("B", 0) > 0.4 * BIG, by
