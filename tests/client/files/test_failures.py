"""Without a node, with another one, with a file that changes: what the error says."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

import kachery_p2p as kc
from kachery_p2p.client.files import stores
from kachery_p2p.client.session.pieces import FilePieces
from kachery_p2p.protocol import errors
from kachery_p2p.protocol.limits import LOCAL_PIECE, MANIFEST_CHUNK
from tests.client.files.online import ABSENT, BOTH, blob_path, content
from tests.daemons import Daemon, Lab, announced, at, free_port

pytestmark = pytest.mark.processes


# --- when something is the matter ----------------------------------------------------------------


@BOTH
def test_without_a_node_the_error_names_what_was_tried(tmp_path: Path, call: Any) -> None:
    with at(Daemon(tmp_path, "none")), pytest.raises(errors.DaemonNotRunning) as caught:
        call("load_text", ABSENT)
    for part in (str(tmp_path / "none/run/kachery-p2p"), "/run/kachery-p2p", "daemon start"):
        assert part in str(caught.value)


def test_after_a_restart_the_next_call_of_the_same_process_works(lab: Lab) -> None:
    async def main() -> None:
        assert await kc.aget_node_id() == lab.b.node_id
        for end in (lab.b.stop, lab.b.kill):
            await asyncio.to_thread(end)
            with pytest.raises(errors.DaemonNotRunning):
                await kc.anode_info()
            await asyncio.to_thread(lab.b.start)
            assert (await kc.anode_info())["pid"] == lab.b.pid

    with at(lab.b):
        uri = kc.store_text("survives")
        for end in (lab.b.stop, lab.b.kill):
            end()
            lab.b.start()
            assert kc.load_text(uri) == "survives"
            assert kc.node_info()["pid"] == lab.b.pid
        asyncio.run(main())


def test_another_storage_than_the_nodes_is_refused(lab: Lab, tmp_path: Path) -> None:
    with at(lab.a, KACHERY_STORAGE_DIR=str(tmp_path)):
        with pytest.raises(errors.StorageMismatch) as caught:
            kc.store_text("x")
        assert str(tmp_path) in str(caught.value)
        assert str(lab.a.storage) in str(caught.value)
    same = tmp_path / "same"
    same.symlink_to(lab.a.storage)
    with at(lab.a, KACHERY_STORAGE_DIR=str(same)):
        assert kc.load_text(kc.store_text("x")) == "x"


def test_a_file_that_is_cut_while_it_is_stored_over_tcp_is_an_error(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(5_000_000))

    class Cut(FilePieces):
        async def read(self, start: int, length: int) -> bytes:
            if start > 0:
                os.truncate(path, 0)
            return await super().read(start, length)

    with at(lab.a, KACHERY_P2P_API_PORT=str(lab.a.options["api_port"])):
        with monkeypatch.context() as patch:
            patch.setattr(stores, "FilePieces", Cut)
            with pytest.raises(errors.BadInput, match="cut to"):
                kc.store_file(path)
        path.write_bytes(b"x" * 2_000_000)
        assert kc.load_bytes(kc.store_file(path)) == path.read_bytes()


def test_over_tcp_with_the_token(lab: Lab, tmp_path: Path) -> None:
    port = str(lab.a.options["api_port"])
    token = Path(lab.a.env["XDG_RUNTIME_DIR"], "kachery-p2p", f"api-{port}.full.token")
    assert token.stat().st_mode & 0o077 == 0
    big = content("tcp", MANIFEST_CHUNK + 5)
    path = tmp_path / "big.dat"
    path.write_bytes(big)
    with at(lab.a, KACHERY_P2P_API_PORT=port):
        assert kc.load_text(kc.store_text("by TCP")) == "by TCP"
        uri = kc.store_file(path)
        assert "?manifest=" in uri
        assert kc.load_bytes(uri) == big
        assert kc.store_bytes(big, "big.dat") == uri
        with pytest.raises(errors.BadInput, match="Unix socket"):
            kc.link_file(path)
    right = token.read_text()
    for wrong in ("0" * len(right), "", "ä"):
        token.write_text(wrong)
        with at(lab.a, KACHERY_P2P_API_PORT=port), pytest.raises(errors.DaemonNotPermitted):
            kc.get_node_id()
    token.write_text(right)
    with at(lab.a, KACHERY_P2P_API_PORT=str(free_port())), pytest.raises(errors.DaemonNotRunning):
        kc.get_node_id()
    with at(lab.a, KACHERY_P2P_API_PORT="nonsense"), pytest.raises(errors.BadInput):
        kc.get_node_id()


@pytest.mark.parametrize("size", [20, 2 * LOCAL_PIECE])
def test_damage_on_the_local_disk_is_seen_put_aside_and_mended(lab: Lab, size: int) -> None:
    data = content(f"damage {size}", size).hex()
    with at(lab.a):
        uri = kc.store_text(data)
    with at(lab.b):
        announced(uri)
        for damage in range(2):
            assert kc.load_text(uri) == data
            path = blob_path(lab.b, uri)
            with path.open("r+b") as file:
                first = file.read(1)
                file.seek(0)
                file.write(bytes([first[0] ^ 1]))
            assert (kc.load_text if damage else kc.load_bytes)(uri) in (data, data.encode())
            assert path.read_text() == data
            assert path.with_name(f"{path.name}.corrupt-{damage + 1}").exists()
        assert any(kc.parse_uri(uri).hash in str(told) for told in kc.node_info()["warnings"])
