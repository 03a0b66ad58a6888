"""Everybody who has to do with an action is killed at random, and none runs twice.

The long form is ``./scripts/trial tasks --kills 100 --actions 500``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.task_trial import TaskTrial

pytestmark = pytest.mark.processes


def test_an_action_runs_at_most_once_whoever_is_killed(short_folder: Path) -> None:
    with TaskTrial(short_folder, kills=8, actions=50, seed=3) as trial:
        trial.run()
    assert sum(trial.done.values()) == 8
    assert sum(trial.ends.values()) == 50
    assert trial.ends["finished"] > 20
