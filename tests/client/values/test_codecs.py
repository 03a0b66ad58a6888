"""Objects to stored bytes and back."""

from __future__ import annotations

import array as array_module
import collections
import contextlib
import datetime
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

from kachery_p2p.client.values import codecs, tables
from kachery_p2p.protocol import limits
from kachery_p2p.protocol.errors import BadInput, BadPath

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


POINT = collections.namedtuple("POINT", "x y")


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
    obj = {"b": (1, 2.5, None), "a": ["ä", True, 1e100], "n": {"1": "x"}}
    data = codecs.json_to_bytes(obj)
    assert data == b'{"b":[1,2.5,null],"a":["\\u00e4",true,1e+100],"n":{"1":"x"}}'
    assert codecs.json_to_bytes([1, 2], separators=(", ", ": ")) == b"[1, 2]"
    assert codecs.json_to_bytes([1], indent=1) == b"[\n 1\n]"


def test_named_tuples_are_objects_as_they_always_were() -> None:
    """kachery_client's encoder, simplejson, wrote them so; a plain tuple is an array."""
    assert codecs.json_to_bytes(POINT(1, 2)) == b'{"x":1,"y":2}'
    value = {"a": [POINT((1, 2), POINT(None, "b"))], "b": (POINT(1, 2), 3)}
    assert codecs.json_to_bytes(value) == (
        b'{"a":[{"x":[1,2],"y":{"x":null,"y":"b"}}],"b":[{"x":1,"y":2},3]}'
    )


@pytest.mark.parametrize(
    "value",
    [
        np.int64(-3), np.uint8(200), np.float32(0.1), np.float16(0.5), np.float64(1e300),
        np.bool_(True),
        np.uint64(2**64 - 1), np.str_("text"), {"a": [np.int16(1), {"b": np.bool_(False)}]},
    ],
)  # fmt: skip
def test_numpy_numbers_are_numbers(value: Any) -> None:
    assert codecs.bytes_to_json(codecs.json_to_bytes(value)) == value


@given(json_values)
@settings(max_examples=50, deadline=None)
def test_json_comes_back_as_it_was(value: Any) -> None:
    assert codecs.bytes_to_json(codecs.json_to_bytes(value)) == value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"a": np.datetime64("2020")}, r"at \['a'\]: a numpy.datetime64 is not .* use its .item\("),
        ([0, np.arange(3)], r"at \[1\]: a numpy.ndarray is not .* use its .tolist\(\)"),
        ([{"a": np.array(3)}], r"at \[0\]\['a'\]: a numpy.ndarray"),
        ([np.longdouble(1)], "longdouble"),
        ([np.float32("nan")], r"at \[0\]: nan"),
        ({1, 2}, "a set is not a JSON type"),
        (b"x", "a bytes is not a JSON type: use its .decode"),
        (decimal.Decimal("1.5"), "decimal.Decimal is not a JSON type"),
        ({(1, 2): 3}, r"a key is \(1, 2\) \(a tuple\), and JSON has text keys only"),
        ({1: "a", "1": "b"}, r"a key is 1 \(an int\)"),
        ({"x": [{True: 1, "true": 2}]}, r"at \['x'\]\[0\]: a key is True"),
        ({None: 0}, "a key is None"),
        ({1.5: 0}, "a key is 1.5"),
        ({np.int64(1): 0}, "a key is"),
        ({b"x": 0}, "a key is b'x'"),
        ([POINT(1, {2: 3})], r"at \[0\]\[1\]: a key is 2"),
        (float("nan"), "nan is a number that JSON does not have"),
        ({"a": [float("inf")]}, r"at \['a'\]\[0\]: inf"),
        ({"deep": [0, {"er": datetime.timedelta(1)}]}, r"at \['deep'\]\[1\]\['er'\]: a datetime"),
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


class Quantity(np.ndarray):
    """As astropy, unyt and quantities do units."""

    unit = "m"


class Pint:
    """As pint does them: it has an array, and says that it is one."""

    units = "m"

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.ones(3)


MASKED = np.ma.array([1, 2, 3], mask=[0, 1, 0])


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (MASKED, "masked"),
        ([MASKED, MASKED], "masked"),
        (((1, 2), [np.ma.masked, 3]), "masked"),
        (np.ma.array(np.zeros(2, [("a", "i4")]), mask=[(1,), (0,)]), "masked"),
        (np.ones(3).view(Quantity), "Quantity.*would be lost"),
        ([np.ones(3).view(Quantity)], "Quantity.*would be lost"),
        (Pint(), "Pint has a unit"),
        ([Pint(), Pint()], "Pint has a unit"),
    ],
)
@pytest.mark.parametrize("encode", [codecs.npy_to_bytes, codecs.npy_views])
def test_what_an_array_would_lose_is_refused(array: Any, reason: str, encode: Any) -> None:
    with pytest.raises(BadInput, match=reason):
        encode(array)


CYCLE: list[Any] = []
CYCLE.append(CYCLE)
DEEP: list[Any] = []
for _ in range(5_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1, "a"], "1 among text"),
        ([["a", "b"], ["c", 2.5]], "2.5 among text"),
        ((True, "a"), "True among text"),
        ([0.5, 2**53 + 1], "would be rounded to a float64"),
        ([2**63 + 1, -1], "would be rounded to a float64"),
        ([1j, 2**53 + 1], "would be rounded to a complex128"),
        (CYCLE, "contains itself"),
        (DEEP, "nested too deeply"),
    ],
    ids=["text", "nested text", "bool", "float", "int64", "complex", "cycle", "deep"],
)
def test_a_list_that_numpy_would_make_something_else_of_is_refused(value: Any, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        codecs.npy_to_bytes(value)


@pytest.mark.parametrize(
    "value", [[1, 2.5], [1, True], ["a", np.str_("b")], [2**53, 0.5], [[1, 2], [3, 4]], [1, 2j]]
)
def test_other_lists_are_the_arrays_that_they_make(value: Any) -> None:
    assert (codecs.bytes_to_npy(codecs.npy_to_bytes(value)) == np.array(value)).all()


def test_letters_that_json_would_make_of_two_halves_are_refused() -> None:
    high, low = "\ud83d", "\ude00"
    for value, reason in (
        ({"a": ["x", high + low]}, r"at \['a'\]\[1\]: .* both halves"),
        ({"a": {high + low: 1}}, r"at \['a'\]: a key has both halves"),
    ):
        with pytest.raises(BadInput, match=reason):
            codecs.json_to_bytes(value)
    for kept in (high, low, low + high, "\U0001f600", {"\U0001f600": [high]}):
        assert codecs.bytes_to_json(codecs.json_to_bytes(kept)) == kept


def test_addresses_of_objects_are_no_bytes() -> None:
    for array in (np.array([1, "a"], object), np.zeros(2, [("a", object)])):
        with pytest.raises(BadInput, match="no bytes"):
            codecs.buffer_of(array)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "int4"])
def test_dtypes_that_are_not_numpys_are_refused(name: str) -> None:
    """What numpy writes of them is bytes without a meaning."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = getattr(ml_dtypes, name)
    for array in (np.ones(3, dtype), np.zeros(2, [("a", "i4"), ("b", dtype)])):
        with pytest.raises(BadInput, match="not numpy's own"):
            codecs.npy_to_bytes(array)


def test_an_array_that_numpy_could_mask_and_did_not_is_one() -> None:
    assert codecs.npy_to_bytes(np.ma.array([1, 2, 3])) == saved(np.array([1, 2, 3]))
    assert codecs.npy_to_bytes(np.zeros(3).view(np.recarray)) == saved(np.zeros(3))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(300_000.0),
        np.asfortranarray(np.arange(300_000.0).reshape(300, 1000)),
        np.arange(600_000.0)[::2],
        np.arange(300_000).astype(">i8").reshape(10, 30, 1000).transpose(2, 0, 1),
        np.arange(300_000).astype("M8[s]"),
        np.zeros(300_000, [("ä", "f8"), ("b", "i2")]),
        np.zeros((0, 3)),
        np.array(5),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_the_parts_of_an_array_are_what_numpy_saves(array: Any) -> None:
    views, mapped = codecs.npy_views(array)
    assert b"".join(views) == saved(array)
    assert not mapped


def test_a_mapped_array_is_not_copied(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(300_000.0).reshape(3, -1))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    for array in (mapped, mapped[1:], np.asarray(mapped), mapped.T):
        views, is_mapped = codecs.npy_views(array)
        assert is_mapped
        assert np.shares_memory(np.frombuffer(views[1], "u1"), mapped)
        assert b"".join(views) == saved(array)


@pytest.mark.parametrize(
    "data",
    [
        b"abc", bytearray(b"abc"), memoryview(b"xabcx")[1:4], memoryview(b"a-b-c")[::2],
        np.frombuffer(b"abc", "u1"), np.frombuffer(b"abcd", ">u2"), np.zeros((0, 3)),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)), array_module.array("d", [1.5]),
    ],
)  # fmt: skip
def test_any_buffer_gives_its_bytes(data: Any) -> None:
    assert codecs.buffer_of(data) == memoryview(data).tobytes()
    assert codecs.buffer_of(data).format == "B"


@pytest.mark.parametrize(
    "data", ["text", 5, None, [1, 2], io.BytesIO(b"x"), np.array(["2020"], "M8[D]")]
)
def test_what_is_no_buffer_is_refused(data: Any) -> None:
    with pytest.raises(BadInput, match="no bytes"):
        codecs.buffer_of(data)


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


def test_what_is_handed_on_is_freed_without_a_word_however_it_ends() -> None:
    # A view of a BytesIO that ends in a circle is reported by some Pythons: they are views of bytes.
    large = np.zeros(limits.LOCAL_PIECE + 1, np.uint8)
    parts = [*codecs.npy_views(large)[0][:1], *codecs.npy_views(np.zeros(3))[0]]
    parts += [codecs.npy_to_bytes(np.zeros(3)), tables.arrays_to_npz({"a": np.zeros(3)})]
    assert [type(part.obj) for part in parts] == 4 * [bytes]
