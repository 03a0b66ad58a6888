"""Feeds on disk: the keys of one's own, and the logs of these and of those that are followed.

Invariants: those of :class:`.database.Database`. What is appended to one's own feed is on disk when
the call returns, and so is what says who may write and what is forked. Messages of others can be
fetched again, so their commits wait for no disk. A log is never shown but as it was committed, and a
head leaves this module only when the commit that it belongs to is over.

Non-goals: who may read what, where feeds come from.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kachery_p2p.protocol.errors import BadInput, FeedForked, FeedReadOnly, UnknownFeed
from kachery_p2p.protocol.feeds.decision import Decision, check_decision
from kachery_p2p.protocol.feeds.feed import Head, check_head
from kachery_p2p.protocol.feeds.fork import Fork, check_fork
from kachery_p2p.protocol.identity import NodeKey

from .append import Append, Appended, LogHead, append_all
from .forks import add_fork, decide, take_decision
from .intake import Incoming, find_fork, follows, take_in
from .log import Log, OpenLog, drop_log, load_log, make_log
from .logs import LogStore
from .spool import Accepted, FeedSpool

_log = logging.getLogger(__name__)


class FeedRow(NamedTuple):
    """A feed that is known here. ``feed`` is its id, ``name`` what the user of this node calls it.

    ``created`` is in seconds; of a feed of others it is the time of the first head that was seen.
    """

    feed: bytes
    name: str | None
    writable: bool
    created: float


class FeedStore(LogStore):
    """The feeds in the database at ``path``. A feed is its 32-byte id, a subfeed its 20-byte hash.

    ``durable=False`` waits for no disk at all: a crash of the machine may lose the last moments, a
    crash of the process loses nothing all the same.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self._spool: FeedSpool | None = None
        super().__init__(path, durable=durable)
        try:
            self._spool = FeedSpool(path.with_suffix(".spool"))
            self._append_accepted(self._spool)
        except BaseException:
            self.close()
            raise

    @property
    def durable(self) -> bool:
        return self._durable

    def close(self) -> None:
        """Close the files; a second time does nothing."""
        if self._spool is not None:
            self._spool.close()
        super().close()

    # --- feeds -----------------------------------------------------------------------------------

    def create_feed(
        self, seed: bytes, name: str | None, now: float, *, replace: bool = False
    ) -> bytes:
        """Keep a feed's key; its id. One that was followed so far becomes one's own.

        Args:
            seed: 32 bytes, the feed's key.
            name: what the user calls it; None for no name, or the one that it has.
            now: seconds.
            replace: take the name from the feed that has it, which stays, without a name.

        Raises:
            BadInput: another feed has the name, or the seed is none.
        """
        feed = NodeKey(seed).public
        with self._changing(feed) as db:
            if replace and name is not None:
                db.execute("UPDATE feeds SET name = NULL WHERE name = ?", (name,))
            select = "SELECT 1 FROM feeds WHERE name = ? AND feed != ?"
            if name is not None and db.execute(select, (name, feed)).fetchone():
                raise BadInput(what=f"feed name {name!r}", reason="another feed has it")
            db.execute(
                "INSERT INTO feeds VALUES (?, ?, ?, ?) ON CONFLICT (feed) DO UPDATE SET"
                " seed = excluded.seed, name = coalesce(excluded.name, name)",
                (feed, seed, name, now),
            )
            logs = "(SELECT log FROM logs WHERE feed = ?)"
            db.execute(f"DELETE FROM channels WHERE log IN {logs}", (feed,))
        return feed

    def feed_named(self, name: str) -> bytes | None:
        """The id of the feed with that name, or None."""
        row = self._row("SELECT feed FROM feeds WHERE name = ?", name)
        return None if row is None else bytes(row[0])

    def feeds(self) -> list[FeedRow]:
        """All feeds that are known here, the oldest first."""
        rows = self._rows(
            "SELECT feed, name, seed IS NOT NULL, created FROM feeds ORDER BY created, rowid"
        )
        return [FeedRow(feed, name, bool(own), created) for feed, name, own, created in rows]

    def name(self, feed: bytes) -> str | None:
        """What the user calls a feed, or None."""
        row = self._row("SELECT name FROM feeds WHERE feed = ?", feed)
        return None if row is None else row[0]

    def key(self, feed: bytes) -> NodeKey | None:
        """The key of one's own feed, or None."""
        row = self._row("SELECT seed FROM feeds WHERE feed = ?", feed)
        return None if row is None or row[0] is None else NodeKey(row[0])

    def delete_feed(self, feed: bytes) -> bool:
        """Forget a feed: its key, its logs, all. Whether it was there."""
        with self._changing(feed) as db:
            for (number,) in db.execute("SELECT log FROM logs WHERE feed = ?", (feed,)).fetchall():
                drop_log(db, number)
            return db.execute("DELETE FROM feeds WHERE feed = ?", (feed,)).rowcount > 0

    def get_rules(self, feed: bytes, subfeed: bytes) -> str | None:
        """The access rules that were set for a subfeed, as JSON, or None."""
        row = self._row(
            "SELECT rules FROM rules JOIN logs USING (log) WHERE feed = ? AND subfeed = ?",
            feed,
            subfeed,
        )
        return None if row is None else str(row[0])

    def set_rules(self, feed: bytes, subfeed: bytes, rules: str | None) -> None:
        """Set the access rules of a subfeed, which is made if need be, or forget them.

        Raises:
            UnknownFeed: there is no such feed here.
        """
        with self._changing(feed) as db:
            if not db.execute("SELECT 1 FROM feeds WHERE feed = ?", (feed,)).fetchone():
                raise UnknownFeed(feed=feed.hex())
            number = make_log(db, feed, subfeed)
            db.execute("DELETE FROM rules WHERE log = ?", (number,))
            if rules is not None:
                db.execute("INSERT INTO rules VALUES (?, ?)", (number, rules))

    # --- one's own logs --------------------------------------------------------------------------

    def append(
        self,
        feed: bytes,
        subfeed: bytes,
        name: str | None,
        texts: Sequence[bytes],
        *,
        author: bytes | None = None,
        now_ms: int,
        submission: bytes | None = None,
    ) -> Appended:
        """Append messages to one's own feed: all or none, and on disk when it returns.

        Args:
            feed, subfeed: which; the subfeed is made if need be.
            name: the subfeed's name for people, taken if it has none yet.
            texts: at least one, as ``encode_message`` or ``unpack_texts`` gives them.
            author: the id of the node that submitted them; None for the owner.
            now_ms: the time; where the log is ahead of it, the log's is taken.
            submission: ``SUBMISSION_BYTES`` bytes. If this author's submission of that number was
                appended before (among the last ``MAX_SUBMISSIONS`` of the subfeed), nothing is, and
                the result says where it went then.

        Raises:
            BadInput: no texts, a text with a newline, an author or a number of another length.
            FeedReadOnly: the feed's key is not here.
            FeedForked: two histories of it were signed.
            FeedBehind: more of it was signed than is here.
        """
        call = Append(feed, subfeed, name, texts, author, now_ms, submission)
        self.append_all([call])
        if call.error is not None:
            raise call.error
        assert call.result is not None
        return call.result

    def append_all(self, calls: list[Append]) -> None:
        """Do several appends with one commit; each call has its result or its error then.

        Raises:
            StorageFull, StorageDamaged: none was done.
        """
        with self._lock:
            with self.transaction() as db:
                grown = append_all(db, calls, self._load)
            for log in grown:
                self._keep(log)

    def accept(self, call: Append, first: int) -> bool:
        """Keep an append until it is committed: over a crash of the process, and, once
        :meth:`sync_accepted` has returned, of the machine. ``first``: the number that its first message
        will have.

        Returns:
            False: there is no room for it until :meth:`all_committed`.

        Raises:
            StorageFull, StorageDamaged: it is not kept.
        """
        assert self._spool is not None
        return self._spool.put(Accepted(call, first))

    def sync_accepted(self) -> None:
        """What was accepted before is on the disk when this returns. Raises StorageFull,
        StorageDamaged."""
        assert self._spool is not None
        self._spool.sync()

    def all_committed(self) -> None:
        """All that was accepted was given to :meth:`append_all` since."""
        assert self._spool is not None
        self._spool.clear()

    def log_head(self, feed: bytes, subfeed: bytes) -> LogHead | None:
        """The end of one's own log as it was committed last; None if that is not at hand."""
        log = self._cached(feed, subfeed)
        return None if log is None or log.key is None else LogHead(log)

    def _append_accepted(self, spool: FeedSpool) -> None:
        """What a process that is gone accepted and did not commit."""
        sizes: dict[Log, int] = {}
        calls, lost = [], 0
        for call, first in spool.read():
            place = call.feed, call.subfeed
            if place not in sizes:
                info = self.info(*place)
                sizes[place] = info.size if info is not None else 0
            if first == sizes[place]:
                calls.append(call)
                sizes[place] += len(call.texts)
            elif first > sizes[place]:  # what comes before it is not here
                lost += len(call.texts)
        if calls:
            self.append_all(calls)
        for call in calls:
            if call.error is not None:
                _log.warning("an append that was acknowledged is lost: %s", call.error)
        if spool.damaged or lost:
            _log.warning(
                "The disk has damaged appended messages that were not in their feeds yet; %d that "
                "come after them in the same subfeeds are not there either. What is left is kept: %s",
                lost,
                spool.keep_aside() or "nowhere, for the disk takes nothing more",
            )
        spool.clear()

    def note_head(self, head: Head, source: str = "another node") -> None:
        """Somebody showed a head of one's own feed: what it covers was signed, so nothing may be
        appended before it is here.

        Raises:
            ForgedFeed: the feed's key did not sign it; names ``source``.
            FeedReadOnly: the feed's key is not here.
        """
        check_head(head, source)
        self._check_own(head.feed)
        info = self.info(head.feed, head.subfeed)
        if info is not None and info.decision is not None and info.decision.is_after(head):
            return
        if info is None or info.known < head.size:
            with self._changing(head.feed) as db:
                number = make_log(db, head.feed, head.subfeed)
                db.execute(
                    "UPDATE logs SET known = max(known, ?) WHERE log = ?", (head.size, number)
                )

    # --- others' logs ----------------------------------------------------------------------------

    def follows(self, incoming: Incoming) -> bool:
        """Whether it is clear, without a look at the disk, that this will be taken in: it is proven
        to be what comes next in its log. Takes as long as a signature does."""
        log = self._cached(incoming.feed, incoming.subfeed)
        return log is not None and follows(log, incoming)

    def extend(self, incoming: Incoming) -> int:
        """Take in messages that somebody sent if they are proven; if not, nothing is kept. The log is
        made if need be.

        Returns:
            The size of the log now.

        Raises:
            BadInput: messages are missing between what is held and the slice.
            ForgedFeed: this is not what the feed's key signed.
            FeedForked: two histories were signed. If the head shows it, the evidence is kept.
        """
        feed = incoming.feed
        with self._lock:
            with self._sync(self._owns(feed)), self.transaction() as db:
                log = self._log_for(db, incoming.head)
                found = take_in(db, log, incoming)
                if isinstance(found, Fork):
                    add_fork(db, log, found)
            if isinstance(found, OpenLog):
                self._keep(found)
                return found.info.size
            self._let_go(feed)
        raise FeedForked(feed=feed.hex())

    # --- forks -----------------------------------------------------------------------------------

    def fork_with(self, head: Head, source: str = "another node") -> Fork | None:
        """The proof that a head and what is held of its log exclude one another, if there is one.

        A head that is longer than what is held shows nothing by itself, but for one of the size of
        the log's own head.

        Raises:
            ForgedFeed: the feed's key did not sign it; names ``source``.
            UnknownFeed: there is no such log here.
        """
        check_head(head, source)
        log = self._open(head.feed, head.subfeed)
        with self._reading(log) as db:
            return find_fork(db, log, head)

    def record_fork(self, fork: Fork, source: str = "another node") -> bool:
        """Keep the proof of a fork: its log grows no more, unless the owner has decided since which
        history counts. A second proof is not needed.

        Returns:
            Whether the log is forked now.

        Raises:
            ForgedFeed: it proves nothing; names ``source``.
        """
        check_fork(fork, source)
        with self._changing(fork.first.feed) as db:
            return add_fork(db, self._log_for(db, fork.first), fork)

    def decide(self, feed: bytes, subfeed: bytes, now_ms: int) -> Decision | None:
        """Go on with the history of one's own log that is held here; None if there is no fork.

        Raises:
            FeedReadOnly: the feed's key is not here.
            BadInput: nothing is held.
        """
        with self._changing(feed) as db:
            log = load_log(db, feed, subfeed)
            if log is None or log.info.fork is None:
                return None
            return decide(db, log, now_ms)

    def take_decision(self, decision: Decision, source: str = "another node") -> bool:
        """An owner's decision: a mirror that does not fit it is emptied, a log of one's own is left as
        it is. Whether it changes anything.

        Raises:
            ForgedFeed: the owner did not decide so; names ``source``.
        """
        check_decision(decision, source)
        with self._changing(decision.head.feed) as db:
            return take_decision(db, self._log_for(db, decision.head), decision)

    # --- parts -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _changing(self, feed: bytes) -> Iterator[sqlite3.Connection]:
        """A transaction that changes something of a feed without growing its logs."""
        with self._lock:
            try:
                with self.transaction() as db:
                    yield db
            finally:
                self._let_go(feed)

    @contextlib.contextmanager
    def _sync(self, durable: bool) -> Iterator[None]:
        """What is committed inside waits for the disk only if it must. It costs 3 microseconds."""
        if durable or not self._durable:
            yield
            return
        with self._errors():
            db = self._open_db()
            db.execute("PRAGMA synchronous = NORMAL")
        try:
            yield
        finally:
            with self._errors():
                db.execute("PRAGMA synchronous = FULL")

    def _log_for(self, db: sqlite3.Connection, head: Head) -> OpenLog:
        """The log that a head is of, made if need be."""
        log = self._load(db, head.feed, head.subfeed)
        if log is None:
            values = (head.feed, head.timestamp / 1000)
            db.execute("INSERT OR IGNORE INTO feeds VALUES (?, NULL, NULL, ?)", values)
            make_log(db, head.feed, head.subfeed)
            log = load_log(db, head.feed, head.subfeed)
        assert log is not None
        return log

    def _owns(self, feed: bytes) -> bool:
        return bool(self._rows("SELECT 1 FROM feeds WHERE feed = ? AND seed NOTNULL", feed))

    def _check_own(self, feed: bytes) -> None:
        if not self._owns(feed):
            there = self._rows("SELECT 1 FROM feeds WHERE feed = ?", feed)
            raise FeedReadOnly(feed=feed.hex()) if there else UnknownFeed(feed=feed.hex())
