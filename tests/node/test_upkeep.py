"""A node that runs for long does not grow by what is no more."""

from __future__ import annotations

import os

import pytest

from kachery_p2p.node import node as module
from kachery_p2p.storage import paths
from kachery_p2p.storage.files.partials import Partial
from tests.node.harness import laboratory, until


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.limits, "HOUSEKEEPING_SECONDS", 0.01)


async def test_a_proxy_forgets_the_keys_of_a_removed_member_though_nobody_announces() -> None:
    async with laboratory("A", "B") as lab:
        channel = lab.channels["lab"]
        await lab.store("A", b"stays")
        for number in range(20):
            await lab.store("B", b"goes %d" % number)
        known = lab["P"].availability.index._channels[channel]
        assert len(known.holders) == 21
        await lab.call("A", "channel.remove-node", channel="lab", node=lab.id("B"))
        await until(
            lambda: lab["P"].network.version_of(channel) == lab["A"].network.version_of(channel)
        )
        index = lab["P"].availability.index
        # The secret is another now: A announces anew, in one batch.
        await lab.announced("A")
        await until(lambda: len(index._channels[channel].holders) == 1)
        assert not index._channels[channel].dead


async def test_a_running_node_throws_away_a_download_that_nobody_goes_on_with() -> None:
    async with laboratory("A") as lab:
        store = lab["A"].store
        partial = Partial.open(store, "ab" * 20, 1_000)
        partial.append(0, bytes(100))
        partial.close()
        for suffix in (paths.PARTIAL, paths.PARTIAL_MAP):
            os.utime(store.path("ab" * 20, suffix), (1_000_000_000, 1_000_000_000))
        await lab.restart("A")
        await until(lambda: not store.path("ab" * 20, paths.PARTIAL).exists())
