"""Who waits for which key, when most keys have one who waits.

A dict for each of them would cost more memory than all the rest: peers choose how many keys there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Several(Generic[K, V]):
    """Values by key, each once, in the order in which they came. No value is a dict."""

    def __init__(self) -> None:
        self._found: dict[K, V | dict[V, None]] = {}

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self._found)

    def __iter__(self) -> Iterator[K]:
        """The keys."""
        return iter(self._found)

    def __contains__(self, key: object) -> bool:
        return key in self._found

    def of(self, key: K) -> tuple[V, ...]:
        """The values of a key."""
        found = self._found.get(key)
        if found is None:
            return ()
        return tuple(found) if isinstance(found, dict) else (found,)

    def add(self, key: K, value: V) -> None:
        found = self._found.get(key)
        if isinstance(found, dict):
            found[value] = None
        elif found is None:
            self._found[key] = value
        elif found != value:
            self._found[key] = {found: None, value: None}

    def discard(self, key: K, value: V) -> None:
        """It need not be there."""
        found = self._found.get(key)
        if isinstance(found, dict):
            found.pop(value, None)
            if len(found) == 1:
                self._found[key] = next(iter(found))
        elif found == value:
            del self._found[key]
