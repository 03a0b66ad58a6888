"""Appending to one's own logs: several calls in one transaction, one signature for each log.

What is wrong with one call is its own affair: the others go on. What is wrong with the database ends
them all.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from kachery_p2p.protocol.errors import (
    BadInput,
    FeedBehind,
    FeedForked,
    FeedReadOnly,
    KacheryError,
)
from kachery_p2p.protocol.feeds.feed import MAX_MILLIS, Head, Run, Slice, leaf_hashes, sign_head
from kachery_p2p.protocol.identity import PUBLIC_BYTES
from kachery_p2p.protocol.limits import MAX_FEED_MESSAGES, MAX_SUBMISSIONS, SUBMISSION_BYTES

from .log import Log, OpenLog, cut_runs, grow, load_log, make_log, save_log, write_growth

Load = Callable[[sqlite3.Connection, bytes, bytes], OpenLog | None]


@dataclass(frozen=True, slots=True)
class Appended:
    """Messages [first, first + count) are on disk, under ``head`` or an earlier one."""

    first: int
    count: int
    head: Head


@dataclass(slots=True)
class Append:
    """One call, and what became of it.

    Raises:
        BadInput: no texts, a text with a newline, a number or length that is not possible.
    """

    feed: bytes
    subfeed: bytes
    name: str | None
    texts: Sequence[bytes]
    author: bytes | None
    now_ms: int
    submission: bytes | None
    timestamp: int = 0
    """Of its messages, in milliseconds: ``now_ms``, or the log's if that is ahead."""
    result: Appended | None = None
    error: KacheryError | None = None

    def __post_init__(self) -> None:
        reason = None
        if not self.texts:
            reason = "there are none"
        elif any(b"\n" in text for text in self.texts):
            reason = "one holds a newline"
        elif self.author is not None and len(self.author) != PUBLIC_BYTES:
            reason = f"an author has {PUBLIC_BYTES} bytes"
        elif self.submission is not None and len(self.submission) != SUBMISSION_BYTES:
            reason = f"the number of a submission has {SUBMISSION_BYTES} bytes"
        elif not 0 <= self.now_ms <= MAX_MILLIS:
            reason = f"the time is {self.now_ms} ms"
        if reason is not None:
            raise BadInput(what="messages to append", reason=reason)


class LogHead:
    """Where one of one's own logs will end: what is promised of it, and signed, before it is committed.

    Attributes:
        log: which.
        size: messages, all counted that were promised.
        certain: nothing but appends has changed the log since.
    """

    def __init__(self, log: OpenLog) -> None:
        self.log: Log = (log.feed, log.subfeed)
        self.size = log.info.size
        self.certain = True
        self._key = log.key
        self._frontier = log.frontier.copy()
        self._timestamp = log.timestamp

    def grow(self, calls: Sequence[Append]) -> Slice:
        """The messages of the next calls of those that were promised, as :func:`append_all` will write
        them."""
        self._timestamp = _date(calls, self._timestamp)
        slice = slice_of(calls, self._frontier.size)
        self._frontier.extend(leaf_hashes(slice))
        return slice

    def sign(self) -> Head:
        """A head for all that it has grown by."""
        assert self._key is not None
        frontier = self._frontier
        return sign_head(self._key, self.log[1], frontier.size, frontier.root(), self._timestamp)


def slice_of(calls: Iterable[Append], first: int) -> Slice:
    """The messages of calls whose timestamps are known.

    What was appended in the same millisecond shares runs: each is a row, and between two rows SQLite
    lets other threads go on, which costs more than the row when the interpreter is busy.
    """
    slice = Slice(first, [], [])
    for (timestamp, author), same in itertools.groupby(calls, lambda x: (x.timestamp, x.author)):
        texts = [text for call in same for text in call.texts]
        slice.runs.extend(Run(count, timestamp, author) for count in cut_runs(texts))
        slice.texts.extend(texts)
    return slice


def _date(calls: Iterable[Append], timestamp: int) -> int:
    """Give calls their timestamps: those of a log go one way, whatever the clock did. The last one."""
    for call in calls:
        call.timestamp = timestamp = max(call.now_ms, timestamp)
    return timestamp


def append_all(db: sqlite3.Connection, calls: list[Append], load: Load) -> list[OpenLog]:
    """Do the calls inside a transaction; each has its result or its error then.

    Args:
        load: gives a log as it is committed.

    Returns:
        The logs that are to be kept once it is committed.
    """
    grown: dict[tuple[bytes, bytes], OpenLog] = {}
    done: list[tuple[Append, OpenLog, int, int]] = []
    for group in _groups(calls):
        call = group[0]
        place = call.feed, call.subfeed
        try:
            log = grown.get(place) or _own_log(db, call, load)
            _check_appendable(log, sum(len(each.texts) for each in group))
        except KacheryError as error:
            for each in group:
                each.result, each.error = None, error
            continue
        found = _find_submission(db, log, call)
        if found is None:
            first = log.info.size
            log = grown[place] = _append(db, log, group)
        else:
            first = found[0]
        for each in group:
            count = len(each.texts) if found is None else found[1]
            done.append((each, log, first, count))
            first += count
    signed = {place: _sign(log) for place, log in grown.items()}
    for log in signed.values():
        save_log(db, log)
    for call, log, first, count in done:
        head = signed.get((call.feed, call.subfeed), log).info.head
        assert head is not None
        call.result, call.error = Appended(first, count, head), None
    return list(signed.values())


def _groups(calls: list[Append]) -> Iterator[list[Append]]:
    """The calls in order; neighbours that can be appended as one together."""
    group: list[Append] = []
    for call in calls:
        if group and not _joins(group[-1], call):
            yield group
            group = []
        group.append(call)
    if group:
        yield group


def _joins(before: Append, call: Append) -> bool:
    same = (before.feed, before.subfeed, before.name) == (call.feed, call.subfeed, call.name)
    return same and before.submission is None and call.submission is None


def _own_log(db: sqlite3.Connection, call: Append, load: Load) -> OpenLog:
    log = load(db, call.feed, call.subfeed)
    if log is None:
        row = db.execute("SELECT seed FROM feeds WHERE feed = ?", (call.feed,)).fetchone()
        if row is not None and row[0] is not None:
            make_log(db, call.feed, call.subfeed)
            # Not through the caller's hands: it is not committed.
            log = load_log(db, call.feed, call.subfeed)
    if log is None or log.key is None:
        raise FeedReadOnly(feed=call.feed.hex())
    return log


def _check_appendable(log: OpenLog, count: int) -> None:
    info = log.info
    if info.fork is not None:
        raise FeedForked(feed=log.feed.hex())
    if info.size < info.known:
        reason = f"{info.size} messages of a subfeed are here, {info.known} were signed"
        raise FeedBehind(feed=log.feed.hex(), reason=reason)
    if info.size + count > MAX_FEED_MESSAGES:
        raise BadInput(what="messages to append", reason="the subfeed cannot hold so many")


def _append(db: sqlite3.Connection, log: OpenLog, group: list[Append]) -> OpenLog:
    timestamp = _date(group, log.timestamp)
    slice = slice_of(group, log.info.size)
    growth = grow(log, slice, leaf_hashes(slice))
    write_growth(db, growth)
    grown = growth.log._replace(timestamp=timestamp)
    call = group[0]
    if call.submission is not None:
        slot = grown.submissions % MAX_SUBMISSIONS
        values = (
            log.number,
            slot,
            call.author or b"",
            call.submission,
            slice.start,
            len(slice.texts),
        )
        db.execute("INSERT OR REPLACE INTO submissions VALUES (?, ?, ?, ?, ?, ?)", values)
        grown = grown._replace(submissions=grown.submissions + 1)
    if grown.info.name is None and call.name is not None:
        grown = grown._replace(info=grown.info._replace(name=call.name))
    return grown


def _find_submission(db: sqlite3.Connection, log: OpenLog, call: Append) -> tuple[int, int] | None:
    if call.submission is None:
        return None
    found = db.execute(
        "SELECT first, count FROM submissions WHERE log = ? AND author = ? AND submission = ?",
        (log.number, call.author or b"", call.submission),
    ).fetchone()
    return None if found is None else (found[0], found[1])


def _sign(log: OpenLog) -> OpenLog:
    assert log.key is not None
    size = log.info.size
    head = sign_head(log.key, log.subfeed, size, log.frontier.root(), log.timestamp)
    # It was whole before, so there was nothing of the right-hand proof.
    return log._replace(info=log.info._replace(head=head, known=size))
