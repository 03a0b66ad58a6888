"""What one node announces on one channel: its log of entries, and the signed batches cut from it.

An entry says that the node provides, or no longer provides, one blinded key. Entries are numbered
from 1 within an epoch; a new epoch starts the log over, without what was withdrawn.

Invariants

* Only the origin writes its log, and every batch is signed with its node key over the channel, the
  epoch and the place in the log: a batch can be passed on by anybody and put nowhere else.
* One (epoch, seq) never has two contents. So an epoch is used once: whoever lost part of its log
  starts a higher one (Unix milliseconds are a good choice).
* Batches end at multiples of ``MAX_ANNOUNCE_ENTRIES``, and the one that reaches such a multiple
  contains its whole stretch; it replaces the small ones that were sent along the way, so an index
  does not fill up with batches of one entry.
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
from kachery_p2p.protocol.limits import BLINDED_KEY_BYTES, MAX_ANNOUNCE_ENTRIES, MAX_KEYS_PER_ORIGIN

PROVIDE: Final = 1
WITHDRAW: Final = 2
"""The operations; all other numbers are reserved and refused."""

ENTRY_BYTES: Final = 1 + BLINDED_KEY_BYTES
MAX_NUMBER: Final = 2**63 - 1
"""Of an epoch or a sequence number: what SQLite and msgpack hold."""
CONTEXT: Final = b"announcements"
"""What the origin's signature is for."""

Entry = tuple[int, int, bytes]
"""(seq, operation, 16-byte blinded key)."""

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
        self._packed = bytearray()
        self._live: set[bytes] = set()
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

    def provide(self, key: bytes) -> bool:
        """Append that the key is provided; False if it is already. Its entry is then ``head``.

        Raises:
            BadInput: the key is not 16 bytes, or ``MAX_KEYS_PER_ORIGIN`` are provided.
        """
        if key in self._live:
            return False
        if len(self._live) >= MAX_KEYS_PER_ORIGIN:
            raise BadInput(
                what="announcement",
                reason=f"a node can provide {MAX_KEYS_PER_ORIGIN} things on a channel",
            )
        self._append(PROVIDE, key)
        return True

    def withdraw(self, key: bytes) -> bool:
        """Append that the key is no longer provided; False if it is not. Raises BadInput."""
        if key not in self._live:
            return False
        self._append(WITHDRAW, key)
        return True

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
        return known[1] if known[0] == self.epoch and known[1] < self.head else None

    def is_behind(self, known: tuple[int, int]) -> bool:
        """Whether a peer claims to know more of this log than there is.

        If the claim is true, this node lost entries (a restored backup, say) and must
        :meth:`compact` into an epoch above ``known[0]``, or nobody will listen. A claim is not
        signed: do not follow one that leads to an epoch in the future.
        """
        return known > (self.epoch, self.head)

    def batches(self, channel: bytes, key: NodeKey, since: int = 0) -> list[Batch]:
        """The signed batches that bring a peer from ``since`` to the head.

        They may begin before ``since``; receivers skip what they have. At ``since`` 0 there is
        always at least one, be it without entries, so that a new epoch is heard of.
        """
        if self.head == 0:
            return [make_batch(key, channel, self.epoch, 1, b"")]
        result = []
        while since < self.head:
            stretch = since - since % MAX_ANNOUNCE_ENTRIES
            end = min(self.head, stretch + MAX_ANNOUNCE_ENTRIES)
            first = stretch if end % MAX_ANNOUNCE_ENTRIES == 0 else since
            entries = bytes(self._packed[first * ENTRY_BYTES : end * ENTRY_BYTES])
            result.append(make_batch(key, channel, self.epoch, first + 1, entries))
            since = end
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
        # Sorted, so that the new log does not tell in which order things came to be provided.
        live = sorted(self._live)
        self.epoch = new_epoch
        self._packed = bytearray(pack_entries((PROVIDE, key) for key in live))
        return self.since(0)

    def _append(self, operation: int, key: bytes) -> None:
        self._packed += _packed(operation, key)
        if operation == PROVIDE:
            self._live.add(bytes(key))
        else:
            self._live.discard(key)


def _packed(operation: int, key: bytes) -> bytes:
    if operation not in (PROVIDE, WITHDRAW):
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
    if not set(batch.entries[::ENTRY_BYTES]) <= {PROVIDE, WITHDRAW}:
        return "an unknown operation"
    return None
