"""What is appended outlives closing, kills and full disks; damage is named."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys

import pytest

from kachery_p2p.protocol.errors import (
    StorageDamaged,
    StorageFull,
    StorageInUse,
)
from kachery_p2p.protocol.feeds.feed import Run, Slice, leaf_hashes
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.tree import root
from kachery_p2p.storage.feeds.store import FeedStore
from tests import forked
from tests.storage.feeds.samples import ALL, FEED, OTHER, SEED, SUB, History, texts

OTHER_KEY = NodeKey(b"z" * 32)


@pytest.fixture
def store(tmp_path):
    with FeedStore(tmp_path / "feeds.sqlite", durable=False) as opened:
        opened.create_feed(SEED, "mine", 1.0)
        yield opened


def append(store, what, subfeed=SUB, now_ms=5, **options):
    return store.append(FEED, subfeed, None, what, now_ms=now_ms, **options)


# --- on disk -----------------------------------------------------------------------------------


def test_a_log_that_is_opened_again_goes_on_where_it_was(tmp_path):
    history: list[bytes] = []
    for count in (1, 254, 1, 1, 255, 256, 65_000, 23, 1, 1):
        with FeedStore(tmp_path / "feeds.sqlite", durable=False) as store:
            store.create_feed(SEED, None, 1.0)
            done = append(store, texts(len(history), len(history) + count))
            assert done.first == len(history)
            history += texts(len(history), len(history) + count)
            leaves = leaf_hashes(Slice(0, [Run(len(history), 5, None)], history))
            assert done.head.root == root("sha256", b"".join(leaves))
            assert store.read(FEED, SUB, len(history) - 1, **ALL).texts == history[-1:]


KILLED = """
import sys
from pathlib import Path
from kachery_p2p.storage.feeds.store import FeedStore
store = FeedStore(Path(sys.argv[1]))
feed = store.create_feed(b"k" * 32, None, 1.0)
number = 0
while True:
    count = number % 7 + 1
    texts = [b"%d" % i for i in range(number, number + count)]
    done = store.append(feed, b"s" * 20, None, texts, now_ms=number)
    number += count
    print(done.head.size, done.head.root.hex(), flush=True)
"""


def test_nothing_that_was_acknowledged_is_lost_by_a_kill(tmp_path):
    path = tmp_path / "feeds.sqlite"
    for _ in range(3):
        child = forked.Popen(
            [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True
        )
        told = []
        with child:
            for line in child.stdout:
                told.append(line)
                if len(told) == 150:
                    child.kill()
        assert child.returncode == -9
        size, acknowledged = told[-1].split() if told[-1].endswith("\n") else told[-2].split()
        with FeedStore(path) as store:
            info = store.info(FEED, SUB)
            assert info.size == info.head.size >= int(size)
            found = store.read(FEED, SUB, 0, **ALL)
            assert found.texts == [b"%d" % number for number in range(info.size)]
            leaves = leaf_hashes(found)
            assert root("sha256", b"".join(leaves[: int(size)])).hex() == acknowledged
            assert root("sha256", b"".join(leaves)) == info.head.root
            assert append(store, texts(0, 1)).first == info.size
            store.delete_feed(FEED)


def test_a_full_disk_says_so_and_the_log_goes_on(small_disk):
    with FeedStore(small_disk / "feeds.sqlite") as store:
        store.create_feed(SEED, None, 1.0)
        append(store, texts(0, 300))
        for _ in range(2):
            with pytest.raises(StorageFull):
                append(store, [b'"%s"' % (b"x" * 900_000)] * 8)
            with pytest.raises(StorageFull):
                append(store, [b'"%s"' % (b"x" * 900_000)] * 8, subfeed=OTHER)
        assert store.info(FEED, OTHER) is None
        assert append(store, texts(300, 302)).first == 300
        assert append(store, texts(0, 1), subfeed=OTHER).first == 0
    with FeedStore(small_disk / "feeds.sqlite") as store:
        found = store.read(FEED, SUB, 0, **ALL)
        assert found.texts == texts(0, 302)
        assert store.info(FEED, SUB).head.root == root("sha256", b"".join(leaf_hashes(found)))


def test_commits_of_ones_own_wait_for_the_disk_and_others_do_not(tmp_path):
    def commits(store, call):
        statements: list[str] = []
        store._db.set_trace_callback(statements.append)
        call()
        store._db.set_trace_callback(None)
        modes = [text.split()[-1] for text in statements if "synchronous" in text]
        return modes, store._db.execute("PRAGMA synchronous").fetchone()[0]

    history = History(3, key=OTHER_KEY)
    with FeedStore(tmp_path / "feeds.sqlite") as store:
        store.create_feed(SEED, None, 1.0)
        assert commits(store, lambda: append(store, texts(0, 1))) == ([], 2)
        assert commits(store, lambda: history.give(store, 0, 3)) == (["NORMAL", "FULL"], 2)
        store.create_feed(history.key.seed, None, 1.0)
        assert commits(store, lambda: history.give(store, 0, 3)) == ([], 2)
    with FeedStore(tmp_path / "feeds.sqlite", durable=False) as store:
        assert commits(store, lambda: append(store, texts(1, 2))) == ([], 1)
        assert commits(store, lambda: history.give(store, 0, 3)) == ([], 1)


def test_only_the_user_can_read_it_and_one_process_at_a_time(tmp_path):
    with FeedStore(tmp_path / "feeds.sqlite") as store:
        store.create_feed(SEED, None, 1.0)
        append(store, texts(0, 1))
        modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        assert modes == {0o600}
        with pytest.raises(StorageInUse):
            FeedStore(tmp_path / "feeds.sqlite")
        assert append(store, texts(1, 2)).first == 1


def test_a_database_of_a_newer_version_is_left_alone(tmp_path):
    path = tmp_path / "feeds.sqlite"
    FeedStore(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StorageDamaged, match="newer version"):
        FeedStore(path)
    assert path.read_bytes() == before


def test_a_closed_store_says_so(store):
    append(store, texts(0, 1))
    store.close()
    store.close()
    for call in (
        lambda: append(store, texts(1, 2)),
        lambda: store.read(FEED, SUB, 0, **ALL),
        lambda: store.info(FEED, SUB),
        lambda: store.feeds(),
    ):
        with pytest.raises(StorageDamaged, match="closed"):
            call()


@pytest.mark.parametrize(
    ("damage", "reopen"),
    [
        ("DELETE FROM runs WHERE place = (SELECT min(place) FROM runs)", False),
        ("DELETE FROM runs WHERE place = (SELECT max(place) FROM runs)", True),
        ("UPDATE runs SET texts = x'310a31' WHERE place = (SELECT max(place) FROM runs)", True),
        ("DELETE FROM tiles", True),
    ],
)
def test_damage_is_found_and_named(tmp_path, damage, reopen):
    path = tmp_path / "feeds.sqlite"
    with FeedStore(path, durable=False) as store:
        store.create_feed(SEED, None, 1.0)
        append(store, texts(0, 700))
        with store.transaction() as db:
            db.execute(damage)
        if not reopen:
            with pytest.raises(StorageDamaged, match="message 0"):
                store.read(FEED, SUB, 0, **ALL)
    if reopen:
        with FeedStore(path, durable=False) as store:
            with pytest.raises(StorageDamaged, match=r"feeds\.sqlite.*missing"):
                append(store, texts(700, 701))
            assert append(store, texts(0, 1), subfeed=OTHER).first == 0
