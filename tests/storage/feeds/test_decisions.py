"""What becomes of a log when its owner decides which of two histories counts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kachery_p2p.protocol.errors import BadInput, FeedForked, FeedReadOnly, ForgedFeed, NotFound
from kachery_p2p.protocol.feeds.decision import sign_decision
from kachery_p2p.protocol.feeds.feed import MAX_MILLIS, sign_head
from kachery_p2p.protocol.feeds.fork import make_fork
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.tree import range_proof
from kachery_p2p.storage.feeds.store import FeedStore
from tests.storage.feeds.samples import (
    ALL,
    FEED,
    KEY,
    OTHER,
    SEED,
    SUB,
    History,
    dump,
    extend,
    texts,
)

TRUE, VOID = History(40), History(40, "z")
FORK = make_fork(TRUE.head(), VOID.head())
LATE = 5_000
"""Milliseconds; the heads of histories are of about 1,000."""


@pytest.fixture
def store(tmp_path):
    with FeedStore(tmp_path / "feeds.sqlite", durable=False) as opened:
        yield opened


def decided(history=TRUE, size=40, fork=FORK, last=None, key=KEY):
    root = history.root(size)
    return sign_decision(key, SUB, size=size, root=root, fork=fork, now_ms=LATE, last=last)


def give(store, history, start, stop, head, right=None):
    right = history.right(stop, head.size) if right is None else right
    slice, peaks = history.slice(start, stop), history.peaks(start)
    return extend(store, FEED, SUB, slice, right, head, "channel", base_peaks=peaks)


def held(store):
    return store.read(FEED, SUB, 0, **ALL).texts


def test_a_mirror_of_the_history_that_counts_goes_on(store):
    TRUE.give(store, 0, 30)
    assert store.record_fork(FORK)
    decision = decided()
    assert store.take_decision(decision)
    assert not store.take_decision(decision), "that is known"
    store._let_go(FEED)
    info = store.info(FEED, SUB)
    assert (info.fork, info.decision, info.size) == (None, decision, 30)
    with pytest.raises(NotFound, match="has not heard yet"):
        TRUE.give(store, 30, 40)
    assert give(store, TRUE, 30, 40, decision.head) == 40
    assert held(store) == texts(0, 40)


def test_a_whole_mirror_has_the_head_of_the_decision(store):
    TRUE.give(store, 0, 40)
    decision = decided()
    store.take_decision(decision)
    assert store.info(FEED, SUB).head == decision.head
    later = sign_head(KEY, SUB, 40, TRUE.root(40), LATE + 9)
    assert give(store, TRUE, 40, 40, later, right=[]) == 40


@pytest.mark.parametrize("size", [30, 40])
def test_a_mirror_of_another_history_is_emptied_and_fetched_anew(store, size):
    VOID.give(store, 0, 40)
    store.record_fork(FORK)
    decision = decided(size=size)
    assert store.take_decision(decision)
    info = store.info(FEED, SUB)
    assert (info.size, info.head, info.fork) == (0, None, None)
    with pytest.raises(NotFound):
        VOID.give(store, 0, 40)
    assert give(store, TRUE, 0, size, decision.head) == size
    assert held(store) == texts(0, size)
    store._let_go(FEED)
    assert held(store) == texts(0, size)


def test_what_goes_beyond_the_decision_and_is_older_does_not_count(store):
    TRUE.give(store, 0, 40)
    store.take_decision(decided(size=30))
    assert store.info(FEED, SUB).size == 0


def test_what_is_too_short_to_tell_is_kept_until_it_is_proven_not_to_count(store):
    VOID.give(store, 0, 10, total=10)
    decision = decided()
    store.take_decision(decision)
    assert store.info(FEED, SUB).size == 10
    with pytest.raises(ForgedFeed):
        give(store, TRUE, 10, 40, decision.head)
    proof = range_proof(TRUE.nodes(40), 40, 9, 10)
    fork = make_fork(store.info(FEED, SUB).head, decision.head, TRUE.leaves[9], proof)
    assert not store.record_fork(fork), "the owner has decided it"
    assert store.info(FEED, SUB).size == 0
    assert give(store, TRUE, 0, 40, decision.head) == 40


def test_a_fork_of_before_is_settled_and_one_of_later_is_not(store):
    store.take_decision(decided())
    assert not store.record_fork(FORK)
    assert store.info(FEED, SUB).fork is None
    later = make_fork(decided().head, sign_head(KEY, SUB, 40, VOID.root(40), LATE + 1))
    assert store.record_fork(later)
    with pytest.raises(FeedForked):
        give(store, TRUE, 0, 40, decided().head)
    again = decided(fork=later, last=decided())
    assert (again.number, again.head.timestamp) == (2, LATE + 2)
    assert store.take_decision(again)
    assert give(store, TRUE, 0, 40, again.head) == 40


def test_of_two_decisions_all_take_the_same(tmp_path):
    first = decided()
    others = [decided(VOID), decided(VOID, 30), decided(TRUE, 20, last=first)]
    for order in (0, 1):
        with FeedStore(tmp_path / f"{order}.sqlite", durable=False) as store:
            for decision in [first, *others][:: -1 if order else 1]:
                store.take_decision(decision)
            assert store.info(FEED, SUB).decision == others[-1], "the second counts"
    same = sorted([first, *others[:2]], key=lambda decision: decision.head.root)
    for order in (0, 1):
        with FeedStore(tmp_path / f"same{order}.sqlite", durable=False) as store:
            for decision in same[:: -1 if order else 1]:
                store.take_decision(decision)
            assert store.info(FEED, SUB).decision == same[-1]


def test_nobody_else_decides(store):
    VOID.give(store, 0, 40)
    store.record_fork(FORK)
    before = dump(store)
    true = decided()
    stranger = decided(key=NodeKey(b"?" * 32))
    for forged in (
        replace(true, number=2),
        replace(true, sig=bytes(64)),
        replace(true, head=VOID.head()),
        replace(stranger, head=true.head),
    ):
        with pytest.raises(ForgedFeed):
            store.take_decision(forged)
    assert dump(store) == before


# --- one's own ---------------------------------------------------------------------------------


def own(store, count=5):
    store.create_feed(SEED, None, 1.0)
    return store.append(FEED, SUB, None, texts(0, count), now_ms=2_000)


def test_the_owner_decides_for_what_is_here_and_goes_on(store):
    done = own(store)
    assert store.decide(FEED, SUB, LATE) is None, "there is no fork"
    other = VOID.head(5)
    assert store.fork_with(other) == make_fork(done.head, other)
    store.record_fork(make_fork(done.head, other))
    store.note_head(VOID.head(9))
    decision = store.decide(FEED, SUB, LATE)
    assert (decision.number, decision.head.size, decision.head.timestamp) == (1, 5, LATE)
    info = store.info(FEED, SUB)
    assert (info.fork, info.known, info.head) == (None, 5, decision.head)
    store.note_head(VOID.head(9))
    assert not store.record_fork(make_fork(done.head, other)), "whoever says it again"
    after = store.append(FEED, SUB, None, [b"6"], now_ms=3_000)
    assert (after.first, after.head.timestamp) == (5, LATE)
    assert store.read(FEED, SUB, 5, **ALL).runs[0].timestamp == LATE, "times go one way"


def test_what_another_copy_of_the_key_decided_takes_nothing_away_here(store):
    done = own(store)
    fork = make_fork(done.head, VOID.head(5))
    store.record_fork(fork)
    assert not store.take_decision(decided(VOID, 40, fork))
    assert store.info(FEED, SUB).fork == fork
    assert held(store) == texts(0, 5)
    with pytest.raises(FeedForked):
        store.append(FEED, SUB, None, [b"6"], now_ms=3_000)


def test_a_backup_of_the_same_history_takes_the_decision(store):
    done = own(store)
    fork = make_fork(done.head, VOID.head(5))
    store.record_fork(fork)
    decision = sign_decision(
        KEY, SUB, size=5, root=done.head.root, fork=fork, now_ms=LATE, last=None
    )
    assert store.take_decision(decision)
    assert store.append(FEED, SUB, None, [b"6"], now_ms=3_000).first == 5


def test_who_cannot_decide_is_told_why(store):
    VOID.give(store, 0, 40)
    store.record_fork(FORK)
    with pytest.raises(FeedReadOnly):
        store.decide(FEED, SUB, LATE)
    assert store.decide(FEED, OTHER, LATE) is None
    far = make_fork(TRUE.head(), sign_head(KEY, SUB, 40, VOID.root(40), MAX_MILLIS))
    with pytest.raises(BadInput, match="make a new feed"):
        decided(fork=far)
    store.create_feed(SEED, None, 1.0)
    store.delete_feed(FEED)
    store.create_feed(SEED, None, 1.0)
    store.record_fork(FORK)
    with pytest.raises(BadInput, match="holds no message"):
        store.decide(FEED, SUB, LATE)


def test_with_the_feed_its_decisions_go(store):
    store.take_decision(decided())
    store.delete_feed(FEED)
    assert store.info(FEED, SUB) is None
    TRUE.give(store, 0, 40)
    assert store.info(FEED, SUB).decision is None


STEPS = st.lists(
    st.tuples(st.sampled_from(["true", "void", "fork", "decision", "after"]), st.integers(1, 40)),
    max_size=12,
)


@settings(max_examples=100, deadline=None)
@given(steps=STEPS)
def test_in_whatever_order_things_come_all_end_with_the_history_that_counts(
    tmp_path_factory, steps
):
    decision = decided(size=20)
    after = sign_head(KEY, SUB, 40, TRUE.root(40), LATE + 5)
    with FeedStore(tmp_path_factory.mktemp("d") / "feeds.sqlite", durable=False) as store:

        def take(history, stop, head):
            info = store.info(FEED, SUB)
            start = 0 if info is None or info.base + info.size == 0 else info.size
            try:
                give(store, history, min(start, stop), stop, head)
            except ForgedFeed:
                ours = store.info(FEED, SUB).head
                if ours is not None and ours.size < head.size:
                    last = ours.size - 1
                    proof = range_proof(history.nodes(head.size), head.size, last, last + 1)
                    store.record_fork(make_fork(ours, head, history.leaves[last], proof))
            except (FeedForked, NotFound, BadInput):
                pass

        for what, count in [*steps, ("decision", 1), ("after", 40), ("after", 40)]:
            match what:
                case "true" | "void":
                    history = TRUE if what == "true" else VOID
                    take(history, count, history.head(count))
                case "fork":
                    store.record_fork(FORK)
                case "decision":
                    store.take_decision(decision)
                case "after":
                    take(TRUE, count, after)
        info = store.info(FEED, SUB)
        assert (info.fork, info.size, info.head) == (None, 40, after)
        assert store.read(FEED, SUB, info.base, **ALL).texts == texts(info.base, 40)
