"""The index, and that indexes of several proxies come to agree."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from kachery_p2p.protocol.errors import ProtocolViolation
from kachery_p2p.protocol.gossip import announcements
from kachery_p2p.protocol.gossip import index as gossip
from kachery_p2p.protocol.gossip.announcements import (
    PROVIDE,
    WITHDRAW,
    AnnouncementLog,
    Batch,
    make_batch,
    pack_entries,
)
from kachery_p2p.protocol.gossip.index import Applied, Gap, Index
from kachery_p2p.protocol.identity import NodeKey

ONE, TWO = NodeKey(b"1" * 32), NodeKey(b"2" * 32)
CHANNEL, ELSEWHERE = b"c" * 32, b"e" * 32


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def batch(
    start: int, *numbers: int, epoch: int = 1, origin: NodeKey = ONE, channel: bytes = CHANNEL
) -> Batch:
    """Positive numbers are provided, negative ones withdrawn."""
    entries = pack_entries((PROVIDE if n > 0 else WITHDRAW, key(abs(n))) for n in numbers)
    return make_batch(origin, channel, epoch, start, entries)


def held(index: Index, numbers: range = range(1, 30), channel: bytes = CHANNEL) -> set[int]:
    """What ONE provides."""
    return {n for n in numbers if ONE.public in index.holders(channel, key(n))}


def test_batches_in_order_extend_and_tell_what_is_fresh() -> None:
    index = Index()
    assert index.apply(batch(1, 1, 2, -1, 3)) == Applied([key(2), key(3)], True)
    assert index.apply(batch(5, 1, 2, -3)) == Applied([key(1)], True)
    assert held(index) == {1, 2}
    assert index.digest(CHANNEL) == {ONE.public: (1, 7)}
    assert index.digest(ELSEWHERE) == {}


def test_a_gap_says_what_is_needed_and_changes_nothing() -> None:
    index = Index()
    assert index.apply(batch(3, 5)) == Gap(CHANNEL, ONE.public, 1, 1)
    index.apply(batch(1, 1))
    assert index.apply(batch(3, 5)) == Gap(CHANNEL, ONE.public, 1, 2)
    assert index.apply(batch(2, 6, epoch=2)) == Gap(CHANNEL, ONE.public, 2, 1)
    assert held(index) == {1}


def test_repetitions_and_overlaps_are_skipped() -> None:
    index = Index()
    index.apply(batch(1, 1, 2, 3))
    assert index.apply(batch(1, 1, 2, 3)) == Applied([], False)
    assert index.apply(batch(2, 2)) == Applied([], False)
    assert index.apply(batch(2, 2, 3, -1, 4)) == Applied([key(4)], True)
    assert held(index) == {2, 3, 4}


def test_a_higher_epoch_replaces_and_a_lower_one_is_ignored() -> None:
    index = Index()
    index.apply(batch(1, 1, 2, 3))
    assert index.apply(batch(1, 3, 4, epoch=2)).extended  # type: ignore[union-attr]
    assert held(index) == {3, 4}
    assert index.apply(batch(4, 9)) == Applied([], False)
    assert held(index) == {3, 4}
    index.apply(batch(1, epoch=3))
    assert held(index) == set()
    assert index.digest(CHANNEL) == {ONE.public: (3, 0)}


def test_two_contents_under_one_number_keep_the_first_and_name_the_origin() -> None:
    index = Index()
    index.apply(batch(1, 1, 2))
    for rival in (batch(2, 9), batch(2, 9, 10), batch(1, 1, -1, 3)):
        with pytest.raises(ProtocolViolation, match="two different") as caught:
            index.apply(rival)
        assert caught.value.fields["origin"] == ONE.node_id
    assert held(index) == {1, 2}
    assert index.digest(CHANNEL) == {ONE.public: (1, 2)}


@pytest.mark.parametrize("start", [1, 2, 3, 9])
@pytest.mark.parametrize("epoch", [1, 2])
def test_nobody_can_frame_or_feign_an_origin(start: int, epoch: int) -> None:
    index = Index()
    index.apply(batch(1, 1, 2))
    forged = replace(batch(start, 9, 10, epoch=epoch, origin=TWO), origin=ONE.public)
    with pytest.raises(ProtocolViolation, match="not signed"):
        index.apply(forged)
    assert held(index) == {1, 2}


def test_origins_and_channels_do_not_mix() -> None:
    index = Index()
    index.apply(batch(1, 1, 2))
    index.apply(batch(1, 2, 3, origin=TWO))
    index.apply(batch(1, 2, channel=ELSEWHERE))
    assert index.holders(CHANNEL, key(2)) == [ONE.public, TWO.public]
    assert index.holders(CHANNEL, key(3)) == [TWO.public]
    assert index.holders(ELSEWHERE, key(2)) == [ONE.public]
    index.apply(batch(3, -2))
    assert index.holders(CHANNEL, key(2)) == [TWO.public]
    assert index.holders(CHANNEL, b"unknown") == []
    assert index.holders(b"no channel", key(2)) == []


def test_who_is_forgotten_holds_nothing_and_can_come_back() -> None:
    index = Index()
    index.apply(batch(1, 1, 2))
    index.apply(batch(1, 2, origin=TWO))
    index.forget_origin(CHANNEL, ONE.public)
    index.forget_origin(CHANNEL, b"never seen")
    assert held(index) == set()
    assert ONE.public not in index.digest(CHANNEL)
    assert index.batches(CHANNEL, ONE.public, 1, 1) == []
    assert index.apply(batch(1, 1, 2)) == Applied([key(1), key(2)], True)
    assert index.holders(CHANNEL, key(2)) == [TWO.public, ONE.public]
    index.forget_channel(CHANNEL)
    assert index.digest(CHANNEL) == {}
    assert index.holders(CHANNEL, key(2)) == []


def test_replaced_logs_leave_no_trace_behind() -> None:
    index = Index()
    for epoch in range(1, 40):
        numbers = range(epoch * 10, epoch * 10 + 8)
        index.apply(batch(1, *numbers[:4], epoch=epoch))
        index.apply(batch(5, *numbers[4:], epoch=epoch))
    index.apply(batch(9, 1, epoch=39))
    kept = index._channels[CHANNEL]
    assert set(kept.holders) == {key(1)} | {key(n) for n in range(390, 398)}
    assert not kept.dead
    assert len(kept.origins) == 1


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ({}, 1),
        ({ONE.public: (0, 99)}, 1),
        ({ONE.public: (1, 0)}, 1),
        ({ONE.public: (1, 2)}, 3),
        ({ONE.public: (1, -5)}, 1),
        ({ONE.public: (1, 4)}, None),
        ({ONE.public: (1, 5)}, None),
        ({ONE.public: (2, 0)}, None),
    ],
)
def test_a_digest_tells_what_its_sender_lacks(
    peer: dict[bytes, tuple[int, int]], expected: int | None
) -> None:
    index = Index()
    index.apply(batch(1, 1, 2))
    index.apply(batch(3, 3, 4))
    assert index.missing(CHANNEL, peer) == ([(ONE.public, 1, expected)] if expected else [])


def test_batches_are_passed_on_as_they_were_signed() -> None:
    index = Index()
    parts = [batch(1, 1, 2), batch(3, 3), batch(4, 4, 5)]
    for part in parts:
        index.apply(part)
    assert index.batches(CHANNEL, ONE.public, 1, 1) == parts
    assert index.batches(CHANNEL, ONE.public, 1, 3) == parts[1:]
    assert index.batches(CHANNEL, ONE.public, 1, 5) == parts[2:]
    assert index.batches(CHANNEL, ONE.public, 1, 6) == []
    assert index.batches(CHANNEL, ONE.public, 2, 1) == []


def test_a_batch_takes_the_place_of_those_it_contains() -> None:
    index = Index()
    for number in range(1, 10):
        index.apply(batch(number, number))
    whole = batch(1, *range(1, 11))
    assert index.apply(whole) == Applied([key(10)], True)
    assert index.batches(CHANNEL, ONE.public, 1, 1) == [whole]
    index.apply(batch(11, 11))
    index.apply(batch(12, 12))
    pair = batch(11, 11, 12)
    assert index.apply(pair) == Applied([], False)
    assert index.batches(CHANNEL, ONE.public, 1, 1) == [whole, pair]
    forged = replace(batch(1, *range(1, 13)), sig=bytes(64))
    with pytest.raises(ProtocolViolation):
        index.apply(forged)
    assert index.batches(CHANNEL, ONE.public, 1, 1) == [whole, pair]


def test_a_batch_in_the_middle_takes_the_place_of_those_it_contains_only() -> None:
    index = Index()
    singles = [batch(number, number) for number in range(1, 7)]
    for single in singles:
        index.apply(single)
    middle = batch(3, 3, 4)
    assert index.apply(middle) == Applied([], False)
    expected = [*singles[:2], middle, *singles[4:]]
    assert index.batches(CHANNEL, ONE.public, 1, 1) == expected
    assert index.batches(CHANNEL, ONE.public, 1, 4) == expected[2:]


def test_an_epoch_without_entries_travels_too() -> None:
    index, other = Index(), Index()
    other.apply(batch(1, 1))
    (marker,) = AnnouncementLog(2).batches(CHANNEL, ONE)
    index.apply(marker)
    ((origin, epoch, from_seq),) = index.missing(CHANNEL, other.digest(CHANNEL))
    for part in index.batches(CHANNEL, origin, epoch, from_seq):
        other.apply(part)
    assert held(other) == set()
    assert index.missing(CHANNEL, other.digest(CHANNEL)) == []
    assert index.apply(marker) == Applied([], False)
    index.apply(batch(1, 5, epoch=2))
    assert index.apply(marker) == Applied([], False)
    assert index.batches(CHANNEL, ONE.public, 2, 1) == [batch(1, 5, epoch=2)]


@pytest.mark.parametrize(
    ("limit", "most"), [("MAX_KEYS_PER_ORIGIN", 4), ("MAX_LOG_ENTRIES", 4), ("MAX_LOG_BATCHES", 2)]
)
def test_an_origin_that_announces_too_much_is_stopped(
    monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    monkeypatch.setattr(gossip, limit, most)
    index = Index()
    index.apply(batch(1, 1, 2))
    index.apply(batch(3, 3, 4))
    with pytest.raises(ProtocolViolation, match="too many") as caught:
        index.apply(batch(4, 4, 5))
    assert caught.value.fields["origin"] == ONE.node_id
    assert held(index) == {1, 2, 3, 4}
    assert index.digest(CHANNEL) == {ONE.public: (1, 4)}


ORIGINS = st.integers(0, 1)
INDEXES = st.integers(0, 2)
KEYS = st.integers(1, 8)


def test_the_keys_of_who_was_forgotten_go_although_nobody_announces_anything() -> None:
    """They stayed until somebody announced again."""
    index = Index()
    for start in range(1, 40):
        index.apply(batch(start, start))
    index.apply(batch(1, 7, 99, origin=TWO))
    index.forget_origin(CHANNEL, ONE.public)
    rounds = 0
    while index.sweep():
        rounds += 1
        assert rounds < 40
    assert rounds > 1, "little by little"
    known = index._channels[CHANNEL]
    assert set(known.holders) == {key(7), key(99)}
    assert not known.dead
    index.forget_origin(CHANNEL, TWO.public)
    assert not index.sweep()
    assert not index._channels


class Gossiping(RuleBasedStateMachine):
    """Two origins, three proxies, and a network that loses, repeats and reorders."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = (ONE, TWO)
        self.logs = [AnnouncementLog(1), AnnouncementLog(1)]
        self.ever: list[set[bytes]] = [set(), set()]
        self.indexes = [Index(), Index(), Index()]
        self.flying: list[tuple[int, Batch]] = []

    @rule(origin=ORIGINS, numbers=st.lists(KEYS, max_size=6))
    def provide(self, origin: int, numbers: list[int]) -> None:
        for number in numbers:
            self.logs[origin].provide(key(number))
            self.ever[origin].add(key(number))

    @rule(origin=ORIGINS, number=KEYS)
    def withdraw(self, origin: int, number: int) -> None:
        self.logs[origin].withdraw(key(number))

    @rule(origin=ORIGINS)
    def compact(self, origin: int) -> None:
        self.logs[origin].compact(self.logs[origin].epoch + 1)

    @rule(origin=ORIGINS, to=INDEXES, stale=st.integers(0, 3))
    def announce(self, origin: int, to: int, stale: int) -> None:
        """By a digest that may be older than the index, so batches overlap."""
        log = self.logs[origin]
        known = self.indexes[to].digest(CHANNEL).get(self.keys[origin].public)
        if known is not None:
            known = known[0], max(0, known[1] - stale)
        since = log.lacks(known)
        if since is not None:
            for part in log.batches(CHANNEL, self.keys[origin], since):
                self.flying.append((to, part))

    @rule(source=INDEXES, to=INDEXES)
    def pass_on(self, source: int, to: int) -> None:
        peer = self.indexes[to].digest(CHANNEL)
        for missing in self.indexes[source].missing(CHANNEL, peer):
            for part in self.indexes[source].batches(CHANNEL, *missing):
                self.flying.append((to, part))

    @rule(data=st.data(), fate=st.sampled_from(["deliver", "deliver", "repeat", "lose", "stray"]))
    def arrive(self, data: st.DataObject, fate: str) -> None:
        if not self.flying:
            return
        at = data.draw(st.integers(0, len(self.flying) - 1))
        to, part = self.flying[at] if fate == "repeat" else self.flying.pop(at)
        if fate == "stray":
            to = (to + 1) % len(self.indexes)
        if fate != "lose":
            self.indexes[to].apply(part)

    @rule(data=st.data())
    def arrive_all(self, data: st.DataObject) -> None:
        for at in data.draw(st.permutations(range(len(self.flying)))):
            to, part = self.flying[at]
            self.indexes[to].apply(part)
        self.flying.clear()

    @rule(at=INDEXES, origin=ORIGINS)
    def forget(self, at: int, origin: int) -> None:
        self.indexes[at].forget_origin(CHANNEL, self.keys[origin].public)

    @invariant()
    def nobody_holds_what_was_never_provided(self) -> None:
        for index in self.indexes:
            for number in range(1, 9):
                for holder in index.holders(CHANNEL, key(number)):
                    assert key(number) in self.ever[0 if holder == ONE.public else 1]

    @invariant()
    def an_index_can_hand_on_all_it_knows(self) -> None:
        for index in self.indexes:
            copy = Index()
            for missing in index.missing(CHANNEL, {}):
                for part in index.batches(CHANNEL, *missing):
                    assert isinstance(copy.apply(part), Applied)
            assert copy.digest(CHANNEL) == index.digest(CHANNEL)
            for number in range(1, 9):
                assert set(copy.holders(CHANNEL, key(number))) == set(
                    index.holders(CHANNEL, key(number))
                )

    def teardown(self) -> None:
        """Once digests get through, along a chain of proxies, all know what the origins say."""
        for origin in range(2):
            self.announce(origin, 0, 0)
        for source, to in ((0, 1), (1, 2)):
            self.deliver_in_order()
            self.pass_on(source, to)
        self.deliver_in_order()
        for index in self.indexes:
            for origin, log in enumerate(self.logs):
                public = self.keys[origin].public
                assert index.digest(CHANNEL)[public] == (log.epoch, log.head)
                live = {key(n) for n in range(1, 9) if public in index.holders(CHANNEL, key(n))}
                assert live == set(log)

    def deliver_in_order(self) -> None:
        for to, part in self.flying:
            self.indexes[to].apply(part)
        self.flying.clear()


@pytest.fixture(autouse=True)
def _small_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    # So that batches are cut and replaced within a dozen entries.
    monkeypatch.setattr(announcements, "MAX_ANNOUNCE_ENTRIES", 12)


Gossiping.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)
TestGossiping = Gossiping.TestCase


def test_all_origins_together_take_no_more_memory_than_an_index_may_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hundred members that announced without end took all the memory of a proxy."""
    monkeypatch.setattr(gossip, "INDEX_MOST", 8_000)
    monkeypatch.setattr(gossip, "INDEX_LEAST", 2_000)
    monkeypatch.setattr(gossip, "INDEX_GUARANTEED", 4_000)
    monkeypatch.setattr(gossip, "INDEX_POOL", 5_000)
    index = Index()
    last = 0
    while index.shares.total + 800 <= 7_000:
        last += 1
        index.apply(batch(last, last))
    with pytest.raises(ProtocolViolation, match="too many"):
        index.apply(batch(last + 1, last + 1))
    index.apply(batch(1, 7, origin=TWO))
    assert index.holders(CHANNEL, key(7))[-1] == TWO.public, "others have their part all the same"
    index.forget_origin(CHANNEL, ONE.public)
    while index.sweep():
        pass
    index.forget_origin(CHANNEL, TWO.public)
    assert index.shares.total == 0


def test_what_an_origin_replaces_does_not_count_twice() -> None:
    index = Index()
    for number in range(1, 10):
        index.apply(batch(number, number))
    before = index.shares.held(ONE.node_id)
    index.apply(batch(1, *range(1, 11)))
    assert index.shares.held(ONE.node_id) < before
    index.apply(batch(1, 5, epoch=2))
    while index.sweep():
        pass
    index.forget_channel(CHANNEL)
    assert index.shares.total == 0
