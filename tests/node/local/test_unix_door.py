"""The local socket: found again when it was lost, nobody else's, and open to who is let in."""

from __future__ import annotations

import grp
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kachery_p2p.local.notice import read_notice
from kachery_p2p.node.config import Config
from kachery_p2p.node.local.unix_door import UnixDoor
from kachery_p2p.protocol.errors import DaemonAlreadyRunning
from tests.daemons import short_folder as made_short_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    with made_short_folder() as folder:
        yield folder


def config_in(folder: Path, **options: Any) -> Config:
    (folder / "state").mkdir(exist_ok=True)
    return Config(folder / "state", folder / "storage", folder / "run", **options)


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return False
        return True


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("lost", ["socket", "folder", "stays"])
def test_a_lost_socket_is_bound_anew_where_it_was(folder: Path, lost: str) -> None:
    door = UnixDoor(config_in(folder))
    with door.open():
        if lost == "socket":
            door.path.unlink()
        elif lost == "folder":
            shutil.rmtree(folder / "run")
        again = door.look()
        if lost == "stays":
            assert again is None
        else:
            assert again is not None
            with again:
                assert answers(folder / "run" / "node.sock")
                assert door.look() is None
        assert mode(folder / "run") == 0o700
        door.close()
    assert not (folder / "run" / "node.sock").exists()
    assert read_notice(folder / "state") is None


@pytest.mark.parametrize("taken", ["folder", "socket"])
def test_where_it_cannot_be_any_more_it_is_in_the_state_folder(folder: Path, taken: str) -> None:
    door = UnixDoor(config_in(folder))
    with door.open():
        path = door.path
        path.unlink()
        if taken == "folder":
            path.parent.rmdir()
            path.parent.touch()
        else:  # by a node of another computer that has the same folder
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
                other.bind(str(path))
        again = door.look()
        assert again is not None
        with again:
            spare = folder / "state" / "run" / "node.sock"
            assert answers(spare)
            notice = read_notice(folder / "state")
            assert notice is not None
            assert (notice.socket, notice.pid) == (str(spare), os.getpid())
            assert door.look() is None
            door.close()
            assert not spare.exists()
            assert path.exists() or taken == "folder", "what is another's stays"


def test_a_second_one_is_refused_and_one_that_was_left_behind_is_replaced(folder: Path) -> None:
    first, second = UnixDoor(config_in(folder)), UnixDoor(config_in(folder))
    with first.open():
        with pytest.raises(DaemonAlreadyRunning, match="something answers"):
            second.open()
        assert answers(first.path)
    first.close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(second.path))
    assert second.path.exists()
    with second.open():
        assert answers(second.path)
        assert [each.name for each in (folder / "run").iterdir()] == ["node.sock"]
    second.close()


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_who_is_let_in_can_connect_whatever_the_umask(folder: Path, umask: int) -> None:
    group = grp.getgrgid(os.getgid()).gr_name
    before = os.umask(umask)
    try:
        for name, options, socket_mode, folder_mode in [
            ("a", {}, 0o600, 0o700),
            ("b", {"auth_group": group}, 0o660, 0o755),
            ("c", {"socket_mode": 0o666}, 0o666, 0o755),
        ]:
            (folder / name).mkdir()
            door = UnixDoor(config_in(folder / name, **options))
            with door.open():
                assert mode(door.path) == socket_mode
                assert mode(door.path.parent) == folder_mode
            door.close()
    finally:
        os.umask(before)
