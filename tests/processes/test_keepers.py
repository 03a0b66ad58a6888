"""Real daemons: a laptop has its files kept by others, whatever is killed, damaged or full."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kachery_p2p.testing import Daemon
from tests import forked
from tests.daemons import Lab, until

pytestmark = pytest.mark.processes

SIZE = 30_000_000

PUSH = """
import sys
import kachery_p2p as kc
told = []
def tell(info):
    if info["done"] and not told:
        told.append(1)
        print("moves", flush=True)
answer = kc.push(sys.argv[1], progress=tell)
print("kept by", *(each["label"] for each in answer["kept"]), flush=True)
"""


@pytest.fixture
def lab(short_folder: Path) -> Iterator[Lab]:
    """``a`` is the laptop, ``b`` and the proxy are keepers, ``c`` comes later."""
    with Lab(short_folder) as lab:
        yield lab


def write(daemon: Daemon, name: str, size: int, seed: int) -> tuple[Path, str]:
    path = daemon.home / name
    data = random.Random(seed).randbytes(size)
    path.write_bytes(data)
    return path, hashlib.sha1(data).hexdigest()


def offers(daemon: Daemon, *more: str) -> None:
    daemon.cli("channel", "set", "lab", "--keep-for", "all", *more)


def keepers_of(daemon: Daemon, count: int) -> None:
    """Wait until a node knows of so many keepers."""

    def enough() -> bool:
        done = daemon.cli("kept", "keepers", "--json", check=False)
        return done.returncode == 0 and len(json.loads(done.stdout)) >= count

    until(enough, f"{count} keepers are known")


def joins(lab: Lab, daemon: Daemon) -> None:
    """Have another node on the channel."""
    lab.a.cli("channel", "add-node", "lab", daemon.node_id)
    text = lab.a.cli("channel", "export", "lab").stdout
    daemon.cli("channel", "join", "-", stdin=text)
    until(lambda: "online" in daemon.cli("channel", "show", "lab").stdout, "it is linked")


def feed_size(daemon: Daemon, feed: str) -> int:
    """How many messages lie on a node, which is not asked to read them for that."""
    path = daemon.home / "state" / "kachery-p2p" / "feeds.sqlite"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT size FROM logs WHERE hex(feed) = ?", (feed[7:71].upper(),))
        return sum(row[0] for row in rows)


def here(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(daemon.cli("kept", "list", "--json").stdout)["here"]
    return found


def blob(daemon: Daemon, sha1: str) -> Path:
    return daemon.storage / "sha1" / sha1[:2] / sha1[2:4] / sha1[4:6] / sha1


def test_what_two_keepers_keep_is_loaded_while_the_laptop_is_shut_and_one_copy_is_damaged(
    lab: Lab, short_folder: Path
) -> None:
    path, sha1 = write(lab.a, "big.dat", SIZE, 1)
    uri = lab.a.cli("store", str(path)).stdout.strip()
    lab.proxy.cli(
        "channel", "join", "-", "--roles", "files", "--keep-for", "all", stdin=lab.document
    )
    lab.a.cli("channel", "set-roles", "lab", lab.proxy.node_id, "files,proxy")
    offers(lab.b, "--keep-limit", "1G")
    keepers_of(lab.a, 2)
    said = lab.a.cli("push", "--copies", "2", uri).stdout
    assert said.count("kept by") == 2
    assert hashlib.sha1(blob(lab.b, sha1).read_bytes()).hexdigest() == sha1
    assert hashlib.sha1(blob(lab.proxy, sha1).read_bytes()).hexdigest() == sha1
    lab.a.cli("rm", uri)  # two copies stay, so this may go
    with Daemon(short_folder, "c") as third:
        joins(lab, third)
        lab.a.stop()
        damaged = blob(lab.proxy, sha1)
        damaged.chmod(0o644)
        with open(damaged, "r+b") as file:
            file.write(bytes(SIZE))
        loaded = third.cli("load", uri).stdout.strip()
        assert hashlib.sha1(Path(loaded).read_bytes()).hexdigest() == sha1


def test_a_keeper_over_its_limit_refuses_and_has_nothing_of_it(lab: Lab) -> None:
    path, sha1 = write(lab.a, "big.dat", 3_000_000, 2)
    uri = lab.a.cli("store", str(path)).stdout.strip()
    done = lab.a.cli("push", uri, check=False)
    assert done.returncode == 8
    assert "Nobody reachable keeps things for this node" in done.stderr
    offers(lab.b, "--keep-limit", "1M")
    keepers_of(lab.a, 1)
    done = lab.a.cli("push", uri, check=False)
    assert done.returncode == 5
    assert "3000000 bytes more would pass the 1000000 bytes" in done.stderr
    assert here(lab.b) == []
    assert not blob(lab.b, sha1).exists()
    assert "keeps for this node" in lab.a.cli("channel", "show", "lab").stdout


@pytest.mark.parametrize("victim", ["keeper", "pusher"])
def test_kept_is_said_only_of_what_is_there_after_a_kill(lab: Lab, victim: str) -> None:
    path, sha1 = write(lab.a, "big.dat", 120_000_000, 3)
    uri = lab.a.cli("store", str(path)).stdout.strip()
    offers(lab.b)
    keepers_of(lab.a, 1)
    with forked.Popen(
        [sys.executable, "-c", PUSH, uri],
        env=lab.a.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as program:  # fmt: skip
        assert program.stdout is not None
        first = program.stdout.readline()
        killed = lab.b if victim == "keeper" else lab.a
        killed.kill()
        out = first + program.communicate()[0]
    killed.start()
    if "kept by" in out:
        assert blob(lab.b, sha1).exists()
    else:
        assert program.returncode != 0
    keepers_of(lab.a, 1)
    # It goes on from there, or is kept already.
    assert "kept by b" in until(
        lambda: lab.a.cli("push", uri, check=False).stdout, "it is pushed once more"
    )
    assert [(each["uri"][7:47], each["whole"]) for each in here(lab.b)] == [(sha1, True)]
    lab.b.kill()  # right after it said so
    lab.b.start()
    assert hashlib.sha1(blob(lab.b, sha1).read_bytes()).hexdigest() == sha1
    assert [each["whole"] for each in here(lab.b)] == [True]
    done = lab.b.cli("rm", uri, check=False)
    assert "kept for node" in done.stderr


def test_a_folder_and_a_feed_are_kept_and_read_while_their_node_is_off(
    lab: Lab, short_folder: Path
) -> None:
    folder = lab.a.home / "results"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.txt").write_text(f"result {number}\n" * 100)
    offers(lab.b)
    keepers_of(lab.a, 1)
    uri = lab.a.cli("store", "--push", str(folder)).stdout.strip()
    feed = lab.a.cli("feed", "create", "log").stdout.split()[0]
    lab.a.cli("feed", "append", f"{feed}/one", stdin='{"n": 1}\n{"n": 2}\n')
    lab.a.cli("push", feed)
    lab.a.cli("feed", "append", f"{feed}/one", stdin='{"n": 3}\n')

    until(lambda: feed_size(lab.b, feed) == 3, "the keeper has what was appended later")
    with Daemon(short_folder, "c") as third:
        joins(lab, third)
        lab.a.stop()
        third.cli("load", uri, "--dest", str(third.home / "got"))
        assert (third.home / "got" / "7.txt").read_text() == "result 7\n" * 100
        shown = third.cli("feed", "tail", f"{feed}/one").stdout
        assert shown.count('"n"') == 3


def test_a_keeper_whose_disk_is_full_says_so_and_keeps_nothing_of_it(lab: Lab) -> None:
    offers(lab.b)
    lab.b.cli("daemon", "set", "--max-storage", "10M")
    own, _ = write(lab.b, "own.dat", 6_000_000, 4)
    lab.b.cli("store", str(own))
    path, sha1 = write(lab.a, "big.dat", 8_000_000, 5)
    uri = lab.a.cli("store", str(path)).stdout.strip()
    keepers_of(lab.a, 1)
    done = lab.a.cli("push", uri, check=False)
    assert done.returncode == 5
    assert "there is no room for it" in done.stderr
    assert str(lab.b.storage) not in done.stderr
    until(lambda: not here(lab.b), "nothing of it is kept")
    assert not blob(lab.b, sha1).exists()


def test_a_file_that_nobody_else_has_is_not_deleted_by_mistake(lab: Lab) -> None:
    path, sha1 = write(lab.a, "only.dat", 1_000_000, 6)
    uri = lab.a.cli("store", str(path)).stdout.strip()
    done = lab.a.cli("rm", uri, check=False)
    assert done.returncode == 2
    assert "kachery-p2p push" in done.stderr
    assert blob(lab.a, sha1).exists()
    offers(lab.b)
    keepers_of(lab.a, 1)
    lab.a.cli("push", uri)
    lab.a.cli("rm", uri)
    assert not blob(lab.a, sha1).exists()
    assert (
        hashlib.sha1(Path(lab.a.cli("load", uri).stdout.strip()).read_bytes()).hexdigest() == sha1
    )
