"""How tasks are named: one text for one set of arguments, one key for one task."""

from __future__ import annotations

import enum
import hashlib
import json
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol import codec, limits
from kachery_p2p.protocol.errors import BadInput, ProtocolViolation
from kachery_p2p.protocol.feeds.keys import feed_owner_key
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.gossip.blinding import blinded_key
from kachery_p2p.protocol.gossip.keys import KINDS, provide_role, request_role
from kachery_p2p.protocol.tasks.keys import task_backends_key, task_function_key, task_result_key
from kachery_p2p.protocol.tasks.task import (
    TASK_TYPES,
    FunctionId,
    Payload,
    canonical_kwargs,
    check_function_id,
    check_task_type,
    parse_kwargs,
    task_key,
)

DEEP, DIGITS, MOST = limits.MAX_FEED_MESSAGE_DEPTH, limits.MAX_FEED_DIGITS, limits.MAX_TASK_KWARGS
URI = f"sha1://{'ab' * 20}/array.npy"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
names = texts.filter(lambda text: text != "$npy")
numbers = (
    st.integers()
    | st.integers().map(float)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0.0, -0.0, 1e15, 2.0**53, 2.0**63, -(2.0**63), 1e22, 1e300, 5e-324])
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(names, inner, max_size=5),
    max_leaves=15,
)
arguments = st.dictionaries(names, values, max_size=5)


# --- arguments -----------------------------------------------------------------------------------


@given(arguments)
@settings(deadline=None, max_examples=300)
def test_arguments_come_back_equal_and_their_text_is_the_only_one(kwargs: dict[str, Any]) -> None:
    text = canonical_kwargs(kwargs)
    found = parse_kwargs(text)
    assert found == kwargs
    assert canonical_kwargs(found) == text


@given(arguments, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=200)
def test_neither_order_nor_kind_of_number_nor_tuples_matter(kwargs: Any, rng: Any) -> None:
    def otherwise(value: Any) -> Any:
        if isinstance(value, dict):
            items = [(key, otherwise(item)) for key, item in value.items()]
            rng.shuffle(items)
            return dict(items)
        if isinstance(value, list):
            return tuple(otherwise(item) for item in value)
        if type(value) is int and abs(value) < 2**53:
            return float(value)
        if type(value) is float and value.is_integer() and abs(value) < 2**63:
            return np.float64(value)
        return value

    assert canonical_kwargs(otherwise(kwargs)) == canonical_kwargs(kwargs)


@given(arguments)
@settings(deadline=None, max_examples=200)
def test_any_other_way_to_write_them_is_refused(kwargs: dict[str, Any]) -> None:
    text = canonical_kwargs(kwargs)
    for other in (
        json.dumps(kwargs).encode(),
        json.dumps(kwargs, ensure_ascii=False, separators=(",", ":")).encode(),
        re.sub(rb":0(?=[,}\]])", b":0.0", text),
        text + b"\n",
        b" " + text,
    ):
        # In a text it may be other arguments.
        if other != text and json.loads(other) == kwargs:
            with pytest.raises(ProtocolViolation, match="not canonical"):
                parse_kwargs(other)


class Colour(enum.IntEnum):
    RED = 3


class Word(str):
    def __str__(self) -> str:
        return "another"


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({}, b"{}"),
        ({"x": 1000.0}, b'{"x":1000}'),
        ({"x": -0.0}, b'{"x":0}'),
        ({"x": True, "y": None}, b'{"x":true,"y":null}'),
        ({"x": 1.5e-7}, b'{"x":1.5e-07}'),
        ({"x": 2.0**53}, b'{"x":9007199254740992}'),
        ({"x": -(2.0**62)}, b'{"x":-4611686018427387904}'),
        ({"x": 2.0**63}, b'{"x":9.223372036854776e+18}'),
        ({"x": -(2.0**63)}, b'{"x":-9.223372036854776e+18}'),
        ({"x": 1e22}, b'{"x":1e+22}'),
        ({"x": 10**22}, b'{"x":10000000000000000000000}'),
        ({"x": (1, [2.0, ()])}, b'{"x":[1,[2,[]]]}'),
        ({"b": 1, "a": {"d": 1, "c": 2}}, b'{"a":{"c":2,"d":1},"b":1}'),
        ({"\U0001f600": 1, "\uffff": 2, "é": 3}, '{"é":3,"\uffff":2,"\U0001f600":1}'.encode()),
        ({"x": '"\\/\n\x00\x7f\u2028é'}, '{"x":"\\"\\\\/\\n\\u0000\x7f\u2028é"}'.encode()),
        ({"x": Colour.RED, "y": np.float64(2)}, b'{"x":3,"y":2}'),
        ({"x": Word("abc"), "y": np.str_("d")}, b'{"x":"abc","y":"d"}'),
        ({"x": {"$npy": URI}}, f'{{"x":{{"$npy":"{URI}"}}}}'.encode()),
        ({"x": {"$npy": 1, "more": 2}}, b'{"x":{"$npy":1,"more":2}}'),
        ({"$npy": 5}, b'{"$npy":5}'),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_the_canonical_text(kwargs: Any, text: bytes) -> None:
    assert canonical_kwargs(kwargs) == text
    assert parse_kwargs(text) == json.loads(text)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.nan, "nan.*JSON has not"),
        ([1, {"a": math.inf}], "inf"),
        (-math.inf, "-inf"),
        (np.float64("nan"), "nan"),
        (b"x", "bytes.*store it as a file"),
        ({1, 2}, "set.*convert"),
        (1j, "complex"),
        (np.datetime64("2020"), r"numpy.datetime64.*\.item\("),
        ([0, {"a": {1}}], r"at \[1\]\['a'\]: .*set.*convert"),
        ([{"a": float("nan")}], r"at \[0\]\['a'\]: nan"),
        (np.zeros(3), r"numpy.ndarray.*\.tolist\(\)"),
        ({1: "a"}, r"1 \(an int\).*str\(\)"),
        ({"a": [{"b": {None: 1}}]}, "None"),
        (10**DIGITS, "640 digits"),
        (-(10**5000), "640 digits"),
        ({"$npy": 1}, "single key '.npy'"),
        ([{"$npy": "feed://" + "0" * 64}], "sha1:// URI"),
        ({"$npy": "sha1://12/x"}, "Not a kachery URI"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, int) else repr(value)[:25],
)
def test_what_cannot_be_sent_is_named_with_its_argument(value: Any, reason: str) -> None:
    with pytest.raises(BadInput, match=f"task argument 'times': .*{reason}"):
        canonical_kwargs({"a": 1, "times": value, "z": 2})


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ([1], "a dict by name, not list"),
        (None, "a dict by name"),
        ({1: 2}, "text keys only"),
        ({"x": "\ud800"}, "surrogate"),
        ({"\udfff": 1}, "surrogate"),
        ({"x": "a" * MOST}, f"{MOST + 8} bytes as JSON, more than the {MOST}"),
        ({"x": [1] * MOST}, "store what is large"),
    ],
    ids=lambda value: repr(value)[:25],
)
def test_arguments_as_a_whole_have_bounds(kwargs: Any, reason: str) -> None:
    with pytest.raises(BadInput, match=f"task argument.*: .*{reason}"):
        canonical_kwargs(kwargs)


def test_the_bounds_themselves_are_allowed() -> None:
    deep: list[Any] = []
    for _ in range(DEEP - 2):
        deep = [deep]
    for kwargs in (
        {"x": "a" * (MOST - 8)},
        {"x": deep},
        {"x": 10**DIGITS - 1, "y": 1 - 10**DIGITS},
    ):
        text = canonical_kwargs(kwargs)
        assert parse_kwargs(text) == kwargs
    with pytest.raises(BadInput, match="300 deep"):
        canonical_kwargs({"x": [deep]})
    loop: dict[str, Any] = {}
    loop["x"] = [loop]
    with pytest.raises(BadInput, match="300 deep"):
        canonical_kwargs(loop)


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no object": b"[]",
    "a number": b"1",
    "unsorted": b'{"b":1,"a":2}',
    "a repeated key": b'{"a":1,"a":1}',
    "a blank": b'{"a": 1}',
    "a float that is an integer": b'{"a":1.0}',
    "minus zero": b'{"a":-0}',
    "minus zero as a float": b'{"a":-0.0}',
    "an exponent": b'{"a":1e3}',
    "a capital exponent": b'{"a":1E+22}',
    "a longer fraction": b'{"a":0.10}',
    "more digits than a float has": b'{"a":0.1000000000000000055511151231257827}',
    "an infinity in digits": b'{"a":1e999}',
    "nan": b'{"a":NaN}',
    "infinity": b'{"a":-Infinity}',
    "an escape that need not be": b'{"a":"\\u00e9"}',
    "an escaped slash": b'{"a":"\\/"}',
    "a capital escape": b'{"a":"\\u001F"}',
    "half a surrogate pair": b'{"a":"\\ud800"}',
    "a surrogate in utf-8": b'{"a":"\xed\xa0\x80"}',
    "not utf-8": b'{"a":"\xff"}',
    "a byte order mark": b'\xef\xbb\xbf{"a":1}',
    "two values": b"{}{}",
    "a newline after it": b"{}\n",
    "too deep": b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "too deep to parse": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "too deep without an end": b'{"a":' * 100_000,
    "too many digits": b'{"a":' + b"9" * (DIGITS + 1) + b"}",
    "far too many digits": b'{"a":' + b"9" * (MOST - 10) + b"}",
    "too long": b'{"a":"' + b"x" * MOST + b'"}',
    "an array that is none": b'{"a":{"$npy":5}}',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_not_canonical_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="not canonical"):
        parse_kwargs(text)


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "count_captain.1", "Zähler 2", "x" * 200, "\U0001f600"])
def test_a_function_id_is_short_text_in_one_line(name: str) -> None:
    assert check_function_id(name) == name
    assert codec.convert(FunctionId, name) == name
    assert task_function_key(name).kind == "tasks"


@pytest.mark.parametrize(
    "name",
    ["", "x" * 201, "a\nb", "a\n", "\n", "a\tb", "\x00", "\x7f", "\x85", "\x9f", "\u2028", "\ud800",
     None, 5, b"a"],
    ids=lambda name: repr(name)[:12],
)  # fmt: skip
def test_what_is_no_function_id_is_refused(name: Any) -> None:
    for use in (check_function_id, lambda name: task_key(name, b"{}"), task_function_key):
        with pytest.raises(BadInput, match="task function id"):
            use(name)
    with pytest.raises(ProtocolViolation):
        codec.convert(FunctionId, name)


def test_the_types_are_three() -> None:
    assert TASK_TYPES == ("pure-calculation", "query", "action")
    assert [check_task_type(kind) for kind in TASK_TYPES] == list(TASK_TYPES)
    for wrong in ("Action", "", "pure", None, 5):
        with pytest.raises(BadInput, match="pure-calculation, query, action"):
            check_task_type(wrong)  # type: ignore[arg-type]


def test_a_key_is_the_hash_of_function_and_arguments() -> None:
    key = task_key("count.1", b'{"x":1}')
    assert key == hashlib.sha256(b'kachery-p2p:task\0count.1\0{"x":1}').digest()
    # Frozen: nodes of different releases must find one another's results.
    assert key.hex() == "aec94813ef2d606a8d4ecef17fedb895c426adb5de9c2e91a0f89373b0d82e62"
    found = {task_key(name, text) for name in ("a", "a{", "é") for text in (b"{}", b"}", b"{}{}")}
    assert len(found) == 9


def test_contents_of_tasks_have_keys_of_their_own() -> None:
    secret, key = bytes(range(32)), b"k" * 32
    function, anybody = task_function_key("count.1"), task_backends_key()
    result = task_result_key(key)
    assert (function.kind, anybody.kind, result.kind) == ("tasks", "tasks", "files")
    assert function.blinded(secret) == blinded_key(secret, b"kachery-task", b"count.1")
    assert anybody.blinded(secret) == blinded_key(secret, b"kachery-backend", b"")
    assert result.blinded(secret) == blinded_key(secret, b"kachery-result", key)
    assert "count.1" in function.title
    assert key.hex() in result.title
    with pytest.raises(BadInput, match="32 bytes"):
        task_result_key(b"k" * 31)


def test_a_node_tells_its_contents_apart_whatever_their_length() -> None:
    twenty = "abcdefghijklmnopqrst"
    file = file_key(twenty.encode().hex())
    function = task_function_key(twenty)
    other = [task_backends_key(), task_result_key(b"k" * 32), feed_owner_key(b"k" * 32)]
    found = {(content.context, content.identifier) for content in (file, function, *other)}
    assert len(found) == 5


def test_roles_go_by_kind() -> None:
    assert KINDS == ("files", "feeds", "tasks")
    assert request_role("tasks") == "request-tasks"
    assert provide_role("tasks") == "provide-tasks"


# --- payloads -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        Payload("json", b"5"),
        Payload("bytes", b""),
        Payload("pkl", b"x" * limits.MAX_INLINE_RESULT),
        Payload("npy", None, f"{URI}?manifest={'cd' * 20}"),
    ],
    ids=lambda payload: payload.format,
)
def test_a_parcel_crosses_the_wire(payload: Payload) -> None:
    assert codec.decode(Payload, codec.encode(payload)) == payload


@pytest.mark.parametrize(
    "value",
    [
        ["json", None, None], ["json", b"5", URI], ["yaml", b"5", None], ["json", "5", None],
        ["json", b"x" * (limits.MAX_INLINE_RESULT + 1), None], ["npy", None, "x"], ["npy", None, 5],
        ["npy", None, "feed://" + "0" * 64], ["npy", None, f"sha1dir://{'ab' * 20}"],
        ["npy", None, URI + "x" * limits.MAX_URI], ["json"], ["json", b"5", None, 1], None, {},
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_a_malformed_parcel_is_refused(value: Any) -> None:
    with pytest.raises(ProtocolViolation):
        codec.decode(Payload, codec.pack(value))


@pytest.mark.parametrize(
    ("data", "uri"),
    [(None, None), (b"5", URI), (b"x" * (limits.MAX_INLINE_RESULT + 1), None), (None, "x")],
)
def test_a_parcel_that_would_be_refused_cannot_be_made(data: Any, uri: Any) -> None:
    with pytest.raises(ValueError, match=r"payload|URI"):
        Payload("json", data, uri)
