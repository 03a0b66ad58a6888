"""Several nodes fetch one file: from all who have it, from those who come to have it, and from one
another."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from kachery_p2p.node.files import provider
from kachery_p2p.protocol.limits import BLOCK
from tests.node.files.contents import BIG, content, range_of
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
        # How much depends on how busy this machine is; tests/sim/swarm.py holds how much it should be.
        assert sum(each["A"] for each in by) < 1.98 * BIG, by
        assert by[0].get("C", 0) + by[1].get("B", 0) > 0.02 * BIG, by


async def test_a_part_is_given_with_proofs_and_not_after_its_download_has_ended() -> None:
    async with laboratory("A", "B") as lab:
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        await range_of(lab, "B", sha1, manifest, 10 * BLOCK, 12 * BLOCK)
        downloader = lab["B"].downloader
        assert downloader.part(sha1, bytes(32)) is None, "it came from another channel"
        part = downloader.part(sha1, lab.channels["lab"])
        assert part is not None
        [(start, stop)] = part.held()
        assert start <= 10 * BLOCK < 12 * BLOCK <= stop
        found = await part.read_proved([(11 * BLOCK, 12 * BLOCK)])
        assert found is not None
        [(block, proof)] = found
        assert block == data[11 * BLOCK : 12 * BLOCK]
        assert proof
        assert await part.read_proved([(200 * BLOCK, 201 * BLOCK)]) is None
        await downloader.stop(sha1)
        assert await part.read_proved([(11 * BLOCK, 12 * BLOCK)]) is None
