"""Messages come out of a WebSocket as they went in, however they were cut on the way."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import BINARY, CONT, PING, PONG, TEXT, Frame, Opcode
from websockets.utils import apply_mask

from kachery_p2p.protocol.codec import Buffer
from kachery_p2p.protocol.limits import MIB
from kachery_p2p.protocol.links.websocket import (
    GROWTH,
    MAX_FRAGMENTS,
    SCRATCH,
    MessageReader,
    frame_head,
)

MOST = 5 * SCRATCH
LENGTHS = [0, 1, 125, 126, 1_000, 65_535, 65_536, SCRATCH - 14, SCRATCH, SCRATCH + 1, MOST]


def reader(*, masked: bool = False) -> MessageReader:
    return MessageReader(most=MOST, unmask=apply_mask if masked else None)


def frame(opcode: Opcode, data: bytes, *, fin: bool = True, masked: bool = False) -> bytes:
    """As the library makes them that others use."""
    return Frame(opcode, data, fin).serialize(mask=masked)


def received(reading: MessageReader, wire: bytes, cuts: list[int]) -> list[bytes]:
    """What comes of it when the socket gives so many bytes at a time, or fewer."""
    found: list[Buffer] = []
    at = turn = 0
    while at < len(wire) and reading.offence is None:
        space = reading.buffer()
        count = min(len(space), len(wire) - at, cuts[turn % len(cuts)])
        space[:count] = wire[at : at + count]
        del space
        reading.filled(count)
        at += count
        turn += 1
        while reading.messages:
            found.append(reading.messages.popleft())
    return [bytes(each) for each in found]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cut", [1, 7, 4_096, 1 << 20])
def test_every_length_comes_out_as_it_went_in(masked: bool, cut: int) -> None:
    rng = random.Random(cut)
    lengths = LENGTHS if cut > 1 else LENGTHS[:6]
    messages = [rng.randbytes(length) for length in lengths]
    wire = b"".join(frame(BINARY, each, masked=masked) for each in messages)
    assert received(reader(masked=masked), wire, [cut]) == messages


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["whole", "parts", "ping", "pong"]), st.integers(0, MOST - 200)),
        max_size=8,
    ),
    st.lists(st.integers(1, 2 * SCRATCH), min_size=1, max_size=6),
    st.booleans(),
    st.integers(0, 1 << 32),
)
def test_whatever_is_between_them_and_however_it_is_cut(
    plan: list[tuple[str, int]], cuts: list[int], masked: bool, seed: int
) -> None:
    rng = random.Random(seed)
    wire, messages, control = b"", [], []
    for kind, length in plan:
        data = rng.randbytes(length)
        if kind == "whole":
            wire += frame(BINARY, data, masked=masked)
            messages.append(data)
        elif kind == "parts":
            middle = frame(PING, b"between", masked=masked)
            places = sorted(rng.randrange(length + 1) for _ in range(2))
            wire += frame(BINARY, data[: places[0]], fin=False, masked=masked)
            wire += middle
            wire += frame(CONT, data[places[0] : places[1]], fin=False, masked=masked)
            wire += frame(CONT, data[places[1] :], masked=masked)
            messages.append(data)
            control.append(middle)
        else:
            made = frame(PING if kind == "ping" else PONG, data[:125], masked=masked)
            wire += made
            control.append(made)
    reading = reader(masked=masked)
    assert received(reading, wire, cuts) == messages
    assert list(reading.control) == control
    assert reading.offence is None


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
def test_a_head_is_as_the_library_makes_it(length: int, masked: bool) -> None:
    mask = b"mask" if masked else b""
    theirs = frame(BINARY, bytes(length), masked=masked)
    ours = frame_head(length, mask)
    assert len(ours) + length == len(theirs)
    assert ours[: len(ours) - len(mask)] == theirs[: len(ours) - len(mask)]


OFFENCES = {
    "text": (frame(TEXT, b"hello"), 1003),
    "a mask where none belongs": (frame(BINARY, b"x", masked=True), 1002),
    "an unknown kind": (b"\x83\x00", 1002),
    "an unknown kind of control": (b"\x8b\x00", 1002),
    "a reserved bit": (b"\xc2\x00", 1002),
    "a long ping": (b"\x89\x7e\x00\xff", 1002),
    "half a ping": (b"\x09\x00", 1002),
    "the end of nothing": (frame(CONT, b"x"), 1002),
    "a second beginning": (frame(BINARY, b"x", fin=False) + frame(BINARY, b"x"), 1002),
    "one byte too many": (frame(BINARY, bytes(MOST + 1)), 1009),
    "more than there is": (b"\x82\x7f" + b"\xff" * 8, 1009),
    "too much in parts": (
        frame(BINARY, bytes(MOST), fin=False) + frame(CONT, b"x"), 1009
    ),
    "parts without end": (
        frame(BINARY, b"", fin=False) + frame(CONT, b"", fin=False) * MAX_FRAGMENTS, 1009
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", OFFENCES)
@pytest.mark.parametrize("cut", [1, 1_000])
def test_what_breaks_the_rules_is_the_last_that_is_read(what: str, cut: int) -> None:
    wire, code = OFFENCES[what]
    reading = reader()
    first = received(reading, frame(BINARY, b"before") + wire + frame(BINARY, b"after"), [cut])
    assert first == [b"before"]
    assert reading.offence is not None
    assert reading.offence.code == code
    reading.feed(frame(BINARY, b"later") * 3_000)
    assert not reading.messages


def test_no_memory_is_taken_for_what_is_only_announced() -> None:
    reading = reader()
    reading.feed(frame_head(MOST) + b"x")
    assert len(reading.buffer()) <= SCRATCH


def test_memory_for_a_message_is_no_more_than_some_times_what_has_come() -> None:
    taken: list[int] = []

    def memory(length: int) -> memoryview:
        taken.append(length)
        return memoryview(bytearray(length))

    most = 100 * SCRATCH
    reading = MessageReader(most=most, memory=memory)
    sent = random.Random(1).randbytes(most)
    data = frame_head(most) + sent
    for start in range(0, len(data), 1_000):
        reading.feed(data[start : start + 1_000])
        came = start + 1_000
        assert sum(taken[-1:]) <= GROWTH * came
    assert [bytes(message) for message in reading.messages] == [sent]
    assert taken[-1] == most


def test_what_was_received_stays_as_it_is_while_more_comes() -> None:
    reading = reader()
    rng = random.Random(5)
    sent = [rng.randbytes(length) for length in (MOST, 10, MOST, SCRATCH + 1, 3)]
    for each in sent:
        reading.feed(frame(BINARY, each))
    assert [bytes(each) for each in reading.messages] == sent


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["whole", "parts", "ping"]), st.integers(0, MOST - 200)),
        max_size=6,
    ),
    st.lists(st.integers(1, 2 * SCRATCH), min_size=1, max_size=6),
    st.booleans(),
    st.integers(0, 1 << 32),
)
def test_while_there_is_no_room_nothing_is_taken_and_then_it_goes_on_where_it_was(
    plan: list[tuple[str, int]], cuts: list[int], masked: bool, seed: int
) -> None:
    rng = random.Random(seed)
    wire, messages, asked = b"", [], []
    for kind, length in plan:
        data = rng.randbytes(length)
        if kind == "whole":
            wire += frame(BINARY, data, masked=masked)
        elif kind == "parts":
            wire += frame(BINARY, data[: length // 2], fin=False, masked=masked)
            wire += frame(CONT, data[length // 2 :], masked=masked)
        else:
            wire += frame(PING, data[:125], masked=masked)
            continue
        messages.append(data)

    def admit(count: int) -> bool:
        asked.append(count)
        return rng.random() < 0.5

    reading = MessageReader(most=MOST, unmask=apply_mask if masked else None, admit=admit)
    rooms: list[int] = []
    found: list[bytes] = []
    at = turn = 0
    while at < len(wire) or reading.halted:
        if reading.halted:
            assert reading._large is None, "no memory yet"
            reading.go_on()
        elif rng.random() < 0.2:  # some other way, more than there may be room for
            count = cuts[turn % len(cuts)]
            reading.feed(wire[at : at + count])
            at += count
        else:
            space = reading.buffer()
            count = min(len(space), len(wire) - at, cuts[turn % len(cuts)])
            space[:count] = wire[at : at + count]
            del space
            reading.filled(count)
            at += count
        turn += 1
        while reading.messages:
            found.append(bytes(reading.messages.popleft()))
            rooms.append(reading.rooms.popleft())
    assert found == messages
    assert reading.offence is None
    assert sum(rooms) == sum(asked), "each is given back once"
    assert all(
        room >= len(message) or (not room and len(message) <= SCRATCH)
        for room, message in zip(rooms, found, strict=True)
    )


def test_what_comes_first_may_have_to_be_small() -> None:
    reader = MessageReader(most=MIB, first=4_000)
    reader.feed(frame_head(4_000) + bytes(4_000) + frame_head(100_000) + bytes(100_000))
    assert [len(message) for message in reader.messages] == [4_000, 100_000]
    assert reader.offence is None
    for size in (4_001, 60_000, MIB):
        reader = MessageReader(most=MIB, first=4_000)
        reader.feed(frame_head(size) + bytes(SCRATCH))
        assert reader.offence is not None
        assert len(reader.buffer()) > 0, "what still comes has a place to go to"
        assert not reader.messages
