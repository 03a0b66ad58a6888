"""The node's log, while others tidy up."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from kachery_p2p.node.__main__ import LogFile


def move(path: Path) -> None:
    path.rename(path.with_suffix(".1"))


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    move(path)
    path.touch()


@pytest.mark.parametrize("tidy", [move, remove, replace])
def test_a_line_is_written_to_the_file_of_that_name(
    tidy: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "node.log"
    handler = LogFile(path, maxBytes=1_000, backupCount=1)
    for text in ("before", "after", "more"):
        if text == "after":
            tidy(path)
        handler.emit(logging.makeLogRecord({"msg": text}))
    assert path.read_text() == "after\nmore\n"
    handler.close()


def test_a_log_whose_folder_comes_back_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    handler = LogFile(folder / "node.log", maxBytes=1_000, backupCount=1)
    folder.rename(tmp_path / "away")
    handler.emit(logging.makeLogRecord({"msg": "lost"}))
    assert "FileNotFoundError" in capsys.readouterr().err
    folder.mkdir()
    handler.emit(logging.makeLogRecord({"msg": "after"}))
    assert (folder / "node.log").read_text() == "after\n"
    handler.close()
