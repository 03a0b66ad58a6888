"""What lies in an array's memory and is no value of it stays here."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kachery_p2p.client.values import codecs, pickles, tables
from kachery_p2p.client.values.gaps import without_gaps
from kachery_p2p.protocol.errors import BadInput

ALIGNED = np.dtype([("a", "u1"), ("b", "f8")], align=True)
NESTED = np.dtype([("x", ALIGNED, (2,)), ("y", "i2")], align=True)
SPREAD = np.dtype(
    {"names": ["x", "y"], "formats": ["i2", "f8"], "offsets": [16, 0], "itemsize": 40}
)
ENCODERS: list[Callable[[Any], bytes]] = [
    lambda x: bytes(codecs.npy_to_bytes(x)),
    lambda x: b"".join(codecs.npy_views(x)[0]),
    pickles.dumps,
    lambda x: pickles.dumps({"x": [x]}),
    lambda x: bytes(tables.arrays_to_npz({"x": x})),
    lambda x: bytes(codecs.buffer_of(x)),
]
NAMES = ["npy", "npy_views", "pickle", "inside", "npz", "bytes"]


def filled(dtype: Any, byte: int, count: int = 5) -> Any:
    """Zeros in every field, and that byte everywhere else."""
    array = np.full(count * dtype.itemsize, byte, np.uint8).view(dtype)
    _clear(array)
    return array


def _clear(array: Any) -> None:
    if array.dtype.fields is None:
        array[...] = 0
    for name in array.dtype.names or ():
        _clear(array[name])


@pytest.mark.parametrize("encode", ENCODERS, ids=NAMES)
def test_columns_that_were_not_chosen_are_not_given_away(encode: Callable[[Any], bytes]) -> None:
    table = np.zeros(300_000, [("id", "i4"), ("name", "S12"), ("score", "f8")])
    table["name"], table["score"] = b"SECRET", 0.5
    chosen = table[["id", "score"]]
    assert b"SECRET" not in encode(chosen)
    assert b"SECRET" not in encode(chosen[:10])
    assert b"SECRET" not in encode(chosen.reshape(2, -1).T)
    assert (table["name"] == b"SECRET").all()  # what the user has is as it was


@pytest.mark.parametrize("encode", ENCODERS, ids=NAMES)
@pytest.mark.parametrize("dtype", [ALIGNED, NESTED, SPREAD], ids=["aligned", "nested", "spread"])
def test_what_lies_between_fields_does_not_count(
    encode: Callable[[Any], bytes], dtype: Any
) -> None:
    if dtype is SPREAD and encode not in ENCODERS[2:4]:
        with pytest.raises(BadInput):  # only pickles hold fields in another order
            encode(filled(dtype, 1))
        return
    assert encode(filled(dtype, 1)) == encode(filled(dtype, 2))


@pytest.mark.skipif(np.finfo(np.longdouble).nmant != 63, reason="its long doubles have no gaps")
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["g", "G"])
def test_long_doubles_have_one_form(order: str, kind: str) -> None:
    dtype = np.dtype(kind).newbyteorder(order)  # type: ignore[call-overload]
    values = (np.arange(1, 4, dtype=np.longdouble) / 3).astype(dtype)
    forms = set()
    for byte in (1, 2):
        noisy = values.copy()
        raw = noisy.view(np.uint8).reshape(-1, 16)
        raw[:, slice(10, None) if order == "<" else slice(6)] = byte
        assert (noisy == values).all()
        forms.add(
            (bytes(codecs.npy_to_bytes(noisy)), pickles.dumps(noisy), pickles.dumps(noisy[0]))
        )
        assert (pickles.loads(pickles.dumps(noisy)) == values).all()
    assert len(forms) == 1


def test_values_are_as_they_were_and_most_arrays_are_not_even_copied() -> None:
    array = filled(NESTED, 7)
    array["x"]["b"] = np.arange(10).reshape(5, 2)
    for each in (array, array[::2], array.reshape(5, 1), np.asfortranarray(array.reshape(1, 5))):
        clean = without_gaps(each)
        assert clean.dtype == each.dtype
        assert clean.shape == each.shape
        assert (clean == each).all()
    for plain in (np.arange(3), np.zeros(3, [("a", "i4"), ("b", "S3")]), np.zeros(2, "V5"),
                  np.zeros(3, []), np.float32(1)):  # fmt: skip
        assert without_gaps(plain) is plain
    (record,) = without_gaps(array[3:4])
    assert without_gaps(array[3]) == record
    assert type(without_gaps(array[3])) is np.void


def test_pickles_without_gaps_are_what_python_writes() -> None:
    shared = np.arange(6).reshape(2, 3)
    for value in (1, [shared, shared], {"a": shared.T, "b": np.float32(0.5)}, np.zeros(2, "M8[s]")):
        assert pickles.dumps(value) == pickle.dumps(value, pickles.PROTOCOL)
