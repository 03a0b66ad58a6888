"""The frames and messages between a client and its daemon."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol import codec, limits
from kachery_p2p.protocol.errors import BadInput, ProtocolViolation
from kachery_p2p.protocol.local import messages as local

MESSAGES: list[local.Message] = [
    local.Greeting(1, None, 4711),
    local.Greeting(1, bytes(32), 4711, "read-only"),
    local.Proof(bytes(32)),
    local.Challenge(bytes(32), bytes(32), bytes(64)),
    local.Call(1, "load", {"uri": "sha1://...", "limits": [1, 2.5, None, b"\x00"]}, 1),
    local.Piece(7, b"\x00" * 1000),
    local.Finish(7),
    local.CancelCall(2**53),
    local.Granted(7, 1 << 20),
    local.Welcome(1, "kachery_p2p 1.0", "ab" * 32, "/data", "lab", True),
    local.Answer(7, {"nested": [[1], {"a": None}]}),
    local.Answer(7, None),
    local.Failure(0, "bad-input", {"what": "x", "reason": "y"}),
    local.Progress(7, {"done": 5, "size": 10}),
    local.Chunk(7, b"abc"),
    local.Item(7, [3, 1], b"abc"),
]


def read(data: bytes) -> list[Any]:
    return local.FrameReader().feed(data)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_every_message_survives_the_wire(message: local.Message) -> None:
    [value] = read(local.encode_message(message))
    assert local.decode_message(value) == message


@given(number=st.integers(1, 2**53), start=st.integers(0, 1 << 40), data=st.binary(max_size=300))
def test_an_item_that_is_packed_once_is_the_same_for_each_call(
    number: int, start: int, data: bytes
) -> None:
    packed = local.pack_item([start, 1], data)
    item = local.Item(number, [start, 1], data)
    assert local.encode_item(local.item_header(number), packed) == local.encode_message(item)
    assert packed.cost == local.item_cost(data)


def test_an_item_that_fits_no_frame_is_refused() -> None:
    header, packed = local.item_header(1), local.pack_item(None, bytes(limits.MAX_LOCAL_FRAME))
    with pytest.raises(BadInput, match="fit into one frame"):
        local.encode_item(header, packed)


def test_the_samples_cover_every_message() -> None:
    assert {type(message) for message in MESSAGES} == set(get_args(local.Message))


def test_the_bytes_are_what_the_docstring_says() -> None:
    assert local.encode_message(local.Finish(3)) == b"\x00\x00\x00\x03\x92\x04\x03"


def test_fields_of_a_later_version_are_ignored() -> None:
    assert local.decode_message([1, 2, None, 3, "full", "new"]) == local.Greeting(2, None, 3)


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        {},
        [],
        [99],
        [True, 1],
        ["1", 1, None, 2],
        [[1], 1],
        [4],
        [4, -1],
        [4, "1"],
        [4, True],
        [4, 2**54],
        [2, 1, "load", {}, 2],
        [2, 1, "load", {}, -1],
        [2, 1, "load", [], 0],
        [2, 1, 5, {}, 0],
        [2, 1, "load", {5: 1}, 0],
        [3, 1, "text"],
        [1, 1, "token", 5],
        [1, 1, b"nonce", 5, 6],
        [7, "proof"],
        [17, b"nonce", b"proof"],
        [11, 1, "s", "n", "d", "l", 1],
        [13, 1, "code", None],
    ],
    ids=repr,
)
def test_what_is_no_message_is_a_violation(value: Any) -> None:
    with pytest.raises(ProtocolViolation):
        local.decode_message(value)


@settings(max_examples=60, deadline=None)
@given(
    chosen=st.lists(st.sampled_from(MESSAGES), max_size=6),
    cuts=st.lists(st.integers(0, 3000), max_size=8),
)
def test_frames_come_out_whole_however_the_stream_is_cut(
    chosen: list[local.Message], cuts: list[int]
) -> None:
    stream = b"".join(local.encode_message(message) for message in chosen)
    reader = local.FrameReader()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    values = []
    for start, end in itertools.pairwise(edges):
        values += reader.feed(memoryview(stream)[start:end])
    assert [local.decode_message(value) for value in values] == chosen
    assert reader.pending == 0


def test_one_byte_at_a_time_works_and_an_unfinished_frame_shows() -> None:
    reader = local.FrameReader()
    stream = local.encode_message(MESSAGES[0])
    for byte in stream[:-1]:
        assert reader.feed(bytes([byte])) == []
    assert reader.pending == len(stream) - 1
    assert len(reader.feed(stream[-1:])) == 1
    assert reader.pending == 0


def test_a_frame_too_long_is_refused_by_its_length_alone() -> None:
    reader = local.FrameReader()
    most = limits.MAX_LOCAL_FRAME
    assert reader.feed(most.to_bytes(4, "big")) == []
    reader = local.FrameReader()
    with pytest.raises(ProtocolViolation, match=str(most + 1)):
        reader.feed((most + 1).to_bytes(4, "big"))
    assert reader.pending == 0
    with pytest.raises(ProtocolViolation, match="broken"):
        reader.feed(local.encode_message(MESSAGES[0]))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x01\x01", b"\x92\x01"])
def test_a_frame_that_is_not_one_value_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        read(len(body).to_bytes(4, "big") + body)


def test_the_largest_frame_passes_and_one_byte_more_is_bad_input() -> None:
    overhead = len(codec.encode(local.Chunk(1, b"\x00" * 70_000))) - 70_000
    data = b"\x00" * (limits.MAX_LOCAL_FRAME - overhead)
    [value] = read(local.encode_message(local.Chunk(1, data)))
    assert local.decode_message(value) == local.Chunk(1, data)
    with pytest.raises(BadInput, match="fit into one frame"):
        local.encode_message(local.Chunk(1, data + b"\x00"))


@pytest.mark.parametrize(
    "value", [object(), 2**70, "\ud800", 1j], ids=lambda value: type(value).__name__
)
def test_a_value_that_msgpack_cannot_carry_is_bad_input(value: Any) -> None:
    with pytest.raises(BadInput, match="cannot be sent"):
        local.encode_message(local.Answer(1, value))


def test_a_value_nested_too_deeply_is_bad_input() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(BadInput, match="cannot be sent"):
        local.encode_message(local.Answer(1, value))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_messages_or_a_violation(data: bytes) -> None:
    try:
        for value in read(data):
            local.decode_message(value)
    except ProtocolViolation:
        pass
