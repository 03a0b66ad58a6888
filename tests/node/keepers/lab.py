"""What the tests of keepers have in common."""

from __future__ import annotations

import random
from typing import Any

from kachery_p2p.node.node import Node
from tests.node.harness import Lab


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def has(node: Node, sha1: str) -> bool:
    return node.store.find(sha1) is not None


async def offer(
    lab: Lab, name: str, *, limit: int | None = None, nodes: list[str] | None = None
) -> None:
    """Have a node keep for all (``nodes`` None) or for these, and wait until the proxy knows."""
    await lab.call(name, "keep.offer", channel="lab", nodes=nodes, limit=limit)
    await lab.announced(name)


async def push(lab: Lab, name: str, sha1: str, manifest: str | None = None, **more: Any) -> Any:
    return await lab.call(name, "keep.push", sha1=sha1, manifest=manifest, **more)


async def kept_at(lab: Lab, name: str) -> list[str]:
    """What a node keeps for others, as it says itself."""
    return sorted(each["content"] for each in (await lab.call(name, "keep.list"))["here"])
