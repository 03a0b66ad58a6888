"""What the tests of files share: their content, and its hash."""

from __future__ import annotations

import random

from tests.node.harness import Lab, Live

BIG = 30_000_000


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


# --- ranges -----------------------------------------------------------------------------------


async def range_of(lab: Lab, name: str, sha1: str, manifest: str | None, *ends: int) -> bytes:
    live = Live()
    await lab.live(name, live, "load_bytes", sha1=sha1, manifest=manifest,
                   ranges=[ends])  # fmt: skip
    return bytes(live.sent)
