"""Python objects to the bytes that are stored, and back: text, JSON and npy. (Pickles: pickles.py.)

Invariant: the bytes are those that kachery_client has always made, so that the same object has
the same sha1, whoever stores it. Two rarities differ: kachery_client wrote a namedtuple as a
JSON object and accepted Decimal; here a namedtuple is an array and a Decimal is refused.

Content may come from strangers: what does not decode is a BadInput that says what and why, and
decoding never runs code from it. numpy is imported only where an array is at hand.
"""

from __future__ import annotations

import io
import json
import os
from typing import IO, TYPE_CHECKING, Any

from kachery_p2p.protocol import limits
from kachery_p2p.protocol.errors import BadInput, BadPath

if TYPE_CHECKING:
    from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview


def text_to_bytes(text: str) -> bytes:
    """UTF-8. Raises BadInput if it is not a str, or holds lone surrogates."""
    if not isinstance(text, str):
        raise BadInput(what="text", reason=f"it is a {type(text).__name__}, not a str")
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


def json_to_bytes(
    obj: Any, separators: tuple[str, str] = (",", ":"), indent: int | str | None = None
) -> bytes:
    """JSON in ASCII; tuples become arrays, dict order is kept.

    Raises:
        BadInput: NaN or infinity, a cycle, or a type that JSON does not have; numpy's are not
            converted, since 'the same number' would then depend on its dtype.
    """
    try:
        text = json.dumps(
            obj,
            separators=separators,
            indent=indent,
            allow_nan=False,
            ensure_ascii=True,
            default=_refuse,
        )
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(what="JSON", reason=str(error) or "it is nested too deeply") from error
    return text.encode("ascii")


def _refuse(value: Any) -> Any:
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    remedy = "convert it to str, int, float, list or dict first"
    if kind.__module__.partition(".")[0] == "numpy":
        if hasattr(value, "shape") and value.shape:
            remedy = "use its .tolist(), or store the array with store_npy"
        else:
            remedy = "use its .item(), or int(...), float(...), bool(...)"
    elif isinstance(value, bytes | bytearray):
        remedy = "use its .decode()"
    raise BadInput(what="JSON", reason=f"a {name} is not a JSON type: {remedy}")


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
        BadInput: its dtype is or contains ``object``, or it is nothing numpy makes an array of.
    """
    import numpy as np

    try:
        array = np.asanyarray(array)
        if array.dtype.hasobject:
            reason = (
                f"its dtype is {array.dtype}, which only a pickle can hold: convert it, for "
                "example with .astype(float) or .astype(str), or store it as JSON with .tolist()"
            )
            raise BadInput(what="array", reason=reason)
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False)
    except (ValueError, TypeError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(what="array", reason=str(error)) from error
    return file.getbuffer()


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
