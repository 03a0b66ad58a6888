"""What may go, in which order, and how much room there is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.protocol.files.eviction import (
    KINDS,
    SOURCES,
    Candidate,
    Room,
    enough,
    going,
    why_kept,
)


def candidate(**fields: object) -> Candidate:
    return Candidate(
        **{
            "sha1": "a" * 40,
            "kind": "file",
            "source": "fetched",
            "bytes": 10,
            "aside": 0,
            "used": 1.0,
        }
        | fields  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, ""),
        ({"kind": "partial"}, ""),
        ({"kind": "damaged", "bytes": 0, "aside": 5}, ""),
        ({"source": "stored"}, "stored here"),
        ({"source": "found"}, "stored here"),
        ({"kind": "link", "source": "stored"}, "linked"),
        ({"kind": "link"}, "linked"),
        ({"pinned": True}, "pinned"),
        ({"kind": "partial", "pinned": True}, "pinned"),
        ({"in_use": True}, "in use"),
        ({"kind": "partial", "in_use": True}, "in use"),
        (
            {"kind": "damaged", "source": "stored", "aside": 5},
            "the only copy of what was stored here, damaged",
        ),
    ],
)
def test_what_may_go(fields: dict[str, object], why: str) -> None:
    assert why_kept(candidate(**fields)) == why


def test_damaged_copies_go_first_and_then_what_was_used_least_recently() -> None:
    contents = [
        candidate(sha1="new", used=9.0),
        candidate(sha1="old", used=2.0),
        candidate(sha1="half", kind="partial", used=3.0),
        candidate(sha1="mine", source="stored", used=0.0),
        candidate(sha1="rotten", kind="damaged", bytes=0, aside=1, used=99.0),
        candidate(sha1="empty", bytes=0, used=0.0),
    ]
    assert [each.sha1 for each in going(contents)] == ["rotten", "old", "half", "new"]


def test_no_more_goes_than_has_to() -> None:
    ordered = [candidate(sha1=name, bytes=10, aside=aside) for name, aside in (("a", 0), ("b", 5))]
    assert [each.sha1 for each in enough(ordered, 0)] == []
    assert [each.sha1 for each in enough(ordered, 10)] == ["a"]
    assert [each.sha1 for each in enough(ordered, 11)] == ["a", "b"]
    assert [each.sha1 for each in enough(ordered, 1_000)] == ["a", "b"]


candidates = st.builds(
    Candidate,
    sha1=st.text("0123456789abcdef", min_size=40, max_size=40),
    kind=st.sampled_from(KINDS),
    source=st.sampled_from(SOURCES),
    bytes=st.integers(0, 100),
    aside=st.integers(0, 10),
    used=st.floats(0, 1e9),
    pinned=st.booleans(),
    in_use=st.booleans(),
)


@given(st.lists(candidates), st.integers(0, 1_000))
def test_what_goes_is_enough_or_everything_and_never_one_too_many(
    contents: list[Candidate], room: int
) -> None:
    gone = list(enough(going(contents), room))
    freed = [each.bytes + each.aside for each in gone]
    assert not any(why_kept(each) for each in gone)
    assert sum(freed) >= room or len(gone) == len(going(contents))
    if gone:
        assert sum(freed[:-1]) < room


@pytest.mark.parametrize(
    ("room", "more", "lacking"),
    [
        (Room(50, 10, None), 1_000, 0),
        (Room(50, 10, 100), 40, 0),
        (Room(50, 10, 100), 41, 1),
        (Room(150, 0, 100), 0, 50),
        (Room(0, 0, 100), 101, 1),
    ],
)
def test_how_much_room_is_lacking(room: Room, more: int, lacking: int) -> None:
    assert room.lacking(more) == lacking


def test_what_is_larger_than_the_limit_never_fits() -> None:
    assert Room(50, 0, 100).can_ever_hold(100)
    assert not Room(0, 0, 100).can_ever_hold(101)
    assert Room(0, 0, None).can_ever_hold(1 << 50)
