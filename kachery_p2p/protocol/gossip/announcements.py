"""What one node announces on one channel: its log of entries, and the signed batches cut from it.

An entry says that the node provides, or no longer provides, one blinded key; or it is a mark, which
says that the log is complete up to there (completeness.py). Entries are numbered from 1 within an
epoch; a new epoch starts the log over, without what was withdrawn.

Invariants

* Only the origin writes its log, and every batch is signed with its node key over the channel, the
  epoch and the place in the log: a batch can be passed on by anybody and put nowhere else.
* One (epoch, seq) never has two contents. So an epoch is used once: whoever lost part of its log
  starts a higher one (Unix milliseconds are a good choice).
* No batch reaches over a multiple of ``MAX_ANNOUNCE_ENTRIES``. One that reaches such a multiple, or
  one of ``ANNOUNCE_MERGE`` or a power of it, begins where that stretch begins; it replaces the small
  ones that were sent along the way. So of what is announced one by one an index keeps a few batches
  for each thousand, at the price of sending each entry some three times more.
* A batch without entries, at the start of an epoch, says that the node provides nothing (yet).

Non-goals: keeping the log on disk (the caller does, entry by entry), blinding (blinding.py), other
nodes' logs (gossip.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Final

from msgspec import Meta, Struct

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput, ProtocolViolation
from kachery_p2p.protocol.identity import SIGNATURE_BYTES, NodeKey, verify
from kachery_p2p.protocol.limits import (
    ANNOUNCE_MERGE,
    BLINDED_KEY_BYTES,
    MAX_ANNOUNCE_ENTRIES,
    MAX_KEYS_PER_ORIGIN,
)

from .completeness import NOTHING_COMPLETE
from .key_set import KeySet

PROVIDE: Final = 1
WITHDRAW: Final = 2
MARK: Final = 3
"""The operations; all other numbers are reserved and refused. A mark has 16 bytes of its own in place
of a key."""

ENTRY_BYTES: Final = 1 + BLINDED_KEY_BYTES
MAX_NUMBER: Final = 2**63 - 1
"""Of an epoch or a sequence number: what SQLite and msgpack hold."""
CONTEXT: Final = b"announcements"
"""What the origin's signature is for."""

Entry = tuple[int, int, bytes]
"""(seq, operation, 16-byte blinded key, or what a mark says)."""

Change = tuple[int, bytes]
"""(operation, key), not yet numbered."""

_Id = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Packed = Annotated[bytes, Meta(max_length=MAX_ANNOUNCE_ENTRIES * ENTRY_BYTES)]


class Batch(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A signed stretch of a log. ``entries``: per entry one byte operation, 16 bytes key."""

    channel: _Id
    origin: _Id
    epoch: Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
    start: Annotated[int, Meta(ge=1, le=MAX_NUMBER)]
    entries: _Packed
    sig: Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]

    @property
    def count(self) -> int:
        """How many entries."""
        return len(self.entries) // ENTRY_BYTES

    @property
    def end(self) -> int:
        """Sequence number of the last entry; ``start - 1`` if there is none."""
        return self.start + self.count - 1


def pack_entries(entries: Iterable[tuple[int, bytes]]) -> bytes:
    """Pairs (operation, key) in the form that stands in a batch.

    Raises:
        BadInput: an operation or a key is malformed.
    """
    packed = bytearray()
    for operation, key in entries:
        packed += _packed(operation, key)
    return bytes(packed)


def unpack_entries(packed: bytes) -> Iterator[tuple[int, bytes]]:
    """The inverse of :func:`pack_entries`, for entries that were checked."""
    for at in range(0, len(packed), ENTRY_BYTES):
        yield packed[at], packed[at + 1 : at + ENTRY_BYTES]


def make_batch(key: NodeKey, channel: bytes, epoch: int, start: int, entries: bytes) -> Batch:
    """Sign a stretch of one's own log.

    Args:
        key: the node's key.
        channel: channel id, 32 bytes.
        epoch: the log's epoch.
        start: sequence number of the first entry, from 1.
        entries: from :func:`pack_entries`, at most ``MAX_ANNOUNCE_ENTRIES``.

    Raises:
        BadInput: it would not pass :func:`check_batch`.
    """
    message = _message(channel, key.public, epoch, start, entries)
    batch = Batch(channel, key.public, epoch, start, entries, key.sign(CONTEXT, message))
    reason = _flaw(batch)
    if reason:
        raise BadInput(what="announcement batch", reason=reason)
    return batch


def check_batch(batch: Batch) -> None:
    """That the batch is well-formed and signed by its origin.

    Raises:
        ProtocolViolation: with the field ``origin`` (hex) beside the reason.
    """
    check_shape(batch)
    check_signature(batch)


def check_shape(batch: Batch) -> None:
    """The cheap half of :func:`check_batch`."""
    reason = _flaw(batch)
    if reason:
        raise ProtocolViolation(
            reason=f"announcement batch: {reason}", origin=bytes(batch.origin).hex()
        )


def check_signature(batch: Batch) -> None:
    """The dear half of :func:`check_batch`: about 60 microseconds."""
    message = _message(batch.channel, batch.origin, batch.epoch, batch.start, batch.entries)
    if not verify(batch.origin, CONTEXT, message, batch.sig):
        origin = batch.origin.hex()
        raise ProtocolViolation(
            reason=f"announcement batch not signed by its origin {origin}", origin=origin
        )


class AnnouncementLog:
    """This node's own log on one channel.

    Args:
        epoch: from 0; higher than any that was ever used on this channel by this node.
        entries: what was kept of that epoch, in order, from sequence number 1.

    Raises:
        BadInput: the entries are not such a sequence.
    """

    def __init__(self, epoch: int, entries: Iterable[Entry] = ()) -> None:
        self.epoch = epoch
        self.mark = NOTHING_COMPLETE
        """What the newest mark of this epoch says."""
        self._packed = bytearray()
        self._live = KeySet()
        self.extend(entries)

    def extend(self, entries: Iterable[Entry]) -> None:
        """Append what :meth:`plan` gave, or what was kept.

        Raises:
            BadInput: the entries do not follow one another and the head.
        """
        for seq, operation, key in entries:
            if seq != self.head + 1:
                raise BadInput(
                    what="announcement log", reason=f"entry {seq} comes after entry {self.head}"
                )
            self._append(operation, key)

    @property
    def head(self) -> int:
        """Sequence number of the last entry; 0 if there is none."""
        return len(self._packed) // ENTRY_BYTES

    @property
    def live(self) -> int:
        """How many keys are provided."""
        return len(self._live)

    def __contains__(self, key: bytes) -> bool:
        return key in self._live

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._live)

    def keys(self) -> KeySet:
        """The keys that are provided now, as a set of its own."""
        return self._live.copy()

    def plan(self, changes: Iterable[Change]) -> list[Entry]:
        """The entries that changes come to; what says nothing new is left out. Changes nothing, so
        that they can be put on disk before :meth:`extend` makes them heard.

        Raises:
            BadInput: a key is malformed, or more than ``MAX_KEYS_PER_ORIGIN`` would be provided.
        """
        entries: list[Entry] = []
        now: dict[bytes, bool] = {}
        seq, live, mark = self.head, len(self._live), self.mark
        for operation, key in changes:
            _packed(operation, key)
            if operation == MARK:
                if key == mark:
                    continue
                mark = key
            else:
                here = now.get(key, key in self._live)
                if here == (operation == PROVIDE):
                    continue
                live += -1 if here else 1
                if live > MAX_KEYS_PER_ORIGIN:
                    raise BadInput(
                        what="announcement",
                        reason=f"a node can provide {MAX_KEYS_PER_ORIGIN} keys on a channel",
                    )
                now[key] = not here
            seq += 1
            entries.append((seq, operation, key))
        return entries

    def provide(self, key: bytes) -> bool:
        """Append that the key is provided; False if it is already. Raises BadInput."""
        return self._do(PROVIDE, key)

    def withdraw(self, key: bytes) -> bool:
        """Append that the key is no longer provided; False if it is not. Raises BadInput."""
        return self._do(WITHDRAW, key)

    def _do(self, operation: int, key: bytes) -> bool:
        entries = self.plan([(operation, key)])
        self.extend(entries)
        return bool(entries)

    def since(self, seq: int) -> list[Entry]:
        """The entries after sequence number ``seq`` (0: all)."""
        packed = bytes(self._packed[seq * ENTRY_BYTES :])
        return [(seq + n, op, key) for n, (op, key) in enumerate(unpack_entries(packed), 1)]

    def lacks(self, known: tuple[int, int] | None) -> int | None:
        """What a peer must be sent, by the (epoch, seq) that its digest names for us.

        Returns:
            The ``since`` for :meth:`batches`, or None: it has everything.
        """
        if known is None or known[0] < self.epoch:
            return 0
        # Whoever says what it knows may say anything.
        return max(0, known[1]) if known[0] == self.epoch and known[1] < self.head else None

    def is_behind(self, known: tuple[int, int]) -> bool:
        """Whether a peer claims to know more of this log than there is.

        If the claim is true, this node lost entries (a restored backup, say) and must
        :meth:`compact` into an epoch above ``known[0]``, or nobody will listen. A claim is not
        signed: do not follow one that leads to an epoch in the future.
        """
        return known > (self.epoch, self.head)

    def batch_after(
        self, channel: bytes, key: NodeKey, known: tuple[int, int] | None
    ) -> Batch | None:
        """The next batch for who knows the log up to (epoch, seq), or nothing of it (None).

        It may begin before what is lacking; receivers skip what they have. Of an epoch that is new
        to the receiver there is always one, be it without entries, so that it is heard of.
        """
        since = self.lacks(known)
        if since is None:
            return None
        stretch = since - since % MAX_ANNOUNCE_ENTRIES
        end = min(self.head, stretch + MAX_ANNOUNCE_ENTRIES)
        first = stretch + _begin(since - stretch, end - stretch)
        entries = bytes(self._packed[first * ENTRY_BYTES : end * ENTRY_BYTES])
        return make_batch(key, channel, self.epoch, first + 1, entries)

    def batches(self, channel: bytes, key: NodeKey, since: int = 0) -> list[Batch]:
        """The signed batches that bring a peer from ``since`` to the head; at ``since`` 0 at least
        one. See :meth:`batch_after`."""
        known = (self.epoch, since) if since else None
        result = []
        while (batch := self.batch_after(channel, key, known)) is not None:
            result.append(batch)
            known = (self.epoch, batch.end)
        return result

    def needs_compaction(self) -> bool:
        """Whether most of the log says what no longer counts."""
        return self.head > 2 * len(self._live) + MAX_ANNOUNCE_ENTRIES

    def compact(self, new_epoch: int) -> list[Entry]:
        """Start over in a higher epoch with what is provided now.

        Returns:
            The entries of the new log, which replace those that were kept.

        Raises:
            BadInput: the epoch is not higher.
        """
        if not self.epoch < new_epoch <= MAX_NUMBER:
            raise BadInput(
                what=f"epoch {new_epoch}", reason=f"{self.epoch + 1} to {MAX_NUMBER} is possible"
            )
        fresh = AnnouncementLog(new_epoch, self.compacted())
        self.epoch, self._packed = new_epoch, fresh._packed
        return self.since(0)

    def compacted(self) -> Iterator[Entry]:
        """The entries of a new log that says what this one says now.

        Sorted, so that it does not tell in which order things came to be provided.
        """
        seq = 0
        for seq, key in enumerate(self._live.ordered(), 1):
            yield seq, PROVIDE, key
        if self.mark != NOTHING_COMPLETE:
            yield seq + 1, MARK, self.mark

    def _append(self, operation: int, key: bytes) -> None:
        self._packed += _packed(operation, key)
        if operation == PROVIDE:
            self._live.add(key)
        elif operation == WITHDRAW:
            self._live.discard(key)
        else:
            self.mark = bytes(key)


def _begin(since: int, end: int) -> int:
    """Where a batch begins that brings a stretch of the log from ``since`` to ``end`` entries."""
    size, first = ANNOUNCE_MERGE, since
    while size < MAX_ANNOUNCE_ENTRIES:
        if since // size < end // size:
            first = since - since % size
        size *= ANNOUNCE_MERGE
    return 0 if end == MAX_ANNOUNCE_ENTRIES else first


def _packed(operation: int, key: bytes) -> bytes:
    if operation not in (PROVIDE, WITHDRAW, MARK):
        raise BadInput(what="announcement", reason=f"operation {operation} is unknown")
    if len(key) != BLINDED_KEY_BYTES:
        raise BadInput(what="announcement", reason=f"a key is {BLINDED_KEY_BYTES} bytes")
    return bytes((operation,)) + key


def _message(channel: bytes, origin: bytes, epoch: int, start: int, entries: bytes) -> bytes:
    return codec.pack([channel, origin, epoch, start, entries])


def _flaw(batch: Batch) -> str | None:
    """What is wrong with a batch, its signature apart."""
    count, rest = divmod(len(batch.entries), ENTRY_BYTES)
    if len(batch.channel) != 32 or len(batch.origin) != 32 or len(batch.sig) != SIGNATURE_BYTES:
        return "a field has the wrong length"
    if rest or count > MAX_ANNOUNCE_ENTRIES:
        return f"entries are not 0 to {MAX_ANNOUNCE_ENTRIES} times {ENTRY_BYTES} bytes"
    if not 0 <= batch.epoch <= MAX_NUMBER or not 1 <= batch.start <= MAX_NUMBER - count:
        return "epoch or sequence number out of range"
    if count == 0 and batch.start != 1:
        return "no entries, and not at the start of an epoch"
    if not set(batch.entries[::ENTRY_BYTES]) <= {PROVIDE, WITHDRAW, MARK}:
        return "an unknown operation"
    return None
