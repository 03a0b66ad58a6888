"""Files of which an older node left chunks, or the whole of which a chunk is wanted."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from kachery_p2p.protocol.errors import (
    NotFound,
)
from kachery_p2p.protocol.limits import MANIFEST_CHUNK
from tests.node.files.contents import BIG, content
from tests.node.harness import Lab, laboratory


def sha1_of(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


# --- what older nodes left in pieces ------------------------------------------------------------


async def store_chunks(lab: Lab, name: str, data: bytes, **more: Any) -> tuple[str, str, list[str]]:
    """Store a file's manifest of old and its chunks, not the file: its hash, the manifest's and
    theirs."""
    parts = [data[at : at + MANIFEST_CHUNK] for at in range(0, len(data), MANIFEST_CHUNK)]
    chunks = [
        {"start": at * MANIFEST_CHUNK, "end": at * MANIFEST_CHUNK + len(p), "sha1": sha1_of(p)}
        for at, p in enumerate(parts)
    ]
    fields = {"size": len(data), "sha1": sha1_of(data), "chunks": chunks}
    text = json.dumps(fields).encode()
    for part in (*parts, text):
        await lab.call(name, "store", data=part, **more)
    return sha1_of(data), sha1_of(text), [sha1_of(part) for part in parts]


async def test_a_file_whose_chunks_are_here_is_made_of_them() -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, manifest, _ = await store_chunks(lab, "A", data)
        result = await lab.load("A", sha1, manifest)
        assert (result["size"], result["fetched"]) == (BIG, 0)
        assert lab.bytes_of("A", sha1) == data
        await lab.announced("A")
        await lab.load("B", sha1, manifest)
        assert lab.bytes_of("B", sha1) == data


async def test_a_file_whose_chunks_are_here_is_found_without_the_network() -> None:
    async with laboratory("A", channel=False) as lab:
        data = content(BIG)
        sha1, manifest, chunks = await store_chunks(lab, "A", data)
        with pytest.raises(NotFound):
            await lab.load("A", sha1, local=True)
        await lab.load("A", sha1, manifest, local=True)
        assert lab.bytes_of("A", sha1) == data
        other, manifest, chunks = await store_chunks(lab, "A", content(BIG, seed=5))
        lab["A"].store.path(chunks[1]).unlink()
        with pytest.raises(NotFound):
            await lab.load("A", other, manifest, local=True)


async def test_a_rotten_chunk_makes_no_file() -> None:
    async with laboratory("A", channel=False) as lab:
        data = content(BIG)
        sha1, manifest, chunks = await store_chunks(lab, "A", data)
        path = lab["A"].store.path(chunks[0])
        path.chmod(0o600)
        path.write_bytes(b"x" * MANIFEST_CHUNK)
        with pytest.raises(NotFound):
            await lab.load("A", sha1, manifest, local=True)
        assert lab.bytes_of("A", sha1) == b""


async def test_chunks_that_are_one_channels_make_no_file_for_all() -> None:
    async with laboratory() as lab:
        sha1, manifest, _ = await store_chunks(lab, "A", content(BIG), channel="lab")
        with pytest.raises(NotFound):
            await lab.load("A", sha1, manifest, local=True)


@pytest.mark.parametrize("name", ["A", "B"])
async def test_a_chunk_is_cut_from_the_file_that_is_here_or_elsewhere(name: str) -> None:
    async with laboratory() as lab:
        data = content(100_000)
        sha1, _ = await lab.store("A", data)
        chunk = data[10_000:30_000]
        await lab.load(name, sha1_of(chunk), chunk_of=[sha1, 10_000, 30_000])
        assert lab.bytes_of(name, sha1_of(chunk)) == chunk
        wrong = await lab.error(name, "ab" * 20, chunk_of=[sha1, 10_000, 30_000])
        assert isinstance(wrong, NotFound)


async def test_a_chunk_is_bound_to_what_its_file_is_bound_to() -> None:
    async with laboratory() as lab:
        data = content(1_000)
        sha1, _ = await lab.store("A", data, channel="lab")
        chunk = sha1_of(data[:10])
        await lab.load("A", chunk, chunk_of=[sha1, 0, 10])
        assert lab["A"].context.state.origins(chunk) == {lab.channels["lab"].hex()}
