"""How long a test waits for what should happen by itself, before that counts as never."""

from __future__ import annotations

import os

_MOST = 120.0
"""Seconds: the limit of a test, pyproject.toml's ``timeout``, is not reached first."""


def patience(seconds: float = 15.0) -> float:
    """So many seconds, and more of them while more wants to run on this computer than it has
    processors: how busy that is says nothing of what is tested."""
    load, _, _ = os.getloadavg()
    busy = max(1.0, load / (os.cpu_count() or 1))
    return max(seconds, min(seconds * busy, _MOST))
