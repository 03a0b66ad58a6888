"""Deleting content from a storage folder.

Invariants: nothing is deleted that is about to appear or is being downloaded, and nothing begins to
while it is; what was deleted does not come back after a crash; a linked file itself is never
touched. Who has it open reads on to its end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Final

from kachery_p2p.storage import paths
from kachery_p2p.storage.disk import disk_errors, remove, sync_folder
from kachery_p2p.storage.files.blobs import BlobStore

ALL: Final = ("", *paths.WITH_CONTENT, *paths.OF_PARTIAL, paths.CORRUPT)
"""All that may lie in a folder under the name of a content."""


def always() -> bool:
    """The ``may`` of who has asked before."""
    return True


def delete(
    store: BlobStore,
    sha1: str,
    may: Callable[[], bool] = always,
    *,
    suffixes: Sequence[str] = ALL,
) -> bool:
    """Delete the files of a content, those with these suffixes; whether there were any.

    ``may`` is asked last, when nothing can begin to arrive: if it says no, nothing is deleted.

    Raises:
        StorageDamaged, StorageReadOnly: it is there still, or a part of it.
    """
    folder = store.path(sha1).parent
    with disk_errors("content to be deleted", store.path(sha1)):
        if "" in suffixes:
            store.out_of_journal(sha1)
        with store.arrivals.halted() as under_way:
            if sha1 in under_way or store.in_journal(sha1) or not may():
                return False
            found = paths.beside(folder).get(sha1, {})
            gone = [suffix for suffix in found if _is_one_of(suffix, suffixes)]
            # The content first, so that nothing looks whole that is not; marks before their data.
            for suffix in sorted(gone, key=lambda suffix: (suffix == paths.PARTIAL, suffix)):
                remove(store.path(sha1, suffix))
        if gone and store.durable:
            with contextlib.suppress(FileNotFoundError):
                sync_folder(folder)
    if gone:
        store.ledger.changed(sha1)
    return bool(gone)


def _is_one_of(suffix: str, wanted: Sequence[str]) -> bool:
    return suffix in wanted or (paths.CORRUPT in wanted and suffix.startswith(paths.CORRUPT))
