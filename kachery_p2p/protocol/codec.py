"""The one place that calls msgpack.

Everything on a wire or in a signed document is packed and unpacked here, so that the options, the
limits and the errors are the same everywhere:

* text is msgpack ``str`` (UTF-8), bytes are ``bin``; no ext types (a msgpack timestamp is
  unpacked, for msgpack has no way to refuse it, but no message has a field that takes one);
* no text, bytes or map claims more than the buffer holds, and no list more than
  :data:`~.limits.MAX_LIST_ITEMS` either (msgpack checks it before it allocates);
* nothing is nested more than 1,024 deep: that is msgpack's own parsing stack, and no option of ours;
* whatever is wrong with the bytes, the error is :class:`~.errors.ProtocolViolation`.

:func:`decode` is the door through which untrusted bytes become typed values.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgpack
import msgspec

from . import json_values
from .errors import ProtocolViolation
from .limits import MAX_LIST_ITEMS

T = TypeVar("T")
Buffer = bytes | bytearray | memoryview


def pack(value: Any) -> bytes:
    """Pack plain values (None, bool, int, float, str, bytes, list, tuple, dict)."""
    packed: bytes = msgpack.packb(value, use_bin_type=True, datetime=False)
    return packed


def array_start(length: int) -> bytes:
    """What precedes ``length`` packed values so that all of it is one packed list."""
    start: bytes = msgpack.Packer().pack_array_header(length)
    return start


def unpack(data: Buffer) -> Any:
    """Unpack exactly one value; trailing bytes are an error.

    Raises:
        ProtocolViolation: the bytes are not one msgpack value.
    """
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=False,
            ext_hook=_no_ext,
            max_array_len=min(len(data), MAX_LIST_ITEMS),
        )
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        # msgpack's own exceptions (StackError, ExtraData, FormatError, ...) are ValueErrors;
        # an unhashable map key is a TypeError.
        raise ProtocolViolation(reason=f"not a msgpack value: {error or 'too deep'}") from error


def _no_ext(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code}")


_known: set[Any] = set()
_learning = threading.Lock()
_LEARNING_SECONDS = 1.0
"""A look at a type takes milliseconds. Who waits longer is in a process that was forked while another
thread looked: that thread does not exist there, and nobody will let go of the lock."""


def known(kind: type[T]) -> type[T]:
    """The type, of which it has been found out what its values look like.

    msgspec does that when it is first asked to convert to a Struct, and keeps it with the class. A
    second thread that asks meanwhile gets what is half made, and the process dies. So one thread at a
    time does it, before anybody converts.
    """
    if kind not in _known:
        held = _learning.acquire(timeout=_LEARNING_SECONDS)
        try:
            msgspec.msgpack.Decoder(kind)
            _known.add(kind)
        finally:
            if held:
                _learning.release()
    return kind


def convert(kind: type[T], value: Any) -> T:
    """Check an unpacked value against a type (a msgspec Struct, say).

    Raises:
        ProtocolViolation: it does not fit.
    """
    try:
        return msgspec.convert(value, known(kind), strict=True, builtin_types=(bytes,))
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        # A union has no name.
        name = getattr(kind, "__name__", None) or "frame"
        raise ProtocolViolation(reason=f"not a valid {name}: {error}") from error


def decode(kind: type[T], data: Buffer) -> T:
    """Bytes to a typed value. Raises :class:`~.errors.ProtocolViolation`."""
    return convert(kind, unpack(data))


def plain(value: Any) -> Any:
    """A typed value (msgspec Struct or plain, numpy's numbers and text too) as what :func:`pack`
    takes."""
    return msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=_plainer)


def _plainer(value: Any) -> Any:
    """What counts as plain, and is of a type that msgspec does not know. Raises TypeError."""
    return str.__str__(value) if isinstance(value, str) else json_values.default(value)


def encode(value: Any) -> bytes:
    """A typed value to bytes; the inverse of :func:`decode`."""
    return pack(plain(value))
