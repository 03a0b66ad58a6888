"""What is about to appear in a storage folder, or is being downloaded: not to be tidied away.

What a blob is bound to is on disk before the blob is, and so, for a moment, is about content that is
not there. Whoever tidies such things away must not come in between: it asks here, and nothing arrives
while it acts on the answer.

Here is also what the store asks of whoever counts its bytes: room before anything is written
(:class:`Ledger`). Without anybody there is room for everything (:class:`Uncounted`).
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Protocol


class Arrivals:
    """Hashes in hex. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: Counter[str] = Counter()

    def begin(self, *sha1s: str) -> None:
        """These are about to appear."""
        with self._lock:
            self._under_way.update(sha1s)

    def end(self, *sha1s: str) -> None:
        """They have appeared, or never will. As often as :meth:`begin`."""
        with self._lock:
            self._under_way.subtract(sha1s)
            for sha1 in sha1s:
                if self._under_way[sha1] <= 0:
                    del self._under_way[sha1]

    @contextlib.contextmanager
    def of(self, *sha1s: str) -> Iterator[None]:
        """In here, these are about to appear."""
        self.begin(*sha1s)
        try:
            yield
        finally:
            self.end(*sha1s)

    @contextlib.contextmanager
    def halted(self) -> Iterator[Counter[str]]:
        """In here nothing new comes to be under way; what is. For a few milliseconds at most."""
        with self._lock:
            yield self._under_way


class Claim(Protocol):
    """Room for content that is being written."""

    def grow(self, total: int) -> None:
        """See to room for ``total`` bytes of it, altogether. Raises StorageFull: there is none, and
        what was there before is as it was."""

    def settle(self, *sha1s: str) -> None:
        """It is there, or never will be: what these contents take now counts, and the rest is free. A
        second time does nothing."""

    def settle_small(self, sizes: Mapping[str, int]) -> None:
        """As :meth:`settle`, of small files that have just been put in place, each of so many bytes:
        where nothing else was known to be, there is no need to look."""


class Ledger(Protocol):
    """Counts the bytes of a storage folder. Any thread may call."""

    def claim(self, what: str) -> Claim:
        """For content that is about to come; ``what`` it is, in words."""

    def changed(self, sha1: str) -> None:
        """Files of this content came or went."""


class Uncounted:
    """The :class:`Ledger`, and the :class:`Claim`, of a folder whose bytes nobody counts."""

    def claim(self, what: str) -> Claim:
        return self

    def grow(self, total: int) -> None:
        pass

    def settle(self, *sha1s: str) -> None:
        pass

    def settle_small(self, sizes: Mapping[str, int]) -> None:
        pass

    def changed(self, sha1: str) -> None:
        pass
