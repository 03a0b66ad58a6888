"""Content is compared with its hash before it is handed out, whoever asks for it.

* Up to ``VERIFY_ON_READ`` bytes: the whole of it, each time.
* A range of more: the blocks that it touches, each time, and the last block, which says where the file
  ends, unless the file is stamped (:mod:`.stamps`). A range that goes to who compares it with the same
  tree: once for each state of the file, and when that one says that it is wrong.
* All of more, to be read by its path: once for each state of the file.

If blocks and tree contradict each other, the whole SHA-1 says which of the two is wrong: the tree is
made anew, or the content is put aside (:func:`.trees.rebuild_tree`). So of a folder of kachery's, which
has no trees, each large file is read once before it is taken out.

Non-goal: what happens then. A node withdraws what was put aside, and fetches it from somebody else.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from kachery_p2p.protocol.errors import (
    Cancelled,
    CorruptContent,
    NotFound,
    StorageDamaged,
    StorageFull,
)
from kachery_p2p.protocol.limits import BLOCK, MAX_STAMPS_ELSEWHERE, MIB, VERIFY_ON_READ
from kachery_p2p.protocol.tree import LEAF_PREFIX
from kachery_p2p.storage import paths
from kachery_p2p.storage.closing import Closing
from kachery_p2p.storage.disk import disk_errors, pread_into, pread_up_to

from .blobs import Blob, BlobStore
from .partials import Partial
from .reader import BlobReader
from .sources import ignore, never
from .stamps import is_stamped, put_stamp, stamp_of
from .treefile import OWN_STORAGE, TreeFile
from .trees import ensure_tree, find_tree, rebuild_tree

R = TypeVar("R")

Proved = tuple[bytes, list[bytes]]
"""Whole blocks, and what leads from them to the root."""

_TRIES: Final = 3
"""How often what is linked is compared that its user touches meanwhile."""
_PIECE: Final = 1 * MIB
"""Bytes that are read at a time to be compared, always into the same memory; whole blocks."""
_hashed: dict[str, bytes] = {}
"""Stamps by path, of large files beside which none can be put."""


def is_known(store: BlobReader, blob: Blob) -> bool:
    """Whether a large blob was compared with its hash since it last changed."""
    try:
        status = os.stat(blob.path if blob.fd is None else blob.fd)
    except OSError:  # whoever opens it will say what is the matter
        return False
    return (
        is_stamped(store.root, blob.sha1, status)
        or _hashed.get(str(blob.path)) == stamp_of(status)
    )  # fmt: skip


def read_small(store: BlobReader, blob: Blob) -> bytes:
    """All of a blob, compared. Raises CorruptContent, and what :meth:`.reader.BlobReader.read` does."""
    data = store.read(blob, 0, blob.size)
    if hashlib.sha1(data).hexdigest() != blob.sha1:
        raise corrupt(blob)
    return data


def read_range(store: BlobReader, blob: Blob, start: int, stop: int) -> bytes | None:
    """Bytes [start, stop) of a large blob, compared with its tree; None if there is no tree that fits
    them, which :func:`check` can make."""
    tree = find_tree(store, blob)
    if tree is None:
        # It may be that none can be written.
        return store.read(blob, start, stop - start) if is_known(store, blob) else None
    with tree:
        if not _ends_right(store, blob, tree):
            return None
        return _read_blocks(store, blob, tree, start, stop)


def size_fits(store: BlobReader, blob: Blob) -> bool:
    """Whether a large blob has the size that it should have, as far as can be told without reading all
    of it: where there is no tree, it may have."""
    if is_known(store, blob):
        return True
    tree = find_tree(store, blob)
    if tree is None:
        return not store.path(blob.sha1, paths.TREE).exists()
    with tree:
        return _ends_right(store, blob, tree)


def check(
    store: BlobStore,
    blob: Blob,
    *,
    again: bool = False,
    cancelled: Callable[[], bool] = never,
    advanced: Callable[[int], None] = ignore,
) -> None:
    """Compare all of a blob with its hash; a large one only if it changed since, or ``again``.

    ``advanced`` is told how many bytes are done.

    Raises:
        CorruptContent: it is something else, and the caller's to put aside, unless that was done.
        NotFound, Cancelled, StorageDamaged: it could not be read.
    """
    if blob.size <= VERIFY_ON_READ:
        _hash(store, blob, never, ignore)
        return
    if not again and is_known(store, blob):
        return
    for _ in range(_TRIES):
        before = _status(store, blob)
        _compare(store, blob, cancelled, advanced)
        if blob.link is None or stamp_of(_status(store, blob)) == stamp_of(before):
            break
    else:
        raise NotFound(what=f"sha1://{blob.sha1}", detail="it changes while it is compared")
    if not put_stamp(store.root, blob.sha1, before):
        remember(store, blob, before)


def _status(store: BlobStore, blob: Blob) -> os.stat_result:
    """Raises NotFound: of a linked file that is not what it was."""
    fd = store.open_fd(blob)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _compare(
    store: BlobStore,
    blob: Blob,
    cancelled: Callable[[], bool],
    advanced: Callable[[int], None],
) -> None:
    """A large blob with its hash, by its tree if it has one."""
    try:
        if not _fits(store, blob, cancelled, advanced):
            rebuild_tree(store, blob, cancelled=cancelled, advanced=advanced).close()
    except (StorageFull, StorageDamaged):
        # There is no room for a tree, or no right to write one. It can be told all the same.
        _hash(store, blob, cancelled, advanced)


def remember(store: BlobReader, blob: Blob, status: os.stat_result) -> None:
    """A large blob was right when its file was like that, and nobody may have been able to write that
    beside it."""
    if is_stamped(store.root, blob.sha1, status):
        return
    _hashed[str(blob.path)] = stamp_of(status)
    while len(_hashed) > MAX_STAMPS_ELSEWHERE:
        del _hashed[next(iter(_hashed))]


def corrupt(blob: Blob) -> CorruptContent:
    """The error that says that a blob on this disk is not what its name says."""
    return CorruptContent(what=f"sha1://{blob.sha1}", source=OWN_STORAGE)


def sha1_of(fd: int) -> str:
    """Of all of an open file. Raises OSError."""
    digest, at, piece = hashlib.sha1(), 0, memoryview(bytearray(_PIECE))
    while length := pread_into(fd, piece, at):
        digest.update(piece[:length])
        at += length
    return digest.hexdigest()


def _hash(
    store: BlobReader,
    blob: Blob,
    cancelled: Callable[[], bool],
    advanced: Callable[[int], None],
) -> None:
    digest = hashlib.sha1()
    fd = store.open_fd(blob)
    at, piece = 0, memoryview(bytearray(min(_PIECE, blob.size + 1)))
    try:
        with disk_errors("a blob", blob.path):
            while length := pread_into(fd, piece, at):
                if cancelled():
                    raise Cancelled(what=f"Checking sha1://{blob.sha1}")
                digest.update(piece[:length])
                at += length
                advanced(at)
    finally:
        os.close(fd)
    if digest.hexdigest() != blob.sha1:
        raise corrupt(blob)


def _fits(
    store: BlobReader,
    blob: Blob,
    cancelled: Callable[[], bool],
    advanced: Callable[[int], None],
) -> bool:
    """Whether there is a tree, and all of the blob fits it."""
    tree = find_tree(store, blob)
    if tree is None:
        return False
    fd = store.open_fd(blob)
    leaves = _rooms_for_leaves()
    blocks = [leaf[len(LEAF_PREFIX) :] for leaf in leaves]
    try:
        with tree, disk_errors("a blob", blob.path):
            for at in range(0, blob.size, _PIECE):
                if cancelled():
                    raise Cancelled(what=f"Checking sha1://{blob.sha1}")
                length = min(_PIECE, blob.size - at)
                if length == _PIECE and os.preadv(fd, blocks, at) == length:
                    good = tree.check_leaves(at // BLOCK, leaves)
                else:
                    data = pread_up_to(fd, length, at)
                    good = len(data) == length and tree.check_blocks(at // BLOCK, data)
                if not good:
                    return False
                advanced(at + length)
    finally:
        os.close(fd)
    return True


def _rooms_for_leaves() -> list[memoryview]:
    """Memory for the blocks of a piece, each after what a leaf begins with: they are read to where they
    are hashed."""
    leaf = len(LEAF_PREFIX) + BLOCK
    memory = memoryview(bytearray(_PIECE // BLOCK * leaf))
    leaves = [memory[at : at + leaf] for at in range(0, len(memory), leaf)]
    for each in leaves:
        each[: len(LEAF_PREFIX)] = LEAF_PREFIX
    return leaves


def _ends_right(store: BlobReader, blob: Blob, tree: TreeFile) -> bool:
    """Whether the blob has the size that the tree is about: the number of blocks is looked at when a
    tree is opened, and how much the last one holds, here."""
    first = (tree.count - 1) * BLOCK
    return is_known(store, blob) or tree.check_blocks(
        tree.count - 1, store.read(blob, first, blob.size - first)
    )


def _read_blocks(
    store: BlobReader, blob: Blob, tree: TreeFile, start: int, stop: int
) -> bytes | None:
    """Bytes [start, stop), None if the blocks that they are in contradict the tree."""
    first = start // BLOCK * BLOCK
    last = min(-(-stop // BLOCK) * BLOCK, blob.size)
    data = store.read(blob, first, last - first)
    return data[start - first : stop - first] if tree.check_blocks(first // BLOCK, data) else None


def proved(partial: Partial, start: int, stop: int) -> Proved | None:
    """Whole blocks of a download in progress, with their proof; None if they are not all here."""
    data = partial.read_verified(start, stop)
    proof = partial.proof(start // BLOCK, -(-stop // BLOCK)) if data is not None else None
    return None if data is None or proof is None else (data, proof)


def read_proved(
    store: BlobStore, sha1: str, partial: Partial | None, ranges: Sequence[tuple[int, int]]
) -> list[Proved] | None:
    """Ranges of whole blocks, of a blob or of its download in progress, each with its proof; None if
    they are not all here. Raises CorruptContent: it was put aside; and as
    :func:`.trees.ensure_tree`."""
    blob = store.find(sha1)
    if blob is None:
        found = [] if partial is None else [proved(partial, *each) for each in ranges]
        whole = [each for each in found if each is not None]
        return whole if len(whole) == len(ranges) else None

    def damaged(blob: Blob) -> CorruptContent:
        store.quarantine(sha1, blob)
        return corrupt(blob)

    with TreeReader(store, blob, ensure_tree(store, blob), damaged) as reader:
        return [reader.read_proved(start, stop) for start, stop in ranges]


class TreeReader(Closing):
    """Reads and checks ranges of a blob that has a tree. Two threads at a time may use it.

    ``damaged`` puts a blob aside, and gives the error that says so. ``believing``: bytes
    are not compared as long as the file is as it was when all of it was. That is for who reads for
    somebody who compares them.
    """

    def __init__(
        self,
        store: BlobStore,
        blob: Blob,
        tree: TreeFile,
        damaged: Callable[[Blob], CorruptContent],
        *,
        believing: bool = False,
    ) -> None:
        self._store = store
        self._blob = blob
        self._believing = believing
        # The last one counts. Those before it were damaged, and may still be in use.
        self._trees = [tree]
        self._damaged = damaged
        self._repairing = threading.Lock()
        self._lost: CorruptContent | None = None
        self._ends = False

    def close(self) -> None:
        for tree in self._trees:
            tree.close()

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop). Raises CorruptContent: they are lost."""
        return self._settled(lambda tree: self._read_blocks(tree, start, stop))

    def _read_blocks(self, tree: TreeFile, start: int, stop: int) -> bytes | None:
        if self._believing:
            data = self._store.read(self._blob, start, stop - start)
            # Afterwards: what was written before is in the file's times by now.
            if is_known(self._store, self._blob):
                return data
        return _read_blocks(self._store, self._blob, tree, start, stop)

    def read_proved(self, start: int, stop: int) -> tuple[bytes, list[bytes]]:
        """Whole blocks, and what leads from them to the root. Raises as :meth:`read`."""

        def read(tree: TreeFile) -> tuple[bytes, list[bytes]] | None:
            data = self._read_blocks(tree, start, stop)
            if data is None:
                return None
            try:
                return data, tree.proof(start // BLOCK, -(-stop // BLOCK))
            except CorruptContent:
                return None

        return self._settled(read)

    def check_end(self) -> None:
        """See that the blob has the right size. Raises as :meth:`read`."""
        self._settled(lambda tree: True)

    def _settled(self, read: Callable[[TreeFile], R | None]) -> R:
        """What ``read`` gives, once content and tree do not contradict each other."""
        tree = self._trees[-1]
        found = self._read(read, tree)
        if found is None:
            found = self._read(read, self._repaired(tree))
        if found is None:
            raise self._damaged(self._blob)
        return found

    def _read(self, read: Callable[[TreeFile], R | None], tree: TreeFile) -> R | None:
        try:
            if not self._ends:
                self._ends = _ends_right(self._store, self._blob, tree)
            return read(tree) if self._ends else None
        except CorruptContent:  # it was cut short since it was found
            return None

    def _repaired(self, damaged: TreeFile) -> TreeFile:
        """A tree that fits the content, unless it is the content that is damaged."""
        with self._repairing:
            if self._lost is None and self._trees[-1] is damaged:
                try:
                    self._trees.append(rebuild_tree(self._store, self._blob))
                except CorruptContent:
                    self._lost = self._damaged(self._blob)
            if self._lost is not None:
                raise CorruptContent(**self._lost.fields)
            return self._trees[-1]


class CheckedReader(Closing):
    """Reads ranges of any blob, checked. Opening one that has no tree reads all of it."""

    def __init__(self, store: BlobStore, blob: Blob, cancelled: Callable[[], bool] = never) -> None:
        """Raises as :func:`check`."""
        self._store = store
        self._blob = blob
        self._tree: TreeReader | None = None
        if blob.size <= VERIFY_ON_READ:
            check(store, blob)
            return
        try:
            tree = ensure_tree(store, blob, cancelled=cancelled)
        except (StorageFull, StorageDamaged):  # it cannot be written
            check(store, blob, cancelled=cancelled)
        else:
            self._tree = TreeReader(store, blob, tree, lambda _: corrupt(blob))
            try:
                self._tree.check_end()
            except BaseException:
                self.close()
                raise

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop), which are in the blob. Raises CorruptContent: it is to be put aside."""
        if self._tree is not None:
            return self._tree.read(start, stop)
        return self._store.read(self._blob, start, stop - start)

    def close(self) -> None:
        if self._tree is not None:
            self._tree.close()
