"""How far a download is, and who gave how much of it, in numbers for people and programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kachery_p2p.protocol.gossip.holders import Holder

from .sources import Source


@dataclass
class Progress:
    """How far a download is, for whoever asked for it, and what they call it."""

    name: str = ""
    size: int = 0
    verified: int = 0
    fetched: int = 0
    started: float = 0.0
    waiting: str = ""
    """Why nothing comes and what is done about it, in words; empty while something does."""
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    gave: Callable[[Holder], object] | None = None
    """Is told of a source that gives something, once for each time that the download is begun."""

    def begin(self, now: float) -> None:
        """Somebody wants bytes, and nobody did before: what came by then was for others."""
        self.started, self.fetched, self.waiting = now, 0, ""
        self.sources.clear()

    def credit(self, source: Source, size: int) -> None:
        """Bytes came from a source."""
        holder = source.holder
        self.waiting = ""
        entry = self.sources.get(holder.node)
        if entry is None:
            entry = self.sources[holder.node] = {
                "node": holder.node,
                "label": holder.label,
                "via": None,
                "bytes": 0,
            }
            if self.gave is not None:
                self.gave(holder)
        entry["via"] = source.via  # it may have changed meanwhile
        entry["bytes"] += size
        self.fetched += size

    def plain(self, now: float) -> dict[str, Any]:
        return {
            "size": self.size,
            "verified": self.verified,
            "fetched": self.fetched,
            "waiting": self.waiting,
            "seconds": max(0.0, now - self.started),
            "sources": list(self.sources.values()),
        }
