"""Copies that other nodes rely on."""

from __future__ import annotations

import pytest

from kachery_p2p.node.files import keeping
from kachery_p2p.node.files.keeping import CopyLocks
from kachery_p2p.protocol.errors import Busy, CopyLocked, NotFound
from kachery_p2p.storage.files.arrivals import Arrivals

A, B = "a" * 40, "b" * 40
ALICE, BOB = "1" * 64, "2" * 64


async def test_what_is_locked_is_not_deleted_and_counts_as_in_use() -> None:
    readers = Arrivals()
    locks = CopyLocks(readers)
    locks.lock(A, ALICE)
    locks.lock(A, ALICE)
    locks.lock(A, BOB)
    with readers.halted() as in_use:
        assert in_use[A] == 2
    with pytest.raises(CopyLocked, match="node 11111111"), locks.deleting([B, A], force=False):
        pass
    with locks.deleting([B], force=False), locks.deleting([A], force=True):
        pass
    locks.unlock(A, ALICE)
    locks.unlock(A, BOB)
    locks.unlock(A, BOB)
    with locks.deleting([A], force=False):
        pass
    with readers.halted() as in_use:
        assert not in_use


async def test_what_is_being_deleted_is_not_locked() -> None:
    locks = CopyLocks(Arrivals())
    with locks.deleting([A], force=False), locks.deleting([A], force=False):
        with pytest.raises(NotFound):
            locks.lock(A, ALICE)
        locks.lock(B, ALICE)
    locks.lock(A, ALICE)


async def test_a_lock_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "COPY_LOCK_SECONDS", 0.0)
    readers = Arrivals()
    locks = CopyLocks(readers)
    locks.lock(A, ALICE)
    locks._locks[A, ALICE].timer._run()
    with locks.deleting([A], force=False), readers.halted() as in_use:
        assert not in_use


async def test_one_node_locks_so_many_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MAX_COPY_LOCKS_EACH", 1)
    locks = CopyLocks(Arrivals())
    locks.lock(A, ALICE)
    locks.lock(A, ALICE)
    with pytest.raises(Busy):
        locks.lock(B, ALICE)
    locks.lock(B, BOB)
