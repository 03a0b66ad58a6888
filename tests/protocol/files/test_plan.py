"""Which bytes to ask of whom: nothing twice at once, nothing forgotten, in file order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol.files.plan import LONGEST_SEGMENT, Plan, Range, intersect
from kachery_p2p.protocol.gossip.holders import Holder, rank
from kachery_p2p.protocol.limits import BLOCK, SEGMENT

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
        _, (start, stop) = taken
        assert start == position
        position = stop
    assert position == size


def test_one_source_gets_long_segments_and_several_get_shares() -> None:
    size = 4 * LONGEST_SEGMENT
    taken = plan_for([(0, size)], size, BLOCK).take(1)
    assert taken is not None
    assert taken[1] == (0, LONGEST_SEGMENT)
    taken = plan_for([(0, size)], size, BLOCK).take(4)
    assert taken is not None
    assert SEGMENT <= taken[1][1] < LONGEST_SEGMENT


def test_what_was_not_delivered_is_free_again() -> None:
    plan = plan_for([(0, 100)], 100)
    ticket, (start, stop) = plan.take(1) or (0, (0, 0))
    assert (start, stop) == (0, 100)
    assert plan.take(1) is None
    assert not plan.done
    plan.advance(ticket, 40)
    assert plan.give_back(ticket) == 60
    assert plan.take(1) == (1, (40, 100))


def test_what_was_delivered_is_done() -> None:
    plan = plan_for([(0, 100)], 100)
    ticket, _ = plan.take(1) or (0, (0, 0))
    plan.advance(ticket, 1_000)
    assert plan.give_back(ticket) == 0
    assert plan.done


def test_progress_never_goes_backwards() -> None:
    plan = plan_for([(0, 100)], 100)
    ticket, _ = plan.take(1) or (0, (0, 0))
    plan.advance(ticket, 60)
    plan.advance(ticket, 20)
    assert plan.give_back(ticket) == 40
    plan.advance(99, 5)  # a ticket that was given back: late news


@settings(max_examples=150, deadline=None)
@given(
    ranges,
    st.lists(st.tuples(st.sampled_from(["take", "deliver", "fail", "reset"]), st.integers(0, 400))),
    st.integers(1, 3),
)
def test_nothing_is_asked_twice_and_nothing_forgotten(
    missing: list[Range], steps: list[tuple[str, int]], sources: int
) -> None:
    plan = plan_for(missing)
    wanted = bytes_of(missing)
    have: set[int] = set()
    out: dict[int, Range] = {}
    for step, value in steps:
        if step == "take":
            taken = plan.take(sources)
            if taken is None:
                continue
            ticket, (start, stop) = taken
            fresh = set(range(start, stop))
            assert fresh
            assert fresh <= wanted - have
            assert not fresh & bytes_of(list(out.values())), "two sources have the same bytes"
            out[ticket] = (start, stop)
        elif step == "reset":
            plan.set_missing([(byte, byte + 1) for byte in sorted(wanted - have)])
        elif out:
            ticket = sorted(out)[value % len(out)]
            start, stop = out[ticket]
            upto = min(stop, start + value) if step == "fail" else stop
            have |= set(range(start, upto))
            plan.advance(ticket, upto)
            assert plan.give_back(ticket) == stop - upto
            del out[ticket]
    for ticket, (start, stop) in out.items():
        plan.advance(ticket, stop)
        plan.give_back(ticket)
        have |= set(range(start, stop))
    while (taken := plan.take(sources)) is not None:
        have |= set(range(*taken[1]))
        plan.advance(taken[0], taken[1][1])
        plan.give_back(taken[0])
    assert plan.done
    assert have == wanted


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, BLOCK - 1))
def test_segments_are_cut_at_blocks_only(segments: int, sources: int, tail: int) -> None:
    size = segments * SEGMENT + tail
    plan = plan_for([(0, size)], size, BLOCK)
    while (taken := plan.take(sources)) is not None:
        _, (start, stop) = taken
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
