"""Pins, times, and what is not shared any more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.storage.state import StateDB

A, B, C = (letter * 40 for letter in "abc")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDB]:
    made = StateDB(tmp_path / "state.sqlite", durable=False)
    yield made
    made.close()


def test_a_pin_holds_until_its_last_name_ends(state: StateDB) -> None:
    state.pin(A, [A, B], "paper")
    state.pin(B, [B], "")
    assert state.pinned([A, B, C], 0.0) == {A, B}
    assert state.unpin(A, "other") == 0
    assert state.unpin(A, "paper") == 2
    assert state.pinned([A, B, C], 0.0) == {B}
    assert state.unpin(B) == 1
    assert state.pinned([A, B, C], 0.0) == set()


def test_pinning_anew_replaces_what_was_pinned_so(state: StateDB) -> None:
    state.pin(A, [A, B], "x", 10.0)
    state.pin(A, [A, C], "x", None)
    assert state.pinned([A, B, C], 99.0) == {A, C}


def test_a_pin_for_a_time_ends_by_itself(state: StateDB) -> None:
    state.pin(A, [A], "x", 10.0)
    assert state.pinned([A], 9.9) == {A}
    assert state.pinned([A], 10.0) == set()
    assert state.end_pins(10.0) == 1
    assert state.pins(A) == []


def test_what_is_over_its_time_and_pinned_stays(state: StateDB) -> None:
    state.keep_until(A, 10.0)
    state.keep_until(B, 10.0)
    state.pin(B, [B], "x", 20.0)
    assert state.expired(9.0, 10) == []
    assert state.expired(10.0, 10) == [A]
    assert state.expired(20.0, 10) == [A, B]
    state.keep_until(A, None)
    assert state.expired(20.0, 10) == [B]


def test_what_is_unshared_is_so_until_it_is_shared_there_again(state: StateDB) -> None:
    state.unshare([A], "c1")
    state.unshare([A], "c2")
    state.share_again([A], "c1")
    assert (state.unshared([A], "c1"), state.unshared([A], "c2")) == (set(), {A})
    state.share_again([A], None)
    assert not state.unshared([A], "c2")
