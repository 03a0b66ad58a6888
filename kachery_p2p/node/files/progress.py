"""How far a download is, and who gave how much of it, in numbers for people and programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .sources import Source


@dataclass
class Progress:
    """How far a download is, for whoever asked for it, and what they call it."""

    name: str = ""
    size: int = 0
    verified: int = 0
    fetched: int = 0
    started: float = 0.0
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)

    def begin(self, now: float) -> None:
        """Somebody wants bytes, and nobody did before: what came by then was for others."""
        self.started, self.fetched = now, 0
        self.sources.clear()

    def credit(self, source: Source, size: int) -> None:
        """Bytes came from a source."""
        holder = source.holder
        entry = self.sources.setdefault(
            holder.node, {"node": holder.node, "label": holder.label, "via": source.via, "bytes": 0}
        )
        entry["bytes"] += size
        self.fetched += size

    def plain(self, now: float) -> dict[str, Any]:
        return {
            "size": self.size,
            "verified": self.verified,
            "fetched": self.fetched,
            "seconds": max(0.0, now - self.started),
            "sources": list(self.sources.values()),
        }
