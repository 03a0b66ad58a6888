"""Questions that a proxy holds back, because it is not known yet whether anybody has what is asked for.

A question waits until somebody comes to have one of its keys, or nobody is left that might yet turn out
to have them; then whoever asked looks again. At most ``MAX_HELD_LOOKUPS`` wait for one link, of
``MAX_HELD_KEYS`` keys together, each for as long as it said; for all links ``MAX_HELD_KEYS_OF_ALL``.

Most members' progress answers no question: who waits for the same members is looked at together, and
woken when it helps.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import TypeVar

from kachery_p2p.protocol.gossip.keys import ContentKind
from kachery_p2p.protocol.gossip.messages import WhoHas
from kachery_p2p.protocol.limits import MAX_HELD_KEYS, MAX_HELD_KEYS_OF_ALL, MAX_HELD_LOOKUPS

from .several import Several

_GATHER_SECONDS = 0.02
"""Many members may come to be complete at once: who waits is looked at once."""

K = TypeVar("K")
V = TypeVar("V")
_Waiter = asyncio.Future[None]
Group = tuple[ContentKind, int]
"""A kind, and the version of the secret under which the keys are blinded."""


class HeldLookups:
    """``unknown(channel, kind, secret version)``: the members, by key, that might yet turn out to have
    something of a kind."""

    def __init__(self, unknown: Callable[[bytes, ContentKind, int], list[bytes]]) -> None:
        self._unknown = unknown
        self._by_key: Several[tuple[bytes, bytes], _Waiter] = Several()
        self._by_channel: dict[bytes, dict[Group, dict[_Waiter, bytes]]] = {}
        """Who waits, and which member it is that asks."""
        self._counts: dict[object, tuple[int, int]] = {}
        """Questions and keys of each who asks."""
        self._keys = 0
        self._soon: dict[bytes, asyncio.TimerHandle] = {}

    async def wait(self, who: object, asker: bytes, query: WhoHas, seconds: float) -> bool:
        """Until there is news, or for so long. False at once if ``who`` has too many that wait."""
        channel, keys = query.channel, query.keys
        questions, held = self._counts.get(who, (0, 0))
        if (
            questions >= MAX_HELD_LOOKUPS
            or held + len(keys) > MAX_HELD_KEYS
            or self._keys + len(keys) > MAX_HELD_KEYS_OF_ALL
        ):
            return False
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        self._count(who, 1, len(keys))
        group = (query.kind, query.secret_version)
        self._by_channel.setdefault(channel, {}).setdefault(group, {})[waiter] = asker
        for key in keys:
            self._by_key.add((channel, key), waiter)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await waiter
        finally:
            self._count(who, -1, -len(keys))
            _forget(self._by_channel[channel], group, waiter)
            if not self._by_channel[channel]:
                del self._by_channel[channel]
            for key in keys:
                self._by_key.discard((channel, key), waiter)
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
                _wake(self._by_key.of((channel, key)))

    def progressed(self, channel: bytes) -> None:
        """Somebody may have told everything now, or has gone."""
        if channel in self._by_channel and channel not in self._soon:
            loop = asyncio.get_running_loop()
            self._soon[channel] = loop.call_later(_GATHER_SECONDS, self._look, channel)

    def changed(self, channel: bytes) -> None:
        """Who may ask for what may have changed."""
        for waiters in self._by_channel.get(channel, {}).values():
            _wake(waiters)

    def _look(self, channel: bytes) -> None:
        del self._soon[channel]
        for (kind, secret_version), waiters in list(self._by_channel.get(channel, {}).items()):
            unknown = self._unknown(channel, kind, secret_version)
            if not unknown:
                _wake(waiters)
            elif len(unknown) == 1:  # who asks does not wait for itself
                _wake([waiter for waiter, asker in waiters.items() if asker == unknown[0]])


def _forget(table: dict[K, dict[_Waiter, V]], where: K, waiter: _Waiter) -> None:
    waiters = table.get(where)
    if waiters is not None:
        waiters.pop(waiter, None)
        if not waiters:
            del table[where]


def _wake(waiters: Iterable[_Waiter]) -> None:
    for waiter in list(waiters):
        if not waiter.done():
            waiter.set_result(None)
