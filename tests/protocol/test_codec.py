"""The one door through which foreign bytes become values."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import ProtocolViolation
from kachery_p2p.protocol.limits import MAX_HEADER, MAX_LIST_ITEMS

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.binary(), inner),
    max_leaves=20,
)


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    x: int
    name: str
    data: bytes


class Pair(msgspec.Struct, frozen=True, array_like=True):
    a: int
    b: list[bytes]


@settings(max_examples=100, deadline=None)
@given(values)
def test_plain_values_come_back_as_they_went(value: Any) -> None:
    assert codec.unpack(codec.pack(value)) == value


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_value_or_a_violation(data: bytes) -> None:
    for decode in (
        codec.unpack,
        lambda data: codec.decode(Point, data),
        lambda data: codec.decode(Pair, data),
        lambda data: codec.decode(dict[bytes, tuple[int, list[str]]], data),
    ):
        with contextlib.suppress(ProtocolViolation):
            decode(data)


@settings(max_examples=100, deadline=None)
@given(values)
def test_a_value_of_another_type_is_a_violation(value: Any) -> None:
    for kind in (Point, Pair, Point | None):
        try:
            found = codec.decode(kind, codec.pack(value))  # type: ignore[arg-type]
        except ProtocolViolation:
            continue
        assert found is None or isinstance(found, Pair)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x01\x01",
        b"\xd4\x01\x00",
        b"\x81\x90\x01",
        b"\xa2\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\x91" * 1_100 + b"\xc0",
        b"\x81\x00" * 1_100 + b"\xc0",
    ],
    ids=lambda data: data[:8].hex(),
)
def test_what_is_not_one_value_is_a_violation(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        codec.unpack(data)


@pytest.mark.parametrize("kind", [Point, Pair, dict[str, int], list[bytes], str, int])
def test_a_timestamp_fits_no_field(kind: Any) -> None:
    stamp = b"\xd6\xff\x00\x00\x00\x01"
    with pytest.raises(ProtocolViolation):
        codec.decode(kind, stamp)
    with pytest.raises(ProtocolViolation):
        codec.decode(Pair, b"\x92" + stamp + b"\x90")


def test_text_and_bytes_are_never_taken_for_each_other() -> None:
    with pytest.raises(ProtocolViolation):
        codec.decode(Point, codec.pack({"x": 1, "name": b"n", "data": b"d"}))
    with pytest.raises(ProtocolViolation):
        codec.decode(Point, codec.pack({"x": 1, "name": "n", "data": "ZA=="}))
    with pytest.raises(ProtocolViolation):
        codec.decode(Point, codec.pack({"x": True, "name": "n", "data": b"d"}))


def test_a_list_may_be_as_long_as_the_limit_and_no_longer() -> None:
    assert len(codec.unpack(codec.pack([None] * MAX_LIST_ITEMS))) == MAX_LIST_ITEMS
    with pytest.raises(ProtocolViolation):
        codec.unpack(codec.pack([None] * (MAX_LIST_ITEMS + 1)))


def test_lists_that_lie_about_their_length_cannot_fill_the_memory() -> None:
    claim = b"\xdc" + MAX_LIST_ITEMS.to_bytes(2, "big")
    evil = claim * 1_000
    evil += b"\xc0" * (MAX_HEADER - len(evil))
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolViolation):
            codec.unpack(evil)
        assert tracemalloc.get_traced_memory()[1] < 70 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(ProtocolViolation):
        codec.unpack(b"\xdc\xf0\x00" * 1_000 + b"\xc0" * 62_000)


def test_values_nested_as_deep_as_msgpack_allows_do_not_exhaust_the_stack() -> None:
    value = codec.unpack(b"\x91" * 1_024 + b"\xc0")
    assert isinstance(value, list)
    with pytest.raises(ProtocolViolation):
        codec.convert(Pair, value)


def test_typed_values_are_encoded_to_what_decodes_to_them() -> None:
    for value in (Point(1, "n", b"\x00"), Pair(2, [b"a", b""])):
        assert codec.decode(type(value), codec.encode(value)) == value


MANY_AT_ONCE = """
import sys, threading, types
from kachery_p2p.protocol import codec
sys.setswitchinterval(1e-6)
source = '''
from __future__ import annotations
import msgspec
class Inner(msgspec.Struct):
    a: int
    b: dict[str, list[int]]
    c: bytes | None = None
class Outer(msgspec.Struct):
    x: int
    y: list[Inner]
    z: dict[str, Inner]
    w: tuple[int, str, bytes] | None = None
'''
value = {"x": 1, "y": [{"a": 1, "b": {"q": [1]}}] * 2, "z": {"k": {"a": 2, "b": {}}}}
found = []
for n in range(500):
    module = sys.modules[f"m{n}"] = types.ModuleType(f"m{n}")
    exec(source, module.__dict__)
    together = threading.Barrier(4)
    def convert(kind, value):
        together.wait()
        found.append(codec.convert(kind, value))
    threads = [
        threading.Thread(target=convert, args=pair)
        for pair in [(module.Outer, value), (dict[str, module.Inner], value["z"])] * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print(len(found))
"""


def test_threads_that_convert_to_a_new_type_at_once_do_not_end_the_process() -> None:
    """A node died of it: what msgspec knew of the type was half made when the second thread came."""
    done = subprocess.run(
        [sys.executable, "-c", MANY_AT_ONCE], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "2000\n"), done.stderr


def test_a_lock_that_nobody_lets_go_of_holds_nobody_up(monkeypatch) -> None:
    """As in the child of a process that was forked while a thread looked into a type."""
    monkeypatch.setattr(codec, "_LEARNING_SECONDS", 0.01)
    monkeypatch.setattr(codec, "_known", set())
    with codec._learning:
        assert codec.convert(Pair, [1, [b"b"]]) == Pair(1, [b"b"])
    assert codec._learning.acquire(blocking=False), "it is free again"
    codec._learning.release()
