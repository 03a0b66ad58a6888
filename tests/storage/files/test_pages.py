"""Pieces that come in memory which is used again: what is written and hashed is what came."""

from __future__ import annotations

import random
import threading

import pytest

from kachery_p2p.protocol.errors import CorruptContent
from kachery_p2p.protocol.limits import BLOCK, MANIFEST_CHUNK, MIB
from kachery_p2p.storage.direct import PAGE_BYTES, Page
from kachery_p2p.storage.files.blobs import BlobStore
from tests.storage.files.samples import content
from tests.storage.files.test_partials import Source

SOURCE = Source(content(MANIFEST_CHUNK + 3 * MIB + 2 * BLOCK + 700))


def filled(data: bytes) -> Page:
    page = Page.take()
    page.memory[:] = b"\xff" * PAGE_BYTES  # whatever was in it
    page.view = page.memory[: len(data)]
    page.view[:] = data
    return page


@pytest.mark.parametrize("order", ["in order", "backwards", "any"])
def test_what_comes_in_pages_is_what_is_written_and_hashed(store: BlobStore, order: str) -> None:
    partial = SOURCE.open(store, "tree")
    pieces = [(at, min(at + 16, SOURCE.count)) for at in range(0, SOURCE.count, 16)]
    if order == "backwards":
        pieces.reverse()
    elif order == "any":
        random.Random(3).shuffle(pieces)
    for start, stop in pieces:
        offset, data, proof = SOURCE.blocks(start, stop)
        page = filled(data)
        assert partial.write_blocks(offset, page, proof) == len(data)
        page.drop()
    assert partial.finish().read_bytes() == SOURCE.data


def test_a_forged_piece_gives_its_page_back_and_leaves_nothing(store: BlobStore) -> None:
    partial = SOURCE.open(store, "tree")
    offset, data, proof = SOURCE.blocks(16, 32)
    page = filled(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorruptContent):
        partial.write_blocks(offset, page, proof)
    memory = page.memory
    page.drop()
    assert Page.take().memory is memory
    assert not partial.verified_bytes
    partial.discard()


def test_a_page_is_used_again_when_nobody_holds_it_any_more() -> None:
    page = Page.take()
    page.hold()
    page.drop()
    other = Page.take()
    assert other.memory is not page.memory
    page.drop()
    assert Page.take().memory is page.memory


def test_threads_that_hold_a_page_give_it_back_once() -> None:
    for _ in range(50):
        page = Page.take()
        for _ in range(4):
            page.hold()
        threads = [threading.Thread(target=page.drop) for _ in range(4)]
        for thread in threads:
            thread.start()
        page.drop()
        for thread in threads:
            thread.join()
        assert sum(each is page.memory for each in Page._free) == 1
