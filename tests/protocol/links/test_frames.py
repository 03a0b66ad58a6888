"""Frame headers: what is packed comes back, and nothing else gets through."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import ProtocolViolation
from kachery_p2p.protocol.limits import MAX_HEADER, MAX_RECORD_FRAMES
from kachery_p2p.protocol.links import frames

from .muxes import decoded

SAMPLES: list[frames.Frame] = [
    frames.Hello("kachery_p2p/1", 1.5, "lab", ["ws://h:1"], {b"t" * 16: (3, ["provide-files"])}),
    frames.Request(1, "who-has", {"keys": [b"k"]}),
    frames.Response(1, None),
    frames.Failure(1, "busy", {"limit": "5"}),
    frames.Open(3, "file.read", [1, 2], 1 << 20),
    frames.Data(3, [0, [b"p"]], frames.SEALED_TAIL, 100),
    frames.Credit(3, 5),
    frames.End(3, "", {}),
    frames.Note("channels", {}),
    frames.Ping(7),
    frames.Pong(7),
    frames.Bye("link-closed", {"peer": "p", "reason": "r"}),
]

scalars = st.none() | st.booleans() | st.integers(-9, 1 << 63) | st.text() | st.binary()


@pytest.mark.parametrize("frame", SAMPLES, ids=lambda frame: type(frame).__name__)
def test_every_frame_comes_back_as_it_went(frame: frames.Frame) -> None:
    again = decoded(frames.encode_header(frame))
    assert type(again) is type(frame)
    assert again == frame


def test_the_samples_hold_every_kind_in_the_order_of_the_tags() -> None:
    assert tuple(type(sample) for sample in SAMPLES) == frames._KINDS
    assert [kind.__struct_config__.tag for kind in frames._KINDS] == list(range(12))


def test_the_bytes_are_an_array_that_begins_with_the_tag() -> None:
    assert frames.encode_header(frames.Ping(5)) == b"\x92\x09\x05"
    assert frames.encode_header(frames.Credit(1, 256)) == b"\x93\x06\x01\xcd\x01\x00"


def test_fields_of_a_later_version_are_ignored() -> None:
    assert decoded(codec.pack([9, 5, "new"])) == frames.Ping(5)


@pytest.mark.parametrize(
    "value",
    [None, 5, "x", {}, [], [None], [99], [-1], [12, 1], [True, 1], [1.0, 1], ["9", 1], [[9], 1],
     [9], [9, "1"], [9, 1.5], [9, True], [0, "s", "now", "l", [], {}], [0, "s", 1.0, "l", {}, []],
     [0, "s", 1.0, "l", [], {"text": (1, [])}], [0, "s", 1.0, "l", [], {b"t": (1,)}],
     [1, 1, b"method", None], [3, 1, "code", {5: 1}], [3, 1, "code", []], [5, 1, None, 1],
     [1 << 64 - 1, 0], {0: 9}],
    ids=repr,
)  # fmt: skip
def test_what_is_no_frame_is_a_violation(value: Any) -> None:
    with pytest.raises(ProtocolViolation):
        decoded(codec.pack(value))


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=100)
    | st.lists(st.integers(-1, 13) | scalars | st.lists(scalars), max_size=6).map(codec.pack)
)
def test_arbitrary_headers_are_a_frame_or_a_violation(header: bytes) -> None:
    try:
        frame = decoded(header)
    except ProtocolViolation:
        return
    assert isinstance(frame, frames._KINDS)


@pytest.mark.parametrize("frame", SAMPLES, ids=lambda frame: type(frame).__name__)
def test_every_cut_and_every_added_byte_is_a_violation(frame: frames.Frame) -> None:
    header = frames.encode_header(frame)
    for length in range(len(header)):
        with pytest.raises(ProtocolViolation):
            decoded(header[:length])
    with pytest.raises(ProtocolViolation):
        decoded(header + b"\xc0")


@pytest.mark.parametrize("frame", SAMPLES, ids=lambda frame: type(frame).__name__)
def test_no_flipped_bit_gets_out_as_another_error(frame: frames.Frame) -> None:
    header = frames.encode_header(frame)
    for place in range(8 * len(header)):
        flipped = bytearray(header)
        flipped[place // 8] ^= 1 << place % 8
        try:
            decoded(flipped)
        except ProtocolViolation:
            continue


def test_a_header_over_the_limit_is_not_made() -> None:
    room = MAX_HEADER - len(frames.encode_header(frames.Note("t", b"x" * 60_000))) + 60_000
    assert len(frames.encode_header(frames.Note("t", b"x" * room))) == MAX_HEADER
    with pytest.raises(ValueError, match="over the limit"):
        frames.encode_header(frames.Note("t", b"x" * (room + 1)))


def test_frames_cannot_be_changed_once_made() -> None:
    for sample in SAMPLES:
        with pytest.raises(AttributeError):
            setattr(sample, msgspec.structs.fields(sample)[0].name, 0)


def test_frames_of_one_record_come_back_in_their_order() -> None:
    joined = frames.join_headers([frames.encode_header(frame) for frame in SAMPLES])
    assert frames.decode_headers(joined) == SAMPLES
    assert joined == codec.pack([codec.unpack(frames.encode_header(frame)) for frame in SAMPLES])


@pytest.mark.parametrize(
    "headers",
    [
        codec.pack([]),
        codec.pack([[9, 1]] * (MAX_RECORD_FRAMES + 1)),
        codec.pack([[9, 1], 9]),
        codec.pack([[9, 1], [77, 1]]),
        codec.pack({"0": [9, 1]}),
        codec.pack([9, 1]),
    ],
    ids=["none", "too many", "no frame", "an unknown frame", "a map", "a frame that is no list"],
)
def test_what_is_no_list_of_frames_is_a_violation(headers: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        frames.decode_headers(headers)
