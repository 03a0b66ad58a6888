"""Objects to stored bytes and back."""

from __future__ import annotations

import contextlib
import decimal
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.client.values import codecs
from kachery_p2p.protocol.errors import BadInput, BadPath

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=50, deadline=None)
def test_text_comes_back_as_it_was(text: str) -> None:
    assert codecs.bytes_to_text(codecs.text_to_bytes(text)) == text


def test_text_keeps_its_line_ends() -> None:
    assert codecs.text_to_bytes("a\r\nb\n") == b"a\r\nb\n"
    assert codecs.bytes_to_text(memoryview(b"a\r\nb\n")) == "a\r\nb\n"


def test_text_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match="a bytes, not a str"):
        codecs.text_to_bytes(b"x")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="UTF-8"):
        codecs.text_to_bytes("\ud800")
    with pytest.raises(BadInput, match="not UTF-8"):
        codecs.bytes_to_text(b"\xff\xfe")


def test_json_has_the_bytes_it_always_had() -> None:
    obj = {"b": (1, 2.5, None), "a": ["ä", True, 1e100], "n": {1: "x"}}
    data = codecs.json_to_bytes(obj)
    assert data == b'{"b":[1,2.5,null],"a":["\\u00e4",true,1e+100],"n":{"1":"x"}}'
    assert codecs.json_to_bytes([1, 2], separators=(", ", ": ")) == b"[1, 2]"
    assert codecs.json_to_bytes([1], indent=1) == b"[\n 1\n]"


@given(json_values)
@settings(max_examples=50, deadline=None)
def test_json_comes_back_as_it_was(value: Any) -> None:
    assert codecs.bytes_to_json(codecs.json_to_bytes(value)) == value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"a": np.int64(5)}, "numpy.int64 is not a JSON type: use its .item()"),
        ([np.arange(3)], r"numpy.ndarray is not a JSON type: use its .tolist\(\)"),
        ({1, 2}, "a set is not a JSON type"),
        (b"x", "a bytes is not a JSON type: use its .decode"),
        (decimal.Decimal("1.5"), "decimal.Decimal is not a JSON type"),
        ({(1, 2): 3}, "keys must be str"),
        (float("nan"), "JSON"),
        ([float("inf")], "JSON"),
        (10**5000, "digits"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_json_cannot_hold_is_named(value: Any, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        codecs.json_to_bytes(value)


def test_json_cycles_and_depth_are_bad_input() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(BadInput, match="Circular"):
        codecs.json_to_bytes(cycle)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(BadInput):
        codecs.json_to_bytes(deep)
    with pytest.raises(BadInput):
        codecs.bytes_to_json(b"[" * 100_000)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[1] 2", b'{"a" 1}'])
def test_damaged_json_is_bad_input(data: bytes) -> None:
    with pytest.raises(BadInput, match="JSON"):
        codecs.bytes_to_json(data)


ARRAYS = [
    np.arange(12).reshape(3, 4),
    np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    np.arange(12)[::-2],
    np.array(3.5),
    np.zeros((0, 3), dtype="f4"),
    np.array(["ab", "c"]),
    np.array([(1, 2.5)], dtype=[("a", "<i4"), ("b", ">f8")]),
    np.array(["2020-01-01"], dtype="M8[D]"),
    np.ones(700_000),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_npy_is_exactly_what_numpy_saves(array: np.ndarray[Any, Any], tmp_path: Path) -> None:
    data = codecs.npy_to_bytes(array)
    assert data == saved(array)
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    loaded = [codecs.bytes_to_npy(data), codecs.bytes_to_npy(bytes(data))]
    loaded += [codecs.load_npy_path(path, mmap_mode=mode) for mode in (None, "r", "c")]
    for copy in loaded:
        assert copy.dtype == array.dtype
        assert np.array_equal(copy, array)
    assert loaded[0].flags.writeable
    assert not loaded[3].flags.writeable


def test_many_fields_come_back() -> None:
    array = np.zeros(1, dtype=[(f"a_rather_long_field_name_{n}", "<f8") for n in range(1000)])
    assert codecs.bytes_to_npy(codecs.npy_to_bytes(array)).dtype == array.dtype


def test_a_list_is_saved_as_the_array_it_makes() -> None:
    assert codecs.npy_to_bytes([1, 2]) == saved(np.array([1, 2]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "array",
    [
        np.array([object()]),
        np.zeros(1, dtype=[("a", "i4"), ("b", "O")]),
        [1, [2, 3]],
        {"a": 1},
    ],
    ids=["objects", "a field of objects", "ragged", "dict"],
)
def test_arrays_of_objects_are_refused(array: Any) -> None:
    with pytest.raises(BadInput, match="array: "):
        codecs.npy_to_bytes(array)
    with pytest.raises(BadInput, match=r"\.astype"):
        codecs.npy_to_bytes(np.array([None]))


def objects_npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([print]), allow_pickle=True)
    return file.getvalue()


def zip_npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.arange(3))
    return file.getvalue()


def claiming(shape: str) -> bytes:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\x00" * 64


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        saved(np.arange(5))[:-1],
        saved(np.arange(5))[:20],
        objects_npy(),
        zip_npz(),
        claiming("(1000000000,)"),
        claiming("(999999999999999,)"),
        claiming("(99999999999999999999999,)"),
        claiming("(-1,)"),
        claiming("((("),
    ],
    ids=lambda data: repr(data[-30:]),
)
def test_damaged_npy_is_bad_input(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    with pytest.raises(BadInput, match="npy"):
        codecs.bytes_to_npy(data)
    with pytest.raises(BadInput, match="npy"):
        codecs.load_npy_path(path)
    with pytest.raises(BadInput, match="npy"):
        codecs.load_npy_path(path, mmap_mode="r")


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 127), st.binary(min_size=1, max_size=4))
def test_a_changed_header_never_escapes_as_another_error(at: int, change: bytes) -> None:
    data = bytearray(saved(np.arange(4)))
    data[at : at + len(change)] = change
    with contextlib.suppress(BadInput):
        codecs.bytes_to_npy(data)


@pytest.mark.parametrize("mode", ["r+", "w+", "readwrite", ""])
def test_no_mode_that_could_change_stored_content_is_allowed(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(saved(np.arange(5)))
    with pytest.raises(BadInput, match="mmap_mode"):
        codecs.load_npy_path(path, mmap_mode=mode)
    assert path.read_bytes() == saved(np.arange(5))


def test_writing_to_a_copy_on_write_map_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(saved(np.arange(5)))
    array = codecs.load_npy_path(path, mmap_mode="c")
    array[0] = 99
    assert path.read_bytes() == saved(np.arange(5))


def test_a_missing_file_is_a_bad_path(tmp_path: Path) -> None:
    with pytest.raises(BadPath, match=r"no\.npy.*No such file"):
        codecs.load_npy_path(tmp_path / "no.npy")


def test_importing_the_codecs_imports_no_numpy() -> None:
    script = (
        "import sys\n"
        "from kachery_p2p.client import temporary\n"
        "from kachery_p2p.client.session import portal\n"
        "from kachery_p2p.client.values import codecs, pickles\n"
        "pickles.loads(pickles.dumps({'a': [1]}))\n"
        "codecs.json_to_bytes([1])\n"
        "assert 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=dict(os.environ))
