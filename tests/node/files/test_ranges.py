"""Ranges cost the blocks that they touch, and are kept for the whole."""

from __future__ import annotations

import pytest

from kachery_p2p.protocol.limits import BLOCK
from tests.node.files.contents import BIG, content, range_of
from tests.node.harness import laboratory


@pytest.mark.parametrize(
    ("start", "stop", "blocks"),
    [(0, 1, 1), (BLOCK - 1, BLOCK + 1, 2), (20_000_001, 20_000_002, 1), (BIG - 5, BIG + 50, 1),
     (7 * BLOCK, 9 * BLOCK, 2), (5, 5, 0), (BIG, BIG + 1, 0)],
)  # fmt: skip
async def test_a_range_costs_only_the_blocks_it_touches(start: int, stop: int, blocks: int) -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        before = lab["A"].provider.served_bytes
        assert await range_of(lab, "B", sha1, manifest, start, stop) == data[start:stop]
        served = lab["A"].provider.served_bytes - before - len(lab.bytes_of("B", manifest or ""))
        assert served <= blocks * BLOCK
        assert await range_of(lab, "B", sha1, manifest, start, stop) == data[start:stop]
        assert lab["B"].store.find(sha1) is None


async def test_ranges_are_kept_for_the_whole() -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        await range_of(lab, "B", sha1, manifest, 0, 10_000_000)
        result = await lab.load("B", sha1, manifest)
        assert lab.bytes_of("B", sha1) == data
        assert result["fetched"] <= BIG - 10_000_000 + BLOCK
