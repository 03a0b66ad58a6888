"""Pickles that cannot do harm: what passes, and that nothing else does, written or read."""

from __future__ import annotations

import collections
import enum
import os
import pickle
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.client.values import pickles
from kachery_p2p.protocol import limits
from kachery_p2p.protocol.errors import BadInput, UnsafePickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

hashables = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
    | st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 9)),
    lambda inner: st.frozensets(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)
values = st.recursive(
    hashables,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.sets(hashables, max_size=3)
        | st.dictionaries(hashables, inner, max_size=3)
        | st.builds(slice, inner, inner, inner)
    ),
    max_leaves=10,
)

ARRAYS: list[Any] = [np.arange(12).reshape(3, 4).astype(kind) for kind in "bBhHiIlLefdgFDG?"] + [
    np.asfortranarray(np.arange(12).reshape(3, 4)),
    np.arange(12)[::-3],
    np.broadcast_to(np.arange(3), (2, 3)),
    np.array(5),
    np.zeros((2, 0, 3)),
    np.arange(4, dtype=">i4"),
    np.array(["ab", "c", ""]),
    np.array([b"ab", b"c"]),
    np.array(["", ""], dtype="U0"),
    np.array([b"abc"], dtype="V3"),
    np.array(["2020-01-01", "NaT"], dtype="M8[D]"),
    np.array([1, 2], dtype="m8[25us]"),
    np.array([1, 2], dtype="m8[us]"),
    np.array([(1, 2.5)], dtype=[("a", "<i4"), ("b", ">f8")]),
    np.zeros(2, dtype=np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    np.zeros(2, dtype=[("x", "f4", (2, 3)), ("in", [("y", "M8[s]"), ("z", "U3")])]),
    np.zeros(2, dtype={"names": ["a"], "formats": ["i2"], "offsets": [3], "itemsize": 9}),
]
SCALARS: list[Any] = [array.flat[0] for array in ARRAYS if array.size] + [
    np.str_(""),
    np.bytes_(b""),
    np.bool_(True),
    np.datetime64("NaT", "D"),
]


def same(first: Any, second: Any) -> bool:
    """Equal, of the same type, with NaT equal to NaT."""
    if type(first) is not type(second):
        return False
    if isinstance(first, np.ndarray | np.generic):
        return bool(
            first.dtype.newbyteorder("=") == second.dtype.newbyteorder("=")
            and first.shape == second.shape
            and repr(first.tolist()) == repr(second.tolist())
        )
    return bool(first == second)


@given(values)
@settings(max_examples=150, deadline=None)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    data = pickles.dumps(value)
    assert data[:2] == b"\x80\x04"
    assert pickles.loads(data) == pickle.loads(data) == value
    for protocol in PROTOCOLS:
        again = pickles.loads(pickle.dumps(value, protocol))
        assert again == value
        assert repr(type(again)) == repr(type(value))


@pytest.mark.parametrize("value", ARRAYS + SCALARS, ids=lambda v: f"{type(v).__name__} {v.dtype}")
def test_numpy_values_come_back_as_they_were(value: Any) -> None:
    assert same(pickles.loads(pickles.dumps(value)), value)
    for protocol in PROTOCOLS:
        again = pickles.loads(pickle.dumps({"a": [value, value]}, protocol))["a"]
        assert same(again[0], value)
        assert same(again[1], value)


def test_a_loaded_array_is_writable_and_owns_its_memory() -> None:
    array = pickles.loads(pickles.dumps(np.arange(5)))
    array[0] = 7
    assert array.tolist() == [7, 1, 2, 3, 4]


def test_what_was_shared_is_shared_again() -> None:
    array, inner = np.arange(3), [1]
    value = pickles.loads(pickles.dumps({"a": array, "b": (array, inner), "c": inner}))
    assert value["a"] is value["b"][0]
    assert value["c"] is value["b"][1]


def test_cycles_come_back() -> None:
    cycle: list[Any] = [1]
    cycle.append({"self": cycle, "tuple": (cycle,)})
    value = pickles.loads(pickles.dumps(cycle))
    assert value[1]["self"] is value
    assert value[1]["tuple"][0] is value
    knot: tuple[Any, ...] = ([],)
    knot[0].append(knot)
    value = pickles.loads(pickles.dumps(knot))
    assert value[0][0] is value


def test_metadata_that_h5py_leaves_on_a_dtype_does_no_harm() -> None:
    marked = np.dtype("S4", metadata={"h5py_encoding": "utf-8"})
    value = pickles.loads(pickles.dumps(np.array([b"ab"], dtype=marked)))
    assert value.tolist() == [b"ab"]
    with pytest.raises(UnsafePickle):
        pickles.dumps(np.array([b"ab"], dtype=np.dtype("S4", metadata={"evil": print})))


# --- what numpy 1 wrote ---------------------------------------------------------------------------


def as_numpy_1(data: bytes) -> bytes:
    """The same pickle with numpy 1's module names, lengths corrected."""
    text = data.replace(b"cnumpy._core.", b"cnumpy.core.")
    for name in (b"multiarray", b"numeric"):
        new, old = b"numpy._core." + name, b"numpy.core." + name
        count = text.count(b"\x8c" + bytes([len(new)]) + new)
        text = text.replace(b"\x8c" + bytes([len(new)]) + new, b"\x8c" + bytes([len(old)]) + old)
        if count and text[2:3] == pickle.FRAME:
            size = struct.unpack("<Q", text[3:11])[0] - count
            text = text[:3] + struct.pack("<Q", size) + text[11:]
    return text


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pickles_of_numpy_1_load_without_a_warning(protocol: int) -> None:
    value = {"array": np.arange(6.0).reshape(2, 3), "scalar": np.float32(2.5), "b": b"\x00\xff"}
    data = as_numpy_1(pickle.dumps(value, protocol))
    assert b"numpy.core." in data
    assert b"_core" not in data
    again = pickles.loads(data)
    assert same(again["array"], value["array"])
    assert same(again["scalar"], value["scalar"])
    assert again["b"] == b"\x00\xff"


def test_an_array_pickled_by_numpy_1_16_loads() -> None:
    data = (
        b"\x80\x03cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85q\x02"
        b"C\x01bq\x03\x87q\x04Rq\x05(K\x01K\x02\x85q\x06cnumpy\ndtype\nq\x07X\x02\x00\x00\x00i2q\x08"
        b"K\x00K\x01\x87q\tRq\n(K\x03X\x01\x00\x00\x00<q\x0bNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tq\x0cb\x89C\x04\x01\x00\x02\x00q\rtq\x0eb."
    )
    assert same(pickles.loads(data), np.array([1, 2], dtype="i2"))


# --- what is not written --------------------------------------------------------------------------


class Text(str):
    __slots__ = ()


class Colour(enum.IntEnum):
    RED = 1


class Mine:
    pass


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({"a": [0, 1, 2, Mine()]}, r"a .*Mine at x\['a'\]\[3\]"),
        ([Text("x")], r"Text at x\[0\]"),
        ((Colour.RED,), r"Colour at x\[0\]"),
        ({Colour.RED: 1}, r"Colour at x \(the key <Colour>\)"),
        ({(1, Mine): 1}, r"a type at x \(the key <tuple>\)\[1\]"),
        ({1, Mine}, r"a type at x \(a member of the set\)"),
        (slice(1, Mine()), r"Mine at x\.stop"),
        (collections.OrderedDict(a=1), "collections.OrderedDict at x"),
        (collections.namedtuple("Point", "x")(1), "Point at x"),
        (bytearray(b"x"), "bytearray at x"),
        (print, "builtin_function_or_method at x"),
        ([np.array([None])], r"numpy.ndarray of dtype object at x\[0\]"),
        (np.zeros(1, dtype=[("a", "O")]), "numpy.ndarray of dtype"),
        (np.dtype("f8"), "at x"),
        (np.ma.masked_array([1]), "MaskedArray of dtype int64 at x"),
        (np.rec.array([(1,)]), "recarray"),
        (np.array(["a"], dtype=np.dtypes.StringDType()), "StringDType"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_refused_is_named_with_its_place(value: Any, what: str) -> None:
    with pytest.raises(UnsafePickle, match=what):
        pickles.dumps(value)


def nested(depth: int, wrap: Any) -> Any:
    value = wrap(1)
    for _ in range(depth - 1):
        value = wrap(value)
    return value


WRAPS = [
    lambda value: [value],
    lambda value: (value,),
    lambda value: {"a": value},
    lambda value: slice(None, None, value),
]


def test_a_field_with_a_title_is_refused_before_it_is_stored() -> None:
    titled = np.zeros(2, [(("a title", "name"), "i4")])
    with pytest.raises(UnsafePickle, match="at x"):
        pickles.dumps(titled)


@pytest.mark.parametrize("wrap", WRAPS, ids=["list", "tuple", "dict", "slice"])
def test_depth_has_a_limit_on_both_sides(wrap: Any) -> None:
    deepest = nested(limits.MAX_PICKLE_DEPTH, wrap)
    assert pickles.loads(pickles.dumps(deepest)) == deepest
    with pytest.raises(BadInput, match="nested"):
        pickles.dumps(wrap(deepest))
    with pytest.raises(BadInput, match="nested"):
        pickles.dumps(nested(20_000, wrap))


def test_a_value_that_unfolds_without_end_is_refused() -> None:
    value: Any = ["ha"] * 10
    for _ in range(9):
        value = [value] * 10
    with pytest.raises(BadInput, match="shared"):
        pickles.dumps(value)
    with pytest.raises(BadInput, match="shared"):
        pickles.loads(pickle.dumps(value))


# --- what is not read -----------------------------------------------------------------------------


class Calls:
    """Pickles to a call of ``function(*args)``."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.reduced = (function, args)

    def __reduce__(self) -> Any:
        return self.reduced


def u(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def reconstruct() -> bytes:
    """Up to the empty array that BUILD fills."""
    return b"\x80\x04cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"


def dtype(code: str, state: bytes = b"") -> bytes:
    return b"cnumpy\ndtype\n" + u(code) + b"\x89\x88\x87R" + state


def array(kind: bytes, data: bytes, shape: bytes = b"K\x01\x85") -> bytes:
    """An array of this dtype and raw data."""
    return (
        reconstruct()
        + b"(K\x01"
        + shape
        + kind
        + b"\x89"
        + b"C"
        + bytes([len(data)])
        + data
        + b"tb."
    )


PLAIN_STATE = b"(K\x03" + u("|") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
LYING_OBJECT = dtype("O8", PLAIN_STATE)
FIELD_OUTSIDE = dtype(
    "V1",
    b"(K\x03" + u("|") + b"N" + u("a") + b"\x85}" + u("a") + dtype("i8") + b"J\x00\x00\x00\x7f\x86s"
    b"K\x01K\x01K\x10tb",
)
OBJECT_FIELD = dtype(
    "V8",
    b"(K\x03" + u("|") + b"N" + u("a") + b"\x85}" + u("a") + dtype("O8") + b"K\x00\x86s"
    b"K\x08K\x01K\x10tb",
)
NEGATIVE_SIZE = dtype("V8", b"(K\x03" + u("|") + b"N" + b")}" + b"J\xf8\xff\xff\xffK\x01K\x00tb")


def nested_dtype(depth: int) -> bytes:
    kind = dtype("i1")
    for _ in range(depth):
        kind = dtype(
            "V1",
            b"(K\x03" + u("|") + b"N" + u("a") + b"\x85}" + u("a") + kind + b"K\x00\x86s"
            b"K\x01K\x01K\x10tb",
        )
    return kind


HOSTILE = {
    "os.system": pickle.dumps(Calls(os.system, "false")),
    "os.system, protocol 0": b"cposix\nsystem\n(S'false'\ntR.",
    "INST": b"(S'false'\niposix\nsystem\n.",
    "OBJ": b"(cposix\nsystem\n" + u("false") + b"o.",
    "NEWOBJ": b"\x80\x04cbuiltins\nobject\n)\x81.",
    "eval": pickle.dumps(Calls(eval, "1")),
    "getattr": pickle.dumps(Calls(getattr, [], "append")),
    "dotted name": b"\x80\x04" + u("builtins") + u("range.__class__") + b"\x93.",
    "dotted numpy": b"\x80\x04" + u("numpy") + u("ndarray.tofile") + b"\x93.",
    "numpy.load": b"\x80\x04" + u("numpy") + u("load") + b"\x93.",
    "copyreg": b"\x80\x02ccopy_reg\n_reconstructor\n.",
    "copyreg 3": pickle.dumps(Mine(), 1),
    "instance": pickle.dumps(Mine()),
    "persistent id": b"Pid\n.",
    "binary persistent id": b"K\x01Q.",
    "extension": b"\x80\x02\x82\x01.",
    "out of band buffer": b"\x80\x05\x97.",
    "call of a call": b"\x80\x04cbuiltins\nrange\nK\x03K\x04K\x01\x87R)R.",
    "call of a list": b"\x80\x04])R.",
    "call with a list": b"\x80\x04cbuiltins\nset\n]R.",
    "codec": b"\x80\x04c_codecs\nencode\n" + u("x") + u("zip") + b"\x86R.",
    "bytes of a size": b"\x80\x04cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.",
    "set of a range": b"\x80\x04cbuiltins\nset\ncbuiltins\nrange\nK\x00J\xff\xff\xff\x7fK\x01\x87R"
    b"\x85R.",
    "a name as the value": b"\x80\x04cbuiltins\nrange\n.",
    "a dtype as the value": b"\x80\x04" + dtype("f8", PLAIN_STATE) + b".",
    "an array without content": reconstruct() + b".",
    "state for a dict": b"\x80\x04}}b.",
    "state for a set": b"\x80\x04\x8f}b.",
    "array of objects": pickle.dumps(np.array([1, "a"], dtype=object)),
    "array of calls": pickle.dumps(np.array([Calls(os.system, "false")], dtype=object)),
    "structured objects": pickle.dumps(np.zeros(1, dtype=[("a", "O")])),
    "object scalar": b"\x80\x04cnumpy._core.multiarray\nscalar\n" + dtype("O8") + b"C\x08"
    + b"A" * 8 + b"\x86R.",
    "pointers as bytes": array(dtype("O8"), b"A" * 8),
    "pointers, lying flags": array(LYING_OBJECT, b"A" * 8),
    "pointers in a field": array(OBJECT_FIELD, b"A" * 8),
    "field outside": array(FIELD_OUTSIDE, b"A"),
    "negative item size": array(NEGATIVE_SIZE, b""),
    "negative shape": array(dtype("i1"), b"A", b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86"),
    "shape too large": array(dtype("i8"), b"A" * 8, b"K\x02\x85"),
    "shape too small": array(dtype("i1"), b"A" * 8, b"K\x01\x85"),
    "shape of a list": array(dtype("i1"), b"A", b"]K\x01a"),
    "shape of a bool": array(dtype("i1"), b"A", b"\x88\x85"),
    "many dimensions": array(dtype("i1"), b"A", b"(" + b"K\x01" * 70 + b"t"),
    "deep dtype": array(nested_dtype(5_000), b"A"),
    "unknown dtype": array(dtype("f8,O"), b"A" * 8),
    "dtype by name": array(dtype("object"), b"A" * 8),
    "dtype of a class": b"\x80\x04cnumpy\ndtype\ncnumpy\nndarray\n\x85R.",
    "string dtype": pickle.dumps(np.array(["a"], dtype=np.dtypes.StringDType())),
    "record": pickle.dumps(np.rec.array([(1,)])[0]),
    "subclass of ndarray": pickle.dumps(np.ma.masked_array([1])),
    "array as a key": pickle.dumps(1)[:2] + b"}" + array(dtype("i1"), b"A")[2:-1] + b"Ns.",
    "list as a key": b"\x80\x04}]Ns.",
    "deep tuple as a key": b"\x80\x04})" + b"\x85" * 200_000 + b"Ns.",
    "deep slices": b"\x80\x04" + b"cbuiltins\nslice\n" * 5_000 + b"N" + b"NN\x87R" * 5_000 + b".",
    "deep frozensets": b"\x80\x04" + b"(" * 50_000 + b"\x91" * 50_000 + b".",
    "deep lists": b"\x80\x04" + b"]" * 50_000 + b"a" * 49_999 + b".",
    "key that unfolds": b"\x80\x04})" + b"2\x86" * 60 + b"Ns.",
    "set of what unfolds": b"\x80\x04\x8f()" + b"2\x86" * 60 + b"\x90.",
    "frozenset of what unfolds": b"\x80\x04()" + b"2\x86" * 60 + b"\x91.",
    "lists that unfold": b"\x80\x04" + b"]" + b"".join(
        b"q%c]h%ch%c\x86" % (i, i, i) for i in range(40)
    ) + b".",
    "unknown memo": b"\x80\x04h\x05.",
    "adding to a tuple": b"\x80\x04)K\x01a.",
    "adding to an array": array(dtype("i1"), b"A")[:-1] + b"(K\x01e.",
    "odd dict": b"\x80\x04(K\x01d.",
    "no mark": b"\x80\x04K\x01t.",
    "empty stack": b"\x80\x04.",
    "tuple of too little": b"\x80\x04K\x01\x87.",
    "string longer than the data": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "not UTF-8": b"\x80\x04\x8c\x01\xff.",
    "text number": b"Inope\n.",
    "number without end": b"I" + b"1" * 1000,
    "huge text number": b"I" + b"1" * 10_000 + b"\n.",
    "protocol 99": b"\x80\x63N.",
    "nothing": b"",
    "zeros": b"\x00" * 100,
    "cut off": pickle.dumps({"a": [1, "text", np.arange(9)]})[:-9],
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_damaged_pickle_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*args: Any) -> None:
        raise AssertionError("code from the pickle was run")

    monkeypatch.setattr(os, "system", called)
    with pytest.raises(BadInput) as caught:
        pickles.loads(HOSTILE[name])
    assert len(str(caught.value)) < 600


def test_the_refusal_names_what_the_pickle_wanted() -> None:
    with pytest.raises(UnsafePickle, match=r"the name 'posix\.system'"):
        pickles.loads(HOSTILE["os.system"])
    with pytest.raises(UnsafePickle, match=r"the name 'builtins\.eval'"):
        pickles.loads(HOSTILE["eval"])


def test_a_memo_index_costs_no_memory() -> None:
    assert pickles.loads(b"\x80\x04]r\xff\xff\xff\xff.") == []


SEEDS = [
    pickle.dumps(value, protocol)
    for protocol in (0, 2, 4, 5)
    for value in ({"a": [1, (2.5, "x"), {3}, b"y"]}, [np.arange(3), np.float32(1)], ARRAYS[-2])
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_a_changed_pickle_gives_a_value_or_bad_input(seed: bytes, data: st.DataObject) -> None:
    changed = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(seed) - 1))
        changed[at : at + 1] = data.draw(st.binary(max_size=2))
    try:
        value = pickles.loads(changed)
    except BadInput:
        return
    pickles.check(value)
