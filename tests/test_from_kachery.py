"""examples/from_kachery.py, run by two nodes that see each other through a proxy only."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import forked
from tests.daemons import ROOT, Daemon, Lab

pytestmark = pytest.mark.processes

SCRIPT = ROOT / "examples/from_kachery.py"
END_SECONDS = 60
TEXT_URI = "sha1://6af826b3d648ccba6b4bbe58e93e22add640d728/file.txt"


@pytest.fixture
def my_channel(short_folder: Path) -> Iterator[Lab]:
    with Lab(short_folder, "my_channel") as lab:
        deadline = time.monotonic() + END_SECONDS
        # It made the channel before the proxy joined it, so it comes back there in a moment.
        while not lab.a.info()["links"]:
            assert time.monotonic() < deadline
        yield lab


def example(node: Daemon, *arguments: str) -> str:
    done = forked.run(
        [sys.executable, str(SCRIPT), *arguments],
        env=node.env, cwd=node.home, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_files(my_channel: Lab) -> None:
    uri, values = example(my_channel.a, "store").splitlines()
    assert uri == TEXT_URI
    assert values == "{'a': [1, 2, {'b': 3}]} (10, 20) (30, 40)"
    assert example(my_channel.b, "load") == "some-random-text\n"


def test_feeds(my_channel: Lab) -> None:
    found, uri = example(my_channel.a, "write-primes").splitlines()
    assert found == "Found 25 prime numbers less than 100"
    primes = example(my_channel.b, "read-primes", uri).splitlines()
    assert primes[0] == "Prime 1: 2"
    assert primes[-1] == "Prime 25: 97"
    assert len(primes) == 25


def test_tasks(my_channel: Lab) -> None:
    a = my_channel.a
    backend = forked.Popen(
        [sys.executable, str(SCRIPT), "serve-tasks"],
        env=a.env, cwd=a.home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        # No waiting for the backend: a request waits for one.
        assert example(my_channel.b, "request-task") == "finished a is hello world None\n"
        assert backend.poll() is None
        backend.send_signal(signal.SIGINT)
        _, errors = backend.communicate(timeout=END_SECONDS)
        assert "Traceback" not in errors
    finally:
        backend.kill()
        backend.communicate()
    # Its result is known now, although nobody computes it any more.
    assert example(my_channel.b, "request-task") == "finished a is hello world None\n"
