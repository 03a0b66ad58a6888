"""All that a node has on the disk, opened in order and closed again.

Invariant: :meth:`Stores.close` closes what was opened, however far that came, the storage first:
closing it still writes what is in the others."""

from __future__ import annotations

import os
from collections.abc import Callable

from kachery_p2p.storage import older_values
from kachery_p2p.storage.backing.index import OriginIndex
from kachery_p2p.storage.disk import disk_errors
from kachery_p2p.storage.feeds.store import FeedStore
from kachery_p2p.storage.files.blobs import BlobStore
from kachery_p2p.storage.files.marker import marker_of, place_of
from kachery_p2p.storage.inventory.inventory import Inventory
from kachery_p2p.storage.inventory.quota import Quota
from kachery_p2p.storage.limit import limit_of, set_limit
from kachery_p2p.storage.rates import rates_of, set_rates
from kachery_p2p.storage.sharing import let_in
from kachery_p2p.storage.state import StateDB
from kachery_p2p.storage.tasks.store import TaskStore

from .config import Config
from .key_file import make_state_folder


class Stores:
    """``clock``: Unix time in seconds. ``gone`` is called, in any thread, with the hash of what went to
    make room."""

    state: StateDB
    store: BlobStore
    origin_index: OriginIndex
    inventory: Inventory
    quota: Quota
    feed_store: FeedStore
    task_store: TaskStore
    rates: tuple[int | None, int | None]
    """Of uploads and downloads, bytes a second; None: without a limit."""
    marker: str

    def open(
        self, config: Config, *, clock: Callable[[], float], gone: Callable[[str], None]
    ) -> None:
        """Raises StorageInUse, StorageFull, StorageDamaged; then :meth:`close` it all the same."""
        with disk_errors("the node's state", config.state_dir):
            make_state_folder(config.state_dir)
        durable, state_dir = config.durable, config.state_dir
        self.state = StateDB(state_dir / "state.sqlite", durable=durable)
        self.store = BlobStore(
            config.storage_dir, durable=durable, on_manifest=self.state.set_manifest
        )
        self.store.open()
        root, read_only = self.store.root, self.store.read_only
        if config.is_shared and not read_only:  # clients read blobs where they lie
            let_in(root, config.group_id(), others=config.others_may_read)
        self.inventory = Inventory.open(state_dir, root, clock=clock)
        if config.max_storage is not None:
            set_limit(self.state, config.max_storage)
        limit = limit_of(root, self.state)
        set_rates(self.state, config.max_upload, config.max_download)
        self.rates = rates_of(self.state)
        self.quota = self.store.ledger = Quota(
            self.store, self.inventory, self.state, limit=limit, gone=gone, clock=clock
        )
        self.origin_index = OriginIndex.open(state_dir)
        older_values.take_over(root, self.state)
        with disk_errors("the marker of the storage folder", config.storage_dir):
            self.marker = place_of(root) if read_only else marker_of(root, os.urandom)
        self.feed_store = FeedStore(state_dir / "feeds.sqlite", durable=durable)
        self.task_store = TaskStore(state_dir / "tasks.sqlite", durable=durable, clock=clock)

    def close(self) -> None:
        for name in (
            "store", "inventory", "origin_index", "feed_store", "task_store", "state",
        ):  # fmt: skip
            if hasattr(self, name):
                getattr(self, name).close()
