"""Many threads that each want one small thing on disk share one commit.

Whoever comes while a commit runs waits for the next one, in which all who came meanwhile go together.
One of those whose thing is in it commits for the others. What a thread submitted is on disk when
:meth:`GroupCommit.submit` returns, or the error that the shared commit met is raised.

Invariant: each thread commits once at most, and only what its own thing is part of. So nobody works
for those who come later, however many they are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class _Batch(Generic[T]):
    def __init__(self) -> None:
        self.items: list[T] = []
        self.over = False
        self.error: BaseException | None = None


class GroupCommit(Generic[T]):
    """``commit(items)`` makes all of them durable, or none and raises."""

    def __init__(self, commit: Callable[[list[T]], None]) -> None:
        self._commit = commit
        self._turn = threading.Condition()
        """Notified when a commit is over."""
        self._next: _Batch[T] = _Batch()
        self._running = False

    def submit(self, item: T) -> None:
        """Wait until ``item`` is durable. Raises what the commit raised."""
        with self._turn:
            batch = self._next
            batch.items.append(item)
            while self._running and not batch.over:
                self._turn.wait()
            if not batch.over:
                self._lead(batch)
        if batch.error is not None:
            raise batch.error

    def _lead(self, batch: _Batch[T]) -> None:
        """Commit what was gathered, which is ours; the lock is held, but for the commit itself."""
        self._running = True
        self._next = _Batch()
        self._turn.release()
        try:
            self._commit(batch.items)
        except BaseException as error:  # each who waits must hear of it, whatever it is
            batch.error = error
        finally:
            self._turn.acquire()
            self._running = False
            batch.over = True
            self._turn.notify_all()
