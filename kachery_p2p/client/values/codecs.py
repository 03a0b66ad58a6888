"""Python objects to the bytes that are stored, and back: text, JSON and npy. (Pickles: pickles.py.)

Invariant: the bytes are those that kachery_client has always made, so that the same object has
the same sha1, whoever stores it. What would come back as something else is refused instead: a
Decimal, a dict's key that is no text, an array's mask or unit.

Content may come from strangers: what does not decode is a BadInput that says what and why, and
decoding never runs code from it. numpy is imported only where an array is at hand.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import re
import sys
from typing import IO, TYPE_CHECKING, Any, Final

from kachery_p2p.protocol import json_values, limits
from kachery_p2p.protocol.errors import BadInput, BadPath

from . import gaps

if TYPE_CHECKING:
    from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview

_SIMPLE: Final = frozenset({bool, int, float, complex, str, bytes})
_NUMBERS: Final = (bool, int, float, complex)
_HIGH_HALF: Final = re.compile(r"\\ud[89ab]")
"""In JSON: text that is no ASCII in pairs, or half of one."""
_MORE: Final = ("units", "mask")
"""Attributes of what has an array in it and is more than that."""


def buffer_of(data: Any) -> memoryview:
    """The bytes of a buffer, in one row; copied only if they do not lie so. Raises BadInput."""
    try:
        view = memoryview(_without_gaps(data))
        if "O" in view.format:
            raise ValueError("addresses of Python objects, which mean nothing elsewhere")
    except (TypeError, ValueError, BufferError) as error:
        reason = f"{json_values.one(data)} is no bytes; use its .encode() or .tobytes()"
        raise BadInput(what="bytes", reason=reason) from error
    try:
        return view.cast("B")
    except TypeError:  # not contiguous, empty in one dimension, or of another computer's numbers
        return memoryview(view.tobytes())


def text_to_bytes(text: str) -> bytes:
    """UTF-8. Raises BadInput if it is not a str, or holds lone surrogates."""
    if not isinstance(text, str):
        raise BadInput(what="text", reason=f"it is {json_values.one(text)}, not a str")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadInput(what="text", reason=f"it cannot be written as UTF-8: {error}") from error


def bytes_to_text(data: Buffer) -> str:
    """UTF-8, line ends as they are. Raises BadInput if it is not UTF-8."""
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(what="text", reason=f"the content is not UTF-8: {error}") from error


def _without_gaps(data: Any) -> Any:
    np = sys.modules.get("numpy")
    return gaps.without_gaps(data) if np is not None and isinstance(data, np.ndarray) else data


def json_to_bytes(
    obj: Any, separators: tuple[str, str] = (",", ":"), indent: int | str | None = None
) -> bytes:
    """JSON in ASCII; dict order is kept. Tuples become arrays, named tuples objects, and numpy's
    numbers the numbers that they are.

    Raises:
        BadInput: NaN or infinity, a key that is no text, a cycle, or a type that JSON does not have;
            says which, and where in the value.
    """

    def encode(value: Any) -> str:
        return json.dumps(
            value,
            separators=separators,
            indent=indent,
            allow_nan=False,
            ensure_ascii=True,
            default=json_values.default,
        )

    try:
        text = encode(obj)
        care = json_values.careful(obj)
        if care == "named":
            text = encode(json_values.as_objects(obj))
        elif care:
            raise ValueError(care)
        if _HIGH_HALF.search(text) and (reason := json_values.flaw(obj, halves=True)):
            raise ValueError(reason)
    except (TypeError, ValueError, RecursionError) as error:
        known = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        reason = json_values.flaw(obj, halves=True) or known
        raise BadInput(what="JSON", reason=reason) from error
    return text.encode("ascii")


def bytes_to_json(data: Buffer) -> Any:
    """The inverse of :func:`json_to_bytes`. Raises BadInput if it is not JSON in UTF-8."""
    try:
        return json.loads(str(data, "utf-8"))
    except (ValueError, RecursionError) as error:
        reason = f"the content is not JSON: {error}"
        raise BadInput(what="JSON", reason=reason) from error


def npy_to_bytes(array: NDArray[Any]) -> memoryview:
    """Exactly what ``np.save(allow_pickle=False)`` writes; memory for the array is taken once.

    Raises:
        BadInput: it would not come back the same: its dtype is or contains ``object``, or is not
            numpy's own; something of it is masked; it has a unit, or is of a class of its own. Or it is
            nothing that numpy makes an array of.
    """
    return _saved(_plain_array(array))


def npy_views(array: NDArray[Any]) -> tuple[list[memoryview], bool]:
    """As :func:`npy_to_bytes`, in parts, of which that with the data is the array's own memory where
    that is laid out as in the file; and whether it is a mapped file. Raises as :func:`npy_to_bytes`."""
    import numpy as np

    array = _plain_array(array)
    if array.nbytes > limits.LOCAL_PIECE and array.flags.forc:
        header = io.BytesIO()
        flat = (array if array.flags.c_contiguous else array.T).reshape(-1)
        try:
            described = np.lib.format.header_data_from_array_1_0(array)
            np.lib.format.write_array_header_1_0(header, described)
        except ValueError:  # it needs a later version of the format, which np.save knows of
            return [_saved(array)], False
        return [memoryview(header.getvalue()), memoryview(flat.view(np.uint8).data)], _is_mapped(
            array
        )
    return [_saved(array)], False


def _saved(array: NDArray[Any]) -> memoryview:
    import numpy as np

    file = io.BytesIO()
    try:
        np.save(file, array, allow_pickle=False)
    except (ValueError, TypeError) as error:
        raise BadInput(what="array", reason=str(error)) from error
    # Not getbuffer(): when what refers to such a view ends as a circle, as what is cancelled does, some
    # Pythons print that the file could not be freed. This is no copy.
    return memoryview(file.getvalue())


def _is_mapped(array: Any) -> bool:
    while array is not None:
        if isinstance(array, mmap.mmap):
            return True
        array = getattr(array, "base", None)
    return False


def _plain_array(value: Any) -> NDArray[Any]:
    """The array that a value is, if it is that and no more."""
    import numpy as np

    try:
        _check_parts(value)
        array = np.asanyarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadInput(what="array", reason=str(error)) from error
    except RecursionError as error:
        reason = "it is nested too deeply, or contains itself"
        raise BadInput(what="array", reason=reason) from error
    if isinstance(array, np.ma.MaskedArray):
        array = np.ma.getdata(array)
    if array.dtype.hasobject:
        reason = (
            f"its dtype is {array.dtype}, which only a pickle can hold: convert it, for "
            "example with .astype(float) or .astype(str), or store it as JSON with .tolist()"
        )
        raise BadInput(what="array", reason=reason)
    if not _is_numpys(array.dtype):
        reason = (
            f"its dtype {array.dtype} is not numpy's own, and would come back as bytes: convert it, "
            "for example with .astype('float32'), or store its bytes with .view('u1')"
        )
        raise BadInput(what="array", reason=reason)
    if not isinstance(value, np.ndarray):
        _check_converted(value, array)
    found: NDArray[Any] = gaps.without_gaps(array)
    return found


def _check_converted(value: Any, array: NDArray[Any]) -> None:
    """Refuse what numpy makes of a list if that is not what was in it: numbers as text, whole numbers
    rounded."""
    text = array.dtype.kind in "US"
    if not text and array.dtype.char not in "dD":
        return
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, list | tuple):
            left += item
        elif text and isinstance(item, _NUMBERS):
            reason = f"{item!r:.40} among text would become text: make it str, or store it as JSON"
            raise BadInput(what="array", reason=reason)
        elif type(item) is int and int(float(item)) != item:
            reason = f"{item} among other numbers would be rounded to a {array.dtype}"
            raise BadInput(what="array", reason=reason)


def _check_parts(value: Any) -> None:
    """Refuse what an array of numbers would lose."""
    import numpy as np

    if type(value) in (list, tuple):
        for item in value:
            if type(item) not in _SIMPLE:
                _check_parts(item)
        return
    kind = json_values.type_name(value)
    if isinstance(value, np.ma.MaskedArray):
        if any(np.ma.getmaskarray(value).tobytes()):
            reason = (
                "a part of it is masked, which an npy file does not hold: store its .filled(...), or "
                "its .data and .mask one by one"
            )
            raise BadInput(what="array", reason=reason)
    elif isinstance(value, np.ndarray):
        if type(value).__module__.partition(".")[0] != "numpy":
            reason = (
                f"a {kind} is more than an array (a unit, say), which would be lost: store "
                "np.asarray(x), and the rest apart"
            )
            raise BadInput(what="array", reason=reason)
    elif hasattr(value, "__array__") and any(hasattr(value, name) for name in _MORE):
        reason = (
            f"a {kind} has a unit or a mask, which would be lost: store its numbers, and it, apart"
        )
        raise BadInput(what="array", reason=reason)


def _is_numpys(dtype: Any) -> bool:
    if dtype.fields:
        return all(_is_numpys(field[0]) for field in dtype.fields.values())
    return str(dtype.base.type.__module__).partition(".")[0] == "numpy"


def bytes_to_npy(data: Buffer) -> NDArray[Any]:
    """The array in npy bytes, writable and independent of them. Raises BadInput."""
    return _read(io.BytesIO(data))


def bytes_to_arrays(data: Buffer) -> Any:
    """As :func:`bytes_to_npy`; of an npz file, a mapping from names to arrays. Raises BadInput."""
    return _arrays(io.BytesIO(data)) if _is_npz(bytes(data[:4])) else bytes_to_npy(data)


def load_arrays_path(path: str | os.PathLike[str], mmap_mode: str | None = None) -> Any:
    """As :func:`load_npy_path`; of an npz file, a mapping from names to arrays, which are read when
    they are asked for, whatever ``mmap_mode`` says. Raises as :func:`load_npy_path`."""
    try:
        with open(path, "rb") as file:
            npz = _is_npz(file.read(4))
    except OSError as error:
        raise BadPath(path=os.fspath(path), reason=error.strerror or str(error)) from error
    return _arrays(path) if npz else load_npy_path(path, mmap_mode)


def _is_npz(head: bytes) -> bool:
    """Whether a file begins as numpy.savez writes it: a zip archive, an empty one too."""
    return head in (b"PK\x03\x04", b"PK\x05\x06")


def _arrays(source: IO[bytes] | str | os.PathLike[str]) -> Any:
    import zipfile

    import numpy as np

    try:
        return np.load(source, allow_pickle=False, max_header_size=limits.MAX_NPY_HEADER)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise BadInput(what="npz", reason=f"the content is no npz file: {error}") from error


def load_npy_path(path: str | os.PathLike[str], mmap_mode: str | None = None) -> NDArray[Any]:
    """The array in an npy file.

    Args:
        path: of a stored file; it is never written to.
        mmap_mode: None reads it all; 'r' maps it read-only; 'c' maps it copy-on-write. Other modes
            are refused: they would change stored content.

    Raises:
        BadInput: a wrong mode, or the content is no npy array.
        BadPath: the file cannot be opened.
    """
    if mmap_mode not in (None, "r", "c"):
        reason = f"{mmap_mode!r} would change stored content; use 'r', or 'c' (copy on write)"
        raise BadInput(what="mmap_mode", reason=reason)
    try:
        with open(path, "rb") as file:
            return _read(file, mmap_mode)
    except OSError as error:
        raise BadPath(path=os.fspath(path), reason=error.strerror or str(error)) from error


def _read(file: IO[bytes], mmap_mode: str | None = None) -> NDArray[Any]:
    import numpy as np

    read = np.lib.format
    array: NDArray[Any]
    try:
        if mmap_mode is None:
            array = read.read_array(file, allow_pickle=False, max_header_size=limits.MAX_NPY_HEADER)
        else:
            array = read.open_memmap(
                file.name, mode=mmap_mode, max_header_size=limits.MAX_NPY_HEADER
            )
    except OSError:
        raise
    except Exception as error:
        # numpy's header reader lets through whatever its tokenizer, literal_eval and dtype
        # constructor raise, and a header may claim any size; all of it means: bad content.
        reason = f"the content is not a plain npy array: {error or type(error).__name__}"
        raise BadInput(what="npy", reason=reason) from error
    return array
