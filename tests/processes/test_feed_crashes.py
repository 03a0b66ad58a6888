"""Everybody who has to do with a feed is killed at random, and no message is lost or comes twice.

The long form is ``./scripts/trial feeds --kills 200 --messages 20000``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.feed_trial import FeedTrial

pytestmark = pytest.mark.processes

KILLS = 10


@pytest.mark.parametrize("relaxed", [False, True], ids=["full", "relaxed"])
def test_readers_get_every_message_once_and_in_order_whoever_is_killed(
    short_folder: Path, relaxed: bool
) -> None:
    with FeedTrial(short_folder, kills=KILLS, messages=1_000, seed=7, relaxed=relaxed) as trial:
        trial.run()
    assert sum(trial.done.values()) == KILLS
    assert len(trial.done) >= 4, "links were cut, and nodes and clients were killed"
