"""One log in the database of feeds: its rows, and what is kept of it in memory.

An :class:`OpenLog` is a value: appending makes another one, which takes its place once it is
committed. So a transaction that fails has nothing to undo, and whoever reads while somebody appends
has a log that hangs together: the rows that it speaks of are there and never change.

Every function takes a connection inside which it runs; errors of SQLite pass through.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Final, NamedTuple

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput, StorageDamaged
from kachery_p2p.protocol.feeds.decision import Decision
from kachery_p2p.protocol.feeds.feed import ALGORITHM, Head, Run, Slice, leaf_hashes, pack_texts
from kachery_p2p.protocol.feeds.fork import Fork
from kachery_p2p.protocol.feeds.frontier import Frontier, left_peaks
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import MAX_RUN, MAX_RUN_BYTES, TILE
from kachery_p2p.protocol.tree import HASH_BYTES

from .schema import PER_LOG
from .tiles import (
    Edges,
    Tile,
    TreeNodes,
    edge_length,
    edge_levels,
    edge_number,
    grow_edges,
    unknown_edges,
)

_PLACE_BITS: Final = 40  # MAX_FEED_MESSAGES is 1 << 40
_COLUMNS: Final = "log, feed, subfeed, name, base, size, head, known, peaks, rest, submissions"


Log = tuple[bytes, bytes]
"""(feed id, subfeed hash)."""


class LogInfo(NamedTuple):
    """What is held of a log.

    Attributes:
        base: the first message that is held.
        size: messages up to where it is held, those before ``base`` counted.
        head: the head under which all of it is proven; None as long as there is nothing. Where
            ``size < head.size`` the rest has not come yet; what is there can be proven all the same.
        known: the size of the longest head that was ever seen of it, whether proven or not. A log
            of one's own with ``size < known`` is behind itself.
        name: the subfeed's name for people, if somebody said it.
        fork: the proof that its owner signed two histories.
        channels: those it was fetched on; none if it is one's own.
        decision: what its owner decided after a fork, last.
    """

    base: int
    size: int
    head: Head | None
    known: int
    name: str | None
    fork: Fork | None
    channels: frozenset[str]
    decision: Decision | None


class OpenLog(NamedTuple):
    """A log, ready to grow.

    Attributes:
        number: its key in the tables.
        key: the feed's key, if it lies here.
        peaks: of the tree at ``info.base``.
        rest: the right-hand proof from ``info.size`` to ``info.head``.
        frontier: of the tree at ``info.size``; never extended, only copied.
        edges: of the tree at ``info.size``.
        timestamp: that of the head, in ms, or of messages that have none yet; 0 if it is empty.
        submissions: how many were ever appended.
    """

    number: int
    feed: bytes
    subfeed: bytes
    key: NodeKey | None
    info: LogInfo
    peaks: tuple[bytes, ...]
    rest: tuple[bytes, ...]
    frontier: Frontier
    edges: Edges
    timestamp: int
    submissions: int


# --- rows of logs --------------------------------------------------------------------------------


def read_infos(
    db: sqlite3.Connection, feed: bytes | None = None, subfeed: bytes | None = None
) -> list[tuple[bytes, bytes, LogInfo]]:
    """(feed, subfeed, info) of all logs, of those of one feed, or of one of them."""
    wanted = {"feed": feed, "subfeed": subfeed}
    given = [name for name, value in wanted.items() if value is not None]
    where = " AND ".join(f"{name} = :{name}" for name in given) or "TRUE"
    select = f"SELECT {_COLUMNS} FROM logs WHERE {where} ORDER BY log"
    rows = db.execute(select, wanted).fetchall()
    return [(row[1], row[2], _info(db, row)) for row in rows]


def _info(db: sqlite3.Connection, row: Sequence[Any]) -> LogInfo:
    number, _, _, name, base, size, head, known = row[:8]
    fork = db.execute("SELECT fork FROM forks WHERE log = ?", (number,)).fetchone()
    channels = db.execute("SELECT channel FROM channels WHERE log = ?", (number,))
    decision = db.execute("SELECT decision FROM decisions WHERE log = ?", (number,)).fetchone()
    return LogInfo(
        base,
        size,
        None if head is None else codec.decode(Head, head),
        known,
        name,
        None if fork is None else codec.decode(Fork, fork[0]),
        frozenset(channel for (channel,) in channels),
        None if decision is None else codec.decode(Decision, decision[0]),
    )


def make_log(db: sqlite3.Connection, feed: bytes, subfeed: bytes) -> int:
    """The number of a log, which is made if need be. The feed must be there."""
    db.execute("INSERT OR IGNORE INTO logs (feed, subfeed) VALUES (?, ?)", (feed, subfeed))
    row = db.execute("SELECT log FROM logs WHERE feed = ? AND subfeed = ?", (feed, subfeed))
    return int(row.fetchone()[0])


def drop_log(db: sqlite3.Connection, number: int) -> None:
    """Delete all of a log."""
    _drop_messages(db, number)
    for table in (*PER_LOG, "logs"):
        db.execute(f"DELETE FROM {table} WHERE log = ?", (number,))


def _drop_messages(db: sqlite3.Connection, number: int) -> None:
    between = (_place(number, 0), _place(number + 1, 0))
    db.execute("DELETE FROM runs WHERE place >= ? AND place < ?", between)
    db.execute("DELETE FROM tiles WHERE log = ?", (number,))


def empty_log(db: sqlite3.Connection, log: OpenLog) -> OpenLog:
    """The log without any message, as if none had come yet; what is known of it besides stays."""
    _drop_messages(db, log.number)
    return log._replace(
        info=log.info._replace(base=0, size=0, head=None),
        peaks=(),
        rest=(),
        frontier=Frontier(ALGORITHM),
        edges=unknown_edges(0),
        timestamp=0,
    )


def load_log(db: sqlite3.Connection, feed: bytes, subfeed: bytes) -> OpenLog | None:
    """Open a log: its frontier and edges are hashed anew from at most 255 messages and, for each
    level of tiles above, read from at most 255 tiles."""
    row = db.execute(
        f"SELECT {_COLUMNS}, (SELECT seed FROM feeds WHERE feed = logs.feed)"
        " FROM logs WHERE feed = ? AND subfeed = ?",
        (feed, subfeed),
    ).fetchone()
    if row is None:
        return None
    number = row[0]
    peaks, rest, submissions, seed = row[8:]
    info = _info(db, row)
    log = OpenLog(
        number,
        feed,
        subfeed,
        None if seed is None else NodeKey(seed),
        info,
        split_hashes(peaks),
        split_hashes(rest),
        Frontier(ALGORITHM),
        (),
        0,
        submissions,
    )
    if info.head is None:
        return log._replace(edges=unknown_edges(0))
    edges = [_read_leaves(db, log)]
    edges += [_read_roots(db, log, level) for level in edge_levels(info.size)[1:]]
    log = log._replace(edges=tuple(edges))
    nodes = tree_nodes(db, log)
    frontier = Frontier(ALGORITHM, info.size, left_peaks(nodes, info.size))
    return log._replace(frontier=frontier, timestamp=info.head.timestamp)


def _read_leaves(db: sqlite3.Connection, log: OpenLog) -> bytes:
    size = log.info.size
    first = size - edge_length(size, 0)
    start = max(first, log.info.base)
    found = [bytes(HASH_BYTES * (start - first))]
    for run, texts in read_runs(db, log, start):
        found += leaf_hashes(Slice(0, [run], texts))
    return b"".join(found)


def _read_roots(db: sqlite3.Connection, log: OpenLog, level: int) -> bytes:
    """The edge of a tile level above 0: the roots of tiles one level below."""
    size = log.info.size
    first = edge_number(size, level) * TILE
    stop = first + edge_length(size, level)
    # Tiles of which nothing is held were never written.
    start = max(first, edge_number(log.info.base, level - 1))
    rows = db.execute(
        "SELECT number, root FROM tiles WHERE log = ? AND level = ? AND number >= ? AND number < ?"
        " ORDER BY number",
        (log.number, level - 1, start, stop),
    ).fetchall()
    if [row[0] for row in rows] != list(range(start, stop)):
        raise _damaged(db, f"tiles of level {level - 1} are missing")
    return bytes(HASH_BYTES * (start - first)) + b"".join(row[1] for row in rows)


def save_log(db: sqlite3.Connection, log: OpenLog) -> None:
    """Write the log's own row."""
    info = log.info
    db.execute(
        "UPDATE logs SET name = ?, base = ?, size = ?, head = ?, known = ?, peaks = ?, rest = ?,"
        " submissions = ? WHERE log = ?",
        (
            info.name,
            info.base,
            info.size,
            None if info.head is None else codec.encode(info.head),
            info.known,
            b"".join(log.peaks),
            b"".join(log.rest),
            log.submissions,
            log.number,
        ),
    )


# --- messages ------------------------------------------------------------------------------------


def cut_runs(texts: Sequence[bytes]) -> Iterator[int]:
    """Into how many messages each the texts are cut, so that runs keep their bounds."""
    count = taken = 0
    for text in texts:
        if count and (count == MAX_RUN or taken + len(text) > MAX_RUN_BYTES):
            yield count
            count = taken = 0
        count += 1
        taken += len(text)
    if count:
        yield count


def drop_first(slice: Slice, count: int) -> Slice:
    """The slice without its first messages."""
    runs = []
    left = count
    for run in slice.runs:
        if left < run.count:
            runs.append(Run(run.count - left, run.timestamp, run.author))
        left = max(0, left - run.count)
    return Slice(slice.start + count, runs, slice.texts[count:])


class Growth(NamedTuple):
    """A log with more messages, and the rows that are to be written for it.

    ``log`` has no head for them yet: the caller sets that.
    """

    log: OpenLog
    runs: list[tuple[int, int, int, bytes | None, bytes]]
    tiles: list[Tile]


def grow(log: OpenLog, slice: Slice, leaves: list[bytes]) -> Growth:
    """Append a slice, which begins at ``log.info.size`` and has these leaf hashes.

    Raises:
        BadInput: a text holds a newline.
    """
    if not leaves:
        return Growth(log, [], [])
    rows = []
    at = 0
    for run in slice.runs:
        for count in cut_runs(slice.texts[at : at + run.count]):
            packed = pack_texts(slice.texts[at : at + count])
            if packed.count(b"\n") != count - 1:
                raise BadInput(what="feed message", reason="it holds a newline")
            place = _place(log.number, slice.start + at)
            rows.append((place, count, run.timestamp, run.author, packed))
            at += count
    frontier = log.frontier.copy()
    edges, full = grow_edges(log.edges, frontier.size, leaves, frontier.extend(leaves))
    grown = log._replace(
        info=log.info._replace(size=frontier.size),
        frontier=frontier,
        edges=edges,
    )
    return Growth(grown, rows, full)


def write_growth(db: sqlite3.Connection, growth: Growth) -> None:
    """Write the messages and the full tiles, not the log's own row."""
    db.executemany("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", growth.runs)
    if growth.tiles:
        rows = [(growth.log.number, *tile) for tile in growth.tiles]
        db.executemany("INSERT INTO tiles VALUES (?, ?, ?, ?, ?)", rows)


def read_runs(
    db: sqlite3.Connection, log: OpenLog, start: int
) -> Generator[tuple[Run, list[bytes]], None, None]:
    """The runs from message ``start`` to the log's size and their texts; the first is cut.

    Raises:
        StorageDamaged: they do not follow one another.
    """
    size = log.info.size
    if start >= size:
        return
    first = _place(log.number, start)
    cursor = db.execute(
        "SELECT place, count, timestamp, author, texts FROM runs WHERE place >="
        " (SELECT max(place) FROM runs WHERE place <= ?) AND place < ? ORDER BY place",
        (first, _place(log.number, size)),
    )
    at = start
    with contextlib.closing(cursor):
        for place, count, timestamp, author, packed in cursor:
            texts = packed.split(b"\n")
            skip = at - (place - _place(log.number, 0))
            if len(texts) != count or not (0 <= skip < count and (skip == 0 or at == start)):
                raise _damaged(db, f"message {at} of a feed is missing")
            if skip:
                texts = texts[skip:]
            yield Run(len(texts), timestamp, author), texts
            at += len(texts)
    if at != size:
        raise _damaged(db, f"message {at} of a feed is missing")


# --- the tree ------------------------------------------------------------------------------------


def tree_nodes(db: sqlite3.Connection, log: OpenLog) -> TreeNodes:
    """The nodes of the tree under the log's head."""

    def load(level: int, number: int) -> bytes:
        row = db.execute(
            "SELECT hashes FROM tiles WHERE log = ? AND level = ? AND number = ?",
            (log.number, level, number),
        ).fetchone()
        if row is None:
            raise _damaged(db, f"tile {number} of level {level} is missing")
        return bytes(row[0])

    head, info = log.info.head, log.info
    return TreeNodes(
        info.base,
        info.size,
        info.size if head is None else head.size,
        peaks=log.peaks,
        right=log.rest,
        edges=log.edges,
        load=load,
    )


def split_hashes(packed: bytes) -> tuple[bytes, ...]:
    """The inverse of joining hashes."""
    return tuple(packed[at : at + HASH_BYTES] for at in range(0, len(packed), HASH_BYTES))


def _place(number: int, index: int) -> int:
    return number << _PLACE_BITS | index


def _damaged(db: sqlite3.Connection, reason: str) -> StorageDamaged:
    path = db.execute("PRAGMA database_list").fetchone()[2]
    return StorageDamaged(path=path, reason=reason)
