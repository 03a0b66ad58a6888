"""Files that change while somebody compares, links or puts them aside."""

from __future__ import annotations

import os

import numpy as np
import pytest

from kachery_p2p.protocol.errors import CorruptContent, NotFound
from kachery_p2p.protocol.limits import BLOCK, MANIFEST_CHUNK
from kachery_p2p.storage import paths
from kachery_p2p.storage.files.checking import check, is_known
from kachery_p2p.storage.files.trees import rebuild_tree
from tests.storage.files.samples import content

SIZE = MANIFEST_CHUNK + 3 * BLOCK + 500
DATA = content(SIZE)


def linked(store, tmp_path):
    path = tmp_path / "linked"
    path.write_bytes(DATA)
    with open(path, "rb") as file:
        return path, store.find(store.link_fd(file.fileno(), path).sha1)


def once(change):
    """An ``advanced`` that does something the first time."""
    done = []

    def advanced(at):
        if not done:
            done.append(at)
            change()

    return advanced


def write_to(path):
    with open(path, "r+b") as file:
        file.write(b"?!")


def test_an_original_that_changes_while_it_is_compared_is_not_good(store, tmp_path):
    """Its beginning, which was read already."""
    path, blob = linked(store, tmp_path)
    with pytest.raises(NotFound, match="modified"):
        check(store, blob, again=True, advanced=once(lambda: write_to(path)))
    assert store.find(blob.sha1) is None


def test_an_original_whose_time_is_set_back_while_it_is_compared_is_compared_again(store, tmp_path):
    path, blob = linked(store, tmp_path)
    status = path.stat()

    def change():
        write_to(path)
        os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))

    with pytest.raises(CorruptContent):
        check(store, blob, again=True, advanced=once(change))
    assert store.find(blob.sha1) is None


@pytest.mark.parametrize("touch", [os.utime, lambda path: os.link(path, f"{path} 2")])
def test_an_original_that_is_only_touched_while_it_is_compared_is_good(store, tmp_path, touch):
    path, blob = linked(store, tmp_path)
    status = path.stat()

    def change():
        touch(path)
        os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))

    check(store, blob, again=True, advanced=once(change))
    assert is_known(store, blob)


def test_what_is_written_through_mapped_memory_makes_a_link_stale(store, tmp_path):
    """The pages were written to before, and may be not on the disk yet."""
    path = tmp_path / "mapped"
    path.write_bytes(DATA)
    mapped = np.memmap(path, dtype=np.uint8, mode="r+")
    mapped[:10] = 1
    with open(path, "rb") as file:
        stored = store.link_fd(file.fileno(), path)
    assert store.find(stored.sha1) is not None
    mapped[5] = 2
    if not shows_mapped_writes(tmp_path / "probe"):
        pytest.skip("this file system never tells of them")
    assert store.find(stored.sha1) is None


def shows_mapped_writes(path):
    path.write_bytes(bytes(10))
    os.utime(path, (1, 1))
    np.memmap(path, dtype=np.uint8, mode="r+")[0] = 1
    return path.stat().st_mtime != 1


def damaged(store):
    blob = store.find(store.store_bytes(DATA).sha1)
    blob.path.chmod(0o644)
    write_to(blob.path)
    return blob


@pytest.mark.parametrize("fails", [lambda store, blob, more: check(store, blob, advanced=more),
                                   lambda store, blob, more: rebuild_tree(store, blob, advanced=more)],
                         ids=["check", "rebuild_tree"])  # fmt: skip
def test_what_is_stored_anew_while_a_damaged_one_is_compared_stays(store, fails):
    blob = damaged(store)
    with store.held(blob) as held:
        with pytest.raises(CorruptContent):
            fails(store, held, once(lambda: store.store_bytes(DATA)))
        assert store.quarantine(blob.sha1, held) is None
    assert store.is_good(blob.sha1)
    assert not store.path(blob.sha1, f"{paths.CORRUPT}1").exists()
    assert store.path(blob.sha1, paths.TREE).exists()


def test_of_two_who_find_it_damaged_one_puts_aside_what_is_damaged(store):
    one = damaged(store)
    two = store.find(one.sha1)
    assert store.quarantine(one.sha1, one) is not None
    assert store.quarantine(two.sha1, two) is None
    store.store_bytes(DATA)
    assert store.quarantine(two.sha1, two) is None
    assert store.is_good(one.sha1)


def test_a_link_that_was_made_anew_stays_when_the_stale_one_is_put_aside(store, tmp_path):
    _, stale = linked(store, tmp_path)
    (tmp_path / "linked").unlink()
    (tmp_path / "other").mkdir()
    _, fresh = linked(store, tmp_path / "other")
    store.quarantine(stale.sha1, stale)
    assert store.find(fresh.sha1) == fresh
