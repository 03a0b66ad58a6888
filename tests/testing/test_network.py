"""Networks for tests: the nodes, the channel, and links that are cut and slowed."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import kachery_p2p as kc
from kachery_p2p.client.session import portal
from kachery_p2p.protocol.errors import (
    AccessDenied,
    BadInput,
    DeadlineExceeded,
    KacheryError,
    Unreachable,
)
from kachery_p2p.testing import Network

HOW = pytest.mark.parametrize("processes", [False, True], ids=["inside", "processes"])


@pytest.fixture(autouse=True)
def no_portal_stays() -> Iterator[None]:
    yield
    portal.shutdown()


def load(network: Network, label: str, uri: str) -> str | None:
    with network[label].at():
        return kc.load_text(uri)


@HOW
def test_three_nodes_share_files_and_feeds(processes: bool) -> None:
    with Network(3, processes=processes) as network:
        assert [node.label for node in network] == ["A", "B", "C"]
        with network["A"].at():
            uri = kc.store_text("from A")
            feed = kc.create_feed()
            feed.load_subfeed("log").append_messages([{"n": 1}])
        for label in ("B", "C"):
            assert load(network, label, uri) == "from A"
            with network[label].at():
                assert kc.get_node_id() == network[label].node_id
                log = kc.load_feed(feed.uri).load_subfeed("log")
                assert log.get_next_messages(wait_msec=10_000) == [{"n": 1}]


@HOW
def test_a_link_that_is_cut_and_mended(processes: bool) -> None:
    with Network(processes=processes) as network:
        network.cut("B")
        with network["A"].at():
            uri = kc.store_text("while it was cut")
        with pytest.raises(Unreachable):
            load(network, "B", uri)
        network.restore("B")
        network.wait_linked("B")
        assert load(network, "B", uri) == "while it was cut"


def test_a_link_that_does_not_come_back_is_an_error_that_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Network() as network:
        network.cut("B")
        with network["B"].at():
            while kc.node_info()["links"]:
                time.sleep(0.01)
        monkeypatch.setattr("kachery_p2p.testing.network._LINK_SECONDS", 0.5)
        with pytest.raises(DeadlineExceeded, match=r"proxy \(ws://\S+ is \w+: .+\) took longer"):
            network.wait_linked("B")


def test_the_owner_cut_off_is_found_again_with_what_it_stored() -> None:
    with Network() as network:
        network.cut("A")
        with network["A"].at():
            uri = kc.store_text("while it was cut")
        assert load(network, "B", uri) is None
        network.restore("A")
        network.wait_linked()
        network.settle("A")
        assert load(network, "B", uri) == "while it was cut"


async def test_a_silent_cut_breaks_nothing_and_lets_nothing_pass() -> None:
    async with Network() as network:
        with network["A"].at():
            uri = await kc.astore_text("some text")
        network.cut("B", silently=True)
        with network["B"].at():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await kc.aload_text(uri)
            assert len((await kc.anode_info())["links"]) == 1
            network.restore("B")
            assert await kc.aload_text(uri) == "some text"


def test_a_slow_link_carries_no_more_than_it_may() -> None:
    content = os.urandom(100_000)
    with Network() as network:
        network.slow("B", bytes_per_second=200_000, delay=0.05)
        with network["A"].at():
            uri = kc.store_bytes(content)
        with network["B"].at():
            since = time.monotonic()
            assert kc.load_bytes(uri) == content
            took = time.monotonic() - since
        assert took > len(content) / 200_000
        network.slow("B")
        with network["A"].at():
            uri = kc.store_bytes(content * 200)
        with network["B"].at():
            assert kc.load_bytes(uri) == content * 200


def test_a_delay_is_felt_both_ways() -> None:
    with Network() as network:
        network.slow("B", delay=0.1)
        with network["A"].at():
            uri = kc.store_text("some text")
        since = time.monotonic()
        assert load(network, "B", uri) == "some text"
        assert time.monotonic() - since > 0.2


def test_a_process_that_is_killed_comes_back_as_the_same_node() -> None:
    with Network(processes=True) as network:
        with network["A"].at():
            uri = kc.store_text("some text")
        before = network["A"].node_id
        network["A"].kill()
        network["A"].start()
        assert network["A"].node_id == before
        network.wait_linked("A")
        network.settle("A")
        assert load(network, "B", uri) == "some text"


@HOW
def test_nodes_and_the_proxy_restart(processes: bool) -> None:
    with Network(processes=processes) as network:
        network["A"].restart()
        network.proxy.restart()
        network.wait_linked()
        with network["A"].at():
            uri = kc.store_text("some text")
        assert load(network, "B", uri) == "some text"
        network["A"].stop()
        network["A"].stop()
        with network["A"].at(), pytest.raises(KacheryError):
            kc.get_node_id()


def test_a_node_of_this_process_cannot_be_killed_and_says_what_can() -> None:
    with Network(1) as network, pytest.raises(BadInput, match="processes=True"):
        network["A"].kill()


@HOW
def test_one_more_joins(processes: bool) -> None:
    with Network(1, processes=processes) as network:
        with network["A"].at():
            uri = kc.store_text("some text")
        network.add("late", roles="request-files")
        assert load(network, "late", uri) == "some text"
        with network["late"].at():
            (channel,) = kc.get_channels()
        assert channel["effective"] == ["request-files"]
        with pytest.raises(BadInput, match="already"):
            network.add("late")


def test_roles_are_what_the_owner_grants() -> None:
    with Network(["lab", "home"], channel="c", roles={"home": "request-files"}) as network:
        with network["home"].at():
            uri = kc.store_text("some text")
        with network["lab"].at(), pytest.raises(AccessDenied):
            kc.load_text(uri)
        with network["lab"].at():
            assert [channel["name"] for channel in kc.get_channels()] == ["c"]


def test_who_listens_is_linked_to_directly() -> None:
    with Network(listening=["A"]) as network:
        with network["A"].at():
            uri = kc.store_text("some text")
        assert load(network, "B", uri) == "some text"
        with network["B"].at():
            links = {link["node"] for link in kc.node_info()["links"] if link["via"] is None}
        assert network["A"].node_id in links


@HOW
def test_other_programs_use_a_node_by_its_environment(processes: bool) -> None:
    with Network(1, processes=processes) as network:
        code = "import kachery_p2p as kc; print(kc.get_node_id())"
        assert network["A"].python(code).strip() == network["A"].node_id
        assert network["A"].info()["label"] == "A"


def test_without_lines_nothing_can_be_cut() -> None:
    with Network(lines=False) as network:
        with network["A"].at():
            uri = kc.store_text("some text")
        assert load(network, "B", uri) == "some text"
        with pytest.raises(BadInput, match="lines=True"):
            network.cut("B")


def test_wrong_words() -> None:
    for nodes in (0, ["A", "A"], ["proxy"], []):
        with pytest.raises(BadInput):
            Network(nodes)  # type: ignore[arg-type]
    network = Network()
    with pytest.raises(BadInput, match="running"):
        network.cut("A")
    with pytest.raises(BadInput, match="does not run"):
        network.add("C")
    with network:
        with pytest.raises(BadInput, match="A, B"):
            network.cut("proxy")
        with pytest.raises(BadInput, match="above 0"):
            network.slow("A", bytes_per_second=0)
        with pytest.raises(BadInput, match="runs already"):
            network.start()
        with pytest.raises(KeyError):
            network["nobody"]


def test_labels_go_on_after_z() -> None:
    network = Network(28, lines=False)
    assert network._labels[25:] == ["Z", "N27", "N28"]


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_nothing_stays() -> None:
    with Network() as network:
        folder = network["A"].home.parent
        assert folder.exists()
    assert not folder.exists()
    assert "kachery-p2p-network" not in threads()
    network.stop()
    with network["A"].at(), pytest.raises(KacheryError):
        kc.get_node_id()


@HOW
def test_a_network_that_cannot_start_leaves_nothing(processes: bool, short_folder: Path) -> None:
    (short_folder / "B").mkdir()
    (short_folder / "B" / "kachery-storage").write_text("a file where a folder should be")
    with pytest.raises(KacheryError, match="kachery-storage"):
        Network(processes=processes, folder=short_folder).start()
    assert "kachery-p2p-network" not in threads()
    for label in ("A", "proxy"):
        with (
            socket.socket(socket.AF_UNIX) as sock,
            pytest.raises(OSError, match=r"refused|No such"),
        ):
            sock.connect(str(short_folder / label / "run" / "kachery-p2p" / "node.sock"))
    with Network(1, processes=processes, folder=short_folder) as network:
        assert network["A"].node_id


async def test_a_start_that_is_cancelled_leaves_nothing() -> None:
    starting = asyncio.create_task(Network().__aenter__())
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert "kachery-p2p-network" not in threads()


async def test_async_tests_are_not_kept_waiting() -> None:
    async with Network(1) as network:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.create_task(tick())
        await network["A"].arestart()
        await network.await_linked()
        await network.asettle()
        ticking.cancel()
        assert ticks > 10
        with network["A"].at():
            assert await kc.aget_node_id() == network["A"].node_id
