"""How one link stands on one channel, as far as announcements go: what :mod:`.exchange` and
:mod:`.pulls` know of it."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import Final

from kachery_p2p.node.links.link import Link

Position = tuple[int, int]
"""How far a log is known: (epoch, last sequence number)."""

UNKNOWN: Final = (-1, 0)
"""The same of a log of which nothing is known."""


@dataclass(slots=True, eq=False)
class Peer:
    """One link on one channel."""

    link: Link
    channel: bytes
    heard_at: float
    """When its own announcing last got on, as far as we saw."""
    own: Position | None = None
    """How far its own log is, as it said on this link."""
    restored: bool = False
    """It knows less of its own log than we do: it will start anew."""
    lacking: dict[bytes, Position] = field(default_factory=dict)
    """Logs of which it has more than we do, and up to where."""
    pulling: asyncio.Task[None] | None = None
    queued: bool = False
    """It is our turn that is waited for, not the peer."""
    pushed: int = 0
    """Batches that it has not said to have yet."""
    taken: int = 0
    """Batches of its that we have not said to have yet."""
    untold: dict[bytes, None] = field(default_factory=dict)
    """Origins of batches that were neither pushed to it nor told of."""
    answered_at: float = -math.inf
    """When it was last sent a digest because it asked; ``answering``: another is due."""
    answering: bool = False
    serving: int = 0
    """Pulls of its that we serve."""
