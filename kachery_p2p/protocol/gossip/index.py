"""The index of who announced what, and how indexes of several proxies come to agree.

Participants: each member writes its own announcement log per channel (announcements.py); each proxy
keeps an :class:`Index` of everybody's. A leaf needs none; it asks a proxy.

The protocol, driven by the node's shell (node/gossip/exchange.py), per link and channel:

1. A *digest* says how far its sender knows each log, {origin: (epoch, head)}: a proxy's of all logs,
   anybody else's of its own. Proxies ask for one when a link comes to share the channel.
2. Who keeps an index and lacks something *pulls* it over a stream with credit: the other side sends
   the batches from there on, an origin from its own log, a proxy from its index
   (:meth:`Index.after`). A pull that was cut is repeated from where it stopped.
3. A new batch is *pushed* as a note, to peers that have heard nearly all that was pushed before;
   to the others goes a digest when they have caught up.
4. Who gets a batch checks that its origin is a member that may provide, and applies it.
   ``extended``: push it on to the other linked proxies. A :class:`Gap`: pull from that peer.

What a log says of itself as a whole (completeness.py) travels in it like everything else.

Goals: after a pause, only what is new travels; any order, loss or repetition of batches ends in the
same index once the digests agree; nobody but the origin can add to, change or hide part of its log
(withhold the end of it, yes); a lying origin is found out and hurts only itself.

Non-goals: telling who is a member or online, freshness beyond what links bring, resisting a proxy
that says nothing, consensus about an origin that signs two different logs: each index keeps what
came first until the origin starts a new epoch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from kachery_p2p.protocol.errors import ProtocolViolation
from kachery_p2p.protocol.limits import (
    INDEX_BATCH_BYTES,
    INDEX_GUARANTEED,
    INDEX_KEY_BYTES,
    INDEX_LEAST,
    INDEX_MOST,
    INDEX_POOL,
    MAX_KEYS_PER_ORIGIN,
    MAX_LOG_BATCHES,
    MAX_LOG_ENTRIES,
)
from kachery_p2p.protocol.links.shares import ShareBounds, Shares

from .announcements import (
    ENTRY_BYTES,
    MARK,
    PROVIDE,
    WITHDRAW,
    AnnouncementLog,
    Batch,
    check_batch,
    check_shape,
    check_signature,
    make_batch,
    unpack_entries,
)
from .completeness import NOTHING_COMPLETE
from .key_table import KeyTable

__all__ = ["AnnouncementLog", "Applied", "Batch", "Gap", "Index", "check_batch", "make_batch"]

_SWEPT_PER_KEY: Final = 2
"""Dead entries cleared for each that is applied: more than one, so the dead never pile up; and no more
than some, for whoever announces a single file does not clear up after others."""

BATCH_OVERHEAD: Final = 160
"""Bytes, about, of a packed batch besides its entries."""


@dataclass(frozen=True, slots=True)
class Applied:
    """A batch was taken in, or there was nothing new in it.

    ``fresh``: keys that the origin provides now and did not in this epoch before. ``extended``: the
    log is longer, so others may want the batch too. ``marked``: it may be complete now.
    """

    fresh: list[bytes]
    extended: bool
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Gap:
    """A batch cannot be applied before the one that contains ``need_seq`` of that epoch."""

    channel: bytes
    origin: bytes
    epoch: int
    need_seq: int


@dataclass(slots=True)
class _Log:
    """``batches`` ascend in start and in end, cover 1 to ``head``, and none contains another."""

    number: int
    epoch: int
    head: int = 0
    live: int = 0
    held: int = 0
    mark: bytes = NOTHING_COMPLETE
    batches: list[Batch] = field(default_factory=list)


@dataclass(slots=True)
class _Channel:
    """``holders``: keys and the numbers of the logs that have them. ``dead``: origins and batches.

    A log that was replaced or forgotten loses its number at once; the keys that still bear it are
    cleared bit by bit, so that no single call takes as long as a large log.
    """

    logs: dict[bytes, _Log] = field(default_factory=dict)
    origins: dict[int, bytes] = field(default_factory=dict)
    holders: KeyTable = field(default_factory=KeyTable)
    dead: deque[tuple[bytes, list[Batch]]] = field(default_factory=deque)
    last_number: int = 0
    swept: int = 0
    """Bytes of dead entries that were cleared beyond those that were due: a batch is cleared whole."""


class Index:
    """Everybody's announcements, per channel. Channels and origins are 32-byte ids. ``shares``: the
    bytes of memory that each origin has of it, over all channels."""

    def __init__(self) -> None:
        self._channels: dict[bytes, _Channel] = {}
        self.shares = Shares(ShareBounds(INDEX_LEAST, INDEX_GUARANTEED, INDEX_MOST, INDEX_POOL))

    def digest(self, channel: bytes) -> dict[bytes, tuple[int, int]]:
        """How far each origin's log is known: {origin: (epoch, last sequence number)}."""
        known = self._channels.get(channel)
        return {o: (log.epoch, log.head) for o, log in known.logs.items()} if known else {}

    def position(self, channel: bytes, origin: bytes) -> tuple[int, int] | None:
        """How far one origin's log is known: (epoch, last sequence number)."""
        log = self._log(channel, origin)
        return None if log is None else (log.epoch, log.head)

    def mark(self, channel: bytes, origin: bytes) -> bytes:
        """What the newest mark of an origin's log says (completeness.py)."""
        log = self._log(channel, origin)
        return NOTHING_COMPLETE if log is None else log.mark

    def after(
        self, channel: bytes, origin: bytes, known: tuple[int, int], most: int
    ) -> list[Batch]:
        """The next batches for who knows a log up to ``known`` (epoch, seq): at least one if there
        is any, else as many as have ``most`` bytes of entries and signatures together."""
        log = self._log(channel, origin)
        if log is None or known >= (log.epoch, log.head):
            return []
        seq = known[1] if known[0] == log.epoch else 0
        result: list[Batch] = []
        at = bisect_left(log.batches, seq + 1, key=_end) if log.head else 0
        while at < len(log.batches) and (not result or most > 0):
            result.append(log.batches[at])
            most -= len(log.batches[at].entries) + BATCH_OVERHEAD
            at += 1
        return result

    def missing(
        self, channel: bytes, peer_digest: dict[bytes, tuple[int, int]]
    ) -> list[tuple[bytes, int, int]]:
        """What this index has and a peer lacks, by its digest.

        Returns:
            Triples (origin, epoch, from_seq), each an argument list for :meth:`batches`.
        """
        result = []
        for origin, mine in self.digest(channel).items():
            theirs = peer_digest.get(origin, (-1, 0))
            if theirs < mine:
                from_seq = theirs[1] + 1 if theirs[0] == mine[0] else 1
                result.append((origin, mine[0], max(1, from_seq)))
        return result

    def batches(self, channel: bytes, origin: bytes, epoch: int, from_seq: int) -> list[Batch]:
        """The batches, as signed by the origin, that hold ``from_seq`` and all after it.

        Empty if that epoch is not the one known, or there is nothing after.
        """
        log = self._log(channel, origin)
        if log is None or log.epoch != epoch:
            return []
        if log.head == 0:
            return list(log.batches) if from_seq <= 1 else []
        return log.batches[bisect_left(log.batches, from_seq, key=_end) :]

    def holders(self, channel: bytes, key: bytes) -> list[bytes]:
        """The origins that provide ``key``, the longest known first."""
        known = self._channels.get(channel)
        if known is None:
            return []
        return [known.origins[n] for n in known.holders.numbers(key) if n in known.origins]

    def provides_any(self, channel: bytes, origin: bytes) -> bool:
        """Whether there is a key that this origin provides."""
        log = self._log(channel, origin)
        return log is not None and log.live > 0

    def apply(self, batch: Batch, *, checked: bool = False) -> Applied | Gap:
        """Take in a batch, from its origin or passed on by anybody. ``checked``: it has passed
        :func:`check_batch`, in a worker thread say.

        Whether its origin is a member is the caller's to check first. Repetitions and overlaps are
        skipped, older epochs ignored, and a newer epoch replaces all that the origin announced. A
        batch in which several known ones are contained takes their place.

        Returns:
            What it brought, or the gap before it.

        Raises:
            ProtocolViolation: malformed, not signed by its origin, over a limit, or contradicting
                what the origin signed before. The index stays as it was; the field ``origin`` names
                the culprit, which need not be the peer that passed it on.
        """
        if not checked:
            check_shape(batch)
        log = self._log(batch.channel, batch.origin)
        if log is not None and batch.epoch < log.epoch:
            return Applied([], False)
        if log is None or batch.epoch > log.epoch:
            self._check(batch, checked)
            if batch.start > 1:
                return Gap(batch.channel, batch.origin, batch.epoch, 1)
            log = self._new_log(batch)
            return self._extend(log, batch)
        if batch.start > log.head + 1:
            self._check(batch, checked)
            return Gap(batch.channel, batch.origin, batch.epoch, log.head + 1)
        overlap = _stored(log, batch.start, min(batch.end, log.head))
        if batch.entries[: len(overlap)] != overlap:
            self._check(batch, checked)
            origin = batch.origin.hex()
            raise ProtocolViolation(
                reason=f"node {origin} signed two different announcements under one number",
                origin=origin,
            )
        if batch.end > log.head:
            self._check(batch, checked)
            return self._extend(log, batch)
        contained = _contained(log, batch)
        if len(contained) > 1:
            self._check(batch, checked)
            self._take(batch.origin, _cost(batch) - sum(_cost(log.batches[n]) for n in contained))
            _store(log, batch)
        return Applied([], False)

    def forget_origin(self, channel: bytes, origin: bytes) -> None:
        """Drop what a node announced: it left the channel, or may no longer provide."""
        known = self._channels.get(channel)
        if known is not None and origin in known.logs:
            _bury(known, known.logs.pop(origin), origin)
            if not known.logs:
                self.forget_channel(channel)

    def sweep(self) -> bool:
        """Clear a dead batch; whether there was one. To be called now and then: of a log that
        was forgotten while nobody announces anything, the keys would stay."""
        for known in self._channels.values():
            if known.dead:
                self._sweep(known)
                return True
        return False

    def forget_channel(self, channel: bytes) -> None:
        """Drop everything about a channel."""
        known = self._channels.pop(channel, None)
        if known is not None:
            alive = [(origin, log.batches) for origin, log in known.logs.items()]
            for origin, batches in [*alive, *known.dead]:
                self.shares.give(origin.hex(), sum(map(_cost, batches)))

    def _log(self, channel: bytes, origin: bytes) -> _Log | None:
        known = self._channels.get(channel)
        return known.logs.get(origin) if known else None

    def _new_log(self, batch: Batch) -> _Log:
        known = self._channels.setdefault(batch.channel, _Channel())
        old = known.logs.pop(batch.origin, None)
        if old is not None:
            _bury(known, old, batch.origin)
        known.last_number += 1
        log = known.logs[batch.origin] = _Log(known.last_number, batch.epoch)
        known.origins[log.number] = batch.origin
        return log

    @staticmethod
    def _check(batch: Batch, checked: bool) -> None:
        if not checked:
            check_signature(batch)

    def _extend(self, log: _Log, batch: Batch) -> Applied:
        known = self._channels[batch.channel]
        new = batch.entries[(log.head + 1 - batch.start) * ENTRY_BYTES :]
        operations = new[::ENTRY_BYTES]
        growth = operations.count(PROVIDE) - operations.count(WITHDRAW)
        contained = _contained(log, batch)
        held = log.held + batch.count - sum(log.batches[at].count for at in contained)
        count = len(log.batches) + 1 - len(contained)
        more = _cost(batch) - sum(_cost(log.batches[at]) for at in contained)
        if (
            log.live + growth > MAX_KEYS_PER_ORIGIN
            or held > MAX_LOG_ENTRIES
            or count > MAX_LOG_BATCHES
            or not self._take(batch.origin, more)
        ):
            origin = batch.origin.hex()
            raise ProtocolViolation(
                reason=f"the announcements of node {origin} are too many; it must compact them",
                origin=origin,
            )
        fresh: dict[bytes, None] = {}
        for operation, key in unpack_entries(new):
            if operation == PROVIDE:
                if known.holders.add(key, log.number):
                    log.live += 1
                    fresh[key] = None
            elif operation == MARK:
                log.mark = key
            elif known.holders.remove(key, log.number):
                log.live -= 1
                fresh.pop(key, None)
        log.head = batch.end
        _store(log, batch)
        known.swept -= _SWEPT_PER_KEY * len(batch.entries)
        while known.dead and known.swept < 0:
            known.swept += self._sweep(known)
        known.swept = max(known.swept, 0)
        return Applied(list(fresh), True, MARK in operations)

    def _take(self, origin: bytes, more: int) -> bool:
        """Count memory on an origin's account; whether it may have that much."""
        if more >= 0:
            return self.shares.take(origin.hex(), more)
        self.shares.give(origin.hex(), -more)
        return True

    def _sweep(self, known: _Channel) -> int:
        """Clear a dead batch; the bytes of its entries, at least 1."""
        origin, batches = known.dead[0]
        swept = 1
        if batches:
            batch = batches.pop()
            for _, key in unpack_entries(batch.entries):
                known.holders.keep(key, known.origins)
            self.shares.give(origin.hex(), _cost(batch))
            swept = len(batch.entries)
        if not batches:
            known.dead.popleft()
        return swept


def _end(batch: Batch) -> int:
    return batch.end


def _start(batch: Batch) -> int:
    return batch.start


def _stored(log: _Log, first: int, last: int) -> bytes:
    """The known entries with numbers ``first`` to ``last``, packed."""
    result = bytearray()
    at = bisect_left(log.batches, first, key=_end)
    while first <= last:
        batch = log.batches[at]
        end = min(last, batch.end)
        offset = batch.start
        result += batch.entries[(first - offset) * ENTRY_BYTES : (end + 1 - offset) * ENTRY_BYTES]
        first = end + 1
        at += 1
    return bytes(result)


def _contained(log: _Log, batch: Batch) -> range:
    """Places of the known batches that ``batch`` makes superfluous."""
    first = bisect_left(log.batches, batch.start, key=_start)
    last = bisect_left(log.batches, batch.end + 1, key=_end)
    return range(first, max(first, last))


def _store(log: _Log, batch: Batch) -> None:
    places = _contained(log, batch)
    log.held += batch.count - sum(log.batches[at].count for at in places)
    log.batches[places.start : places.stop] = [batch]


def _cost(batch: Batch) -> int:
    """Bytes of memory, about, that a batch and its keys take."""
    provided = batch.entries[::ENTRY_BYTES].count(PROVIDE)
    return INDEX_BATCH_BYTES + len(batch.entries) + provided * INDEX_KEY_BYTES


def _bury(known: _Channel, log: _Log, origin: bytes) -> None:
    del known.origins[log.number]
    known.dead.append((origin, log.batches))
