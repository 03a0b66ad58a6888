"""The notice of a running node: believed as long as it runs, wherever it is read."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kachery_p2p.local import notice as notices
from kachery_p2p.local.notice import NAME, Notice, NoticeFile, read_notice
from kachery_p2p.protocol.limits import NOTICE_LATE_SECONDS


def mine(**others: Any) -> Notice:
    fields = {"socket": "/s", "storage_dir": "/k", "host": notices.host_name(), "pid": os.getpid()}
    return Notice(**{**fields, **others})


def test_it_is_there_while_the_node_holds_it_and_says_what_was_said_last(tmp_path: Path) -> None:
    assert read_notice(tmp_path) is None
    file = NoticeFile(tmp_path)
    file.write(mine(socket="/a/long/path"))
    file.write(mine(socket="/é"))
    assert read_notice(tmp_path) == mine(socket="/é")
    assert mine().is_here
    assert os.stat(tmp_path / NAME).st_mode & 0o777 == 0o600
    file.remove()
    assert read_notice(tmp_path) is None


def test_that_of_a_killed_node_is_not_believed(tmp_path: Path) -> None:
    code = """
import os, sys, pathlib
from kachery_p2p.local.notice import *
NoticeFile(pathlib.Path(sys.argv[1])).write(Notice("/s", "/k", host_name(), os.getpid()))
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / NAME).read_text().startswith("{")
    assert read_notice(tmp_path) is None


def test_that_of_another_computer_is_believed_while_it_is_touched(tmp_path: Path) -> None:
    """Its locks may not reach here."""
    file = NoticeFile(tmp_path)
    file.write(mine(host="elsewhere", pid=1 << 21))
    fcntl.flock(file._fd, fcntl.LOCK_UN)
    found = read_notice(tmp_path)
    assert found is not None
    assert not found.is_here
    late = os.stat(tmp_path / NAME).st_mtime - NOTICE_LATE_SECONDS - 1
    os.utime(tmp_path / NAME, (late, late))
    assert read_notice(tmp_path) is None
    file.touch()
    assert read_notice(tmp_path) is not None
    file.remove()


def test_without_locks_the_process_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    file = NoticeFile(tmp_path)
    file.write(mine())
    assert read_notice(tmp_path) == mine()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    file.write(mine(pid=gone.pid))
    assert read_notice(tmp_path) is None
    file.remove()


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff", b'{"socket": 1}', b"{" * 20_000])
def test_what_is_no_notice_is_none(tmp_path: Path, data: bytes) -> None:
    with open(tmp_path / NAME, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(data)
        file.flush()
        assert read_notice(tmp_path) is None
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).symlink_to("/etc/passwd")
    assert read_notice(tmp_path) is None


def test_a_process_number_of_another_container_is_none_here(tmp_path: Path) -> None:
    """As of a container that shares the host's name and the home folder: number 1 is another one."""
    file = NoticeFile(tmp_path)
    file.write(mine(pid=1, processes=notices.process_numbers() + 1))
    found = read_notice(tmp_path)
    assert found is not None
    assert not found.is_here
    file.write(mine(processes=notices.process_numbers()))
    found = read_notice(tmp_path)
    assert found is not None
    assert found.is_here
    file.remove()
