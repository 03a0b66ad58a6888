"""Storing and loading tables and sets of arrays. The async API, see :mod:`.files`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kachery_p2p.client.display.progress import Progress
from kachery_p2p.client.values import tables

from .loads import made_into
from .pushing import pushed
from .stores import store_parts, wish_of
from .uris import checked_label

if TYPE_CHECKING:
    from numpy.typing import NDArray


async def astore_parquet(
    table: Any,
    basename: str | None = None,
    *,
    channel: str | None = None,
    push: bool = False,
    progress: Progress = None,
) -> str:
    """Store a DataFrame of pandas or polars, or a Table of pyarrow, as Parquet; label ``file.parquet``.

    The library that the table is of writes it: it decides which types there are, and the same table
    written by another one, or another version, has another URI.

    Raises:
        BadInput: it is no table, or holds what Parquet does not have.
        Others as :func:`astore_bytes`.
    """
    label = checked_label(basename, "file.parquet")
    data = await asyncio.to_thread(tables.table_to_parquet, table)
    wish = wish_of(label, channel, None, push)
    uri = await store_parts([data], label, wish, progress)
    return await pushed(uri, push, channel, None, progress)


async def aload_parquet(
    uri: str,
    columns: Sequence[str] | None = None,
    local_only: bool = False,
    *,
    library: tables.Library | None = None,
    channel: str | None = None,
    progress: Progress = None,
) -> Any:
    """Load a table. None: nobody reachable has it.

    Args:
        columns: read these alone; all by default. library: ``'pandas'``, ``'polars'`` or ``'pyarrow'``
        makes it; default: the first of them that is
            installed.

    Raises:
        BadInput: the content is no Parquet, has no such column, or the library is not installed.
        Others as :func:`aload_file`.
    """
    chosen = tables.check_library(library)
    return await made_into(
        lambda source: tables.parquet_to_table(source, columns, chosen),
        uri,
        local_only,
        channel,
        progress,
    )


async def astore_npz(
    arrays: Mapping[str, NDArray[Any]],
    basename: str | None = None,
    *,
    channel: str | None = None,
    push: bool = False,
    progress: Progress = None,
) -> str:
    """Store several numpy arrays, by name, as np.savez does; label ``file.npz``.

    Raises:
        BadInput: one of them would not come back the same, as for :func:`astore_npy`; says which.
        Others as :func:`astore_bytes`.
    """
    label = checked_label(basename, "file.npz")
    data = await asyncio.to_thread(tables.arrays_to_npz, arrays)
    wish = wish_of(label, channel, None, push)
    uri = await store_parts([data], label, wish, progress)
    return await pushed(uri, push, channel, None, progress)


async def aload_npz(
    uri: str,
    local_only: bool = False,
    *,
    channel: str | None = None,
    progress: Progress = None,
) -> dict[str, NDArray[Any]] | None:
    """Load the arrays of an npz file, by name. None: nobody reachable has it.

    Raises:
        BadInput: it is no npz file, or holds Python objects. Others as :func:`aload_file`.
    """
    return await made_into(tables.npz_to_arrays, uri, local_only, channel, progress)
