"""A set of millions of blinded keys in little memory: what one log provides.

As in :mod:`.key_table`, keys that fall into one bucket stand in one byte string: 20 to 25 bytes a key,
where a set of objects takes 95. A copy shares all buckets that do not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Self

from kachery_p2p.protocol.limits import BLINDED_KEY_BYTES

_BUCKETS: Final = 1 << 16
_PARTS: Final = 256


class KeySet:
    """Keys have 16 bytes. Whoever only asks may be in another thread."""

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        self._buckets: dict[int, bytes] = {}
        self._count = 0
        for key in keys:
            self.add(key)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: bytes) -> bool:
        bucket = self._buckets.get(hash(key) % _BUCKETS)
        return bucket is not None and _place(bucket, key) >= 0

    def __iter__(self) -> Iterator[bytes]:
        for bucket in list(self._buckets.values()):
            for at in range(0, len(bucket), BLINDED_KEY_BYTES):
                yield bucket[at : at + BLINDED_KEY_BYTES]

    def add(self, key: bytes) -> None:
        where = hash(key) % _BUCKETS
        bucket = self._buckets.get(where)
        if bucket is None:
            self._buckets[where] = bytes(key)
        elif _place(bucket, key) >= 0:
            return
        else:
            self._buckets[where] = bucket + key
        self._count += 1

    def discard(self, key: bytes) -> None:
        where = hash(key) % _BUCKETS
        bucket = self._buckets.get(where, b"")
        at = _place(bucket, key)
        if at < 0:
            return
        bucket = bucket[:at] + bucket[at + BLINDED_KEY_BYTES :]
        if bucket:
            self._buckets[where] = bucket
        else:
            del self._buckets[where]
        self._count -= 1

    def copy(self) -> Self:
        other = type(self)()
        other._buckets, other._count = dict(self._buckets), self._count
        return other

    def ordered(self) -> Iterator[bytes]:
        """All as they are now, by value, a part after the other: no list of all is made."""
        parts = [bytearray() for _ in range(_PARTS)]
        for key in self:
            parts[key[0]] += key
        for number in range(_PARTS):
            part, parts[number] = bytes(parts[number]), bytearray()
            yield from sorted(
                part[at : at + BLINDED_KEY_BYTES] for at in range(0, len(part), BLINDED_KEY_BYTES)
            )


def _place(bucket: bytes, key: bytes) -> int:
    """Where a key begins in its bucket; -1: nowhere."""
    if len(key) != BLINDED_KEY_BYTES:
        return -1
    at = bucket.find(key)
    while at > 0 and at % BLINDED_KEY_BYTES:
        at = bucket.find(key, at + 1)
    return at
