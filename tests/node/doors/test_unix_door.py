"""The door of the local API, looked after by a worker thread that may be late."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from kachery_p2p.local.notice import read_notice
from kachery_p2p.local.socket_path import connect
from kachery_p2p.node.config import Config
from kachery_p2p.node.doors.unix_door import UnixDoor
from kachery_p2p.protocol.errors import DaemonAlreadyRunning, StorageDamaged


@pytest.fixture
def door(short_folder: Path) -> UnixDoor:
    (short_folder / "state").mkdir()
    return UnixDoor(
        Config(
            state_dir=short_folder / "state",
            storage_dir=short_folder / "storage",
            runtime_dir=short_folder / "run",
        )
    )


def test_a_lost_socket_is_bound_anew_once(door: UnixDoor) -> None:
    with door.open():
        door.look()
        assert door.take() is None
        door.path.unlink()
        door.look()
        new = door.take()
        assert new is not None
        with new:
            assert door.path.is_socket()
            assert door.take() is None
            door.close()
    assert not door.path.exists()


def test_a_folder_where_the_socket_is_to_be_is_an_error_that_names_it(
    door: UnixDoor, short_folder: Path
) -> None:
    path = short_folder / "run" / "node.sock"
    path.mkdir(parents=True)
    with pytest.raises(StorageDamaged, match=str(path)):
        door.open()


def test_who_looks_after_the_door_was_closed_leaves_nothing(door: UnixDoor) -> None:
    with door.open():
        door.close()
        door.look()
        assert door.take() is None
    assert not door.path.exists()


def test_a_socket_that_nobody_took_is_closed_with_the_door(door: UnixDoor) -> None:
    with door.open():
        door.path.unlink()
        door.look()
        door.close()
        assert door.take() is None
    assert not door.path.exists()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux")
def test_a_socket_may_lie_deeper_than_the_system_can_name(tmp_path: Path) -> None:
    deep = tmp_path / "home of a long name" / ("x" * 200) / ("y" * 200)
    deep.mkdir(parents=True)
    config = Config(state_dir=deep, storage_dir=tmp_path / "storage", runtime_dir=deep / "run")
    config.check()
    door = UnixDoor(config)
    with door.open() as listening:
        notice = read_notice(deep)
        assert notice is not None
        assert Path(notice.socket) == door.path == deep / "run/node.sock"
        with socket.socket(socket.AF_UNIX) as client:
            connect(client, door.path)
            accepted, _ = listening.accept()
            accepted.close()
        with pytest.raises(DaemonAlreadyRunning):
            UnixDoor(config).open()
        door.path.unlink()
        door.look()
        new = door.take()
        assert new is not None
        with new, socket.socket(socket.AF_UNIX) as client:
            connect(client, door.path)
        door.close()
    assert os.listdir(deep / "run") == []
