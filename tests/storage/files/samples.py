"""Content to store."""

from __future__ import annotations

import random


def content(size: int, seed: int = 1) -> bytes:
    """Bytes that no two blocks have in common."""
    return random.Random(seed).randbytes(size)
