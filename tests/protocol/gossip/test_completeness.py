"""A log says of itself that it is complete, and who has it knows what that covers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.gossip import announcements
from kachery_p2p.protocol.gossip.announcements import MARK, PROVIDE, AnnouncementLog, make_batch
from kachery_p2p.protocol.gossip.completeness import NOTHING_COMPLETE, pack_mark, says_complete
from kachery_p2p.protocol.gossip.index import Applied, Index
from kachery_p2p.protocol.gossip.keys import KINDS, ContentKind
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import BLINDED_KEY_BYTES, MAX_ANNOUNCE_ENTRIES

ORIGIN = NodeKey(b"o" * 32)
CHANNEL = b"c" * 32
MARKED = pack_mark(3, ["files"])


def key(number: int) -> bytes:
    return number.to_bytes(BLINDED_KEY_BYTES, "big")


@given(
    version=st.integers(1, 2**63 - 1),
    kinds=st.sets(st.sampled_from(KINDS)),
    asked=st.integers(0, 2**63 - 1),
    kind=st.sampled_from(KINDS),
)
def test_a_mark_covers_the_kinds_and_the_secret_that_it_names_and_no_others(
    version: int, kinds: set[ContentKind], asked: int, kind: ContentKind
) -> None:
    mark = pack_mark(version, kinds)
    assert len(mark) == BLINDED_KEY_BYTES
    assert says_complete(mark, asked, kind) == (asked == version and kind in kinds)
    assert says_complete(mark, version, kind) == (kind in kinds)
    assert not says_complete(NOTHING_COMPLETE, asked, kind)


@pytest.mark.parametrize("version", [0, -1, 2**63])
def test_a_mark_is_of_a_secret_that_there_can_be(version: int) -> None:
    with pytest.raises(BadInput, match="secret version"):
        pack_mark(version, KINDS)


def test_a_plan_leaves_out_what_is_said_already_and_changes_nothing() -> None:
    log = AnnouncementLog(1)
    log.provide(key(1))
    changes = [
        (PROVIDE, key(1)),
        (PROVIDE, key(2)),
        (MARK, MARKED),
        (MARK, MARKED),
        (PROVIDE, key(2)),
    ]
    planned = log.plan(changes)
    assert planned == [(2, PROVIDE, key(2)), (3, MARK, MARKED)]
    assert (log.head, log.live, log.mark) == (1, 1, NOTHING_COMPLETE)
    log.extend(planned)
    assert (log.head, log.live, log.mark) == (3, 2, MARKED)
    assert log.plan(changes) == []
    assert AnnouncementLog(1, log.since(0)).mark == MARKED
    with pytest.raises(BadInput, match="after entry 3"):
        log.extend(planned)


def test_a_mark_counts_for_an_index_when_all_before_it_is_there() -> None:
    log, index = AnnouncementLog(1), Index()
    log.extend(log.plan([*((PROVIDE, key(n)) for n in range(2_500)), (MARK, MARKED)]))
    *parts, last = log.batches(CHANNEL, ORIGIN)
    for part in parts:
        assert index.apply(part) == Applied(index_keys(part), True, False)
        assert index.mark(CHANNEL, ORIGIN.public) == NOTHING_COMPLETE
    result = index.apply(last)
    assert isinstance(result, Applied)
    assert result.marked
    assert MARKED not in result.fresh
    assert index.mark(CHANNEL, ORIGIN.public) == MARKED
    assert index.holders(CHANNEL, MARKED) == []


def index_keys(part: announcements.Batch) -> list[bytes]:
    return [k for op, k in announcements.unpack_entries(part.entries) if op == PROVIDE]


def test_a_new_epoch_begins_with_nothing_complete_and_compaction_keeps_what_is() -> None:
    log, index = AnnouncementLog(1), Index()
    log.extend(log.plan([(PROVIDE, key(9)), (PROVIDE, key(5)), (MARK, MARKED)]))
    for part in log.batches(CHANNEL, ORIGIN):
        index.apply(part)
    index.apply(make_batch(ORIGIN, CHANNEL, 2, 1, b""))
    assert index.mark(CHANNEL, ORIGIN.public) == NOTHING_COMPLETE
    log.compact(3)
    assert log.since(0) == [(1, PROVIDE, key(5)), (2, PROVIDE, key(9)), (3, MARK, MARKED)]
    for part in log.batches(CHANNEL, ORIGIN):
        index.apply(part)
    assert index.mark(CHANNEL, ORIGIN.public) == MARKED


def test_ten_nodes_that_announce_950_things_one_by_one_leave_few_batches() -> None:
    """9,500 batches of one entry, more than a link could take."""
    index, sent = Index(), 0
    for number in range(10):
        origin, log = NodeKey(bytes([number]) * 32), AnnouncementLog(1)
        for entry in range(950):
            log.provide(key(1_000 * number + entry))
            batch = log.batch_after(CHANNEL, origin, (1, log.head - 1) if entry else None)
            assert batch is not None
            sent += batch.count
            assert isinstance(index.apply(batch, checked=True), Applied)
        left = index.after(CHANNEL, origin.public, (-1, 0), 1 << 30)
        assert len(left) <= 9 + 5 + 9
        again = Index()
        for batch in left:
            assert isinstance(again.apply(batch, checked=True), Applied)
        assert again.digest(CHANNEL) == {origin.public: (1, 950)}
    assert sent <= 4 * 9_500


@pytest.mark.parametrize("step", [1, 3, 7, 95, 130, 999, 1_000, 1_001])
def test_batches_cut_at_any_pace_follow_one_another_and_stay_few(step: int) -> None:
    log, index, known = AnnouncementLog(1), Index(), None
    for start in range(0, 5_000, step):
        stop = min(5_000, start + step)
        log.extend(log.plan((PROVIDE, key(n)) for n in range(start, stop)))
        while (batch := log.batch_after(CHANNEL, ORIGIN, known)) is not None:
            assert isinstance(index.apply(batch, checked=True), Applied)
            assert (batch.start - 1) // MAX_ANNOUNCE_ENTRIES == (
                batch.end - 1
            ) // MAX_ANNOUNCE_ENTRIES
            known = (batch.epoch, batch.end)
    assert index.digest(CHANNEL) == {ORIGIN.public: (1, 5_000)}
    assert len(index.after(CHANNEL, ORIGIN.public, (-1, 0), 1 << 30)) == 5


def test_what_a_peer_lacks_comes_in_portions_from_where_it_stopped() -> None:
    index, known, seen = Index(), (-1, 0), 0
    for number in range(1, 101):
        entries = announcements.pack_entries([(PROVIDE, key(number))])
        index.apply(make_batch(ORIGIN, CHANNEL, 4, number, entries))
    while batches := index.after(CHANNEL, ORIGIN.public, known, 1_000):
        assert len(batches) <= 6
        assert batches[0].start == seen + 1
        seen = batches[-1].end
        known = (4, seen)
    assert seen == 100
    assert index.after(CHANNEL, ORIGIN.public, (4, 50), 1)[0].start == 51
    assert index.after(CHANNEL, ORIGIN.public, (3, 99), 1)[0].start == 1
    assert index.after(CHANNEL, ORIGIN.public, (5, 0), 1) == []
    assert index.after(CHANNEL, b"never seen", (-1, 0), 1) == []


def test_an_empty_epoch_is_lacking_to_who_does_not_know_it() -> None:
    index = Index()
    index.apply(make_batch(ORIGIN, CHANNEL, 4, 1, b""))
    assert len(index.after(CHANNEL, ORIGIN.public, (-1, 0), 1)) == 1
    assert len(index.after(CHANNEL, ORIGIN.public, (3, 9), 1)) == 1
    assert index.after(CHANNEL, ORIGIN.public, (4, 0), 1) == []
