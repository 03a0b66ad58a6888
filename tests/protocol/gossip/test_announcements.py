"""A node's own announcement log, and the batches it signs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput, ProtocolViolation
from kachery_p2p.protocol.gossip import announcements
from kachery_p2p.protocol.gossip.announcements import (
    PROVIDE,
    WITHDRAW,
    AnnouncementLog,
    Batch,
    check_batch,
    make_batch,
    pack_entries,
    unpack_entries,
)
from kachery_p2p.protocol.identity import NodeKey

ORIGIN, OTHER = NodeKey(b"o" * 32), NodeKey(b"x" * 32)
CHANNEL = b"c" * 32


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


BATCH = make_batch(ORIGIN, CHANNEL, 7, 3, pack_entries([(PROVIDE, key(1)), (WITHDRAW, key(2))]))
DATA = codec.encode(BATCH)


def test_a_batch_survives_the_wire_and_its_signature_holds() -> None:
    again = codec.decode(Batch, DATA)
    assert again == BATCH
    check_batch(again)
    assert (again.count, again.end) == (2, 4)
    assert list(unpack_entries(again.entries)) == [(PROVIDE, key(1)), (WITHDRAW, key(2))]


@pytest.mark.parametrize(
    "change",
    [
        {"channel": b"d" * 32},
        {"origin": OTHER.public},
        {"epoch": 8},
        {"start": 4},
        {"entries": BATCH.entries[:17]},
        {"entries": BATCH.entries[17:] + BATCH.entries[:17]},
        {"sig": bytes(64)},
        {"sig": OTHER.sign(b"announcements", b"whatever")},
    ],
)
def test_nobody_can_put_a_batch_elsewhere(change: dict[str, object]) -> None:
    with pytest.raises(ProtocolViolation, match="not signed"):
        check_batch(replace(BATCH, **change))


@pytest.mark.parametrize(
    "arguments",
    [
        (CHANNEL, 1, 1, b"\x01" * 16),
        (CHANNEL, 1, 1, b"\x00" * 17),
        (CHANNEL, 1, 1, b"\x04" * 17),
        (CHANNEL, 1, 1, b"\x01" * 17 * 1001),
        (CHANNEL, 1, 2, b""),
        (CHANNEL, 1, 0, b"\x01" * 17),
        (CHANNEL, -1, 1, b"\x01" * 17),
        (CHANNEL, 2**63, 1, b"\x01" * 17),
        (CHANNEL, 1, 2**63 - 1, b"\x01" * 17),
        (CHANNEL[:-1], 1, 1, b"\x01" * 17),
    ],
)
def test_malformed_batches_are_neither_made_nor_taken(
    arguments: tuple[bytes, int, int, bytes],
) -> None:
    with pytest.raises(BadInput):
        make_batch(ORIGIN, *arguments)
    channel, epoch, start, entries = arguments
    with pytest.raises(ProtocolViolation) as caught:
        check_batch(Batch(channel, ORIGIN.public, epoch, start, entries, bytes(64)))
    assert caught.value.fields["origin"] == ORIGIN.node_id


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_batch(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        check_batch(codec.decode(Batch, data))


@settings(deadline=None, max_examples=200)
@given(at=st.integers(0, len(DATA) - 1), flip=st.integers(1, 255))
def test_no_changed_byte_of_a_batch_goes_unnoticed(at: int, flip: int) -> None:
    data = bytearray(DATA)
    data[at] ^= flip
    with pytest.raises(ProtocolViolation):
        check_batch(codec.decode(Batch, bytes(data)))


def test_the_log_says_what_changed_and_nothing_twice() -> None:
    log = AnnouncementLog(5)
    assert log.provide(key(1))
    assert not log.provide(key(1))
    assert not log.withdraw(key(2))
    assert log.provide(key(2))
    assert log.withdraw(key(1))
    assert log.since(0) == [(1, PROVIDE, key(1)), (2, PROVIDE, key(2)), (3, WITHDRAW, key(1))]
    assert log.since(2) == [(3, WITHDRAW, key(1))]
    assert log.since(3) == []
    assert (log.head, log.live, set(log)) == (3, 1, {key(2)})
    assert key(2) in log
    assert key(1) not in log


def test_a_log_comes_back_from_its_entries() -> None:
    log = AnnouncementLog(5)
    for number in (1, 2, 3):
        log.provide(key(number))
    log.withdraw(key(2))
    again = AnnouncementLog(5, log.since(0))
    assert again.since(0) == log.since(0)
    assert set(again) == {key(1), key(3)}


@pytest.mark.parametrize(
    "entries",
    [
        [(2, PROVIDE, key(1))],
        [(1, PROVIDE, key(1)), (3, PROVIDE, key(2))],
        [(1, 9, key(1))],
        [(1, PROVIDE, b"short")],
    ],
)
def test_a_damaged_log_is_refused(entries: list[tuple[int, int, bytes]]) -> None:
    with pytest.raises(BadInput):
        AnnouncementLog(1, entries)


def test_there_is_a_limit_to_what_one_node_provides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcements, "MAX_KEYS_PER_ORIGIN", 2)
    log = AnnouncementLog(1)
    log.provide(key(1))
    log.provide(key(2))
    with pytest.raises(BadInput, match="2 keys"):
        log.provide(key(3))
    log.withdraw(key(1))
    assert log.provide(key(3))


def test_compaction_is_due_when_most_is_dead_and_leaves_what_is_live() -> None:
    log = AnnouncementLog(1)
    log.provide(key(9))
    log.provide(key(5))
    assert not log.needs_compaction()
    for _ in range(600):
        log.provide(key(1))
        log.withdraw(key(1))
    assert log.needs_compaction()
    assert log.compact(2) == [(1, PROVIDE, key(5)), (2, PROVIDE, key(9))]
    assert (log.epoch, log.head) == (2, 2)
    assert not log.needs_compaction()
    for epoch in (2, 1, 2**63):
        with pytest.raises(BadInput, match="epoch"):
            log.compact(epoch)


@pytest.mark.parametrize(
    ("known", "since"),
    [
        (None, 0),
        ((4, 9), 0),
        ((5, 0), 0),
        ((5, 1), 1),
        ((5, -7), 0),
        ((-1, 9), 0),
        ((1 << 80, 0), None),
        ((5, 2), None),
        ((5, 3), None),
        ((6, 0), None),
    ],
)
def test_the_log_knows_what_a_peer_lacks(known: tuple[int, int] | None, since: int | None) -> None:
    log = AnnouncementLog(5, [(1, PROVIDE, key(1)), (2, PROVIDE, key(2))])
    assert log.lacks(known) == since
    assert known is None or log.is_behind(known) == (known > (5, 2))


def test_an_empty_log_announces_its_epoch() -> None:
    (batch,) = AnnouncementLog(5).batches(CHANNEL, ORIGIN)
    check_batch(batch)
    assert (batch.epoch, batch.start, batch.end, batch.count) == (5, 1, 0, 0)


def test_batches_cover_what_was_asked_and_full_stretches_are_whole() -> None:
    log = AnnouncementLog(1)
    for number in range(2_500):
        log.provide(key(number))
    spans = {
        since: [(b.start, b.end) for b in log.batches(CHANNEL, ORIGIN, since)]
        for since in (0, 700, 1000, 2300, 2499, 2500)
    }
    assert spans == {
        0: [(1, 1000), (1001, 2000), (2001, 2500)],
        700: [(1, 1000), (1001, 2000), (2001, 2500)],
        1000: [(1001, 2000), (2001, 2500)],
        2300: [(2301, 2500)],
        2499: [(2401, 2500)],
        2500: [],
    }
    batch = log.batches(CHANNEL, ORIGIN, 2300)[0]
    check_batch(batch)
    assert list(unpack_entries(batch.entries)) == [(op, k) for _, op, k in log.since(2300)]
