"""What was acknowledged before its commit outlives the process, whole and in its place."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol import limits
from kachery_p2p.protocol.errors import StorageDamaged, StorageFull
from kachery_p2p.storage.feeds import spool as feed_spool
from kachery_p2p.storage.feeds.append import Append
from kachery_p2p.storage.feeds.spool import Accepted, FeedSpool
from kachery_p2p.storage.feeds.store import FeedStore
from tests import forked
from tests.storage.feeds.samples import ALL, FEED, OTHER, SEED, SUB, texts


def call(what, subfeed=SUB, now_ms=5, name=None):
    return Append(FEED, subfeed, name, what, None, now_ms, None)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "feeds.sqlite"


def opened(path, *, durable=False):
    return FeedStore(path, durable=durable)


def held(store, subfeed=SUB):
    return store.read(FEED, subfeed, 0, **ALL).texts


# --- the file ----------------------------------------------------------------------------------


def test_what_was_put_is_read_in_order(tmp_path):
    spool = FeedSpool(tmp_path / "spool")
    put = [
        Accepted(call(texts(0, 3), name="ä"), 0),
        Accepted(call(texts(0, 1), subfeed=OTHER, now_ms=7), 4),
        Accepted(call([b"1", b'"\\n"', b"{}"]), 1 << 39),
    ]
    for each in put:
        assert spool.put(each)
    spool.close()
    again = FeedSpool(tmp_path / "spool")
    assert list(again.read()) == put
    again.clear()
    assert list(again.read()) == []
    assert (tmp_path / "spool").stat().st_size == 0
    again.close()


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 400), flip=st.none() | st.integers(0, 400))
def test_a_torn_or_damaged_record_does_not_count_and_the_others_do(tmp_path_factory, cut, flip):
    path = tmp_path_factory.mktemp("spool") / "spool"
    spool = FeedSpool(path)
    ends = []
    for number in range(4):
        spool.put(Accepted(call(texts(number, number + 1)), number))
        ends.append(path.stat().st_size)
    spool.close()
    data = bytearray(path.read_bytes())
    size = min(cut, len(data))
    del data[size:]
    whole = [number for number, end in enumerate(ends) if end <= size]
    hit = None
    if flip is not None and flip < len(data):
        data[flip] ^= 1
        hit = sum(end <= flip for end in ends)
        if flip - (ends[hit - 1] if hit else 0) < 4:  # in the length: where the next begins is lost
            whole = [number for number in whole if number < hit]
    path.write_bytes(data)
    again = FeedSpool(path)
    expected = [number for number in whole if number != hit]
    assert [first for _, first in again.read()] == expected
    assert again.damaged == (hit is not None and bool(expected) and expected[-1] > hit)
    assert again.keep_aside().read_bytes() == data
    again.close()


def test_it_takes_no_more_than_its_limit_until_it_is_cleared(tmp_path, monkeypatch):
    monkeypatch.setattr(feed_spool, "FEED_SPOOL_BYTES", 500)
    spool = FeedSpool(tmp_path / "spool")
    large = Accepted(call([b'"%s"' % (b"x" * 300)]), 0)
    assert spool.put(large)
    assert not spool.put(large)
    assert len(list(spool.read())) == 1
    spool.clear()
    assert spool.put(large)
    spool.close()
    assert limits.FEED_SPOOL_BYTES >= 4 * limits.MAX_SLICE, "any append finds room sometimes"


def test_a_full_disk_leaves_what_was_there(small_disk):
    spool = FeedSpool(small_disk / "spool")
    assert spool.put(Accepted(call(texts(0, 1)), 0))
    full = 0
    for _ in range(10):
        try:
            assert spool.put(Accepted(call([b'"%s"' % (b"x" * 900_000)]), 1))
        except StorageFull:
            full += 1
    assert full
    count = len(list(spool.read()))
    assert spool.put(Accepted(call(texts(1, 2)), count))
    assert [each.call.texts for each in spool.read()][-1] == texts(1, 2)
    spool.close()


# --- the store ---------------------------------------------------------------------------------


def test_what_was_accepted_and_not_committed_is_appended_at_the_next_start(path):
    with opened(path) as store:
        store.create_feed(SEED, None, 1.0)
        store.append(FEED, SUB, "name", texts(0, 2), now_ms=5)
        assert store.accept(call(texts(2, 4), now_ms=9), 2)
        assert store.accept(call(texts(4, 5)), 4)
        assert store.accept(call(texts(0, 1), subfeed=OTHER), 0)
        assert held(store) == texts(0, 2)
    with opened(path) as store:
        assert held(store) == texts(0, 5)
        assert held(store, OTHER) == texts(0, 1)
        assert store.read(FEED, SUB, 2, **ALL).runs[0].timestamp == 9
    with opened(path) as store:
        assert held(store) == texts(0, 5)


def test_it_is_appended_too_if_the_node_is_durable_from_now_on(path):
    with opened(path) as store:
        store.create_feed(SEED, None, 1.0)
        store.append(FEED, SUB, None, texts(0, 1), now_ms=5)
        assert store.accept(call(texts(1, 2)), 1)
    with opened(path, durable=True) as store:
        assert held(store) == texts(0, 2)
        assert store.durable
    with opened(path, durable=True) as store:
        assert held(store) == texts(0, 2)


def test_a_durable_store_has_it_on_the_disk_when_it_says_so(path, monkeypatch):
    synced = []
    monkeypatch.setattr(feed_spool, "sync_data", lambda fd: synced.append(os.fstat(fd).st_size))
    with opened(path, durable=True) as store:
        store.create_feed(SEED, None, 1.0)
        assert store.accept(call(texts(0, 1)), 0)
        assert not synced
        store.sync_accepted()
        assert synced == [path.with_suffix(".spool").stat().st_size]
    with opened(path, durable=True) as store:
        assert held(store) == texts(0, 1)


def test_a_spool_that_the_disk_refuses_is_an_error(path, monkeypatch):
    with opened(path, durable=True) as store:
        store.create_feed(SEED, None, 1.0)
        assert store.accept(call(texts(0, 1)), 0)

        def refuse(fd):
            raise OSError(5, "broken")

        monkeypatch.setattr(feed_spool, "sync_data", refuse)
        with pytest.raises(StorageDamaged, match="appended messages: broken"):
            store.sync_accepted()


def test_what_is_appended_already_or_has_no_place_is_passed_over(path):
    with opened(path) as store:
        store.create_feed(SEED, None, 1.0)
        store.append(FEED, SUB, None, texts(0, 1), now_ms=5)
        done = call(texts(1, 2))
        assert store.accept(done, 1)
        store.append_all([done])  # committed, and killed before the spool was cleared
        assert store.accept(call(texts(7, 8)), 7)
        assert store.accept(Append(OTHER * 2, SUB, None, texts(0, 1), None, 5, None), 0) is True
    with opened(path) as store:
        assert held(store) == texts(0, 2)
        store.accept(call(texts(2, 3)), 2)
        store.delete_feed(FEED)
    with opened(path) as store:
        assert store.info(FEED, SUB) is None


KILLED = """
import sys
from pathlib import Path
from kachery_p2p.storage.feeds.append import Append
from kachery_p2p.storage.feeds.store import FeedStore
store = FeedStore(Path(sys.argv[1]), durable=False)
feed = store.create_feed(b"k" * 32, None, 1.0)
sub = b"s" * 20
size = store.append(feed, sub, None, [b"0"], now_ms=1).head.size
waiting = []
while True:
    call = Append(feed, sub, None, [b"%d" % size], None, size, None)
    assert store.accept(call, size)
    size += 1
    print(size, flush=True)
    waiting.append(call)
    if len(waiting) == 7:
        store.append_all(waiting)
        waiting.clear()
        store.all_committed()
"""


@pytest.mark.parametrize("count", [1, 6, 7, 8, 100, 101, 103])
def test_nothing_that_was_acknowledged_is_lost_by_a_kill(path, count):
    child = forked.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True
    )
    told = []
    with child:
        for line in child.stdout:
            told.append(line)
            if len(told) == count:
                child.kill()
    assert child.returncode == -9
    acknowledged = max(int(line) for line in told if line.endswith("\n"))
    with opened(path) as store:
        assert store.info(FEED, SUB).size >= acknowledged
        found = held(store)
        assert found == [b"%d" % number for number in range(len(found))]


def test_others_outlive_a_damaged_append_and_the_file_is_kept_aside(path, caplog):
    with opened(path) as store:
        store.create_feed(SEED, None, 1.0)
        for number in range(3):
            assert store.accept(call(texts(number, number + 1)), number)
            assert store.accept(call(texts(number, number + 1), subfeed=OTHER), number)
    spool = path.with_suffix(".spool")
    data = bytearray(spool.read_bytes())
    (second,) = texts(1, 2)
    data[data.index(second) + 1] ^= 1
    spool.write_bytes(data)
    with opened(path) as store:
        assert held(store) == texts(0, 1), "numbers are promised: none moves up"
        assert held(store, OTHER) == texts(0, 3)
    assert "1 that come after them" in caplog.text
    assert path.with_suffix(".spool.damaged").read_bytes() == data
    caplog.clear()
    with opened(path) as store:
        assert held(store, OTHER) == texts(0, 3)
    assert not caplog.records


def test_the_torn_end_of_a_crash_is_no_damage(path, caplog):
    with opened(path) as store:
        store.create_feed(SEED, None, 1.0)
        assert store.accept(call(texts(0, 1)), 0)
        assert store.accept(call(texts(1, 2)), 1)
    spool = path.with_suffix(".spool")
    spool.write_bytes(spool.read_bytes()[:-3] + bytes(4096))
    with opened(path) as store:
        assert held(store) == texts(0, 1)
    assert not caplog.records
    assert not path.with_suffix(".spool.damaged").exists()
