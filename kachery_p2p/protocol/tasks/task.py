"""Tasks: how functions, their arguments and the pair of both are named, and what a result is.

A task is a named function applied to keyword arguments. Its *key* is the SHA-256 of ::

    "kachery-p2p:task" || 0 || the function's id in UTF-8 || 0 || the arguments

so that everybody who wants the same thing finds the same result. The arguments are canonical JSON:

* UTF-8, no blanks, keys sorted by code point and none twice, text escaped only where it must be;
* a float without a fraction whose magnitude is below 2**63 is written as an integer, so 1000.0 is
  1000 and -0.0 is 0; any other float in the shortest way that Python writes it; no NaN, no infinity;
* ``{"$npy": "sha1://<hash>/array.npy"}`` stands for a numpy array that was stored as a file.

Invariants

* There is one text for one set of arguments: :func:`parse_kwargs` takes no other.
* What is accepted here every reader can parse: the bounds are those of messages of feeds.

Non-goals: running anything; who signed a result (task_result.py).
"""

from __future__ import annotations

import json
import re
from hashlib import sha256
from typing import Annotated, Any, Final, Literal, NoReturn, get_args

from msgspec import Meta, Struct

from kachery_p2p.protocol import json_values
from kachery_p2p.protocol.errors import BadInput, ProtocolViolation
from kachery_p2p.protocol.limits import (
    MAX_FEED_DIGITS,
    MAX_FEED_MESSAGE_DEPTH,
    MAX_FUNCTION_ID,
    MAX_INLINE_RESULT,
    MAX_TASK_KWARGS,
    MAX_URI,
    TASK_BYTES,
)
from kachery_p2p.protocol.uri import parse_uri

TaskType = Literal["pure-calculation", "query", "action"]
TASK_TYPES: Final[tuple[TaskType, ...]] = get_args(TaskType)

ParcelFormat = Literal["json", "npy", "bytes", "pkl"]
"""How a result was written: ``npy`` as numpy.save does, ``pkl`` as the safe pickles of this
package, ``bytes`` as it is."""

KEY_BYTES: Final = 32
DOMAIN: Final = b"kachery-p2p:task\0"
"""What is hashed before everything else, so that a key is the hash of nothing but a task."""
ARRAY_KEY: Final = "$npy"
"""An object with this key and no other stands for a stored numpy array."""

_SHOWN_CHARS: Final = 80
_FUNCTION_ID: Final = rf"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{{1,{MAX_FUNCTION_ID}}}\Z"
_MOST_INT: Final = 10**MAX_FEED_DIGITS
_MOST_FLOAT: Final = 2.0**63

FunctionId = Annotated[str, Meta(pattern=_FUNCTION_ID)]
TaskId = Annotated[bytes, Meta(min_length=TASK_BYTES, max_length=TASK_BYTES)]
TaskKey = Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]

# --- names ---------------------------------------------------------------------------------------


def check_function_id(function: Any) -> str:
    """The id of a task function, as it was given.

    Raises:
        BadInput: it is not 1 to ``MAX_FUNCTION_ID`` characters, or one of them is a control
            character or separates lines.
    """
    if not isinstance(function, str):
        reason = f"it is text such as 'count.1', not {type(function).__name__}"
        raise BadInput(what="task function id", reason=reason)
    if not re.search(_FUNCTION_ID, function):
        reason = f"it is text such as 'count.1': 1 to {MAX_FUNCTION_ID} characters in one line"
        raise BadInput(what=f"task function id {function[:_SHOWN_CHARS]!r}", reason=reason)
    return function


def check_task_type(kind: str) -> TaskType:
    """One of :data:`TASK_TYPES`. Raises BadInput."""
    for known in TASK_TYPES:
        if kind == known:
            return known
    reason = f"it is one of {', '.join(TASK_TYPES)}"
    raise BadInput(what=f"task function type {str(kind)[:_SHOWN_CHARS]!r}", reason=reason)


def check_key(key: bytes) -> bytes:
    """The key of a task, as it was given. Raises BadInput if it is not 32 bytes."""
    if len(key) != KEY_BYTES:
        raise BadInput(what="task key", reason=f"it is {KEY_BYTES} bytes")
    return key


def task_key(function: str, kwargs: bytes) -> bytes:
    """The 32-byte key of a function and its arguments, whatever the function's type.

    Args:
        function: its id.
        kwargs: canonical text, from :func:`canonical_kwargs` or checked by :func:`parse_kwargs`.

    Raises:
        BadInput: no function has that id.
    """
    name = check_function_id(function).encode("utf-8")
    # An id has no zero byte in it, so no other pair gives the same bytes.
    return sha256(DOMAIN + name + b"\0" + kwargs).digest()


# --- arguments -----------------------------------------------------------------------------------


def canonical_kwargs(kwargs: Any) -> bytes:
    """The one text for some arguments.

    Args:
        kwargs: a dict of JSON values by name; a tuple is a list. Arrays have been replaced.

    Raises:
        BadInput: one of them is no JSON value or breaks a bound; names the argument.
    """
    if not isinstance(kwargs, dict):
        reason = f"they are a dict by name, not {type(kwargs).__name__}"
        raise BadInput(what="task arguments", reason=reason)
    try:
        text = _ENCODER.encode(_Canonical().arguments(kwargs)).encode("utf-8")
    except UnicodeEncodeError as error:
        reason = f"half a surrogate pair is in a text ({error.reason})"
        raise BadInput(what="task arguments", reason=reason) from None
    if len(text) > MAX_TASK_KWARGS:
        reason = (
            f"they have {len(text)} bytes as JSON, more than the {MAX_TASK_KWARGS} allowed: store "
            "what is large, and pass its URI"
        )
        raise BadInput(what="task arguments", reason=reason)
    return text


def parse_kwargs(text: bytes) -> dict[str, Any]:
    """The arguments that a canonical text says.

    Raises:
        ProtocolViolation: it is not canonical, or :func:`canonical_kwargs` would refuse it.
    """
    if len(text) > MAX_TASK_KWARGS:
        raise _not_canonical(f"{len(text)} bytes are more than the {MAX_TASK_KWARGS} allowed")
    try:
        found = _DECODER.decode(str(text, "utf-8"))
        again = canonical_kwargs(found)
    except (ValueError, RecursionError) as error:  # BadInput and UnicodeDecodeError are ValueErrors
        raise _not_canonical(str(error) or "nested too deeply") from error
    if again != text:
        raise _not_canonical("they are JSON, but not written in the one way that counts")
    arguments: dict[str, Any] = found
    return arguments


class _Canonical:
    """Makes plain values of what users hand in. ``argument`` is the one that it is at, for errors.

    Numbers and text of derived types (numpy's float64, an enum) count as what they derive from.
    """

    def __init__(self) -> None:
        self._argument = ""
        self._path: list[Any] = []

    def arguments(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in kwargs.items():
            self._argument, self._path = f"task argument {repr(name)[:_SHOWN_CHARS]}", []
            found[self._key(name)] = self._plain(value, MAX_FEED_MESSAGE_DEPTH - 1)
        return found

    def _plain(self, value: Any, depth: int) -> Any:
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            if not -_MOST_INT < value < _MOST_INT:
                self._refuse(f"a number has more than the {MAX_FEED_DIGITS} digits allowed")
            return int(value)
        if isinstance(value, float):
            return self._number(float(value))
        if not isinstance(value, list | tuple | dict):
            number = json_values.number_of(value)
            if number is None:
                self._refuse(
                    f"it has a value in it that JSON has not: {json_values.bad_type(value)}"
                )
            return self._plain(number, depth)
        if depth <= 0:
            self._refuse(
                f"lists and dicts are nested more than the {MAX_FEED_MESSAGE_DEPTH} deep allowed"
            )
        if isinstance(value, dict):
            found = {self._key(key): self._inside(key, item, depth) for key, item in value.items()}
            if found.keys() == {ARRAY_KEY}:
                self._check_array(found[ARRAY_KEY])
            return found
        return [self._inside(index, item, depth) for index, item in enumerate(value)]

    def _inside(self, step: Any, value: Any, depth: int) -> Any:
        self._path.append(step)
        found = self._plain(value, depth - 1)
        self._path.pop()
        return found

    def _number(self, value: float) -> float | int:
        # Larger ones stay floats: as an int, 1e22 would be one that numpy has no type for.
        if -_MOST_FLOAT < value < _MOST_FLOAT:
            return int(value) if value.is_integer() else value
        if value - value != 0:
            self._refuse(f"{value} is a number that JSON has not")
        return value

    def _key(self, key: Any) -> str:
        if not isinstance(key, str):
            self._refuse(json_values.bad_key(key))
        return str.__str__(key)

    def _check_array(self, uri: Any) -> None:
        if not isinstance(uri, str) or not uri.startswith("sha1://"):
            self._refuse(
                f"a dict with the single key {ARRAY_KEY!r} stands for a stored array, and is to "
                "hold its sha1:// URI"
            )
        try:
            parse_uri(uri)
        except BadInput as error:
            self._refuse(str(error))

    def _refuse(self, reason: str) -> NoReturn:
        path: Any = None
        for step in self._path:
            path = (path, step)
        raise BadInput(what=self._argument, reason=json_values.at(path, reason))


def _not_canonical(reason: str) -> ProtocolViolation:
    return ProtocolViolation(reason=f"arguments of a task are not canonical: {reason}")


def _parse_int(digits: str) -> int:
    # What Python itself allows depends on its settings, and takes the square of the digits.
    if len(digits) > MAX_FEED_DIGITS + 1:
        raise ValueError("a number has too many digits")
    return int(digits)


def _parse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


_ENCODER: Final = json.JSONEncoder(
    separators=(",", ":"), sort_keys=True, allow_nan=False, ensure_ascii=False, check_circular=False
)
_DECODER: Final = json.JSONDecoder(parse_int=_parse_int, parse_constant=_parse_constant)

# --- results -------------------------------------------------------------------------------------


class Payload(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a function returned, written in ``format``; what is in it is not checked here.

    Either ``data``, at most ``MAX_INLINE_RESULT`` bytes, or ``uri``, the ``sha1://`` URI of a file
    that holds them. ``json`` is UTF-8.

    Raises:
        ValueError: both or neither is there, or one is out of bounds.
    """

    format: ParcelFormat
    data: Annotated[bytes, Meta(max_length=MAX_INLINE_RESULT)] | None
    uri: Annotated[str, Meta(max_length=MAX_URI)] | None = None

    def __post_init__(self) -> None:
        if (self.data is None) == (self.uri is None):
            raise ValueError("a result is either in the payload or in a file")
        if self.data is not None and len(self.data) > MAX_INLINE_RESULT:
            raise ValueError(f"a payload holds {MAX_INLINE_RESULT} bytes at most")
        if self.uri is not None and parse_uri(self.uri).kind != "sha1":
            raise ValueError("the URI of a result is a sha1:// URI")
