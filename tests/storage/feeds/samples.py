"""Feeds to keep, and what tree.py says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kachery_p2p.protocol import tree
from kachery_p2p.protocol.feeds.feed import Head, Run, Slice, leaf_hashes, sign_head
from kachery_p2p.protocol.feeds.frontier import left_peaks, right_proof
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.storage.feeds.intake import Incoming
from kachery_p2p.storage.feeds.store import FeedStore

SEED = b"k" * 32
KEY = NodeKey(SEED)
FEED = KEY.public
SUB, OTHER = b"s" * 20, b"o" * 20
AUTHOR = b"a" * 32
ALL = {"max_messages": 1 << 40, "max_bytes": 1 << 40, "max_runs": 1 << 40}


def texts(start: int, stop: int, tag: str = "m") -> list[bytes]:
    return [b'"%s%d"' % (tag.encode(), number) for number in range(start, stop)]


class History:
    """A log in memory: what its owner wrote, whatever a store makes of it.

    Messages come in runs of 1, 2, 3, ... 9, 1, ..., every third one by an author.
    """

    def __init__(self, size: int, tag: str = "m", key: NodeKey = KEY, subfeed: bytes = SUB) -> None:
        self.key, self.subfeed, self.size = key, subfeed, size
        self.texts = texts(0, size, tag)
        self.runs = self._runs()
        self.leaves = leaf_hashes(Slice(0, self.runs, self.texts))
        self._nodes: dict[int, Callable[[int, int], bytes]] = {}

    def _runs(self) -> list[Run]:
        runs: list[Run] = []
        left = self.size
        while left:
            count = min(left, len(runs) % 9 + 1)
            runs.append(Run(count, 1000 + len(runs), None if len(runs) % 3 else AUTHOR))
            left -= count
        return runs

    def slice(self, start: int, stop: int) -> Slice:
        runs, at = [], 0
        for run in self.runs:
            count = min(stop, at + run.count) - max(start, at)
            if count > 0:
                runs.append(Run(count, run.timestamp, run.author))
            at += run.count
        return Slice(start, runs, self.texts[start:stop])

    def nodes(self, total: int) -> Callable[[int, int], bytes]:
        """Every node of the tree at a size, as tree.py builds it."""
        if total not in self._nodes:
            self._nodes[total] = nodes_over(self.leaves[:total])
        return self._nodes[total]

    def root(self, size: int) -> bytes:
        return self.nodes(size)(len(tree.widths(size)) - 1, 0)

    def head(self, size: int | None = None) -> Head:
        size = self.size if size is None else size
        return sign_head(self.key, self.subfeed, size, self.root(size), 1000 + size)

    def peaks(self, start: int) -> list[bytes]:
        return left_peaks(self.nodes(self.size), start)

    def right(self, stop: int, total: int | None = None) -> list[bytes]:
        total = self.size if total is None else total
        return right_proof(self.nodes(total), total, stop)

    def give(self, store, start: int, stop: int, total: int | None = None, **options) -> int:
        """Have a store take in messages [start, stop) under the head at ``total``."""
        total = self.size if total is None else total
        return extend(
            store,
            self.key.public,
            self.subfeed,
            self.slice(start, stop),
            self.right(stop, total),
            self.head(total),
            "channel",
            base_peaks=self.peaks(start),
            **options,
        )


def nodes_over(leaves: list[bytes]) -> Callable[[int, int], bytes]:
    """Every node of the tree over some leaves, as tree.py builds it."""
    levels = tree.levels("sha256", b"".join(leaves))

    def node(level: int, index: int) -> bytes:
        found = levels[level][32 * index : 32 * index + 32]
        assert len(found) == 32
        return found

    return node


def leaves_of(slice: Slice) -> list[tuple[int, bytes | None, bytes]]:
    """(timestamp, author, text) of each message, however the runs are cut."""
    told = [(run.timestamp, run.author) for run in slice.runs for _ in range(run.count)]
    return [(*each, text) for each, text in zip(told, slice.texts, strict=True)]


def dump(store) -> list[str]:
    """All that is in a store's tables."""
    with store.transaction() as db:
        return list(db.iterdump())


def copy_as_killed(path: Path, folder: Path) -> Path:
    """What another process would find if this one were killed now."""
    folder.mkdir()
    for suffix in ("", "-wal"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            (folder / source.name).write_bytes(source.read_bytes())
    return folder / path.name


def extend(
    store: FeedStore,
    feed: bytes,
    subfeed: bytes,
    slice: Slice,
    right: Sequence[bytes],
    head: Head,
    channel: str,
    *,
    base_peaks: Sequence[bytes] | None = None,
    name: str | None = None,
    source: str = "another node",
) -> int:
    """As :meth:`FeedStore.extend`."""
    return store.extend(
        Incoming(feed, subfeed, slice, right, head, channel, base_peaks, name, source)
    )
