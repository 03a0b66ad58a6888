"""Arrays and datasets as folders of zarr, stored without a node and opened by their own libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kachery_p2p as kc
from kachery_p2p.protocol.errors import BadInput, BadUri, StorageFull

zarr = pytest.importorskip("zarr", reason="zarr is not installed: EXTRAS=dev,dev-data")
pytest.importorskip("fsspec")

VALUES = np.arange(600, dtype="f4").reshape(20, 30)


def dask_array() -> Any:
    return pytest.importorskip("dask.array").from_array(VALUES, chunks=(5, 10))


def zarr_array() -> Any:
    array = zarr.create_array(store={}, shape=VALUES.shape, chunks=(5, 10), dtype=VALUES.dtype)
    array[:] = VALUES
    return array


@pytest.mark.parametrize("make", [lambda: VALUES, dask_array, zarr_array])
def test_an_array_is_opened_where_it_is(folder: Path, make: Any) -> None:
    uri = kc.store_zarr(make())
    assert uri.startswith("sha1dir://")
    assert uri.endswith(".data.zarr")
    opened = zarr.open(uri, mode="r")
    assert (opened[7:9, 3:20] == VALUES[7:9, 3:20]).all()
    assert (opened[:] == VALUES).all()
    assert kc.store_zarr(make(), "mine.zarr").startswith(uri.rpartition(".data")[0])
    with pytest.raises(OSError, match="cannot be changed"):
        zarr.open(uri, mode="r+")[0, 0] = 7


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_group_comes_with_all_that_is_in_it(folder: Path, tmp_path: Path, place: str) -> None:
    store = str(tmp_path / "g.zarr") if place == "disk" else zarr.storage.MemoryStore()
    group = zarr.open_group(store, mode="w")
    group.attrs["rate"] = 30_000
    inner = group.create_group("raw").create_array("a b", data=VALUES)
    inner.attrs["unit"] = "µV"
    uri = kc.store_zarr(group)
    opened = zarr.open_group(uri, mode="r")
    assert dict(opened.attrs) == {"rate": 30_000}
    assert opened["raw/a b"].attrs["unit"] == "µV"
    assert (opened["raw/a b"][:] == VALUES).all()
    part = zarr.open_group(kc.store_zarr(group["raw"]), mode="r")
    assert (part["a b"][3] == VALUES[3]).all()
    if place == "disk":
        assert kc.store_dir(str(tmp_path / "g.zarr"), "data.zarr") == uri
    again = zarr.open(kc.store_zarr(opened), mode="r")
    assert (again["raw/a b"][:] == VALUES).all(), "what is stored already is copied, too"


def test_a_dataset_of_xarray_comes_back(folder: Path) -> None:
    xr = pytest.importorskip("xarray")
    data = xr.Dataset(
        {"v": (("t", "x"), VALUES)}, coords={"t": np.arange(20.0)}, attrs={"subject": "m1"}
    )
    uri = kc.store_zarr(data)
    xr.testing.assert_identical(xr.open_zarr(uri).compute(), data)
    assert float(xr.open_zarr(uri).v.sel(t=3.0).sum()) == VALUES[3].sum()
    xr.testing.assert_identical(xr.open_dataarray(kc.store_zarr(data.v), engine="zarr"), data.v)


@pytest.mark.parametrize("value", [[1, 2], {"a": VALUES}, "x.zarr", None])
def test_what_zarr_does_not_hold_is_refused(folder: Path, value: Any) -> None:
    with pytest.raises(BadInput, match="none of Dataset"):
        kc.store_zarr(value)
    assert not folder.exists()


def test_what_cannot_be_written_is_said_before_anything_is_stored(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    xr = pytest.importorskip("xarray")
    with pytest.raises(BadInput, match="written as zarr"):
        kc.store_zarr(xr.Dataset({"v": ("x", np.array([{}, object()], dtype=object))}))
    with pytest.raises(BadUri):
        kc.store_zarr(VALUES, "a/b")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zarr, "create_array", full)
    with pytest.raises(StorageFull):
        kc.store_zarr(VALUES)
    assert not folder.exists()
