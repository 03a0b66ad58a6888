"""Which logs provide which blinded key: a table of millions of keys in little memory.

Keys that fall into one bucket stand in one byte string, each followed by the number of a log, in the
order in which they came. So a key costs 20 bytes and its part of a bucket, a sixth of what a dict of
objects takes, and is found by a search through some hundred bytes. Who chooses its keys cannot choose
the bucket: that follows from Python's keyed hash.

Non-goals: which numbers still stand for something; the caller says so.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Final

from kachery_p2p.protocol.limits import BLINDED_KEY_BYTES

_NUMBER_BYTES: Final = 4
_RECORD: Final = BLINDED_KEY_BYTES + _NUMBER_BYTES
_BUCKETS: Final = 1 << 16
MAX_NUMBER: Final = (1 << 8 * _NUMBER_BYTES) - 1


class KeyTable:
    """See the module. Keys have 16 bytes, numbers 0 to ``MAX_NUMBER``."""

    def __init__(self) -> None:
        self._buckets: dict[int, bytes] = {}
        self._count = 0

    def __len__(self) -> int:
        """How many pairs of a key and a number."""
        return self._count

    def __iter__(self) -> Iterator[bytes]:
        """The keys, one that has several numbers as often."""
        for bucket in self._buckets.values():
            for at in range(0, len(bucket), _RECORD):
                yield bucket[at : at + BLINDED_KEY_BYTES]

    def numbers(self, key: bytes) -> list[int]:
        """The numbers of a key, the first added first."""
        bucket = self._buckets.get(hash(key) % _BUCKETS, b"")
        if key not in bucket or len(key) != BLINDED_KEY_BYTES:
            return []
        return [
            int.from_bytes(bucket[at + BLINDED_KEY_BYTES : at + _RECORD], "big")
            for at in _places(bucket, key)
        ]

    def add(self, key: bytes, number: int) -> bool:
        """Whether the pair was not there yet."""
        where = hash(key) % _BUCKETS
        record = key + number.to_bytes(_NUMBER_BYTES, "big")
        bucket = self._buckets.get(where)
        if bucket is None:
            self._buckets[where] = record
        elif record in bucket and next(_places(bucket, record), None) is not None:
            return False
        else:
            self._buckets[where] = bucket + record
        self._count += 1
        return True

    def remove(self, key: bytes, number: int) -> bool:
        """Whether the pair was there."""
        where = hash(key) % _BUCKETS
        bucket = self._buckets.get(where, b"")
        at = next(_places(bucket, key + number.to_bytes(_NUMBER_BYTES, "big")), None)
        if at is None:
            return False
        self._put(where, bucket[:at] + bucket[at + _RECORD :])
        self._count -= 1
        return True

    def keep(self, key: bytes, alive: Container[int]) -> None:
        """Forget the numbers of a key that are not in ``alive``."""
        for number in self.numbers(key):
            if number not in alive:
                self.remove(key, number)

    def _put(self, where: int, bucket: bytes) -> None:
        if bucket:
            self._buckets[where] = bucket
        else:
            del self._buckets[where]


def _places(bucket: bytes, start: bytes) -> Iterator[int]:
    """Where the records begin that start like this."""
    at = bucket.find(start)
    while at >= 0:
        if at % _RECORD:
            at = bucket.find(start, at + 1)
        else:
            yield at
            at = bucket.find(start, at + _RECORD)
