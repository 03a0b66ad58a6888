"""Tables and sets of arrays, stored and loaded without a node."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kachery_p2p as kc
from kachery_p2p.client.values import tables
from kachery_p2p.protocol.errors import BadInput

ABSENT = "sha1://" + "0" * 40


def test_arrays_come_back_by_their_names(folder: Path) -> None:
    arrays = {"a": np.arange(6).reshape(2, 3), "b/c d": np.zeros(0), "é": np.float32(3)}
    uri = kc.store_npz(arrays)
    assert uri.endswith("/file.npz")
    loaded = kc.load_npz(uri)
    assert loaded is not None
    assert list(loaded) == list(arrays)
    np.testing.assert_equal(loaded, arrays)
    loaded["a"][0, 0] = 7  # one's own, to write to
    assert kc.load_npz(ABSENT) is None


def test_the_bytes_are_those_of_numpy(folder: Path) -> None:
    arrays = {"x": np.arange(5.0), "y": np.ones((2, 2), dtype=">i2")}
    file = io.BytesIO()
    np.savez(file, **arrays)
    assert kc.store_npz(arrays).split("/")[2] == hashlib.sha1(file.getvalue()).hexdigest()
    assert kc.store_npz(arrays) == kc.store_npz(dict(arrays))


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"o": np.array([{}], dtype=object)}, r"npz\['o'\]: its dtype is object"),
        ({"m": np.ma.masked_array([1, 2], [True, False])}, r"npz\['m'\]: .*masked"),
        ({"": np.zeros(1)}, "no name"),
        ({"a\0b": np.zeros(1)}, "no name"),
        ({1: np.zeros(1)}, "no name"),
        (np.zeros(3), "store_npy"),
        ([np.zeros(3)], "no mapping"),
    ],
)
def test_what_would_not_come_back_is_refused(folder: Path, arrays: Any, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        kc.store_npz(arrays)
    assert not folder.exists()


def test_what_is_no_npz_of_plain_arrays_is_refused(folder: Path) -> None:
    objects = io.BytesIO()
    np.savez(objects, o=np.array([{}], dtype=object))
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w") as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)}
        )
        archive.writestr("x.npy", header.getvalue())
    for data in (b"", b"PK\x03\x04", b"nonsense", objects.getvalue(), bomb.getvalue()):
        with pytest.raises(BadInput):
            kc.load_npz(kc.store_bytes(data))
    with pytest.raises(BadInput, match="load_npy"):
        kc.load_npz(kc.store_npy(np.zeros(2)))


# --- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_a_table_comes_back_with_the_library_that_is_asked_for(folder: Path, library: Any) -> None:
    module: Any = pytest.importorskip(library, reason=f"{library} is not installed")
    pytest.importorskip("pyarrow" if library == "pandas" else library)
    columns = {"n": [1, 2, 3], "text": ["a", "é", ""], "x": [0.5, None, -1.0]}
    table = module.table(columns) if library == "pyarrow" else module.DataFrame(columns)
    uri = kc.store_parquet(table, "t.parquet")
    assert uri.endswith("/t.parquet")
    loaded = kc.load_parquet(uri, library=library)
    assert type(loaded) is type(table)
    assert loaded.equals(table)
    some = kc.load_parquet(uri, ["text"], library=library)
    assert list(some.columns if library != "pyarrow" else some.column_names) == ["text"]
    assert kc.load_parquet(ABSENT, library=library) is None
    for wrong in (kc.store_bytes(b"no parquet"), kc.store_bytes(b"")):
        with pytest.raises(BadInput, match="Parquet"):
            kc.load_parquet(wrong, library=library)
    with pytest.raises(BadInput):
        kc.load_parquet(uri, ["no such column"], library=library)


@pytest.mark.parametrize("value", [{"a": [1]}, np.zeros((2, 2)), "t.parquet", None])
def test_what_is_no_table_is_refused(folder: Path, value: Any) -> None:
    with pytest.raises(BadInput, match="no frame of pandas"):
        kc.store_parquet(value)


def test_without_a_library_it_is_said_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables.importlib.util, "find_spec", lambda name: None)
    for library in (None, "pandas"):
        with pytest.raises(BadInput, match=r"install kachery_p2p\[parquet\]"):
            kc.load_parquet(ABSENT, library=library)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="none of pandas"):
        kc.load_parquet(ABSENT, library="excel")  # type: ignore[arg-type]
