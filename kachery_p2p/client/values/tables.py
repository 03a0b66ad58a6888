"""Tables as Parquet, and several arrays as npz: values whose libraries a program may not have.

A table is a frame of pandas or polars or a table of pyarrow, and is written by the library whose it is.
None of them is imported before somebody hands in a table or asks for one.

Content may come from strangers: what does not decode is a BadInput, and nothing in it is ever run.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.json_values import one

from . import codecs

if TYPE_CHECKING:
    from numpy.typing import NDArray

Library = Literal["pandas", "polars", "pyarrow"]

_LIBRARIES: Final[tuple[Library, ...]] = ("pandas", "polars", "pyarrow")
_INSTALL: Final = (
    "install kachery_p2p[parquet], or one of pandas (with pyarrow), polars and pyarrow"
)


def table_to_parquet(table: Any) -> memoryview:
    """Parquet, as the table's own library writes it.

    Raises:
        BadInput: it is no table, or holds what Parquet does not have, such as Python objects.
    """
    library = type(table).__module__.partition(".")[0]
    kind = type(table).__name__
    file = io.BytesIO()
    try:
        if library == "pandas" and kind == "DataFrame":
            table.to_parquet(file)
        elif library == "polars" and kind == "DataFrame":
            table.write_parquet(file)
        elif library == "pyarrow" and kind == "Table":
            importlib.import_module("pyarrow.parquet").write_table(table, file)
        else:
            remedy = "call its .collect()" if kind == "LazyFrame" else "make it a DataFrame"
            raise BadInput(
                what="table",
                reason=f"{one(table)} is no frame of pandas or polars and no table of pyarrow: "
                f"{remedy} first",
            )
    except ImportError as error:
        raise BadInput(what="table", reason=f"{error}; {_INSTALL}") from error
    except BadInput:
        raise
    except Exception as error:  # each library has its own errors for values that do not fit
        reason = f"it cannot be written as Parquet: {error or type(error).__name__}"
        raise BadInput(what="table", reason=reason) from error
    return memoryview(file.getvalue())


def check_library(library: Library | None) -> Library:
    """The library that tables are to be read with; for None the first of pandas, polars and pyarrow
    that is installed. Raises BadInput: there is none, or not this one."""
    if library is not None and library not in _LIBRARIES:
        raise BadInput(what="library", reason=f"{library!r} is none of {', '.join(_LIBRARIES)}")
    for each in _LIBRARIES if library is None else (library,):
        if importlib.util.find_spec(each) is not None:
            return each
    raise BadInput(what="library", reason=f"{library or 'none for tables'} is not here; {_INSTALL}")


def parquet_to_table(source: str | bytes, columns: Sequence[str] | None, library: Library) -> Any:
    """The table in Parquet at a path or in memory, or some columns of it. Raises BadInput."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    chosen = None if columns is None else list(columns)
    try:
        if library == "pandas":
            return importlib.import_module("pandas").read_parquet(file, columns=chosen)
        if library == "polars":
            return importlib.import_module("polars").read_parquet(file, columns=chosen)
        return importlib.import_module("pyarrow.parquet").read_table(file, columns=chosen)
    except ImportError as error:
        raise BadInput(what="library", reason=f"{error}; {_INSTALL}") from error
    except Exception as error:  # each library has its own errors for what is no Parquet
        reason = f"it cannot be read as Parquet: {error or type(error).__name__}"
        raise BadInput(what="table", reason=reason) from error


def arrays_to_npz(arrays: Any) -> memoryview:
    """Exactly what ``np.savez`` writes of a mapping from names to arrays, so equal ones have equal
    bytes.

    Raises:
        BadInput: a name is none, or an array would not come back the same, as
        :func:`.codecs.npy_to_bytes`.
    """
    if not isinstance(arrays, Mapping):
        reason = f"{one(arrays)} is no mapping from names to arrays"
        raise BadInput(what="npz", reason=f"{reason}; use store_npy for one array")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            if not isinstance(name, str) or not name or "\0" in name:
                raise BadInput(what="npz", reason=f"{name!r:.80} is no name of an array")
            try:
                data = codecs.npy_to_bytes(array)
            except BadInput as error:
                raise BadInput(what=f"npz[{name!r}]", reason=error.fields["reason"]) from error
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                entry.write(data)
    return memoryview(file.getvalue())


def npz_to_arrays(source: str | bytes) -> dict[str, NDArray[Any]]:
    """The arrays in npz bytes or at a path, all of them read. Raises BadInput."""
    loaded: Any
    if isinstance(source, str):
        loaded = codecs.load_arrays_path(source)
    else:
        loaded = codecs.bytes_to_arrays(source)
    if not hasattr(loaded, "files"):
        raise BadInput(what="npz", reason="the content is one array; load it with load_npy")
    with loaded:
        try:
            return {name: loaded[name] for name in loaded.files}
        except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile) as error:
            reason = f"the content is no npz file of plain arrays: {error or type(error).__name__}"
            raise BadInput(what="npz", reason=reason) from error
