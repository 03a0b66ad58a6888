"""Which bytes to ask of whom: nothing twice at once, nothing forgotten, in file order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol.files.plan import (
    LONGEST_SEGMENT,
    Plan,
    Range,
    grouped,
    intersect,
    merge,
    subtract,
)
from kachery_p2p.protocol.gossip.holders import Holder, rank
from kachery_p2p.protocol.limits import BLOCK, MAX_RANGES, PIECES_AT_ONCE, SEGMENT

UNIT = 10


def bytes_of(ranges: list[Range]) -> set[int]:
    return {place for start, stop in ranges for place in range(start, stop)}


ranges = st.lists(
    st.tuples(st.integers(0, 300), st.integers(0, 300)).map(lambda pair: tuple(sorted(pair))),
    max_size=6,
)


def plan_for(missing: list[Range], size: int = 400, unit: int = UNIT) -> Plan:
    plan = Plan(size, unit)
    plan.set_missing(missing)
    return plan


def test_a_plan_without_anything_missing_is_done() -> None:
    plan = plan_for([])
    assert plan.done
    assert not plan.free
    assert plan.take(1) is None


def test_bytes_are_asked_in_file_order() -> None:
    size = 10 * LONGEST_SEGMENT
    plan = plan_for([(0, size)], size, BLOCK)
    position = 0
    while (taken := plan.take(3)) is not None:
        _, [(start, stop)] = taken
        assert start == position
        position = stop
    assert position == size


def test_one_source_gets_long_segments_and_several_get_shares() -> None:
    size = 4 * LONGEST_SEGMENT
    taken = plan_for([(0, size)], size, BLOCK).take(1)
    assert taken is not None
    assert taken[1] == [(0, LONGEST_SEGMENT)]
    taken = plan_for([(0, size)], size, BLOCK).take(4)
    assert taken is not None
    assert SEGMENT <= taken[1][0][1] < LONGEST_SEGMENT


def test_what_was_not_delivered_is_free_again() -> None:
    plan = plan_for([(0, 100)], 100)
    ticket, ranges = plan.take(1) or (0, [])
    assert ranges == [(0, 100)]
    assert plan.take(1) is None
    assert not plan.done
    plan.advance(ticket, 40)
    assert plan.give_back(ticket) == 60
    assert plan.take(1) == (1, [(40, 100)])


def test_what_was_delivered_is_done() -> None:
    plan = plan_for([(0, 100)], 100)
    ticket, _ = plan.take(1) or (0, [])
    plan.advance(ticket, 1_000)
    assert plan.give_back(ticket) == 0
    assert plan.done


def test_progress_never_goes_backwards() -> None:
    plan = plan_for([(0, 100)], 100)
    ticket, _ = plan.take(1) or (0, [])
    plan.advance(ticket, 60)
    plan.advance(ticket, 20)
    assert plan.give_back(ticket) == 40
    plan.advance(99, 5)  # a ticket that was given back: late news


@settings(max_examples=150, deadline=None)
@given(
    ranges,
    st.lists(
        st.tuples(
            st.sampled_from(["take", "hurry", "deliver", "fail", "reset"]), st.integers(0, 400)
        )
    ),
    st.integers(1, 3),
)
def test_nothing_is_asked_twice_and_nothing_forgotten(
    missing: list[Range], steps: list[tuple[str, int]], sources: int
) -> None:
    plan = plan_for(missing)
    wanted = bytes_of(missing)
    have: set[int] = set()
    out: dict[int, set[int]] = {}
    urgent: set[int] = set()
    hurried: set[int] = set()
    for step, value in steps:
        if step in ("take", "hurry"):
            taken = plan.take(sources) if step == "take" else plan.take_urgent()
            asked = set().union(*out.values())
            if taken is None:
                assert not (wanted if step == "take" else urgent) - have - asked
                continue
            ticket, segment = taken
            assert segment == merge(segment)
            fresh = bytes_of(segment)
            assert fresh
            assert fresh <= (wanted if step == "take" else urgent) - have
            # What is urgent may be with a long segment, too, that will be long in coming.
            others = asked if step == "take" else set().union(*(out[each] for each in hurried))
            assert not fresh & others, "two sources have the same bytes"
            out[ticket] = fresh
            if step == "hurry":
                hurried.add(ticket)
        elif step == "reset":
            urgent = {byte for byte in wanted - have if byte >= value}
            plan.set_missing(
                [(byte, byte + 1) for byte in sorted(wanted - have)],
                [(byte, byte + 1) for byte in sorted(urgent)],
            )
        elif out:
            ticket = sorted(out)[value % len(out)]
            upto = value if step == "fail" else 400
            came = {byte for byte in out[ticket] if byte < upto}
            have |= came
            urgent -= out[ticket]  # until the next reset, it is no more urgent than the rest
            plan.advance(ticket, upto)
            assert plan.give_back(ticket) == len(out.pop(ticket) - came)
            hurried.discard(ticket)
    for ticket, asked in out.items():
        plan.advance(ticket, 400)
        plan.give_back(ticket)
        have |= asked
    while (taken := plan.take(sources)) is not None:
        have |= bytes_of(taken[1])
        plan.advance(taken[0], 400)
        plan.give_back(taken[0])
    assert plan.done
    assert have == wanted


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, BLOCK - 1))
def test_segments_are_cut_at_blocks_only(segments: int, sources: int, tail: int) -> None:
    size = segments * SEGMENT + tail
    plan = plan_for([(0, size)], size, BLOCK)
    while (taken := plan.take(sources)) is not None:
        _, [(start, stop)] = taken
        assert start % BLOCK == 0
        assert stop % BLOCK == 0 or stop == size


@settings(max_examples=60, deadline=None)
@given(ranges, st.integers(0, 300), st.integers(0, 300))
def test_intersect_is_what_both_have(parts: list[Range], start: int, stop: int) -> None:
    found = intersect(parts, start, stop)
    assert bytes_of(found) == bytes_of(parts) & set(range(start, stop))
    assert all(a < b for a, b in found)


def test_sources_are_ranked_by_failures_then_by_how_they_are_reached() -> None:
    best = Holder("f", b"c", linked=True, direct=True, rtt=0.01)
    expected = [
        best,
        Holder("e", b"c", linked=True, direct=True, rtt=0.5),
        Holder("d", b"c", linked=True),
        Holder("c", b"c", urls=("ws://h:1",)),
        Holder("a", b"c"),
        Holder("b", b"c"),
        Holder("0", b"c", linked=True, direct=True, failures=1),
    ]
    assert rank(reversed(expected)) == expected
    assert rank([]) == []


def test_what_is_waited_for_goes_first_and_in_few_requests() -> None:
    plan = Plan(10_000 * BLOCK, BLOCK)
    places = [(at * 3 * BLOCK, (at * 3 + 1) * BLOCK) for at in range(MAX_RANGES + 1)]
    plan.set_missing([(0, 10_000 * BLOCK)], places[::-1])
    first, second = plan.take_urgent(), plan.take_urgent()
    assert first is not None
    assert second is not None
    assert first[1] + second[1] == places[: MAX_RANGES + 1]
    assert plan.take_urgent() is None
    rest = plan.take(1)
    assert rest is not None
    assert rest[1][:2] == [(BLOCK, 3 * BLOCK), (4 * BLOCK, 6 * BLOCK)]


def test_a_segment_of_many_ranges_is_no_longer_than_one_of_one() -> None:
    plan = Plan(1_000 * SEGMENT, BLOCK)
    plan.set_missing([], [(at * 2 * SEGMENT, at * 2 * SEGMENT + 10 * BLOCK) for at in range(100)])
    taken = plan.take_urgent()
    assert taken is not None
    assert sum(stop - start for start, stop in taken[1]) == SEGMENT


@given(ranges, ranges)
def test_ranges_are_subtracted_and_merged_as_sets_are(
    some: list[Range], others: list[Range]
) -> None:
    left = subtract(merge(some), merge(others))
    assert bytes_of(left) == bytes_of(some) - bytes_of(others)
    assert left == sorted(left)
    assert bytes_of(merge(some)) == bytes_of(some)


def test_what_is_waited_for_is_not_left_to_a_long_segment_that_comes_to_it_late() -> None:
    size = LONGEST_SEGMENT
    plan = plan_for([(0, size)], size, BLOCK)
    ticket, _ = plan.take(1) or (0, [])
    plan.set_missing([(0, size)], [(BLOCK, 2 * BLOCK), (size - BLOCK, size)])
    taken = plan.take_urgent()
    assert taken is not None
    assert taken[1] == [(size - BLOCK, size)], "the other is about to come"
    assert not plan.free
    plan.advance(ticket, size)
    assert plan.give_back(ticket) == 0
    plan.advance(taken[0], size)
    assert plan.give_back(taken[0]) == 0
    assert plan.done


@given(st.lists(st.integers(1, 50), max_size=100), st.integers(10, 100))
def test_small_pieces_are_read_together_and_in_their_order(sizes: list[int], most: int) -> None:
    pieces = [(at * 1_000, at * 1_000 + size) for at, size in enumerate(sizes)]
    groups = list(grouped(pieces, lambda: most))
    assert [piece for group in groups for piece in group] == pieces
    for group in groups:
        assert len(group) == 1 or sum(stop - start for start, stop in group) <= most
        assert len(group) <= PIECES_AT_ONCE
