"""A file that rotted on its provider's disk is right again once it is stored again."""

from __future__ import annotations

import os

import pytest

from kachery_p2p.protocol.limits import MANIFEST_CHUNK
from tests.node.harness import laboratory


@pytest.mark.parametrize("size", [1_000, 500_000, MANIFEST_CHUNK + 70_000])
async def test_what_was_stored_again_is_served_right(size: int) -> None:
    """It was acknowledged, stayed rotten, and was put aside when somebody asked."""
    async with laboratory() as lab:
        data = bytes(range(256)) * (size // 256)
        sha1, manifest = await lab.store("A", data)
        await lab.load("B", sha1, manifest)
        path = lab["A"].store.path(sha1)
        before = path.stat()
        path.write_bytes(data[:300] + b"rotten" + data[306:])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        again = await lab.store("A", data)
        assert again == (sha1, manifest)
        os.unlink(lab["B"].store.path(sha1))
        await lab.load("B", sha1, manifest)
        assert lab.bytes_of("B", sha1) == data
        assert not list(path.parent.glob("*.corrupt-*"))
