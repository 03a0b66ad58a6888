"""Pushing to keepers, between real nodes over loopback."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from kachery_p2p.node.node import Node
from kachery_p2p.protocol.errors import (
    BadInput,
    KacheryError,
    KeepRefused,
    NobodyKeeps,
    NotFound,
    NotKept,
)
from kachery_p2p.protocol.limits import MANIFEST_CHUNK
from tests.node.harness import Lab, laboratory, until


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def has(node: Node, sha1: str) -> bool:
    return node.store.find(sha1) is not None


async def offer(lab: Lab, name: str, *, limit: int | None = None, nodes: Any = None) -> None:
    await lab.call(name, "keep.offer", channel="lab", nodes=nodes, limit=limit)
    await lab.announced(name)


async def test_a_pushed_file_is_on_the_keepers_disk_and_stays_when_its_node_has_gone() -> None:
    async with laboratory("A", "K", "C") as lab:
        await offer(lab, "K")
        sha1, manifest = await lab.store("A", content(MANIFEST_CHUNK + 100_000))
        pushed = await lab.call("A", "keep.push", sha1=sha1, manifest=manifest, label="big.dat")
        assert [each["label"] for each in pushed["kept"]] == ["K"]
        assert has(lab["K"], sha1) and manifest is not None and has(lab["K"], manifest)
        listed = await lab.call("A", "keep.list")
        assert [(e["content"], e["confirmed"]) for e in listed["elsewhere"]] == [(sha1, True)]
        (here,) = (await lab.call("K", "keep.list"))["here"]
        assert (here["content"], here["node"], here["whole"]) == (sha1, lab.id("A"), True)
        assert here["label"] == "big.dat"
        assert here["size"] == MANIFEST_CHUNK + 100_000 + len(lab.bytes_of("K", manifest))
        await lab.stop("A")
        await lab.announced("K")
        await lab.load("C", sha1, manifest)
        assert lab.bytes_of("C", sha1) == content(MANIFEST_CHUNK + 100_000)
