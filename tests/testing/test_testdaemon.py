"""TestDaemon, as the tests of older users call it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import kachery_client
import kachery_p2p as kp
from kachery_p2p.client.session import portal
from kachery_p2p.protocol.errors import BadInput, DaemonNotRunning, KacheryError, Unreachable
from kachery_p2p.testing import free_port
from kachery_p2p.testing.channels import open_channel, with_proxy


@pytest.fixture(autouse=True)
def no_portal_stays() -> Iterator[None]:
    yield
    portal.shutdown()


def make(folder: Path, name: str, channels: list[str], **options: Any) -> kp.TestDaemon:
    return kp.TestDaemon(
        label=name,
        channels=channels,
        api_port=free_port(),
        storage_dir=str(folder / name),
        **options,
    )


def load(daemon: kp.TestDaemon, uri: str) -> Any:
    with daemon.testEnv():
        return kp.load_object(uri)


def test_the_way_it_always_was(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    nodes: list[dict[str, Any]] = []
    try:
        for a in range(2):
            d = kp.TestDaemon(
                label="d",
                channels=["testA"],
                api_port=free_port(),
                storage_dir=str(tmp_path) + f"/test_storage_{a}",
                port=ports[a],
                websocket_port=free_port() if a == 0 else None,
                bootstraps=[f"localhost:{ports[0]}"] if a > 0 else None,
                isbootstrap=a == 0,
                nomulticast=True,
            )
            nodes.append({"daemon": d, "object": {"a": a, "x": list(range(10_000))}})
            d.start()
        for node in nodes:
            with node["daemon"].testEnv():
                import kachery_client as kc

                node["uri"] = kc.store_object(node["object"])
        for one, other in (nodes, nodes[::-1]):
            assert load(one["daemon"], other["uri"]) == other["object"]
    finally:
        for node in nodes:
            node["daemon"].stop()


def test_a_chain_of_bootstraps_in_all_their_forms(tmp_path: Path) -> None:
    ports = [free_port() for _ in range(5)]
    forms: list[Any] = [
        None,
        [{"hostName": "localhost", "port": ports[0]}],
        [SimpleNamespace(hostname="127.0.0.1", port=ports[1])],
        [f"ws://localhost:{ports[4]}"],  # the first one's websocket_port
    ]
    daemons = [
        make(
            tmp_path,
            f"d{i}",
            ["chain"],
            port=ports[i],
            websocket_port=ports[4] if i == 0 else None,
            bootstraps=form,
            isbootstrap=i < 2,
            nomulticast=True,
        )
        for i, form in enumerate(forms)
    ]
    try:
        for daemon in daemons:
            daemon.start()
        with daemons[2].testEnv():
            uri = kp.store_object("from the end of the chain")
        for daemon in daemons:
            assert load(daemon, uri) == "from the end of the chain"
    finally:
        for daemon in daemons:
            daemon.stop()


def test_without_bootstraps_those_of_one_process_find_one_another(tmp_path: Path) -> None:
    with (
        make(tmp_path, "one", ["x", "y"]) as one,
        make(tmp_path, "two", ["x"]) as two,
        make(tmp_path, "other", ["z"]) as other,
        make(tmp_path, "given", ["x"], bootstraps=[one], nomulticast=True) as given,
    ):
        with one.testEnv():
            uri = kp.store_object("some text")
        assert load(two, uri) == "some text"
        assert load(given, uri) == "some text"
        assert load(other, uri) is None
        with one.testEnv():
            assert {channel["name"] for channel in kp.get_channels()} == {"x", "y"}
            assert kp.get_node_id() == one.node_id


def test_the_environment_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KACHERY_P2P_OFFLINE_STORAGE_DIR", str(tmp_path / "offline"))
    monkeypatch.setenv("KACHERY_STORAGE_DIR", "before")
    before = dict(os.environ)
    with make(tmp_path, "d", [], nomulticast=True) as daemon:
        with daemon.testEnv() as entered:
            assert entered is daemon
            assert os.environ["KACHERY_STORAGE_DIR"] == str(tmp_path / "d")
            assert int(os.environ["KACHERY_P2P_API_PORT"]) > 0
            uri = kachery_client.store_text("some text")
            assert kp.load_file(uri, local_only=True) is not None
        assert dict(os.environ) == before
        with pytest.raises(ZeroDivisionError), daemon.testEnv():
            1 / 0  # noqa: B018
        assert dict(os.environ) == before
    assert (tmp_path / "d" / "sha1").is_dir()


def test_it_is_the_same_node_again_on_the_same_folder(tmp_path: Path) -> None:
    daemon = make(tmp_path, "d", ["x"], isbootstrap=True, nomulticast=True)
    ids = []
    for _ in range(2):
        daemon.start()
        daemon.start()
        ids.append(daemon.node_id)
        daemon.stop()
        daemon.stop()
    assert ids[0] == ids[1]
    with pytest.raises(DaemonNotRunning, match="start"), daemon.testEnv():
        pass


def test_it_stays_on_this_machine(tmp_path: Path) -> None:
    for bootstrap in ("kachery.example.org:42000", {"hostName": "10.0.0.1", "port": 42000}):
        with pytest.raises(BadInput, match="this machine"):
            make(tmp_path, "d", ["x"], bootstraps=[bootstrap])
    for bootstrap in ("localhost", {"port": "a"}, object()):
        with pytest.raises(BadInput, match="HOST:PORT"):
            make(tmp_path, "d", ["x"], bootstraps=[bootstrap])
    with make(tmp_path, "d", ["x"], isbootstrap=True, nomulticast=True) as daemon, daemon.testEnv():
        assert kp.node_info()["listening"].startswith("127.0.0.1:")


def test_a_bootstrap_that_is_not_there_is_an_error_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kachery_p2p.testdaemon._BOOTSTRAP_SECONDS", 0.2)
    daemon = make(tmp_path, "d", ["x"], bootstraps=[f"localhost:{free_port()}"])
    with pytest.raises(Unreachable):
        daemon.start()
    with pytest.raises(DaemonNotRunning), daemon.testEnv():
        pass


def test_what_the_daemon_says_is_what_start_raises(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("a file where a folder should be")
    with pytest.raises(KacheryError, match=str(tmp_path / "d")):
        make(tmp_path, "d", []).start()


def test_pytest_does_not_take_it_for_a_test() -> None:
    assert kp.TestDaemon.__test__ is False


def test_an_open_channel_follows_from_its_name() -> None:
    from kachery_p2p.protocol.channels.signed_document import from_text, parse
    from kachery_p2p.protocol.identity import NodeKey

    node = NodeKey(bytes(32)).node_id
    texts = [open_channel("x", []), with_proxy(open_channel("x", []), "ws://127.0.0.1:1", node)]
    (one, secret), (other, same) = map(from_text, texts)
    assert secret == same
    assert parse(one, now=0.0).document.channel_id == parse(other, now=0.0).document.channel_id
    changed = parse(other, now=0.0).document
    assert changed.version > parse(one, now=0.0).document.version
    assert [b.node_id for b in changed.bootstraps] == [node]
    assert with_proxy(texts[1], "ws://127.0.0.1:1", node) == texts[1]
    assert from_text(open_channel("y", []))[1] != secret
