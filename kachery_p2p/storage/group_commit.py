"""Many threads that each want one small thing on disk share one commit.

Whoever comes while a commit runs waits for the next one, in which all who came meanwhile go together.
The first to come when none runs leads: it commits for the others. What a thread submitted is on disk
when :meth:`GroupCommit.submit` returns, or the error that the shared commit met is raised.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class _Batch(Generic[T]):
    def __init__(self) -> None:
        self.items: list[T] = []
        self.over = threading.Event()
        self.error: BaseException | None = None


class GroupCommit(Generic[T]):
    """``commit(items)`` makes all of them durable, or none and raises."""

    def __init__(self, commit: Callable[[list[T]], None]) -> None:
        self._commit = commit
        self._lock = threading.Lock()
        self._next: _Batch[T] = _Batch()
        self._led = False

    def submit(self, item: T) -> None:
        """Wait until ``item`` is durable. Raises what the commit raised."""
        with self._lock:
            batch = self._next
            batch.items.append(item)
            leads = not self._led
            self._led = True
        if leads:
            self._lead()
        batch.over.wait()
        if batch.error is not None:
            raise batch.error

    def _lead(self) -> None:
        while True:
            with self._lock:
                batch = self._next
                if not batch.items:
                    self._led = False
                    return
                self._next = _Batch()
            try:
                self._commit(batch.items)
            except BaseException as error:  # each who waits must hear of it, whatever it is
                batch.error = error
            batch.over.set()
