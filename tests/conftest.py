"""Fixtures that more than one room's tests use."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.daemons import Daemon, Lab
from tests.daemons import short_folder as make_short_folder

# How long an example takes says how busy the computer is, and nothing of what is tested.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# In the background, or under nohup, programs ignore Ctrl-C, and so do those that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A temporary folder whose path is short enough for Unix sockets."""
    with make_short_folder() as folder:
        yield folder


@pytest.fixture
def node(short_folder: Path) -> Iterator[Daemon]:
    """One running node that is on no channel."""
    with Daemon(short_folder, "n") as daemon:
        yield daemon


@pytest.fixture
def lab(short_folder: Path) -> Iterator[Lab]:
    """Two nodes and a proxy on one channel, all running."""
    with Lab(short_folder) as made:
        yield made
