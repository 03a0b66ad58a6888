"""Arrays and datasets, stored as folders of zarr. The async API, as :mod:`.directories` has it."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from kachery_p2p.client.display.progress import Progress
from kachery_p2p.client.session import blocking
from kachery_p2p.client.values.zarrs import write_zarr

from .directories import astore_dir, folder_label


async def astore_zarr(
    data: Any,
    label: str | None = None,
    *,
    channel: str | None = None,
    progress: Progress = None,
) -> str:
    """Store a Dataset of xarray, or an array of xarray, dask, zarr or numpy, as zarr, and return its
    ``sha1dir://`` URI; label ``data.zarr``.

    ``xr.open_zarr(uri)``, ``zarr.open(uri, mode="r")`` and dask open it, and fetch the chunks that are
    computed with (the extra ``fsspec``). The library that the data is of writes it, into a temporary
    folder: it decides on chunks and compression, and the same data written by another version may have
    another URI. Zarr that lies in a folder already is stored with :func:`store_dir`.

    Raises:
        BadInput: it is none of these, or cannot be written as zarr.
        Others as :func:`astore_dir`; StorageFull also if there is no room for temporary files.
    """
    label = folder_label(label, "data.zarr")
    with tempfile.TemporaryDirectory(prefix="kachery-") as temporary:
        folder = os.path.join(temporary, "data.zarr")
        try:
            await blocking.run(lambda _: write_zarr(data, folder))
        except OSError as error:
            raise blocking.path_error(folder, error) from error
        return await astore_dir(folder, label, channel=channel, progress=progress)
