"""Forks of logs: the proof that is kept of one, and what becomes of the log when its owner decides.

A mirror that does not fit the decision is emptied: it is fetched anew. A log of one's own never is:
what is here of the other history may be nowhere else, so the fork stays until its user decides too, or
deletes it.

Every function runs inside a transaction.
"""

from __future__ import annotations

import sqlite3

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput, FeedReadOnly
from kachery_p2p.protocol.feeds.decision import Decision, sign_decision
from kachery_p2p.protocol.feeds.fork import Fork

from .intake import root_at
from .log import OpenLog, empty_log, save_log


def add_fork(db: sqlite3.Connection, log: OpenLog, fork: Fork) -> bool:
    """Keep the proof of a fork, which must have been checked, unless it is settled.

    Returns:
        Whether the log is forked now.
    """
    decision = log.info.decision
    if decision is None or not decision.settles(fork):
        db.execute("INSERT OR IGNORE INTO forks VALUES (?, ?)", (log.number, codec.encode(fork)))
        return True
    head = log.info.head
    if head is not None and log.key is None and head in (fork.first, fork.second):
        other = fork.second if head == fork.first else fork.first
        if decision.is_after(head) and not decision.is_after(other):
            save_log(db, empty_log(db, log))
    return log.info.fork is not None


def decide(db: sqlite3.Connection, log: OpenLog, now_ms: int) -> Decision:
    """Decide a fork of one's own log for what is held here; ``log.info.fork`` must be there.

    Raises:
        FeedReadOnly: the feed's key is not here.
        BadInput: nothing is held that could be decided for.
    """
    info = log.info
    if log.key is None:
        raise FeedReadOnly(feed=log.feed.hex())
    if info.size == 0:
        reason = "this node holds no message of the subfeed; make a new feed"
        raise BadInput(what="fork", reason=reason)
    assert info.fork is not None
    decision = sign_decision(
        log.key,
        log.subfeed,
        size=info.size,
        root=log.frontier.root(),
        fork=info.fork,
        now_ms=max(now_ms, log.timestamp + 1),
        last=info.decision,
    )
    _keep(db, log, decision)
    # What was seen of the other history no longer counts as missing.
    save_log(db, _with_head(log, decision))
    return decision


def take_decision(db: sqlite3.Connection, log: OpenLog, decision: Decision) -> bool:
    """The owner's decision, which must have been checked; whether it changes anything."""
    info, head = log.info, decision.head
    if not decision.replaces(info.decision):
        return False
    fits = _fits(db, log, decision)
    if log.key is not None and fits is not True and info.head is not None:
        return False
    _keep(db, log, decision)
    if fits is False:
        log = empty_log(db, log)
    elif fits is True and info.size == head.size:
        log = _with_head(log, decision)
    save_log(db, log)
    return True


def _fits(db: sqlite3.Connection, log: OpenLog, decision: Decision) -> bool | None:
    """Whether what is held is of the history that counts; None if that cannot be told yet."""
    info, head = log.info, decision.head
    if info.head is None:
        return None
    if info.base < head.size <= info.size and root_at(db, log, head.size) != head.root:
        return False
    if decision.is_after(info.head) and info.size > head.size:
        return False  # what comes after it was signed before: it is of another one
    return True if info.base < head.size <= info.size else None


def _keep(db: sqlite3.Connection, log: OpenLog, decision: Decision) -> None:
    values = (log.number, codec.encode(decision))
    db.execute("INSERT OR REPLACE INTO decisions VALUES (?, ?)", values)
    if log.info.fork is not None and decision.settles(log.info.fork):
        db.execute("DELETE FROM forks WHERE log = ?", (log.number,))


def _with_head(log: OpenLog, decision: Decision) -> OpenLog:
    """The log, which is as long as the decision says, under its head."""
    size = decision.head.size
    info = log.info._replace(head=decision.head, known=size)
    return log._replace(info=info, rest=(), timestamp=decision.head.timestamp)
