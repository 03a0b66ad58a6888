"""A folder is a node's if it has the marker that the node names, and that is the node's user's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kachery_p2p.storage.files.marker import MARKER_FILE, is_marked, marker_of

ME = os.getuid()


def test_a_marker_is_made_once_and_stays(tmp_path: Path) -> None:
    first = marker_of(tmp_path, os.urandom)
    assert marker_of(tmp_path, os.urandom) == first
    assert is_marked(tmp_path, first, ME)
    assert [path.name for path in tmp_path.iterdir()] == [MARKER_FILE]


def test_another_folder_and_another_marker_are_not_believed(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    marker = marker_of(one, os.urandom)
    assert not is_marked(other, marker, ME)
    marker_of(other, os.urandom)
    assert not is_marked(other, marker, ME)
    assert not is_marked(tmp_path / "nowhere", marker, ME)
    assert not is_marked(one, "", ME)


def test_a_marker_of_another_user_is_not_believed(tmp_path: Path) -> None:
    marker = marker_of(tmp_path, os.urandom)
    assert not is_marked(tmp_path, marker, ME + 12_345)
    assert is_marked(tmp_path, marker, 0), "root is believed"


def test_a_link_to_somebody_elses_marker_is_none(tmp_path: Path) -> None:
    real, lure = tmp_path / "real", tmp_path / "lure"
    real.mkdir()
    lure.mkdir()
    marker = marker_of(real, os.urandom)
    (lure / MARKER_FILE).symlink_to(real / MARKER_FILE)
    assert not is_marked(lure, marker, ME)


@pytest.mark.parametrize("content", [b"", b"x" * 32, b"a" * 32 + b"\nmore", b"\xff" * 33])
def test_what_is_no_marker_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MARKER_FILE).write_bytes(content)
    assert is_marked(tmp_path, marker_of(tmp_path, os.urandom), ME)


def test_a_pipe_in_its_place_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / MARKER_FILE)
    assert not is_marked(tmp_path, "a" * 32, ME)
    assert is_marked(tmp_path, marker_of(tmp_path, os.urandom), ME)
