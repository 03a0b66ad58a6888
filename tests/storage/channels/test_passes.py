"""What a node remembers of the share links that it made."""

from __future__ import annotations

from pathlib import Path

from kachery_p2p.storage.channels.passes import PassRow
from kachery_p2p.storage.state import StateDB


def row(n: int, *, uses: int = 0, expires_at: float = 100.0) -> PassRow:
    return PassRow(bytes([n]) * 32, "lab", f"sha1://{n}", uses, float(n), expires_at)


def test_uses_are_counted_once_for_each_visitor_also_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    state = StateDB(path, durable=False)
    assert state.put_pass(row(1, uses=2), most=10, now=0.0)
    assert state.use_pass(row(1).id, b"a")
    assert state.use_pass(row(1).id, b"a")
    state.close()
    state = StateDB(path, durable=False)
    assert [each.used for each in state.passes()] == [1]
    assert state.use_pass(row(1).id, b"b")
    assert not state.use_pass(row(1).id, b"c")
    assert state.use_pass(row(1).id, b"b"), "who has one keeps it"
    assert not state.use_pass(row(2).id, b"a")
    state.close()


def test_what_is_over_makes_room_and_what_is_open_does_not(tmp_path: Path) -> None:
    state = StateDB(tmp_path / "state.sqlite", durable=False)
    assert state.put_pass(row(1, uses=1, expires_at=50.0), most=2, now=0.0)
    assert state.use_pass(row(1).id, b"a")
    assert state.put_pass(row(2), most=2, now=0.0)
    assert not state.put_pass(row(3), most=2, now=49.0)
    assert state.put_pass(row(3), most=2, now=50.0)
    assert [each.id[0] for each in state.passes()] == [2, 3]
    state.close()


def test_a_channel_that_is_left_takes_its_links_along(tmp_path: Path) -> None:
    state = StateDB(tmp_path / "state.sqlite", durable=False)
    state.put_pass(row(1, uses=1), most=2, now=0.0)
    state.use_pass(row(1).id, b"a")
    state.revoke_pass(row(1).id)
    assert [each.revoked for each in state.passes()] == [True]
    state.delete_channel("lab")
    assert state.passes() == []
    state.close()
