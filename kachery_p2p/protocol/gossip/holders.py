"""Who may have something, and whom to ask first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Holder:
    """A possible source, and what is known about the route to it. ``partial``: it is itself fetching
    it, and has a part."""

    node: str
    channel: bytes
    linked: bool = False
    direct: bool = False
    failures: int = 0
    label: str = ""
    urls: tuple[str, ...] = ()
    rtt: float | None = None
    partial: bool = False

    @property
    def name(self) -> str:
        """For people: its label, and enough of its id."""
        return f"{self.label or 'node'} ({self.node[:8]})"


def rank(holders: Iterable[Holder]) -> list[Holder]:
    """Best first: fewest failures, all of it before a part, then linked, then direct, then nearest;
    ties by node id, which is as good as random and the same in every run."""
    return sorted(
        holders,
        key=lambda h: (
            h.failures,
            h.partial,
            not h.linked,
            not (h.direct or h.urls),
            h.rtt if h.rtt is not None else 1.0,
            h.node,
        ),
    )
