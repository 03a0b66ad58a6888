"""Real daemons: what is deleted while others read it, and a limit that holds whatever is killed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import forked
from tests.daemons import Daemon, Lab

pytestmark = pytest.mark.processes

LIMIT = 4_000_000

LOAD = """
import hashlib, sys
import kachery_p2p as kc
print("begins", flush=True)
told = []
def tell(info):
    if info["done"] and not told:
        told.append(1)
        print("moves", flush=True)
with open(kc.load_file(sys.argv[1], progress=tell), "rb") as file:
    print(hashlib.file_digest(file, "sha1").hexdigest(), flush=True)
"""

BUSY = """
import random, sys
import kachery_p2p as kc
seed, *uris = sys.argv[1:]
rng = random.Random(seed)
rng.shuffle(uris)
for number, uri in enumerate(uris):
    try:
        kc.load_file(uri, progress=False)
        if number % 8 == 0:
            print(kc.store_bytes(rng.randbytes(50_000), progress=False), flush=True)
    except kc.errors.StorageFull:
        pass
    except (kc.errors.TransportError, kc.errors.LocalError) as error:
        print(error.code, file=sys.stderr)
        break
print("done", flush=True)
"""


def write(daemon: Daemon, name: str, size: int, seed: int) -> Path:
    path = daemon.home / name
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


def test_a_file_that_is_deleted_while_another_node_reads_it_arrives_there(lab: Lab) -> None:
    path = write(lab.a, "big.dat", 80_000_000, 1)
    sha1 = hashlib.sha1(path.read_bytes()).hexdigest()
    uri = lab.a.cli("store", str(path)).stdout.strip()
    reader = forked.Popen(
        [sys.executable, "-c", LOAD, uri], env=lab.b.env, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None
    with reader:
        assert reader.stdout.readline() == "begins\n"
        assert reader.stdout.readline() == "moves\n"
        lab.a.cli("rm", "--copies", "0", uri)
        assert reader.stdout.readline().strip() == sha1
    assert not list((lab.a.storage / "sha1").rglob(f"{sha1}*"))
    # From now on it is to be had from the other one.
    found = json.loads(lab.a.cli("find", "--json", uri).stdout)
    assert found["local"] is None
    assert [holder["label"] for holder in found["holders"]] == ["b"]
    loaded = lab.a.cli("load", uri).stdout.strip()
    assert hashlib.sha1(Path(loaded).read_bytes()).hexdigest() == sha1
    assert lab.a.cli("ls", "--fetched").stdout.count(sha1) == 1


def content_bytes(folder: Path) -> int:
    """Bytes of content that lie in a storage folder: of downloads in progress, what was written."""
    total = 0
    for where, _, names in os.walk(folder / "sha1"):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(os.path.join(where, name))
                if name.endswith(".partial"):
                    # Whole pages: the last may be half empty.
                    total += max(0, min(status.st_size, status.st_blocks * 512) - 4_096)
                elif not name.endswith((".map", ".checked", ".link", ".tree")):
                    total += status.st_size
    return total


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """The most bytes that lay there at any time, in a list of one."""
    most, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            most[0] = max(most[0], content_bytes(folder))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def test_the_limit_holds_with_many_at_once_and_a_kill_in_the_middle(short_folder: Path) -> None:
    with Lab(short_folder) as lab:
        sizes = random.Random(5)
        paths = [
            str(write(lab.a, f"{number}.dat", sizes.randrange(10_000, 900_000), number))
            for number in range(24)
        ]
        uris = lab.a.cli("store", *paths).stdout.split()
        lab.b.cli("daemon", "set", "--max-storage", str(LIMIT))
        kept = [lab.b.cli("store", str(write(lab.b, "own.dat", 300_000, 99))).stdout.strip()]
        lab.b.cli("pin", uris[0])
        with watched(lab.b.storage) as most:
            kept += busy(lab.b, uris, kill=True)
            lab.b.start()
            kept += busy(lab.b, uris, kill=False)
        assert 0 < most[0] <= LIMIT
        usage = json.loads(lab.b.cli("du", "--json").stdout)
        assert usage["limit"] == LIMIT
        assert usage["used"] <= LIMIT
        assert usage["reserved"] == 0
        for uri in (*kept, uris[0]):
            sha1 = uri.removeprefix("sha1://")[:40]
            path = Path(json.loads(lab.b.cli("find", "--json", uri).stdout)["local"])
            assert hashlib.sha1(path.read_bytes()).hexdigest() == sha1
        assert json.loads(lab.b.cli("verify", "--json").stdout)["damaged"] == []


def busy(daemon: Daemon, uris: list[str], *, kill: bool) -> list[str]:
    """Three programs that load and store; what was stored. With ``kill`` the node is killed while they
    do."""
    programs = [
        forked.Popen(
            [sys.executable, "-c", BUSY, str(seed), *uris],
            env=daemon.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for seed in range(3)
    ]  # fmt: skip
    stored: list[str] = []
    if kill:
        assert programs[0].stdout is not None
        stored.append(programs[0].stdout.readline().strip())
        daemon.kill()
    for program in programs:
        out, errors = program.communicate()
        lines = out.split()
        assert kill or lines[-1:] == ["done"], errors
        stored += [line for line in lines if line.startswith("sha1://")]
    return [uri for uri in stored if uri.startswith("sha1://")]
