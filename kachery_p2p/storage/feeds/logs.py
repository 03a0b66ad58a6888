"""The database of feeds, opened: which logs are in memory, and everything that only reads.

Who reads does not wait for the disk that somebody's append waits for: reading has a connection of
its own, and an open log is a value that speaks of rows which are committed and never change.

Non-goals: changing anything (feeds.py).
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from kachery_p2p.protocol.errors import BadInput, StorageDamaged, UnknownFeed
from kachery_p2p.protocol.feeds.feed import Head, Run, Slice
from kachery_p2p.protocol.feeds.frontier import left_peaks, right_proof
from kachery_p2p.protocol.limits import MAX_SLICE_RUNS
from kachery_p2p.protocol.tree import range_proof
from kachery_p2p.storage.database import Database
from kachery_p2p.storage.paths import FEEDS_LOCK_FILE

from .log import LogInfo, OpenLog, load_log, read_infos, read_runs, tree_nodes
from .schema import MIGRATIONS

_OPEN_LOGS: Final = 1_024
"""Logs that are kept open: about 12 KiB each."""
_THERE: Final = "SELECT 1 FROM logs WHERE log = ?"
_WAL_BYTES: Final = 16 << 20
"""To which the write-ahead log is cut when something large has gone through it."""


class Proof(NamedTuple):
    """What proves messages [start, stop): the peaks at ``start``, the largest subtree first, and the
    right-hand proof from ``stop`` to ``head``."""

    head: Head
    peaks: list[bytes]
    right: list[bytes]


class LeafProof(NamedTuple):
    """One message's leaf hash, and its inclusion proof under ``head`` as tree.range_proof has it."""

    head: Head
    leaf: bytes
    proof: list[bytes]


class LogStore(Database):
    """The logs in the database at ``path``; see :class:`.store.FeedStore`."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self._durable = durable
        self._open_logs: OrderedDict[tuple[bytes, bytes], OpenLog] = OrderedDict()
        self._open_logs_lock = threading.Lock()
        super().__init__(
            path,
            what="feeds",
            migrations=MIGRATIONS,
            lock_file=FEEDS_LOCK_FILE,
            synchronous="FULL" if durable else "NORMAL",
        )
        try:
            with self._errors():
                self._open_db().execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        with self._open_logs_lock:
            self._open_logs.clear()
        super().close()

    def info(self, feed: bytes, subfeed: bytes) -> LogInfo | None:
        """What is held of a log, or None if it was never heard of."""
        log = self._cached(feed, subfeed)
        if log is not None:
            return log.info
        with self._reading() as db:
            found = read_infos(db, feed, subfeed)
        return found[0][2] if found else None

    def newest(self, most: int) -> tuple[int, list[tuple[bytes, bytes]]]:
        """How many logs there are, and the (feed, subfeed) of those that came to be here last."""
        with self._reading() as db:
            (count,) = db.execute("SELECT count(*) FROM logs").fetchone()
            select = "SELECT feed, subfeed FROM logs ORDER BY log DESC LIMIT ?"
            return count, db.execute(select, (most,)).fetchall()

    def logs(self, feed: bytes | None = None) -> list[tuple[bytes, bytes, LogInfo]]:
        """(feed, subfeed, info) of every log, or of every log of one feed."""
        with self._reading() as db:
            return read_infos(db, feed)

    def content_bytes(self, feed: bytes) -> int:
        """Bytes of the messages of a feed that are held, as they lie in the database."""
        with self._reading() as db:
            (size,) = db.execute(
                "SELECT coalesce(sum(length(texts)), 0) FROM logs JOIN runs ON place "
                "BETWEEN log << 40 AND (log << 40) + (1 << 40) - 1 WHERE feed = ?",
                (feed,),
            ).fetchone()
            return int(size)

    def read(
        self,
        feed: bytes,
        subfeed: bytes,
        start: int,
        *,
        max_messages: int,
        max_bytes: int,
        max_runs: int = MAX_SLICE_RUNS,
    ) -> Slice:
        """Messages from ``start`` on: as many as fit, but one if there is one.

        Args:
            max_messages, max_runs: at most so many.
            max_bytes: of the texts with newlines between them. A single message may have more.

        Raises:
            BadInput: the log is held from a later message on.
            UnknownFeed: there is no such log here.
        """
        log = self._open(feed, subfeed)
        if start < log.info.base:
            raise _not_held(start, log.info)
        runs: list[Run] = []
        texts: list[bytes] = []
        # Each text and a newline; there is none after the last.
        left = max_bytes + 1
        with self._reading(log) as db, contextlib.closing(read_runs(db, log, start)) as found:
            for run, more in found:
                count = _fitting(more, left, max_messages - len(texts))
                if not (count or texts):
                    count = 1
                if count < run.count:
                    more = more[:count]
                if count:
                    runs.append(Run(count, run.timestamp, run.author))
                    texts += more
                    left -= sum(map(len, more)) + count
                if count < run.count or len(runs) == max_runs:
                    break
        return Slice(start, runs, texts)

    def proof(self, feed: bytes, subfeed: bytes, start: int, stop: int) -> Proof:
        """What proves messages ``start <= i < stop`` under the log's head as it is now.

        Raises:
            BadInput: they are not held.
            UnknownFeed: there is no such log here.
        """
        log = self._open(feed, subfeed)
        info = log.info
        if info.head is None or not info.base <= start <= stop <= info.size or not stop:
            raise _not_held(start if start < info.base else stop, info)
        if start == stop == info.size:
            return Proof(info.head, list(log.frontier.peaks), list(log.rest))
        with self._reading(log) as db:
            nodes = tree_nodes(db, log)
            peaks = left_peaks(nodes, start)
            right = list(log.rest)
            if stop < info.size:
                right = right_proof(nodes, info.head.size, stop)
        return Proof(info.head, peaks, right)

    def leaf_proof(self, feed: bytes, subfeed: bytes, index: int) -> LeafProof:
        """What proves one message under the log's head, to somebody who knows nothing else.

        Raises:
            BadInput: it is not held.
            UnknownFeed: there is no such log here.
        """
        log = self._open(feed, subfeed)
        info = log.info
        if info.head is None or not info.base <= index < info.size:
            raise _not_held(index, info)
        with self._reading(log) as db:
            nodes = tree_nodes(db, log)
            proof = range_proof(nodes, info.head.size, index, index + 1)
            return LeafProof(info.head, nodes(0, index), proof)

    def committed(self, feed: bytes, subfeed: bytes) -> int:
        """So many messages of a log are committed at least: what is at hand, without the disk."""
        log = self._cached(feed, subfeed)
        return 0 if log is None else log.info.size

    # --- open logs -------------------------------------------------------------------------------

    def _open(self, feed: bytes, subfeed: bytes) -> OpenLog:
        """Raises UnknownFeed."""
        log = self._cached(feed, subfeed)
        if log is None and self._lock.acquire(blocking=False):
            try:
                with self._errors():
                    log = self._load(self._open_db(), feed, subfeed)
            finally:
                self._lock.release()
        elif log is None:
            # It is not kept, for what is committed just now may change it.
            with self._reading() as db, _one_state(db):
                log = load_log(db, feed, subfeed)
        if log is None:
            raise UnknownFeed(feed=feed.hex())
        return log

    def _load(self, db: sqlite3.Connection, feed: bytes, subfeed: bytes) -> OpenLog | None:
        """A log as it is committed. The lock must be held, and ``db`` not have changed the log."""
        log = self._cached(feed, subfeed)
        if log is None:
            log = load_log(db, feed, subfeed)
            if log is not None:
                self._keep(log)
        return log

    def _cached(self, feed: bytes, subfeed: bytes) -> OpenLog | None:
        with self._open_logs_lock:
            log = self._open_logs.get((feed, subfeed))
            if log is not None:
                self._open_logs.move_to_end((feed, subfeed))
            return log

    def _keep(self, log: OpenLog) -> None:
        """From now on this is the log. The lock must be held, and it must be committed."""
        with self._open_logs_lock:
            self._open_logs[log.feed, log.subfeed] = log
            self._open_logs.move_to_end((log.feed, log.subfeed))
            while len(self._open_logs) > _OPEN_LOGS:
                self._open_logs.popitem(last=False)

    def _let_go(self, feed: bytes) -> None:
        """Logs of this feed are to be read anew."""
        with self._open_logs_lock:
            for key in [key for key in self._open_logs if key[0] == feed]:
                del self._open_logs[key]

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        """Rows as they are committed, also while a transaction is open."""
        with self._reading() as db:
            return db.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def _reading(self, log: OpenLog | None = None) -> Iterator[sqlite3.Connection]:
        """The connection for reading. ``log`` is what is read, for it may be deleted meanwhile."""
        with self._read_lock, self._errors():
            db = self._open_reader()
            try:
                yield db
            except StorageDamaged:
                if log is not None and not db.execute(_THERE, (log.number,)).fetchone():
                    raise UnknownFeed(feed=log.feed.hex()) from None
                raise


@contextlib.contextmanager
def _one_state(db: sqlite3.Connection) -> Iterator[None]:
    """All that is read inside is of one moment."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("COMMIT")


def _fitting(texts: list[bytes], left: int, most: int) -> int:
    """How many of the texts, each with a newline, fit into ``left`` bytes, but at most ``most``."""
    if len(texts) <= most and sum(map(len, texts)) + len(texts) <= left:
        return len(texts)
    for count, text in enumerate(texts):
        left -= len(text) + 1
        if left < 0 or count >= most:
            return count
    return len(texts)


def _not_held(index: int, info: LogInfo) -> BadInput:
    held = f"only messages {info.base} to {info.size} are held here"
    return BadInput(what=f"message {index} of the subfeed", reason=held)
