"""Which content users' files had when they were stored."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.limits import RACY_SECONDS
from kachery_p2p.storage import known_files
from kachery_p2p.storage.file_stamps import KnownFile, file_stamp, is_racy, stamped_size
from kachery_p2p.storage.state import StateDB

DAY = 86_400.0


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDB]:
    with StateDB(tmp_path / "state.sqlite", durable=False) as opened:
        yield opened


def stamp(number: int, size: int = 1) -> bytes:
    """That of the file with this inode."""
    return number.to_bytes(16, "big") + size.to_bytes(8, "big") + bytes(16)


def known(number: int) -> KnownFile:
    return KnownFile(f"{number:040x}", f"{number + 1:040x}" if number % 2 else None)


def test_what_was_remembered_is_known_in_its_order(state: StateDB) -> None:
    state.remember_files(7, [(stamp(n), known(n)) for n in range(1_200)], DAY)
    asked = [stamp(n) for n in (5, 2_000, 1_199, 0, 5)]
    assert state.known_files(7, asked, DAY) == [known(5), None, known(1_199), known(0), known(5)]
    assert state.known_files(7, [], DAY) == []


def test_a_file_that_changed_is_not_known_and_is_remembered_anew(state: StateDB) -> None:
    state.remember_files(7, [(stamp(1, 10), known(1))], DAY)
    assert state.known_files(7, [stamp(1, 11)], DAY) == [None]
    state.remember_files(7, [(stamp(1, 11), known(2))], DAY)
    assert state.known_files(7, [stamp(1, 11), stamp(1, 10)], DAY) == [known(2), None]


def test_one_user_cannot_say_what_is_in_the_file_of_another(state: StateDB) -> None:
    state.remember_files(7, [(stamp(1), known(1))], DAY)
    assert state.known_files(8, [stamp(1)], DAY) == [None]


def test_those_that_nobody_asked_for_longest_are_forgotten(
    state: StateDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_files, "MAX_KNOWN_FILES", 100)
    monkeypatch.setattr(known_files, "_FORGOTTEN", 10)
    state.remember_files(7, [(stamp(n), known(n)) for n in range(100)], DAY)
    state.known_files(7, [stamp(n) for n in range(50)], 2 * DAY)
    state.remember_files(7, [(stamp(n), known(n)) for n in range(100, 110)], 2 * DAY)
    found = state.known_files(7, [stamp(n) for n in range(110)], 2 * DAY)
    assert [n for n in range(50) if found[n] is None] == []
    assert found[100:] == [known(n) for n in range(100, 110)]
    assert sum(each is not None for each in found) == 90
    for _ in range(30):  # those that are there already are not counted as more
        state.remember_files(7, [(stamp(n), known(n)) for n in range(100, 110)], 2 * DAY)
    assert (
        sum(e is not None for e in state.known_files(7, [stamp(n) for n in range(110)], DAY)) == 90
    )


def test_a_stamp_says_whether_a_file_was_written_to(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("one")
    before = file_stamp(path.stat())
    assert stamped_size(before) == 3
    assert file_stamp(path.stat()) == before
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    assert file_stamp(path.stat()) != before, "its ctime: the times cannot be put back unseen"
    other = tmp_path / "y"
    os.rename(path, other)
    path.write_text("one")
    assert file_stamp(path.stat()) != file_stamp(other.stat())
    for wrong in (b"", before[:-1], before + b"x"):
        with pytest.raises(BadInput):
            stamped_size(wrong)


def test_a_file_that_was_just_written_is_racy(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("one")
    status = path.stat()
    assert is_racy(status)
    assert is_racy(status, status.st_ctime + RACY_SECONDS - 0.1)
    assert not is_racy(status, status.st_ctime + RACY_SECONDS + 0.1)
    old = time.time() - 1_000
    os.utime(path, (old, old))
    assert is_racy(path.stat(), status.st_ctime + 1), "its ctime says when that was done"
    later = status.st_ctime + 1_000
    os.utime(path, (later + 1e6, later + 1e6))
    assert not is_racy(path.stat(), later), "somebody set it: a write would not leave it so"
    assert is_racy(path.stat(), path.stat().st_mtime + 1)
