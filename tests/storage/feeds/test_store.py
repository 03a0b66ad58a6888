"""One's own feeds: what is appended is there, once, in order, signed, whatever happens."""

from __future__ import annotations

import threading

import pytest

from kachery_p2p.protocol import limits
from kachery_p2p.protocol.errors import (
    BadInput,
    FeedReadOnly,
    UnknownFeed,
)
from kachery_p2p.protocol.feeds.feed import Run, Slice, check_head, leaf_hashes
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.tree import root
from kachery_p2p.storage.feeds import append as feed_append
from kachery_p2p.storage.feeds import logs as feed_logs
from kachery_p2p.storage.feeds.append import Append
from kachery_p2p.storage.feeds.store import FeedRow, FeedStore
from tests.storage.feeds.samples import (
    ALL,
    AUTHOR,
    FEED,
    KEY,
    OTHER,
    SEED,
    SUB,
    History,
    leaves_of,
    texts,
)

OTHER_KEY = NodeKey(b"z" * 32)


@pytest.fixture
def store(tmp_path):
    with FeedStore(tmp_path / "feeds.sqlite", durable=False) as opened:
        opened.create_feed(SEED, "mine", 1.0)
        yield opened


def append(store, what, subfeed=SUB, now_ms=5, **options):
    return store.append(FEED, subfeed, None, what, now_ms=now_ms, **options)


# --- feeds -------------------------------------------------------------------------------------


def test_feeds_are_listed_found_by_name_and_deleted(store):
    other = store.create_feed(b"o" * 32, None, 2.0)
    assert store.feeds() == [FeedRow(FEED, "mine", True, 1.0), FeedRow(other, None, True, 2.0)]
    assert (store.feed_named("mine"), store.feed_named("yours")) == (FEED, None)
    assert (store.key(FEED), store.key(AUTHOR)) == (KEY, None)
    append(store, texts(0, 600), submission=b"n" * 16)
    append(store, texts(0, 3), subfeed=OTHER)
    store.append(other, SUB, None, texts(0, 2), now_ms=1)
    assert store.delete_feed(FEED)
    assert not store.delete_feed(FEED)
    assert [(feed, subfeed, info.size) for feed, subfeed, info in store.logs()] == [(other, SUB, 2)]
    assert (store.key(FEED), store.feed_named("mine"), store.info(FEED, SUB)) == (None, None, None)
    with store.transaction() as db:
        counts = {
            table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("feeds", "logs", "runs", "tiles", "submissions")
        }
    assert counts == {"feeds": 1, "logs": 1, "runs": 1, "tiles": 0, "submissions": 0}


def test_a_name_is_given_to_one_feed(store):
    with pytest.raises(BadInput, match="another feed has it"):
        store.create_feed(b"o" * 32, "mine", 2.0)
    assert len(store.feeds()) == 1
    assert store.create_feed(SEED, None, 9.0) == FEED
    assert store.create_feed(SEED, "renamed", 9.0) == FEED
    assert store.feeds() == [FeedRow(FEED, "renamed", True, 1.0)]
    with pytest.raises(BadInput, match="seed"):
        store.create_feed(b"short", None, 1.0)


def test_access_rules_are_kept_for_each_subfeed(store):
    assert store.get_rules(FEED, SUB) is None
    store.set_rules(FEED, SUB, '{"rules": []}')
    store.set_rules(FEED, SUB, '{"rules": [1]}')
    assert store.get_rules(FEED, SUB) == '{"rules": [1]}'
    assert store.get_rules(FEED, OTHER) is None
    assert store.info(FEED, SUB).size == 0
    assert append(store, texts(0, 1)).first == 0
    store.set_rules(FEED, SUB, None)
    assert store.get_rules(FEED, SUB) is None
    with pytest.raises(UnknownFeed):
        store.set_rules(AUTHOR, SUB, "{}")


# --- appending and reading ---------------------------------------------------------------------


def test_what_was_appended_is_read_and_signed(store):
    done = store.append(FEED, SUB, "name", texts(0, 3), now_ms=5)
    assert (done.first, done.count) == (0, 3)
    check_head(done.head)
    assert (done.head.feed, done.head.subfeed, done.head.size) == (FEED, SUB, 3)
    done = store.append(FEED, SUB, "another name", texts(3, 5), now_ms=6, author=AUTHOR)
    assert (done.first, done.count) == (3, 2)
    check_head(done.head)
    found = store.read(FEED, SUB, 0, **ALL)
    assert found == Slice(0, [Run(3, 5, None), Run(2, 6, AUTHOR)], texts(0, 5))
    assert done.head.root == root("sha256", b"".join(leaf_hashes(found)))
    info = store.info(FEED, SUB)
    assert (info.base, info.size, info.head, info.known) == (0, 5, done.head, 5)
    assert (info.name, info.fork, info.channels) == ("name", None, frozenset())
    assert store.logs() == store.logs(FEED) == [(FEED, SUB, info)]
    assert store.logs(AUTHOR) == []


def test_a_subfeed_of_which_nothing_is_held(store):
    assert store.info(FEED, SUB) is None
    for call in (store.read, store.proof, store.leaf_proof):
        arguments = {
            store.read: ((0,), ALL),
            store.proof: ((0, 1), {}),
            store.leaf_proof: ((0,), {}),
        }
        positional, named = arguments[call]
        with pytest.raises(UnknownFeed):
            call(FEED, SUB, *positional, **named)
    store.set_rules(FEED, SUB, "{}")
    assert store.read(FEED, SUB, 0, **ALL) == Slice(0, [], [])
    with pytest.raises(BadInput):
        store.proof(FEED, SUB, 0, 0)


def test_times_do_not_go_backwards(store):
    append(store, texts(0, 1), now_ms=50)
    done = append(store, texts(1, 2), now_ms=20)
    append(store, texts(2, 3), now_ms=60)
    assert done.head.timestamp == 50
    assert [run.timestamp for run in store.read(FEED, SUB, 0, **ALL).runs] == [50, 50, 60]


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ([], {}),
        ([b"1", b"[\n]"], {}),
        ([b"1"], {"author": b"short"}),
        ([b"1"], {"submission": b"short"}),
        ([b"1"], {"now_ms": -1}),
        ([b"1"], {"now_ms": 1 << 63}),
    ],
)
def test_what_cannot_be_appended_leaves_no_trace(store, what, options):
    with pytest.raises(BadInput):
        append(store, what, **options)
    assert store.info(FEED, SUB) is None


def test_only_with_the_key(store):
    with pytest.raises(FeedReadOnly):
        store.append(AUTHOR, SUB, None, texts(0, 1), now_ms=1)
    history = History(3, key=OTHER_KEY)
    history.give(store, 0, 3)
    for subfeed in (SUB, OTHER):
        with pytest.raises(FeedReadOnly):
            store.append(history.key.public, subfeed, None, texts(0, 1), now_ms=1)
    assert store.info(history.key.public, OTHER) is None
    store.create_feed(history.key.seed, None, 1.0)
    assert store.info(history.key.public, SUB).channels == frozenset()
    assert store.append(history.key.public, SUB, None, texts(3, 4), now_ms=1).first == 3


@pytest.mark.parametrize("size", [1, 2, 40])
def test_reading_from_anywhere_with_any_bounds(store, size):
    sizes = [len(text) for text in texts(0, size)]
    append(store, texts(0, size // 2 + 1), now_ms=1)
    for number in range(size // 2 + 1, size):
        append(store, texts(number, number + 1), now_ms=number)
    whole = leaves_of(store.read(FEED, SUB, 0, **ALL))
    assert [each[2] for each in whole] == texts(0, size)
    for start in range(size + 1):
        for most in (1, 2, 7, 100):
            found = store.read(FEED, SUB, start, **{**ALL, "max_messages": most})
            assert (found.start, leaves_of(found)) == (start, whole[start : start + most])
            found = store.read(FEED, SUB, start, **{**ALL, "max_runs": most})
            assert len(found.runs) <= most
            assert leaves_of(found) == whole[start : found.stop]
            assert found.stop > start or start == size
        for room in (0, 4, 5, 9, 10, 11, 100, 10_000):
            found = store.read(FEED, SUB, start, **{**ALL, "max_bytes": room})
            assert leaves_of(found) == whole[start : found.stop]
            took = sum(sizes[start : found.stop]) + len(found.texts) - 1
            assert took <= room or len(found.texts) <= 1
            if start < found.stop < size:
                assert took + 1 + sizes[found.stop] > room
            assert found.texts or start == size


def test_runs_keep_their_bounds(store):
    large = b'"%s"' % (b"x" * (limits.MAX_RUN_BYTES // 3))
    huge = b'"%s"' % (b"y" * (3 * limits.MAX_RUN_BYTES))
    what = [*texts(0, 2 * limits.MAX_RUN + 1), *[large] * 7, huge, huge, b"1"]
    append(store, what)
    runs = store.read(FEED, SUB, 0, **ALL).runs
    counts = [run.count for run in runs]
    assert counts == [256, 256, 3, 2, 2, 1, 1, 1, 1]
    assert store.read(FEED, SUB, 0, **ALL).texts == what
    assert store.read(FEED, SUB, len(what) - 2, **{**ALL, "max_bytes": 5}).texts == [huge]


def test_a_submission_that_is_repeated_is_not_appended_again(store):
    first = append(store, texts(0, 3), author=AUTHOR, submission=b"1" * 16)
    other = append(store, texts(3, 4), submission=b"1" * 16)
    assert (first.first, other.first) == (0, 3)
    again = append(store, texts(0, 3), author=AUTHOR, submission=b"1" * 16, now_ms=99)
    assert (again.first, again.count, again.head) == (0, 3, other.head)
    assert append(store, texts(3, 4), submission=b"1" * 16).first == 3
    assert append(store, texts(4, 5), subfeed=OTHER, submission=b"1" * 16).first == 0
    assert store.info(FEED, SUB).size == 4


def test_so_many_submissions_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(feed_append, "MAX_SUBMISSIONS", 3)
    for reopened in (False, True):
        with FeedStore(tmp_path / "feeds.sqlite", durable=False) as store:
            store.create_feed(SEED, None, 1.0)
            if not reopened:
                for number in range(5):
                    append(store, texts(number, number + 1), submission=bytes([number]) * 16)
            for number in (2, 3, 4):
                done = append(store, texts(9, 10), submission=bytes([number]) * 16)
                assert done.first == number
    with FeedStore(tmp_path / "feeds.sqlite", durable=False) as store:
        assert append(store, texts(0, 1), submission=bytes(16)).first == 5
        assert append(store, texts(0, 1), submission=bytes(16)).first == 5


# --- several at once ---------------------------------------------------------------------------


def test_threads_that_append_at_once(store):
    done: list[tuple[bytes, int, bytes, object]] = []

    def work(number: int) -> None:
        for item in range(40):
            subfeed = (SUB, OTHER)[(number + item) % 2]
            text = b'"%d-%d"' % (number, item)
            result = append(store, [text], subfeed=subfeed)
            done.append((subfeed, result.first, text, result.head))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for subfeed in (SUB, OTHER):
        told = sorted((first, text) for where, first, text, _ in done if where == subfeed)
        assert [first for first, _ in told] == list(range(160))
        assert store.read(FEED, subfeed, 0, **ALL).texts == [text for _, text in told]
    for _, first, _, head in done:
        check_head(head)
        assert head.size > first


def test_a_call_that_fails_takes_no_other_with_it(store):
    calls = [
        Append(FEED, SUB, None, texts(0, 2), None, 5, b"1" * 16),
        Append(AUTHOR, SUB, None, texts(0, 1), None, 5, None),
        Append(FEED, SUB, None, texts(0, 2), None, 5, b"1" * 16),
        Append(FEED, SUB, None, texts(2, 3), None, 5, None),
        Append(FEED, OTHER, None, texts(0, 1), None, 5, None),
    ]
    store.append_all(calls)
    assert [None if call.result is None else call.result.first for call in calls] == [
        0, None, 0, 2, 0,
    ]  # fmt: skip
    assert [type(call.error) for call in calls].count(FeedReadOnly) == 1
    heads = {call.result.head for call in calls if call.result and call.subfeed == SUB}
    assert heads == {store.info(FEED, SUB).head}
    assert store.info(FEED, SUB).size == 3


def test_what_is_appended_in_one_millisecond_is_one_run(store):
    calls = [
        Append(FEED, SUB, None, texts(at, at + 1), author, now_ms, None)
        for at, (author, now_ms) in enumerate([(None, 5)] * 3 + [(AUTHOR, 5)] + [(AUTHOR, 6)] * 2)
    ]
    store.append_all(calls)
    assert [call.result.first for call in calls] == list(range(6))
    found = store.read(FEED, SUB, 0, **ALL)
    assert found.runs == [Run(3, 5, None), Run(1, 5, AUTHOR), Run(2, 6, AUTHOR)]
    assert found.texts == texts(0, 6)


def test_who_reads_does_not_wait_for_who_writes(store):
    append(store, texts(0, 300))
    writing, read = threading.Event(), threading.Event()

    def write() -> None:
        with store.transaction() as db:
            db.execute("UPDATE logs SET name = 'being written'")
            writing.set()
            assert read.wait(10)

    thread = threading.Thread(target=write)
    thread.start()
    assert writing.wait(10)
    try:
        assert store.read(FEED, SUB, 0, **ALL).texts == texts(0, 300)
        assert store.info(FEED, SUB).size == 300
        assert store.logs()[0][2].name is None
        assert store.proof(FEED, SUB, 20, 40).head.size == 300
        assert store.leaf_proof(FEED, SUB, 20).head.size == 300
        assert store.key(FEED) == KEY
        assert (store.feed_named("mine"), store.name(FEED), len(store.feeds())) == (FEED, "mine", 1)
        assert store.get_rules(FEED, SUB) is None
        store._open_logs.clear()
        assert store.read(FEED, SUB, 299, **ALL).texts == texts(299, 300), "one that is not open"
    finally:
        read.set()
        thread.join()


def test_only_so_many_logs_are_kept_open(store, monkeypatch):
    monkeypatch.setattr(feed_logs, "_OPEN_LOGS", 2)
    for number in range(5):
        append(store, texts(0, 300), subfeed=bytes([number]) * 20)
    assert len(store._open_logs) == 2
    for number in range(5):
        assert append(store, texts(300, 301), subfeed=bytes([number]) * 20).first == 300
    assert len(store._open_logs) == 2
