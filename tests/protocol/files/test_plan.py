"""Which bytes to ask of whom: nothing forgotten, nothing in vain, and nobody waited for who is slow."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol.files.plan import Plan
from kachery_p2p.protocol.files.ranges import Range, length, merge
from kachery_p2p.protocol.gossip.holders import Holder, rank
from kachery_p2p.protocol.limits import (
    BLOCK,
    FIRST_SEGMENT,
    LONGEST_SEGMENT,
    MAX_RANGES,
    MAX_SEGMENTS_EACH,
    MIB,
    SEGMENT,
    SEGMENT_SECONDS,
    SILENCE_REST_SECONDS,
    SILENCE_SECONDS,
)

LARGE = 10 * LONGEST_SEGMENT


def bytes_of(ranges: list[Range]) -> set[int]:
    return {place for start, stop in ranges for place in range(start, stop)}


def plan_for(size: int, *sources: str, unit: int = BLOCK, races: bool = True) -> Plan:
    plan = Plan(size, unit, me="me", races=races)
    plan.set_missing([(0, size)])
    for source in sources:
        plan.join(source, 0.0)
    return plan


def deliver(plan: Plan, ticket: int, start: int, stop: int, seconds: float, at: float) -> float:
    """All of a range, evenly, beginning ``at``; the time at its end."""
    pieces = max(1, (stop - start) // BLOCK // 16)
    for number in range(pieces):
        first = start + (stop - start) * number // pieces // BLOCK * BLOCK
        last = start + (stop - start) * (number + 1) // pieces // BLOCK * BLOCK
        last = stop if number == pieces - 1 else last
        if first < last:
            plan.came(ticket, first, last, at + seconds * (number + 1) / pieces)
    return at + seconds


def warmed(plan: Plan, source: str, rate: float, at: float = 0.0) -> float:
    """Have a source give its first segment at a rate; the time then."""
    ticket, [(start, stop)] = plan.ask(source, at) or (0, [])
    now = deliver(plan, ticket, start, stop, (stop - start) / rate, at)
    plan.give_back(ticket)
    return now


# --- one source -------------------------------------------------------------------------------


def test_a_plan_without_anything_missing_is_done() -> None:
    plan = plan_for(0, "a")
    assert plan.done
    assert not plan.free
    assert plan.ask("a", 0) is None


def test_one_source_is_asked_in_file_order_for_long_segments_one_ahead() -> None:
    plan = plan_for(LARGE, "a")
    now, position, sizes = 0.0, 0, []
    rate = 100 * MIB
    first = plan.ask("a", now)
    assert first is not None
    ticket, [(start, stop)] = first
    assert stop == 4 * FIRST_SEGMENT
    while True:
        assert start == position
        sizes.append(stop - start)
        position = stop
        assert plan.ask("a", now) is None, "one is under way"
        now = deliver(plan, ticket, start, stop - 2 * MIB, (stop - start) / rate, now)
        following = plan.ask("a", now)
        now = deliver(plan, ticket, stop - 2 * MIB, stop, 2 * MIB / rate, now)
        assert plan.give_back(ticket) == 0
        if following is None:
            break
        ticket, [(start, stop)] = following
    assert position == LARGE
    assert max(sizes) <= 1.3 * rate * SEGMENT_SECONDS
    assert min(sizes[3:-1]) > 0.7 * rate * SEGMENT_SECONDS
    assert plan.done


def test_what_was_not_delivered_is_free_again() -> None:
    plan = plan_for(100, "a", unit=10)
    assert plan.ask("a", 0) == (0, [(0, 100)])
    assert plan.ask("a", 0) is None
    assert not plan.done
    assert plan.came(0, 0, 40, 1) == []
    assert plan.give_back(0) == 60
    assert plan.ask("a", 1) == (1, [(40, 100)])
    assert plan.came(0, 40, 50, 1) == [], "a segment that was given back: late news"


def test_one_that_is_silent_and_alone_is_waited_for() -> None:
    plan = plan_for(LARGE, "a")
    plan.ask("a", 0)
    assert plan.review(1_000) == (False, [])


# --- several sources --------------------------------------------------------------------------


def test_each_of_several_begins_with_a_little_and_then_gets_about_a_second_of_work() -> None:
    plan = plan_for(LARGE, "fast", "slow")
    for source, rate in (("fast", 40 * MIB), ("slow", MIB // 2)):
        sizes = []
        now = 0.0
        for _ in range(6):
            ticket, ranges = plan.ask(source, now) or (0, [])
            sizes.append(length(ranges))
            for start, stop in ranges:
                now = deliver(plan, ticket, start, stop, (stop - start) / rate, now)
            plan.give_back(ticket)
        assert sizes[0] == FIRST_SEGMENT
        assert 0.7 < sizes[-1] / rate / SEGMENT_SECONDS < 1.3
        assert all(b <= 4 * a for a, b in itertools.pairwise(sizes))


def test_at_the_end_each_gets_its_share_of_what_is_left() -> None:
    plan = plan_for(8 * MIB, "a", "b")
    now = max(warmed(plan, each, 20 * MIB) for each in "ab")
    shares = [length((plan.ask(each, now) or (0, []))[1]) for each in "ab"]
    assert shares[0] < 4 * MIB
    assert abs(shares[0] - shares[1]) < 2 * MIB


def test_the_rest_of_a_segment_goes_to_whoever_is_done() -> None:
    plan = plan_for(32 * MIB, "fast", "slow")
    slow = plan.ask("slow", 0.0)
    assert slow is not None
    plan.came(slow[0], 0, BLOCK, 1.0)
    now = 1.0
    took: list[Range] = []
    for _ in range(40):
        taken = plan.ask("fast", now)
        if taken is None:
            break
        for start, stop in taken[1]:
            took.append((start, stop))
            now = deliver(plan, taken[0], start, stop, (stop - start) / (50 * MIB), now)
        plan.give_back(taken[0])
    assert length(merge(took)) > 31.5 * MIB, "but for the block that the slow one is at"
    assert plan.end_of(slow[0]) <= 3 * BLOCK


def test_the_last_blocks_are_asked_of_two_and_the_loser_is_stopped() -> None:
    plan = plan_for(BLOCK, "a", "b")
    first = plan.ask("a", 0.0)
    assert first is not None
    assert plan.ask("b", 0.01) is None, "it is about to come"
    second = plan.ask("b", 0.5)
    assert second is not None
    assert second[1] == first[1]
    assert plan.ask("b", 0.5) is None
    assert plan.came(second[0], 0, BLOCK, 0.6) == [first[0]]
    assert plan.end_of(first[0]) == 0
    assert plan.give_back(first[0]) == plan.give_back(second[0]) == 0
    assert plan.done


def test_the_segments_of_one_that_is_silent_are_asked_of_others_and_it_may_come_back() -> None:
    plan = plan_for(LARGE, "a", "b")
    warmed(plan, "b", 10 * MIB)
    ticket, [(start, stop)] = plan.ask("a", 1.0) or (0, [])
    came = start + 8 * BLOCK
    plan.came(ticket, start, came, 1.1)
    assert not plan.review(1.2).freed
    later = 1.2 + SILENCE_SECONDS
    assert plan.review(later) == (True, [])
    assert plan.ask("a", later) is None
    taken = plan.ask("b", later)
    assert taken is not None
    assert taken[1][0][0] == came, "in file order it is the next"
    half = (came + stop) // 2
    plan.came(ticket, came, half, later + 0.1)
    assert plan.end_of(ticket) == stop, "it is back"
    assert plan.ask("a", later + 0.1) is None or plan.crowded
    over = plan.came(taken[0], half, stop, later + 0.2)
    assert over == [ticket]


def test_what_we_do_not_take_ourselves_is_asked_of_nobody_else() -> None:
    plan = plan_for(8 * MIB, "a", "b")
    for source in "ab":
        while plan.ask(source, 0.0) is not None:
            pass
        plan.hold(source, MIB, 0.1)
    free = plan.free
    assert plan.review(60.0) == (False, [])
    assert plan.free == free
    plan.let_go("a", 60.0)
    assert plan.review(63.0).freed, "and who gives nothing then is silent"
    plan.let_go("somebody who has left", 63.0)


def test_one_that_was_silent_and_lost_all_it_had_is_tried_again_with_little() -> None:
    plan = plan_for(LARGE, "a", "b")
    now = warmed(plan, "a", 100 * MIB)
    ticket, ranges = plan.ask("a", now) or (0, [])
    assert length(ranges) > FIRST_SEGMENT
    plan.review(now + 3)
    assert plan.give_back(ticket) == length(ranges)
    assert plan.ask("a", now + 3) is None
    again = plan.ask("a", now + 3 + SILENCE_REST_SECONDS)
    assert again is not None
    assert length(again[1]) == FIRST_SEGMENT


def test_one_that_crawls_keeps_a_second_of_its_segment() -> None:
    plan = plan_for(LARGE, "fast", "slow")
    warmed(plan, "fast", 10 * MIB)
    ticket, [(start, _)] = plan.ask("slow", 0.0) or (0, [])
    plan.came(ticket, start, start + BLOCK, 1.0)
    assert plan.review(1.0).freed
    left = plan.end_of(ticket) - start - BLOCK
    assert 0 < left <= 2 * BLOCK
    assert plan.review(1.0) == (False, []), "it is short now"


def test_without_parts_that_can_be_verified_nothing_is_asked_of_two() -> None:
    plan = plan_for(SEGMENT, "a", "b", unit=SEGMENT, races=False)
    ticket, ranges = plan.ask("a", 0.0) or (0, [])
    assert ranges == [(0, SEGMENT)]
    assert plan.ask("b", 1.0) is None
    plan.came(ticket, 0, MIB, 1.0)
    assert plan.review(3.1) == (False, [ticket])
    assert plan.ask("b", 3.1) is None, "not before it is stopped"
    assert plan.give_back(ticket) == SEGMENT - MIB
    assert plan.ask("a", 3.1) is None, "it rests"
    assert plan.ask("b", 3.1) == (1, [(MIB, SEGMENT)])


def test_a_source_that_crawls_gives_way_to_one_that_is_idle_where_order_counts() -> None:
    plan = plan_for(SEGMENT, "a", "b", unit=SEGMENT, races=False)
    ticket, _ = plan.ask("a", 0.0) or (0, [])
    for number in range(1, 11):
        plan.came(ticket, number * BLOCK - BLOCK, number * BLOCK, number / 2)
    assert plan.review(5.0).stop == [ticket]


# --- parts ------------------------------------------------------------------------------------


def test_who_has_a_part_is_asked_for_that_alone() -> None:
    plan = plan_for(64 * MIB)
    plan.join("part", 0.0, has=[(MIB, 2 * MIB), (8 * MIB, 9 * MIB)])
    taken = plan.ask("part", 0.0)
    assert taken is not None
    assert bytes_of_blocks(taken[1]) <= bytes_of_blocks([(MIB, 2 * MIB), (8 * MIB, 9 * MIB)])


def bytes_of_blocks(ranges: list[Range]) -> set[int]:
    return {block for start, stop in ranges for block in range(start // BLOCK, -(-stop // BLOCK))}


def test_who_has_all_is_asked_for_what_nobody_else_has() -> None:
    plan = plan_for(64 * MIB, "all")
    plan.join("part", 0.0, has=[(0, 32 * MIB)])
    now, asked = 0.0, []
    for _ in range(40):
        taken = plan.ask("all", now)
        if taken is None:
            break
        asked += taken[1]
        for start, stop in taken[1]:
            now = deliver(plan, taken[0], start, stop, (stop - start) / (50 * MIB), now)
        plan.give_back(taken[0])
    assert merge(asked) == [(32 * MIB, 64 * MIB)], "the rest is about to come from the other"
    plan.review(20.0)
    assert plan.ask("all", 20.0) is not None, "it did not come"


def test_those_who_fetch_at_the_same_time_begin_at_different_places() -> None:
    begins = set()
    for me in ("a", "b", "c"):
        plan = Plan(60 * MIB, BLOCK, me=me)
        plan.set_missing([(0, 60 * MIB)])
        plan.join("all", 0.0)
        for other in {"a", "b", "c"} - {me}:
            plan.join(other, 0.0, has=[])
        begins.add((plan.ask("all", 0.0) or (0, [(0, 0)]))[1][0][0])
    assert begins == {0, 20 * MIB, 40 * MIB}


@given(
    st.lists(st.tuples(st.integers(-(1 << 60), 1 << 60), st.integers(-(1 << 60), 1 << 60))),
    st.integers(1, 40),
    st.integers(0, BLOCK - 1),
)
def test_whatever_a_source_says_to_have_it_is_asked_for_whole_blocks_of_the_file(
    has: list[Range], blocks: int, tail: int
) -> None:
    size = blocks * BLOCK + tail
    plan = plan_for(size)
    plan.join("liar", 0.0, has=has)
    while (taken := plan.ask("liar", 0.0)) is not None:
        assert taken[1] == merge(taken[1])
        for start, stop in taken[1]:
            assert 0 <= start < stop <= size
            assert start % BLOCK == 0
            assert stop % BLOCK == 0 or stop == size
        plan.came(taken[0], *taken[1][0], 0.0)
        plan.give_back(taken[0])


# --- what somebody waits for ------------------------------------------------------------------


def test_what_is_waited_for_goes_first_and_in_few_requests() -> None:
    plan = Plan(10_000 * BLOCK, BLOCK)
    plan.join("a", 0.0)
    places = [(at * 3 * BLOCK, (at * 3 + 1) * BLOCK) for at in range(MAX_RANGES + 1)]
    plan.set_missing([(0, 10_000 * BLOCK)], places[::-1])
    first, second, rest = (plan.ask("a", 0.0) for _ in range(3))
    assert first is not None
    assert second is not None
    assert first[1] + second[1] == places[: MAX_RANGES + 1]
    assert rest is not None
    assert rest[1][:2] == [(BLOCK, 3 * BLOCK), (4 * BLOCK, 6 * BLOCK)]


def test_a_segment_of_many_ranges_is_no_longer_than_one_of_one() -> None:
    plan = Plan(1_000 * SEGMENT, BLOCK)
    plan.join("a", 0.0)
    plan.set_missing([], [(at * 2 * SEGMENT, at * 2 * SEGMENT + 10 * BLOCK) for at in range(100)])
    taken = plan.ask("a", 0.0)
    assert taken is not None
    assert length(taken[1]) == SEGMENT


def test_what_is_waited_for_is_not_left_to_a_segment_that_comes_to_it_late() -> None:
    plan = plan_for(4 * FIRST_SEGMENT + SEGMENT, "a")
    warmed(plan, "a", 100 * MIB)
    ticket, [(start, stop)] = plan.ask("a", 1.0) or (0, [])
    assert stop - start == SEGMENT
    near, far = (start + BLOCK, start + 2 * BLOCK), (stop - BLOCK, stop)
    plan.set_missing([(start, stop)], [near, far])
    taken = plan.ask("a", 1.0)
    assert taken is not None
    assert taken[1] == [far], "the other is about to come"
    assert not plan.free
    plan.came(ticket, start, stop, 2.0)
    assert plan.give_back(ticket) == 0
    plan.came(taken[0], *far, 2.0)
    assert plan.give_back(taken[0]) == 0
    assert plan.done


def test_a_source_has_so_many_requests_at_once() -> None:
    plan = plan_for(LARGE, "a")
    taken = 0
    for at in range(2 * MAX_SEGMENTS_EACH):
        place = (at + 1) * 4 * SEGMENT
        plan.set_missing([(0, LARGE)], [(place, place + BLOCK)])
        while plan.ask("a", 0.0) is not None:
            taken += 1
    assert taken == MAX_SEGMENTS_EACH


def test_what_is_waited_for_is_not_asked_of_one_that_crawls() -> None:
    plan = plan_for(LARGE, "fast", "slow")
    now = max(warmed(plan, "fast", 20 * MIB), warmed(plan, "slow", MIB // 2))
    plan.set_missing([], [(SEGMENT, SEGMENT + BLOCK)])
    assert plan.ask("slow", now) is None
    assert plan.ask("fast", now) is not None


# --- whatever happens -------------------------------------------------------------------------

UNIT = 10
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "come", "fail", "reset", "wait", "join", "leave", "map"]),
        st.integers(0, 400),
        st.sampled_from("abc"),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.booleans())
def test_whatever_happens_nothing_is_forgotten_and_nothing_asked_that_is_here(
    steps: list[tuple[str, int, str]], races: bool
) -> None:
    size = 400
    plan = Plan(size, UNIT, me="me", races=races)
    plan.set_missing([(0, size)])
    have: set[int] = set()
    out: dict[int, tuple[str, list[int]]] = {}
    there: set[str] = set()
    now = 0.0

    def drop(ticket: int) -> None:
        plan.give_back(ticket)
        del out[ticket]

    def come(ticket: int, count: int) -> None:
        places = out[ticket][1]
        while places and count > 0:
            start = places[0]
            stop = start
            while places and places[0] == stop and stop - start < UNIT:
                places.pop(0)
                stop += 1
            have.update(range(start, stop))
            count -= stop - start
            for over in plan.came(ticket, start, stop, now):
                drop(over)
        if ticket in out and (not places or places[0] >= plan.end_of(ticket)):
            assert plan.give_back(ticket) == 0
            del out[ticket]

    for step, value, source in steps:
        mine = [ticket for ticket, (owner, _) in out.items() if owner == source]
        now += value / 1_000
        if step == "wait":
            now += value / 50
            for ticket in plan.review(now).stop:
                drop(ticket)
        elif step == "join" and source not in there:
            there.add(source)
            plan.join(source, now, has=None if value % 2 else [(0, value)])
        elif step == "map" and source in there:
            plan.holds(source, None if value % 3 == 0 else [(0, value)])
        elif step == "leave" and source in there:
            there.discard(source)
            for ticket in mine:
                drop(ticket)
            plan.leave(source)
        elif step == "ask" and source in there:
            while (taken := plan.ask(source, now)) is not None:
                ticket, ranges = taken
                assert ranges == merge(ranges)
                fresh = bytes_of(ranges)
                assert fresh
                assert not fresh & have
                if not races:
                    assert not any(fresh & set(places) for _, places in out.values())
                out[ticket] = source, sorted(fresh)
        elif step == "reset":
            missing = [(place, place + 1) for place in range(size) if place not in have]
            plan.set_missing(missing, [each for each in missing if each[0] >= value and races])
        elif mine and step == "come":
            come(mine[value % len(mine)], value)
        elif mine and step == "fail":
            drop(mine[value % len(mine)])
    for ticket in list(out):
        drop(ticket)
    for source in there:
        plan.leave(source)
    plan.join("last", now)
    for _ in range(200):
        while (taken := plan.ask("last", now)) is not None:
            out[taken[0]] = "last", sorted(bytes_of(taken[1]))
        if not out:
            break
        come(next(iter(out)), size)
    assert plan.done
    assert have == set(range(size))


def test_sources_are_ranked_by_failures_then_by_how_they_are_reached() -> None:
    best = Holder("f", b"c", linked=True, direct=True, rtt=0.01)
    expected = [
        best,
        Holder("e", b"c", linked=True, direct=True, rtt=0.5),
        Holder("d", b"c", linked=True),
        Holder("c", b"c", urls=("ws://h:1",)),
        Holder("a", b"c"),
        Holder("b", b"c"),
        Holder("1", b"c", linked=True, direct=True, partial=True),
        Holder("0", b"c", linked=True, direct=True, failures=1),
    ]
    assert rank(reversed(expected)) == expected
    assert rank([]) == []
