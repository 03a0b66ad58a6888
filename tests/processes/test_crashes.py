"""Real daemons killed with SIGKILL in the middle of things.

After a restart everything that was acknowledged is there and right, a download goes on from where it
was (less one window), and no stray temporary file is left.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.protocol.limits import DURABLE_WINDOW, MAX_BODY
from tests import forked
from tests.daemons import Daemon, Lab, short_folder

pytestmark = pytest.mark.processes

SIZE = 256 * 1024 * 1024

LOAD = """
import hashlib, json, sys
import kachery_p2p as kc
last = {}
def tell(info):
    last.update(info)
    print(json.dumps(info), flush=True)
try:
    path = kc.load_file(sys.argv[1], progress=tell)
except kc.KacheryError as error:
    print(json.dumps({"failed": error.code}), flush=True)
else:
    with open(path, "rb") as file:
        print(json.dumps({"sha1": hashlib.file_digest(file, "sha1").hexdigest(), **last}), flush=True)
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One for all: each test leaves it running and whole, which is what it is about."""
    with short_folder() as folder, Lab(folder) as made:
        yield made


@pytest.fixture
def big_file(tmp_path: Path) -> Iterator[Path]:
    """A file that nobody has yet."""
    path = tmp_path / "recording.dat"
    piece = random.randbytes(1 << 20)
    with path.open("wb") as file:
        for number in range(SIZE >> 20):
            file.write(number.to_bytes(8, "big") + piece[8:])
    yield path
    path.unlink()


class Loading:
    """A client process that loads; its daemon may be killed underneath."""

    def __init__(self, daemon: Daemon, uri: str) -> None:
        self._process = forked.Popen(
            [sys.executable, "-c", LOAD, uri], env=daemon.env, stdout=subprocess.PIPE, text=True
        )

    def lines(self) -> list[dict[str, object]]:
        assert self._process.stdout is not None
        return [json.loads(line) for line in self._process.stdout]

    def until(self, share: float) -> int:
        """Wait until this share is verified; how many bytes are."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            info = json.loads(line)
            assert "done" in info, info
            if info["total"] and info["done"] >= share * info["total"]:
                return int(info["done"])
        raise AssertionError("the load ended early")

    def result(self) -> dict[str, object]:
        last = self.lines()[-1]
        self._process.communicate()
        return last


@pytest.mark.parametrize("victim", ["requester", "provider", "proxy"])
def test_a_transfer_survives_the_kill_of(victim: str, lab: Lab, big_file: Path) -> None:
    uri = lab.a.cli("store", str(big_file)).stdout.strip()
    expected = uri.split("/")[2]
    loading = Loading(lab.b, uri)
    verified = loading.until(0.4)
    daemon = {"requester": lab.b, "provider": lab.a, "proxy": lab.proxy}[victim]
    daemon.kill()
    daemon.start()
    result = loading.result()
    if victim == "requester":
        assert result["failed"] == "link-closed"
        again = Loading(lab.b, uri).result()
        assert again["sha1"] == expected
        # A window of verified blocks may be lost, and what was on its way at that moment.
        most = SIZE - verified + DURABLE_WINDOW + 2 * MAX_BODY
        assert int(str(again["fetched"])) <= most
    else:
        assert result["sha1"] == expected
        assert int(str(result["fetched"])) <= SIZE + DURABLE_WINDOW
    assert no_strays(lab.b.storage)


def no_strays(storage: Path) -> bool:
    temporary = [path for path in (storage / "tmp").iterdir() if path.is_file()]
    partials = list((storage / "sha1").rglob("*.partial*"))
    return not temporary and not partials


STORE = """
import sys
import kachery_p2p as kc
number = int(sys.argv[1])
while True:
    text = f"text number {number}"
    print(number, kc.store_text(text), flush=True)
    number += 1
"""


def test_no_acknowledged_store_is_lost(lab: Lab) -> None:
    rng = random.Random(3)
    acknowledged: dict[int, str] = {}
    for _ in range(4):
        start = max(acknowledged, default=0) + 1
        storing = forked.Popen(
            [sys.executable, "-c", STORE, str(start)],
            env=lab.a.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert storing.stdout is not None
        wanted = rng.randrange(20, 200)
        for line in storing.stdout:
            number, uri = line.split()
            acknowledged[int(number)] = uri
            wanted -= 1
            if wanted == 0:
                lab.a.kill()
        storing.communicate()
        lab.a.start()
        assert no_strays(lab.a.storage)
    for number, uri in acknowledged.items():
        sha1 = hashlib.sha1(f"text number {number}".encode()).hexdigest()
        assert uri.split("/")[2] == sha1
        path = lab.a.storage / "sha1" / sha1[:2] / sha1[2:4] / sha1[4:6] / sha1
        assert hashlib.sha1(path.read_bytes()).hexdigest() == sha1


def test_a_store_that_was_cut_off_leaves_nothing(lab: Lab, big_file: Path) -> None:
    storing = forked.Popen(
        [sys.executable, "-m", "kachery_p2p.cli", "store", str(big_file)],
        env=lab.a.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    temporary = lab.a.storage / "tmp"
    while storing.poll() is None and not os.listdir(temporary):
        pass
    lab.a.kill()
    _, complaint = storing.communicate()
    assert storing.returncode == 0 or b"Traceback" not in complaint
    lab.a.start()
    assert no_strays(lab.a.storage)
    assert lab.a.cli("store", str(big_file)).stdout.startswith("sha1://")
