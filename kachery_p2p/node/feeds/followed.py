"""Who is followed for one log, and what is known of each: plain decisions, no waiting.

Non-goals: links, streams and what is said on them (:mod:`.follower`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from kachery_p2p.protocol.errors import (
    AccessDenied,
    ForgedFeed,
    KacheryError,
    NotFound,
    ProtocolViolation,
)
from kachery_p2p.protocol.gossip.holders import Holder, rank


@dataclass
class Source:
    """A holder that is being followed. ``size`` is that of its head, None until it has said it."""

    holder: Holder
    task: asyncio.Task[None]
    quiet: bool
    size: int | None = None
    late: bool = False
    """It said that it has messages, and did not send them."""
    owner: bool = False
    via: str | None = None


class Followed:
    """``sources``: those that are followed now, by node id. ``failures``: how often each node was lost,
    or was late, since it last sent something."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}
        self.failures: Counter[str] = Counter()
        self._errors: dict[str, KacheryError] = {}

    def rank(self, holders: Iterable[Holder]) -> list[Holder]:
        """Whom to follow first."""
        return rank(replace(h, failures=self.failures[h.node]) for h in holders)

    def lost(self, node: str, error: KacheryError) -> None:
        """It is followed no longer, and why."""
        self._errors[node] = error
        self.failures[node] += 1

    def is_banned(self, node: str) -> bool:
        """Whether it lied."""
        return isinstance(self._errors.get(node), ForgedFeed | ProtocolViolation)

    def best(self) -> Source:
        """Who should send, of those that are followed."""
        return max(self.sources.values(), key=lambda s: (not s.late, s.size or 0))

    def owing(self, size: int) -> list[Source]:
        """Those that have not said what they have, or say that they have more than ``size``."""
        return [s for s in self.sources.values() if s.size is None or s.size > size]

    def longest(self) -> int | None:
        """The size of the longest log of those that are not late; None until all have said theirs."""
        sizes = [source.size for source in self.sources.values() if not source.late]
        known = [size for size in sizes if size is not None]
        return max(known, default=0) if len(known) == len(sizes) else None

    def worst(self) -> KacheryError:
        """Of what the lost ones said, what says most about the cause."""
        for kind in (AccessDenied, ForgedFeed, NotFound, KacheryError):
            for error in self._errors.values():
                if isinstance(error, kind):
                    return error
        raise AssertionError("nobody failed")
