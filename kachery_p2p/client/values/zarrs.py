"""Arrays and datasets as folders of zarr: written by the library whose they are.

None of the libraries is imported before somebody hands in something of theirs.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from typing import Any, Final

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.json_values import one

_WHAT: Final = "zarr"
_KINDS: Final = (
    "Dataset and DataArray of xarray, Array of dask, Array and Group of zarr, and arrays of numpy"
)


def write_zarr(data: Any, folder: str) -> None:
    """Write it as zarr into a folder that is not there yet. Blocks; what is lazy is computed.

    Raises:
        BadInput: it is nothing that zarr holds, or its library cannot write it.
        OSError: the disk is full.
    """
    library = type(data).__module__.partition(".")[0]
    kind = type(data).__name__
    write: Callable[[Any, str], object] | None = {
        ("xarray", "Dataset"): _write_xarray,
        ("xarray", "DataArray"): _write_xarray,
        ("dask", "Array"): _write_dask,
        ("numpy", "ndarray"): _write_numpy,
        ("zarr", "Array"): _copy_zarr,
        ("zarr", "Group"): _copy_zarr,
    }.get((library, kind))
    if write is None:
        reason = f"{one(data)} is none of {_KINDS}; a folder is stored with store_dir"
        raise BadInput(what=_WHAT, reason=reason)
    try:
        write(data, folder)
    except ImportError as error:
        raise BadInput(what=_WHAT, reason=f"{error}; install zarr") from error
    except (BadInput, OSError):
        raise
    except Exception as error:  # each library has its own errors for what does not fit
        reason = f"it cannot be written as zarr: {error or type(error).__name__}"
        raise BadInput(what=_WHAT, reason=reason) from error


def _write_xarray(data: Any, folder: str) -> None:
    with warnings.catch_warnings():
        # All metadata in one file is one thing to fetch; that the third format has no word on it, which
        # zarr warns of, is no matter of whoever stores a dataset.
        warnings.filterwarnings("ignore", "Consolidated metadata")
        data.to_zarr(folder, mode="w-", consolidated=True)


def _write_dask(data: Any, folder: str) -> None:
    importlib.import_module("dask.array").to_zarr(data, folder)


def _write_numpy(data: Any, folder: str) -> None:
    importlib.import_module("zarr").create_array(store=folder, data=data)


def _copy_zarr(data: Any, folder: str) -> None:
    """All that belongs to an array or a group, chunk by chunk, whatever store it is in."""
    place = data.store_path
    buffers = importlib.import_module("zarr.core.buffer").default_buffer_prototype()

    async def copy() -> None:
        prefix = f"{place.path}/" if place.path else ""
        async for key in place.store.list_prefix(prefix):
            value = await place.store.get(key, buffers)
            if value is None:
                raise BadInput(what=_WHAT, reason=f"{key!r} went away while it was read")
            _write_file(os.path.join(folder, key.removeprefix(prefix)), value.to_bytes())

    # Stores that talk to others belong to the loop that zarr itself has for them.
    importlib.import_module("zarr.core.sync").sync(copy())


def _write_file(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "xb") as file:
        file.write(data)
