"""Records: only the two ends can make them, and only in their order."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol.errors import ProtocolViolation, VersionMismatch
from kachery_p2p.protocol.limits import MAX_BODY, MAX_HEADERS, MAX_RECORD, PROTOCOL_VERSION
from kachery_p2p.protocol.links import session as module
from kachery_p2p.protocol.links.frames import (
    NO_TAIL,
    OPAQUE_TAIL,
    SEALED_TAIL,
    Data,
    Frame,
    Ping,
    encode_header,
    join_headers,
)
from kachery_p2p.protocol.links.noise import nonce
from kachery_p2p.protocol.links.session import (
    MAGIC,
    TAG_BYTES,
    Body,
    SealedBody,
    Session,
    prologue,
    unwrap_handshake,
)

from .records import record_of

KEYS = b"\x01" * 32, b"\x02" * 32


def pair() -> tuple[Session, Session]:
    def one(send: bytes, receive: bytes) -> Session:
        return Session(send_key=send, receive_key=receive, peer=b"p" * 32, handshake_hash=b"h" * 32)

    return one(*KEYS), one(*reversed(KEYS))


def received_of(session: Session, record: bytes | bytearray) -> tuple[Frame, Body]:
    """What came with a record of one frame."""
    [(frame, body)] = session.open(record)
    return frame, body


def sealed(number: int, body: bytes) -> Data:
    return Data(number, None, SEALED_TAIL, len(body) + TAG_BYTES)


def opaque(number: int, body: bytes) -> Data:
    return Data(number, None, OPAQUE_TAIL, len(body))


def test_frames_and_both_kinds_of_body_arrive() -> None:
    a, b = pair()
    assert received_of(b, record_of(a.seal(), Ping(1))) == (Ping(1), None)
    assert received_of(b, record_of(a.seal(), Data(1, "meta", NO_TAIL, 0))) == (
        Data(1, "meta", NO_TAIL, 0),
        None,
    )
    frame, body = received_of(b, record_of(a.seal(), sealed(1, b"secret"), b"secret"))
    assert isinstance(body, SealedBody)
    assert (len(body), body.open()) == (6, b"secret")
    frame, body = received_of(b, record_of(a.seal(), opaque(1, b"passing"), b"passing"))
    assert isinstance(body, memoryview)
    assert bytes(body) == b"passing"
    assert frame == opaque(1, b"passing")


def test_the_two_directions_do_not_disturb_each_other() -> None:
    a, b = pair()
    for number in range(5):
        assert received_of(b, record_of(a.seal(), Ping(number)))[0] == Ping(number)
        if number % 2:
            assert received_of(a, record_of(b.seal(), Ping(-number)))[0] == Ping(-number)


def test_neither_header_nor_sealed_body_shows_in_the_record() -> None:
    a, _ = pair()
    body = b"this text must not be seen" * 3
    record = record_of(
        a.seal(), Data(1, "nor this meta of it", SEALED_TAIL, len(body) + TAG_BYTES), body
    )
    assert b"must not be seen" not in record
    assert b"nor this meta" not in record


@pytest.mark.parametrize("size", [0, 1, MAX_BODY])
def test_bodies_of_every_size_arrive(size: int) -> None:
    a, b = pair()
    body = b"\xa5" * size
    _, received = received_of(b, record_of(a.seal(), sealed(1, body), body))
    assert isinstance(received, SealedBody)
    assert received.open() == body


def test_bodies_may_be_opened_later_and_in_any_order() -> None:
    a, b = pair()
    texts = [bytes([number]) * 100 for number in range(10)]
    received = [received_of(b, record_of(a.seal(), sealed(1, text), text))[1] for text in texts]
    for text, body in reversed(list(zip(texts, received, strict=True))):
        assert isinstance(body, SealedBody)
        assert body.open() == text


def test_a_body_of_another_record_does_not_open() -> None:
    a, b = pair()
    one, two = (
        bytearray(record_of(a.seal(), sealed(1, b"one"), b"one")),
        record_of(a.seal(), sealed(1, b"two"), b"two"),
    )
    one[-19:] = two[-19:]
    _, body = received_of(b, one)
    assert isinstance(body, SealedBody)
    with pytest.raises(ProtocolViolation):
        body.open()


RECORDS: dict[str, Callable[[Session], bytes | bytearray]] = {
    "control": lambda s: record_of(s.seal(), Ping(5)),
    "sealed": lambda s: record_of(s.seal(), sealed(1, b"content"), b"content"),
    "opaque": lambda s: record_of(s.seal(), opaque(1, b"content"), b"content"),
}


def opened(session: Session, record: bytes | bytearray) -> tuple[Frame, bytes | None]:
    frame, body = received_of(session, record)
    if isinstance(body, SealedBody):
        return frame, body.open()
    return frame, None if body is None else bytes(body)


@pytest.mark.parametrize("kind", ["control", "sealed"])
def test_every_flipped_bit_is_a_violation(kind: str) -> None:
    record = RECORDS[kind](pair()[0])
    for place in range(8 * len(record)):
        flipped = bytearray(record)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(ProtocolViolation):
            opened(pair()[1], flipped)


@pytest.mark.parametrize("kind", RECORDS)
def test_every_truncation_and_extension_is_a_violation(kind: str) -> None:
    record = bytes(RECORDS[kind](pair()[0]))
    for length in range(len(record)):
        with pytest.raises(ProtocolViolation):
            opened(pair()[1], record[:length])
    for extra in (b"\x00", b"\x00" * 100, record):
        with pytest.raises(ProtocolViolation):
            opened(pair()[1], record + extra)


@pytest.mark.parametrize("kind", RECORDS)
def test_a_replayed_record_is_a_violation(kind: str) -> None:
    a, b = pair()
    record = RECORDS[kind](a)
    opened(b, record)
    with pytest.raises(ProtocolViolation):
        opened(b, record)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:], ids=str)
def test_records_out_of_order_are_a_violation(order: tuple[int, ...]) -> None:
    a, b = pair()
    records = [record_of(a.seal(), Ping(number)) for number in range(3)]
    right = 0
    while order[right] == right:
        opened(b, records[right])
        right += 1
    with pytest.raises(ProtocolViolation):
        opened(b, records[order[right]])


def test_a_lost_record_is_noticed() -> None:
    a, b = pair()
    record_of(a.seal(), Ping(1))
    with pytest.raises(ProtocolViolation):
        opened(b, record_of(a.seal(), Ping(2)))


def test_a_record_sent_back_to_its_maker_is_a_violation() -> None:
    a, _ = pair()
    with pytest.raises(ProtocolViolation):
        opened(a, record_of(a.seal(), Ping(1)))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 3))
def test_arbitrary_records_are_violations(data: bytes, sent: int) -> None:
    a, b = pair()
    for number in range(sent):
        opened(b, record_of(a.seal(), Ping(number)))
    for record in (data, len(data).to_bytes(4, "big") + data, b"\x00\x00\x00\x14" + data):
        with pytest.raises(ProtocolViolation):
            opened(b, record)


def test_frames_that_share_a_record_arrive_in_their_order_with_their_tails() -> None:
    a, b = pair()
    frames = [Ping(1), opaque(3, b"one"), Data(5, "meta", NO_TAIL, 0), opaque(7, b"three")]
    last = sealed(9, b"secret")
    headers = [encode_header(frame) for frame in [*frames, last]]
    tails = [(frames[1], b"one"), (frames[3], b"three"), (last, b"secret")]
    received = b.open(a.seal().record(headers, tails))
    assert [frame for frame, _ in received] == [*frames, last]
    assert [None if body is None else bytes(body) for _, body in received[:4]] == [
        None, b"one", None, b"three"
    ]  # fmt: skip
    body = received[4][1]
    assert isinstance(body, SealedBody)
    assert body.open() == b"secret"


ONE, TWO = opaque(1, b"one"), opaque(3, b"two")


@pytest.mark.parametrize(
    ("frames", "tails"),
    [
        ([ONE, TWO], b"onetw"),
        ([ONE, TWO], b"onetwoo"),
        ([ONE, Ping(1)], b"onex"),
        ([Data(1, None, OPAQUE_TAIL, -3), TWO], b""),
        ([Data(1, None, OPAQUE_TAIL, 1 << 62), TWO], b"onetwo"),
        ([sealed(1, b""), sealed(3, b"")], b"x" * 32),
    ],
    ids=["short", "long", "a tail of nobody", "negative", "absurd", "two sealed ones"],
)
def test_tails_that_are_not_together_what_the_headers_say_are_a_violation(
    frames: list[Frame], tails: bytes
) -> None:
    session, receiver = pair()
    headers = join_headers([encode_header(frame) for frame in frames])
    box = session._sending._aead.encrypt(nonce(0), headers, None)
    with pytest.raises(ProtocolViolation):
        receiver.open(len(box).to_bytes(4, "big") + box + tails)


def forged(header: bytes, tail: bytes = b"") -> bytes:
    """A record that authenticates, as a hostile but genuine peer can make it."""
    session, _ = pair()
    aead = session._sending._aead
    box = aead.encrypt(nonce(0), join_headers([header]), None)
    return len(box).to_bytes(4, "big") + box + tail


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=1, max_size=80), st.binary(max_size=40))
def test_arbitrary_headers_of_a_genuine_peer_are_a_frame_or_a_violation(
    header: bytes, tail: bytes
) -> None:
    try:
        frame, body = received_of(pair()[1], forged(header, tail))
    except ProtocolViolation:
        return
    assert (body is not None) == (isinstance(frame, Data) and frame.tail != NO_TAIL)


@pytest.mark.parametrize(
    ("frame", "tail"),
    [
        (Ping(1), b"tail"),
        (Data(1, None, NO_TAIL, 0), b"tail"),
        (Data(1, None, NO_TAIL, 4), b""),
        (Data(1, None, NO_TAIL, -4), b""),
        (Data(1, None, SEALED_TAIL, 0), b""),
        (Data(1, None, SEALED_TAIL, 15), b"x" * 15),
        (Data(1, None, SEALED_TAIL, 20), b"x" * 19),
        (Data(1, None, OPAQUE_TAIL, 20), b"x" * 21),
        (Data(1, None, OPAQUE_TAIL, -1), b""),
        (Data(1, None, 3, 20), b"x" * 20),
        (Data(1, None, -1, 20), b"x" * 20),
        (Data(1, None, 99, 0), b""),
    ],
    ids=repr,
)
def test_a_header_that_lies_about_its_tail_is_a_violation(frame: Frame, tail: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        opened(pair()[1], forged(encode_header(frame), tail))


@pytest.mark.parametrize("length", [0, 1, TAG_BYTES, MAX_HEADERS + TAG_BYTES + 1, 2**32 - 1])
def test_a_header_length_out_of_bounds_is_refused_unread(length: int) -> None:
    record = length.to_bytes(4, "big") + bytes(min(length, MAX_HEADERS + 100))
    with pytest.raises(ProtocolViolation, match="header of"):
        opened(pair()[1], record)


def test_a_record_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(ProtocolViolation, match="a record of"):
        opened(pair()[1], bytes(MAX_RECORD + 1))


# --- new keys ---------------------------------------------------------------------------------


def test_the_key_changes_after_each_so_many_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REKEY_RECORDS", 4)
    a, b = pair()
    keys = []
    for number in range(13):
        record = record_of(a.seal(), sealed(number, b"content"), b"content")
        assert opened(b, record) == (sealed(number, b"content"), b"content")
        keys.append(a._sending._key)
        assert b._receiving._key == keys[-1]
    assert [keys.index(key) for key in keys] == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12]
    assert b._sending._key == KEYS[1]


def test_bodies_from_before_a_new_key_still_open_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REKEY_RECORDS", 2)
    a, b = pair()
    bodies = [
        received_of(b, record_of(a.seal(), sealed(1, b"x%d" % n), b"x%d" % n))[1] for n in range(6)
    ]
    for number, body in enumerate(bodies):
        assert isinstance(body, SealedBody)
        assert body.open() == b"x%d" % number


def test_a_record_from_before_a_new_key_is_of_no_use_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REKEY_RECORDS", 2)
    a, b = pair()
    first = record_of(a.seal(), Ping(0))
    for record in (first, record_of(a.seal(), Ping(1)), record_of(a.seal(), Ping(2))):
        opened(b, record)
    with pytest.raises(ProtocolViolation):
        opened(b, first)


def test_ends_that_disagree_on_when_the_key_changes_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair()
    monkeypatch.setattr(module, "REKEY_RECORDS", 2)
    records = [record_of(a.seal(), Ping(number)) for number in range(3)]
    monkeypatch.setattr(module, "REKEY_RECORDS", 1_000)
    opened(b, records[0])
    opened(b, records[1])
    with pytest.raises(ProtocolViolation):
        opened(b, records[2])


# --- before the handshake ---------------------------------------------------------------------


def test_the_prefix_of_a_handshake_message_is_taken_off() -> None:
    assert unwrap_handshake(prologue() + b"noise") == b"noise"
    assert unwrap_handshake(prologue()) == b""
    assert prologue() == MAGIC + PROTOCOL_VERSION.to_bytes(2, "big")


@pytest.mark.parametrize("theirs", [0, PROTOCOL_VERSION + 1, 65_535])
def test_another_version_is_named_with_ours(theirs: int) -> None:
    with pytest.raises(VersionMismatch) as caught:
        unwrap_handshake(prologue(theirs) + b"whatever it says")
    assert caught.value.fields == {"ours": PROTOCOL_VERSION, "theirs": theirs}


@pytest.mark.parametrize("message", [b"", b"k", MAGIC, MAGIC + b"\x00", b"GET / HTTP/1.1\r\n\r\n"])
def test_who_does_not_say_the_magic_is_no_node(message: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="not a kachery_p2p node"):
        unwrap_handshake(message)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.sampled_from([b"", MAGIC, prologue()]))
def test_arbitrary_first_messages_are_noise_or_a_documented_error(
    message: bytes, prefix: bytes
) -> None:
    try:
        noise = unwrap_handshake(prefix + message)
    except (ProtocolViolation, VersionMismatch):
        return
    assert (prefix + message) == prologue() + noise
