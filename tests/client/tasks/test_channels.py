"""A task reads what members of its channel may have, whatever else is on its node's computer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import kachery_p2p as kc
from kachery_p2p.client.tasks import values as task_values
from kachery_p2p.client.tasks.context import TaskContext
from kachery_p2p.client.tasks.run import Outcome, perform
from kachery_p2p.protocol.tasks.task import ARRAY_KEY
from kachery_p2p.testing import Network


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """A owns the channel ``lab``, which B is on too, and ``private``, on which it is alone."""
    with Network(2) as made:
        with made["A"].at():
            kc.channel_create("private", [f"{made.proxy.url}#{made.proxy.info()['node_id']}"])
        yield made


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_values, "_APPEAR_SECONDS", 0.1)


def run(function: Any, kwargs: dict[str, Any], channel: str | None = "lab") -> Outcome:
    """What A's backend does when a member of the channel asks for it."""
    return perform(function, json.dumps(kwargs).encode(), channel, TaskContext(lambda *_: None))


def total(*, x: Any) -> Any:
    return float(x.sum())


def test_an_array_that_is_bound_to_another_channel_is_no_argument(network: Network) -> None:
    x = np.arange(1_000.0)
    with network["A"].at():
        private = kc.store_npy(x, channel="private")
        asked = {"x": {ARRAY_KEY: private}}
        refused = run(total, asked)
        assert refused.state == "failed"
        assert "could not be loaded" in refused.reason
        assert run(total, asked, "private").payload is not None
        shared = kc.store_npy(x + 1, channel="lab")
        free = kc.store_npy(x + 2)
        for uri in (shared, free):
            assert run(total, {"x": {ARRAY_KEY: uri}}).state == "finished"


def read_all(*, uri: str, channel: str | None = None) -> Any:
    return [
        kc.load_npy(uri, channel=channel) is not None,
        kc.load_file(uri, channel=channel) is not None,
        kc.load_bytes(uri, channel=channel) is not None,
        kc.load_bytes(uri, 5, 10, channel=channel) is not None,
        kc.load_file(uri, local_only=True, channel=channel) is not None,
    ]


async def read_all_async(*, uri: str) -> Any:
    return [
        await kc.aload_npy(uri) is not None,
        await kc.aload_file(uri) is not None,
        await kc.aload_bytes(uri, 5, 10) is not None,
    ]


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_a_uri_among_the_arguments_opens_nothing_else_to_the_function(
    network: Network, size: int
) -> None:
    with network["A"].at():
        private = kc.store_npy(np.arange(float(size)) + 0.5, channel="private")
        free = kc.store_npy(np.arange(float(size)))
        for function in (read_all, read_all_async):
            refused, given = run(function, {"uri": private}), run(function, {"uri": free})
            assert refused.payload is not None, refused
            assert given.payload is not None, given
            assert set(json.loads(refused.payload.data or b"")) == {False}
            assert set(json.loads(given.payload.data or b"")) == {True}
        # The function's author says so: then it is meant.
        meant = run(read_all, {"uri": private, "channel": "private"})
        assert meant.payload is not None
        assert set(json.loads(meant.payload.data or b"")) == {True}
        # And outside of a task nothing is new.
        assert kc.load_npy(private) is not None


def test_what_a_member_has_is_loaded_from_there(network: Network) -> None:
    x = np.arange(1_000.0) + 7
    with network["A"].at():
        private = kc.store_npy(x, channel="private")
    with network["B"].at():
        assert kc.store_npy(x) == private
    with network["A"].at():
        assert run(total, {"x": {ARRAY_KEY: private}}).state == "finished"
