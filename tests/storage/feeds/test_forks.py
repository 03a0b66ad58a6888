"""Two histories of one log, and one's own log that fell behind itself."""

from __future__ import annotations

import msgspec
import pytest

from kachery_p2p.protocol.errors import (
    FeedBehind,
    FeedForked,
    FeedReadOnly,
    ForgedFeed,
    UnknownFeed,
)
from kachery_p2p.protocol.feeds.fork import check_fork, make_fork
from kachery_p2p.protocol.tree import range_proof
from kachery_p2p.storage.feeds.store import FeedRow, FeedStore
from tests.storage.feeds.samples import (
    ALL,
    FEED,
    OTHER,
    SEED,
    SUB,
    History,
    copy_as_killed,
    dump,
    extend,
    texts,
)


@pytest.fixture
def store(tmp_path):
    with FeedStore(tmp_path / "feeds.sqlite", durable=False) as opened:
        yield opened


# --- forks -------------------------------------------------------------------------------------


def test_two_histories_stop_a_log(store):
    history, other = History(40), History(40, "z")
    fork = make_fork(history.head(), other.head())
    history.give(store, 0, 30)
    store.record_fork(fork)
    store.record_fork(fork)
    store._let_go(FEED)
    assert store.info(FEED, SUB).fork == fork
    before = dump(store)
    with pytest.raises(FeedForked):
        history.give(store, 30, 40)
    assert dump(store) == before
    assert store.read(FEED, SUB, 0, **ALL).texts == texts(0, 30)


def test_a_fork_of_a_log_that_is_not_held_is_remembered(store):
    fork = make_fork(History(4).head(), History(4, "z").head())
    store.record_fork(fork)
    assert (store.info(FEED, SUB).size, store.info(FEED, SUB).fork) == (0, fork)
    with pytest.raises(FeedForked):
        History(4).give(store, 0, 4)
    assert store.feeds() == [FeedRow(FEED, None, False, 1.004)]


def test_evidence_that_proves_nothing_is_refused(store):
    history = History(9)
    before = dump(store)
    for fork in (
        make_fork(history.head(), history.head()),
        make_fork(history.head(), History(9, subfeed=OTHER).head()),
        make_fork(history.head(5), history.head(9), bytes(32), []),
    ):
        with pytest.raises(ForgedFeed):
            store.record_fork(fork)
    assert dump(store) == before


def test_a_fork_is_proven_from_what_is_held(store):
    history, other = History(400), History(400, "z")
    history.give(store, 3, 300, 333)
    for size in (4, 17, 255, 256, 257, 300):
        fork = store.fork_with(other.head(size))
        assert {fork.first, fork.second} == {other.head(size), history.head(333)}
        check_fork(fork)
        assert store.fork_with(history.head(size)) is None
    check_fork(store.fork_with(other.head(333)))
    # What cannot be told from what is held.
    for size in (1, 3, 301, 334, 400):
        assert store.fork_with(other.head(size)) is None
    with pytest.raises(ForgedFeed):
        store.fork_with(msgspec.structs.replace(other.head(9), root=bytes(32)))
    with pytest.raises(UnknownFeed):
        store.fork_with(History(3, subfeed=OTHER).head())
    assert store.info(FEED, SUB).fork is None


@pytest.mark.parametrize("total", [20, 333])
def test_a_head_that_contradicts_the_log_is_kept_as_evidence(store, total):
    history, other = History(400), History(400, "z")
    history.give(store, 3, 300, 333)
    with pytest.raises(FeedForked):
        other.give(store, 10, 12, total)
    fork = store.info(FEED, SUB).fork
    check_fork(fork)
    assert other.head(total) in (fork.first, fork.second)
    assert store.info(FEED, SUB).size == 300


# --- one's own log, taken back -----------------------------------------------------------------


def own(store) -> None:
    store.create_feed(SEED, None, 1.0)


def append(store, what):
    return store.append(FEED, SUB, None, what, now_ms=5)


def test_a_restored_backup_takes_back_its_messages(tmp_path):
    with (
        FeedStore(tmp_path / "feeds.sqlite") as store,
        FeedStore((tmp_path / "m").mkdir() or tmp_path / "m" / "feeds.sqlite") as mirror,
    ):
        own(store)
        append(store, texts(0, 300))
        backup = copy_as_killed(store.path, tmp_path / "backup")
        append(store, texts(300, 700))
        head = store.info(FEED, SUB).head
        whole = store.read(FEED, SUB, 0, **ALL)
        extend(mirror, FEED, SUB, whole, [], head, "channel")
        with FeedStore(backup) as restored:
            assert restored.info(FEED, SUB).size == 300
            restored.note_head(head)
            restored.note_head(head)
            with pytest.raises(FeedBehind, match="300 messages of a subfeed are here, 700"):
                append(restored, [b"1"])
            for start, stop in ((250, 400), (400, 700)):
                piece = mirror.read(FEED, SUB, start, **{**ALL, "max_messages": stop - start})
                proof = mirror.proof(FEED, SUB, start, stop)
                extend(restored, FEED, SUB, piece, proof.right, proof.head, "channel")
                if stop < 700:
                    with pytest.raises(FeedBehind):
                        append(restored, [b"1"])
            assert restored.info(FEED, SUB) == store.info(FEED, SUB)
            assert append(restored, [b"1"]).first == 700


def test_a_lagging_holder_does_not_make_a_log_whole(store):
    history = History(40)
    own(store)
    store.note_head(history.head(30))
    extend(
        store, FEED, SUB, history.slice(0, 10), history.right(10, 20), history.head(20), "channel"
    )
    extend(store, FEED, SUB, history.slice(10, 20), [], history.head(20), "channel")
    info = store.info(FEED, SUB)
    assert (info.size, info.head.size, info.known) == (20, 20, 30)
    with pytest.raises(FeedBehind):
        append(store, [b"1"])
    store._let_go(FEED)
    with pytest.raises(FeedBehind):
        append(store, [b"1"])
    extend(store, FEED, SUB, history.slice(20, 30), [], history.head(30), "channel")
    done = append(store, [b"1"])
    assert (done.first, done.head.timestamp) == (30, history.head(30).timestamp)
    assert store.info(FEED, SUB).channels == frozenset()


def test_only_of_ones_own_it_is_noted_how_far_it_was_signed(store):
    history = History(4)
    with pytest.raises(UnknownFeed):
        store.note_head(history.head())
    history.give(store, 0, 4)
    with pytest.raises(FeedReadOnly):
        store.note_head(history.head())
    own(store)
    with pytest.raises(ForgedFeed):
        store.note_head(msgspec.structs.replace(history.head(), size=5))


def test_a_fork_of_ones_own_is_resolved_by_going_on(store):
    own(store)
    done = append(store, texts(0, 5))
    other = History(9, "z")
    assert (done.head.size, store.fork_with(other.head(9))) == (5, None)
    store.note_head(other.head(9))
    proof = range_proof(other.nodes(9), 9, 4, 5)
    store.record_fork(make_fork(done.head, other.head(9), other.leaves[4], proof))
    with pytest.raises(FeedForked):
        append(store, [b"1"])
    assert store.decide(FEED, SUB, 1) is not None
    assert append(store, [b"1"]).first == 5
