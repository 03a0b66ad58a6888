"""A folder that is stored and loaded while everybody is killed: a small run of the trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.folder_trial import FolderTrial

pytestmark = pytest.mark.processes


def test_a_folder_arrives_whole_whoever_is_killed(short_folder: Path) -> None:
    with FolderTrial(short_folder, files=700, kills=1, seed=7) as trial:
        trial.run()
    assert {"store a", "load b"} == trial.done.keys()
