"""Messages of feeds: what is sent, what is refused, what is hashed."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol import codec, limits, tree
from kachery_p2p.protocol.errors import BadInput, ProtocolViolation
from kachery_p2p.protocol.feeds.feed import (
    Run,
    Slice,
    decode_messages,
    encode_message,
    leaf_hashes,
    pack_texts,
    unpack_texts,
)

AUTHOR = b"\xaa" * 32
DEEP, DIGITS, MOST = limits.MAX_FEED_MESSAGE_DEPTH, limits.MAX_FEED_DIGITS, limits.MAX_FEED_MESSAGE

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=15,
)  # fmt: skip


def nested(depth: int, around: str = "[]", inside: bytes = b"") -> bytes:
    left, right = (b"[", b"]") if around == "[]" else (b'{"a":', b"}")
    inside = inside or (b"" if around == "[]" else b"1")
    return left * depth + inside + right * depth


# --- there and back ------------------------------------------------------------------------------


@given(st.lists(values, max_size=8))
@settings(deadline=None, max_examples=200)
def test_messages_come_back_as_they_were(messages: list[Any]) -> None:
    packed = [encode_message(value) for value in messages]
    assert unpack_texts(pack_texts(packed), len(packed)) == packed
    assert decode_messages(packed) == messages


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, b"null"),
        (True, b"true"),
        (-0.0, b"-0.0"),
        (1e300, b"1e+300"),
        (10**400, b"1" + b"0" * 400),
        ("", b'""'),
        ("a\nb\r\t\x00\x7f", b'"a\\nb\\r\\t\\u0000\x7f"'),
        ("é\U0001f600\u2028", '"é\U0001f600\u2028"'.encode()),
        ({"b": 1, "a": (2, [])}, b'{"b":1,"a":[2,[]]}'),
        ({}, b"{}"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_the_text_is_compact_json_in_utf8(value: Any, text: bytes) -> None:
    assert encode_message(value) == text
    assert unpack_texts(text, 1) == [text]


class Odd:
    pass


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.nan, "no JSON value"),
        ([1, {"a": math.inf}], "no JSON value"),
        (-math.inf, "no JSON value"),
        (b"x", "bytes.*decode"),
        (bytearray(b"x"), "bytearray.*decode"),
        ({1, 2}, "set"),
        (1j, "complex"),
        (Odd(), "Odd"),
        (np.complex64(1), "numpy.complex64.*item"),
        ([1, {"a": {2}}], r"at \[1\]\['a'\]: a set"),
        ({"a": [float("inf")]}, r"at \['a'\]\[0\]: inf"),
        (np.zeros(3), "numpy.ndarray.*tolist"),
        ([object()], "object"),
        ({1: "a"}, r"1 \(an int\).*str\(\)"),
        ({"a": [{"b": {None: 1}}]}, "None"),
        ([({True: 1},)], "True"),
        ({(1, 2): 3}, "no JSON value"),
        ({b"a": 3}, "no JSON value"),
        ({1.5: 3, "a": 4}, "1.5"),
        ("\ud800", "surrogate"),
        ({"\udfff": 1}, "surrogate"),
        (["ok", {"a": "x\ud83d"}], "surrogate"),
        (10**5000, "no JSON value"),
        (10**DIGITS, "more than the 640 digits"),
        ([-(10**DIGITS)], "more than the 640 digits"),
        ("x" * (MOST - 1), "1000001 bytes, more than the 1000000"),
        ("é" * (MOST // 2), "1000002 bytes, more than the 1000000"),
        (["x" * 100] * 20_000, "bytes, more than the 1000000"),
    ],
    ids=lambda value: (
        type(value).__name__ if isinstance(value, int) else re.sub(" at 0x.*", "", repr(value)[:25])
    ),
)
def test_what_cannot_be_sent_is_named(value: Any, reason: str) -> None:
    with pytest.raises(BadInput, match=f"feed message: .*{reason}"):
        encode_message(value)


def test_cycles_and_depth_are_refused() -> None:
    loop: dict[str, Any] = {}
    loop["self"] = [loop]
    with pytest.raises(BadInput, match=r"no JSON value|too deeply"):
        encode_message(loop)
    deep: list[Any] = []
    for _ in range(DEEP - 1):
        deep = [deep]
    assert encode_message(deep) == nested(DEEP)
    with pytest.raises(BadInput, match="more than the 300 deep"):
        encode_message([deep])
    bottomless = deep
    for _ in range(100_000):
        bottomless = [bottomless]
    with pytest.raises(BadInput, match="too deeply"):
        encode_message(bottomless)
    while bottomless:
        bottomless = bottomless.pop()


def test_the_bounds_themselves_are_allowed() -> None:
    for value in ("x" * (MOST - 2), 10 ** (DIGITS - 1), [1] * (MOST // 2 - 1)):
        text = encode_message(value)
        assert unpack_texts(text, 1) == [text]
        assert decode_messages([text]) == [value]


@given(st.recursive(
    st.none() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(max_size=2),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters()) | st.integers(), inner, max_size=4),
    max_leaves=10,
))  # fmt: skip
@settings(deadline=None, max_examples=300)
def test_whatever_is_encoded_is_accepted_and_means_the_same(value: Any) -> None:
    try:
        text = encode_message(value)
    except BadInput:
        return
    assert unpack_texts(text, 1) == [text]
    assert decode_messages([text]) == [value]


# --- what others send ----------------------------------------------------------------------------

HOSTILE: dict[str, tuple[bytes, int]] = {
    "nothing for one": (b"", 1),
    "nothing for two": (b"", 2),
    "something for none": (b"1", 0),
    "a newline for none": (b"\n", 0),
    "too few": (b"1\n2", 3),
    "too many": (b"1\n2", 1),
    "a newline at the end": (b"1\n", 1),
    "an empty line at the end": (b"1\n", 2),
    "an empty line at the beginning": (b"\n1", 2),
    "an empty line between": (b"1\n\n2", 3),
    "a blank line": (b"1\n \t\r\n2", 3),
    "two in a line": (b"1,2", 1),
    "two in a line with a blank": (b"1 2", 1),
    "two in a line, and none in another": (b"1,2\n", 2),
    "none in a line, and two in another": (b"\n1,2", 2),
    "a comma for a line": (b"1\n,\n2", 3),
    "an array over two lines, two in a third": (b"[1\n2]\n3,4", 3),
    "text over two lines, two in a third": (b'"a\nb"\n1,2', 3),
    "an object over two lines, two in a third": (b'{"a":1\n"b":2}\n3,4', 3),
    "an array closed and opened": (b"1]\n[2", 2),
    "text opened to the end": (b'1\n"2', 2),
    "a comment": (b"1//x", 1),
    "not utf-8": (b'"\xff"', 1),
    "not utf-8 in a key": (b'{"\xff":1}', 1),
    "a surrogate in utf-8": (b'"\xed\xa0\x80"', 1),
    "an overlong character": (b'"\xc0\x80"', 1),
    "a character over two lines": (b'"\xc3\n\xa9"', 2),
    "utf-16": ('"a"'.encode("utf-16"), 1),
    "a byte order mark": (b"\xef\xbb\xbf1", 1),
    "half a surrogate pair": (rb'"\ud800"', 1),
    "half a surrogate pair before text": (rb'"\ud800abcdefgh"', 1),
    "the second half alone": (rb'"\udc00 and more"', 1),
    "a surrogate pair turned round": (rb'"\udc00\ud800 and more"', 1),
    "half a surrogate pair in a key": (rb'{"\ud83dxxxxxx":1}', 1),
    "nan": (b"NaN", 1),
    "infinity": (b"-Infinity", 1),
    "a leading zero": (b"01", 1),
    "a bare point": (b"1.", 1),
    "hex": (b"0x10", 1),
    "plus": (b"+1", 1),
    "single quotes": (b"'a'", 1),
    "a trailing comma": (b"[1,]", 1),
    "a control character": (b'"\x01"', 1),
    "a bad escape": (rb'"\x41"', 1),
    "a short escape": (rb'"\u12"', 1),
    "a zero byte": (b"1\x00", 1),
    "a form feed": (b"1\x0c", 1),
    "a number as key": (b"{1:2}", 1),
    "too long": (b'"' + b"x" * (MOST - 1) + b'"', 1),
    "long with blanks": (b" " * MOST + b"1", 1),
    "the second one too long": (b'1\n"' + b"x" * MOST + b'"', 2),
    "too deep": (nested(DEEP + 1), 1),
    "too deep in objects": (nested(DEEP + 1, "{}"), 1),
    "too deep to parse": (nested(100_000), 1),
    "too deep without an end": (b"[" * 100_000, 1),
    "too deep, and text full of brackets": (nested(DEEP + 1, "[]", rb'"]]]\"]]]"'), 1),
    "too deep late": (b"[[],[]," + nested(DEEP) + b"]", 1),
    "too many digits": (b"1" * (DIGITS + 1), 1),
    "too many digits in an array": (b"[1,-" + b"9" * (DIGITS + 1) + b"]", 1),
    "too many digits after the point": (b"0." + b"1" * (DIGITS + 1), 1),
    "too many digits beside text": (b'["\\"",' + b"7" * (DIGITS + 1) + b"]", 1),
}


@pytest.mark.parametrize(("body", "count"), HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_not_that_many_messages_is_refused(body: bytes, count: int) -> None:
    with pytest.raises(ProtocolViolation, match="message"):
        unpack_texts(body, count)


FINE: dict[str, list[bytes]] = {
    "none": [],
    "blanks around": [b" 1", b"\t[ 1 , 2 ]\r", b'{ "a" : "b" } '],
    "any number": [b"-0", b"1e999", b"1E-999", b"123456789012345678901234567890"],
    "escapes": [rb'"\ud83d\ude00\/\b\u00e9"'],
    "a repeated key": [b'{"a":1,"a":2}'],
    "brackets in text": [b'"' + b"[" * 5_000 + b'"', b'{"a":"' + rb"\"{" * 2_000 + b'"}'],
    "brackets side by side": [b"[" + b"[],{}," * 2_000 + b"1]"],
    "deep": [nested(DEEP), nested(DEEP, "{}"), b"[" + nested(DEEP - 1) + b",[[]]]"],
    "digits in text": [b'"' + b"1" * 5_000 + b'"', b'["\\"' + b"0" * 5_000 + b'\\\\",5]'],
    "digits": [b"9" * DIGITS, b"0." + b"1" * DIGITS, b"[" + b"12345," * 1_000 + b"1]"],
    "the longest": [b'"' + b"x" * (MOST - 2) + b'"'],
}


@pytest.mark.parametrize("lines", FINE.values(), ids=FINE.keys())
def test_unusual_messages_are_kept_to_the_byte(lines: list[bytes]) -> None:
    assert unpack_texts(pack_texts(lines), len(lines)) == lines
    assert len(decode_messages(lines)) == len(lines)


def test_a_number_too_large_for_a_float_is_infinite_as_everywhere() -> None:
    assert decode_messages([b"1e999", b"-1e999"]) == [math.inf, -math.inf]


json_like = st.text('[]{}",:\\ \n\t01-+.eEu8dD/nultrfas\x7fé', max_size=16).map(str.encode)
lines_of = st.lists(json_like | st.binary(max_size=6) | values.map(encode_message), max_size=4)


def plain_truth(line: bytes) -> bool:
    """Whether a line is one JSON value without half pairs, by Python's own parser."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        value = json.loads(str(line, "utf-8"), parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()
    except ValueError:
        return False
    return True


@given(lines_of)
@settings(deadline=None, max_examples=500)
def test_it_agrees_with_another_parser_line_by_line(lines: list[bytes]) -> None:
    body = pack_texts(lines)
    split = body.split(b"\n") if lines else []
    if all(plain_truth(line) for line in split):
        assert unpack_texts(body, len(split)) == split
    else:
        with pytest.raises(ProtocolViolation):
            unpack_texts(body, len(split))


@given(st.binary(max_size=60) | lines_of.map(pack_texts), st.integers(0, 5))
@settings(deadline=None, max_examples=300)
def test_what_is_accepted_can_be_read_by_everybody(body: bytes, count: int) -> None:
    try:
        lines = unpack_texts(body, count)
    except ProtocolViolation:
        return
    assert len(decode_messages(lines)) == len(lines) == count
    assert pack_texts(lines) == body


@pytest.mark.parametrize("around", ["[]", "{}"])
def test_the_deepest_message_is_read_even_with_a_deep_stack(around: str) -> None:
    text = nested(DEEP, around)

    def below(depth: int) -> list[Any]:
        if depth:
            return below(depth - 1)
        assert unpack_texts(text, 1) == [text]
        return decode_messages([text])

    assert len(below(450 - len(inspect.stack(0)))) == 1


# --- runs and leaves -----------------------------------------------------------------------------


told_runs = st.tuples(st.integers(1, 4), st.integers(0, 2**63 - 1), st.sampled_from([None, AUTHOR]))


def leaf(timestamp: int, author: bytes, text: bytes) -> bytes:
    data = timestamp.to_bytes(8, "big") + bytes([len(author)]) + author + text
    return hashlib.sha256(b"\x00" + data).digest()


def test_a_leaf_is_the_time_the_author_and_the_text() -> None:
    runs = [Run(2, 1_700_000_000_123, None), Run(1, 0, AUTHOR), Run(1, 2**63 - 1, None)]
    lines = [b"1", b'{"a":2}', b"[]", b'""']
    piece = Slice(10, runs, lines)
    assert piece.stop == 14
    assert leaf_hashes(piece) == [
        leaf(1_700_000_000_123, b"", b"1"),
        leaf(1_700_000_000_123, b"", b'{"a":2}'),
        leaf(0, AUTHOR, b"[]"),
        leaf(2**63 - 1, b"", b'""'),
    ]
    data = bytes(8) + b"\x20" + AUTHOR + b"[]"
    assert leaf_hashes(piece)[2] == tree.leaf_hash("sha256", data)
    # Frozen: nodes of different releases must agree.
    assert (
        leaf_hashes(piece)[0].hex()
        == "7d627aaa9797d3a57b5c6ee7ce50650605a38afcfc45141ff78e68142b6478ef"
    )


@given(st.lists(told_runs, max_size=6))
def test_how_messages_are_cut_into_runs_does_not_change_their_leaves(
    told: list[tuple[int, int, bytes | None]],
) -> None:
    runs = [Run(*one) for one in told]
    single = [Run(1, run.timestamp, run.author) for run in runs for _ in range(run.count)]
    lines = [b"%d" % n for n in range(len(single))]
    whole = leaf_hashes(Slice(0, runs, lines))
    assert whole == leaf_hashes(Slice(5, single, lines))
    assert whole == [
        leaf(run.timestamp, run.author or b"", line)
        for run, line in zip(single, lines, strict=True)
    ]


def test_time_author_and_text_cannot_be_taken_for_one_another() -> None:
    found = {
        leaf_hashes(Slice(0, [Run(1, time, author)], [text]))[0]
        for time in (0, 1, 256)
        for author in (None, AUTHOR, b"\xab" * 32)
        for text in (b"1", b"11", b'"' + b"\xaa" * 32 + b'"')
    }
    assert len(found) == 27


def test_no_messages_are_a_slice_too() -> None:
    empty = Slice(3, [], [])
    assert (empty.stop, leaf_hashes(empty), pack_texts([])) == (3, [], b"")


@pytest.mark.parametrize(("count", "lines"), [(1, 0), (1, 2), (3, 2)])
def test_a_slice_has_as_many_texts_as_its_runs_say(count: int, lines: int) -> None:
    with pytest.raises(ValueError, match=f"{count} messages with {lines} texts"):
        Slice(0, [Run(count, 0, None)], [b"1"] * lines)
    with pytest.raises(ValueError, match="runs of 0"):
        Slice(0, [], [b"1"])


@pytest.mark.parametrize("run", [Run(1, 0, None), Run(256, 2**63 - 1, AUTHOR)])
def test_a_run_crosses_the_wire(run: Run) -> None:
    assert codec.decode(Run, codec.encode(run)) == run


@pytest.mark.parametrize(
    "value",
    [
        [0, 0, None], [257, 0, None], [-1, 0, None], [1, -1, None], [1, 2**63, None], [1, 0, b""],
        [1, 0, bytes(31)], [1, 0, bytes(33)], [1, 0, "a" * 32], [1, 0], [1, 0, None, 0],
        [1.0, 0, None], [True, 0, None], [1, None, None], {"count": 1}, None,
    ],
    ids=repr,
)  # fmt: skip
def test_a_malformed_run_is_refused(value: Any) -> None:
    with pytest.raises(ProtocolViolation):
        codec.decode(Run, codec.pack(value))
