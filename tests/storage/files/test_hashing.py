"""One pass gives the hashes that many passes would, however the bytes are cut."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from kachery_p2p.protocol import tree
from kachery_p2p.protocol.limits import BLOCK, MANIFEST_CHUNK
from kachery_p2p.storage.files.hashing import PARALLEL, ContentHasher
from tests.storage.files.samples import content

EDGES = [
    0,
    1,
    BLOCK - 1,
    BLOCK,
    BLOCK + 1,
    PARALLEL + 1,
    MANIFEST_CHUNK - 1,
    MANIFEST_CHUNK,
    MANIFEST_CHUNK + 1,
    2 * MANIFEST_CHUNK,
    2 * MANIFEST_CHUNK + 12_345,
]


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(4) as threads:
        yield threads


@pytest.fixture(scope="module")
def everything():
    return content(EDGES[-1])


@pytest.mark.parametrize("size", EDGES)
@pytest.mark.parametrize("piece", [PARALLEL - 7, 4 << 20, 1 << 30])
def test_one_pass_equals_many(pool, everything, size, piece):
    data = memoryview(everything)[:size]
    hasher = ContentHasher(pool)
    leaves = bytearray()
    for at in range(0, size, piece):
        hasher.settle()
        leaves += hasher.take_leaves()
        hasher.feed(data[at : at + piece])
    found = hasher.finish()
    leaves += hasher.take_leaves()
    assert (found.sha1, found.size) == (hashlib.sha1(data).hexdigest(), size)
    assert leaves == b"".join(tree.leaf_hashes("blake3", data, BLOCK))
    expected = []
    if size > MANIFEST_CHUNK:
        for start in range(0, size, MANIFEST_CHUNK):
            end = min(start + MANIFEST_CHUNK, size)
            expected.append((start, end, hashlib.sha1(data[start:end]).hexdigest()))
    assert [(c.start, c.end, c.sha1) for c in found.chunks] == expected


def test_pieces_of_odd_sizes_make_no_difference(pool, everything):
    data = memoryview(everything)[: MANIFEST_CHUNK + 100_000]
    hasher = ContentHasher(pool)
    at = 0
    for step in [1, 65_535, 2, 600_001, MANIFEST_CHUNK - 700_000, 40_000, 90_000, 1 << 20]:
        hasher.feed(data[at : at + step])
        at += step
    found = hasher.finish()
    assert found.sha1 == hashlib.sha1(data).hexdigest()
    assert [c.sha1 for c in found.chunks] == [
        hashlib.sha1(data[:MANIFEST_CHUNK]).hexdigest(),
        hashlib.sha1(data[MANIFEST_CHUNK:]).hexdigest(),
    ]
    assert hasher.take_leaves() == b"".join(tree.leaf_hashes("blake3", data, BLOCK))
