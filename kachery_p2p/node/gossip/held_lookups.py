"""Questions that a proxy holds back, because it is not known yet whether anybody has what is asked for.

A question waits until somebody comes to have one of its keys, or somebody may have told everything;
then whoever asked looks again. At most ``MAX_HELD_LOOKUPS`` wait for one link, of ``MAX_HELD_KEYS``
keys together, each for as long as it said; for all links ``MAX_HELD_KEYS_OF_ALL``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import TypeVar

from kachery_p2p.protocol.limits import MAX_HELD_KEYS, MAX_HELD_KEYS_OF_ALL, MAX_HELD_LOOKUPS

_GATHER_SECONDS = 0.02
"""Many members may come to be complete at once: who waits looks again once."""

K = TypeVar("K")
_Waiter = asyncio.Future[None]


class HeldLookups:
    def __init__(self) -> None:
        self._by_key: dict[tuple[bytes, bytes], dict[_Waiter, None]] = {}
        self._by_channel: dict[bytes, dict[_Waiter, None]] = {}
        self._counts: dict[object, tuple[int, int]] = {}
        """Questions and keys of each who asks."""
        self._keys = 0
        self._soon: dict[bytes, asyncio.TimerHandle] = {}

    async def wait(self, who: object, channel: bytes, keys: list[bytes], seconds: float) -> bool:
        """Until there is news, or for so long. False at once if ``who`` has too many that wait."""
        questions, held = self._counts.get(who, (0, 0))
        if (
            questions >= MAX_HELD_LOOKUPS
            or held + len(keys) > MAX_HELD_KEYS
            or self._keys + len(keys) > MAX_HELD_KEYS_OF_ALL
        ):
            return False
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        self._count(who, 1, len(keys))
        self._by_channel.setdefault(channel, {})[waiter] = None
        for key in keys:
            self._by_key.setdefault((channel, key), {})[waiter] = None
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await waiter
        finally:
            self._count(who, -1, -len(keys))
            _forget(self._by_channel, channel, waiter)
            for key in keys:
                _forget(self._by_key, (channel, key), waiter)
        return True

    def _count(self, who: object, questions: int, keys: int) -> None:
        before = self._counts.get(who, (0, 0))
        self._counts[who] = before[0] + questions, before[1] + keys
        if not self._counts[who][0]:
            del self._counts[who]
        self._keys += keys

    def appeared(self, channel: bytes, keys: Iterable[bytes]) -> None:
        """Somebody has these keys now."""
        if channel in self._by_channel:
            for key in keys:
                _wake(self._by_key.get((channel, key), ()))

    def progressed(self, channel: bytes) -> None:
        """Somebody may have told everything now, or has gone."""
        if channel in self._by_channel and channel not in self._soon:
            loop = asyncio.get_running_loop()
            self._soon[channel] = loop.call_later(_GATHER_SECONDS, self._wake_all, channel)

    def _wake_all(self, channel: bytes) -> None:
        del self._soon[channel]
        _wake(self._by_channel.get(channel, ()))


def _forget(table: dict[K, dict[_Waiter, None]], where: K, waiter: _Waiter) -> None:
    waiters = table.get(where)
    if waiters is not None:
        waiters.pop(waiter, None)
        if not waiters:
            del table[where]


def _wake(waiters: Iterable[_Waiter]) -> None:
    for waiter in list(waiters):
        if not waiter.done():
            waiter.set_result(None)
