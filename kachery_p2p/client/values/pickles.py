"""Pickles that cannot do harm: plain Python values and numpy arrays, nothing else.

:func:`dumps` checks before it pickles, :func:`loads` reads with an interpreter of its own
(pickle_reader.py) that calls nothing the data names, and then makes the same check; so what one of
them lets through the other does too.

What is let through, by exact type (a subclass could carry code): None, bool, int, float, complex, str,
bytes, range, slice, set, frozenset, list, tuple, dict; date, time, datetime, timedelta and timezone;
Decimal, UUID, and paths; and numpy scalars and arrays whose dtype holds no Python objects. Shared and
cyclic references are fine, within the limits in limits/: depth, items of one key, and items that it all
unfolds to."""

from __future__ import annotations

import enum
import io
import itertools
import pickle
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final

from kachery_p2p.protocol import limits
from kachery_p2p.protocol.errors import BadInput, UnsafePickle

from . import gaps, pickle_arrays, pickle_reader, pickle_standard

PROTOCOL: Final = 4
"""What kachery_client wrote under Python 3.8 and later; every Python since 3.4 reads it."""

_ATOMS: Final = frozenset({type(None), bool, int, float, complex, str, bytes, range})
_CONTAINERS: Final = frozenset({slice, set, frozenset, list, tuple, dict})
_PLAIN_KINDS: Final = frozenset("biufcmMSUV")
_KEY_CHARS: Final = 40
_SHOWN_STEPS: Final = 20

_Path = tuple[Any, Any, int] | None
"""Where a value is: (path of its container, the container, position among its members)."""


def dumps(obj: Any) -> bytes:
    """Pickle ``obj`` with protocol 4.

    Raises:
        UnsafePickle: something in it has a type that is not allowed; names the type and the place.
        BadInput: it is nested too deeply or unfolds to too much.
    """
    check(obj)
    file = io.BytesIO()
    try:
        _Pickler(file, PROTOCOL).dump(obj)
        return file.getvalue()
    except RecursionError as error:
        # Within our limit, but the caller's own stack is deep too.
        raise BadInput(what="x", reason="it is nested too deeply to be pickled") from error


class _Pickler(pickle.Pickler):
    """As Python's, but what lies in the gaps of an array stays here."""

    def reducer_override(self, obj: Any) -> Any:
        dtype = None if isinstance(obj, type) else getattr(obj, "dtype", None)
        if dtype is None or not gaps.may_have_gaps(dtype):
            return NotImplemented
        return gaps.without_gaps(obj).__reduce_ex__(PROTOCOL)


def loads(data: pickle_reader.Buffer) -> Any:
    """The inverse of :func:`dumps`; also reads other protocols and what numpy 1 pickled.

    Raises:
        UnsafePickle: it would need something that is not allowed; says what.
        BadInput: it is damaged, nested too deeply or unfolds to too much.
    """
    value = pickle_reader.PickleReader(data).load()
    check(value)
    return value


def check(obj: Any, name: str = "x") -> None:
    """Refuse ``obj`` unless all that is in it is of an allowed type. Raises like :func:`dumps`.

    Linear in the number of distinct objects, and not recursive.
    """
    np = sys.modules.get("numpy")  # where numpy was never imported, no value is of its types
    unfolded: dict[int, int] = {}  # id of a container -> items in it, once all are known
    entered: set[int] = set()  # ids of containers; one in here but not above is around us: a cycle
    stack: list[tuple[Any, _Path, int, bool]] = [(obj, None, 0, False)]
    while stack:
        value, path, depth, leaving = stack.pop()
        kind = type(value)
        if leaving:
            count = 1 + sum(unfolded.get(id(child), 1) for child in _members(value))
            if count > limits.MAX_PICKLE_ITEMS:
                most = limits.MAX_PICKLE_ITEMS
                reason = f"if shared parts are counted each time, it has over {most} items"
                raise BadInput(what=_spell(name, path), reason=reason)
            unfolded[id(value)] = count
        elif kind in _ATOMS or id(value) in entered:
            continue
        elif kind in _CONTAINERS:
            if depth >= limits.MAX_PICKLE_DEPTH:
                reason = f"it is nested more than {limits.MAX_PICKLE_DEPTH} deep"
                raise BadInput(what=_spell(name, path), reason=reason)
            entered.add(id(value))
            stack.append((value, path, depth, True))
            stack.extend(
                (child, (path, value, position), depth + 1, False)
                for position, child in enumerate(_members(value))
                if type(child) not in _ATOMS
            )
        elif not pickle_standard.is_standard(value) and (
            np is None or not _is_plain_numpy(np, value)
        ):
            what = f"a {_type_name(np, value)} at {_spell(name, path)}"
            raise UnsafePickle(what=what, **_remedy(value))


def _members(container: Any) -> Iterable[Any]:
    """What is directly inside: a dict's keys, then its values."""
    if type(container) is dict:
        return itertools.chain(container, container.values())
    if type(container) is slice:
        return (container.start, container.stop, container.step)
    members: Iterable[Any] = container
    return members


def _step(container: Any, position: int) -> str:
    """The step from a container to its member, as the user would write it."""
    if type(container) is dict:
        key = next(itertools.islice(container, position % len(container), None))
        shown = repr(key)[:_KEY_CHARS] if type(key) in _ATOMS else f"<{type(key).__name__}>"
        return f"[{shown}]" if position >= len(container) else f" (the key {shown})"
    if type(container) is slice:
        return (".start", ".stop", ".step")[position]
    if type(container) in (set, frozenset):
        return " (a member of the set)"
    return f"[{position}]"


def _spell(name: str, path: _Path) -> str:
    steps = []
    while path is not None:
        path, container, position = path
        steps.append(_step(container, position))
    if len(steps) > _SHOWN_STEPS:
        half = _SHOWN_STEPS // 2
        steps = [*steps[:half], "[...]", *steps[-half:]]
    return name + "".join(reversed(steps))


def _is_plain_numpy(np: Any, value: Any) -> bool:
    """A numpy scalar or exact ndarray that owns no Python objects, metadata included."""
    if type(value) is not np.ndarray and not _is_scalar_type(np, type(value)):
        return False
    return _is_plain_dtype(np, value.dtype)


def _is_plain_dtype(np: Any, dtype: Any) -> bool:
    if dtype.hasobject or dtype.kind not in _PLAIN_KINDS or not _is_scalar_type(np, dtype.type):
        return False
    # h5py marks its string types so; such marks go along, anything richer does not.
    if any(type(item) not in _ATOMS for pair in (dtype.metadata or {}).items() for item in pair):
        return False
    if dtype.subdtype is not None:
        return _is_plain_dtype(np, dtype.base)
    # With a title, a field has two names, of which what reads this knows one.
    fields = (dtype.fields or {}).values()
    return all(len(field) == 2 and _is_plain_dtype(np, field[0]) for field in fields)


def _is_scalar_type(np: Any, kind: type) -> bool:
    """One of numpy's own scalar types, not a subclass or one that another package registered."""
    return kind.__module__ == "numpy" and issubclass(kind, np.generic) and kind is not np.record


def _remedy(value: Any) -> dict[str, str]:
    """What to do about values that people often have, if there is more to say than in general."""
    kind = type(value)
    package = kind.__module__.partition(".")[0]
    if package in ("pandas", "polars", "pyarrow") and kind.__name__ in ("DataFrame", "Table"):
        return {"remedy": "Store it with store_parquet, and use the URI in its place"}
    if isinstance(value, enum.Enum):
        return {"remedy": "Use its .value or .name"}
    if hasattr(kind, "__dataclass_fields__"):
        return {"remedy": "Use dataclasses.asdict(x)"}
    if callable(getattr(value, "_asdict", None)):
        return {"remedy": "Use tuple(x) or x._asdict()"}
    if hasattr(value, "mask") and callable(getattr(value, "filled", None)):
        return {"remedy": "Use its .filled(...), or its .data and .mask one by one"}
    if isinstance(value, Iterator):
        return {"remedy": "Use list(x)"}
    if isinstance(value, list | dict | str | int | float):
        return {"remedy": f"Use {kind.__mro__[-2].__name__}(x)"}
    return {}


def _type_name(np: Any, value: Any) -> str:
    kind = type(value)
    if kind.__module__ in (
        pickle_reader.__name__,
        pickle_arrays.__name__,
        pickle_standard.__name__,
    ):
        return str(kind.stands_for)  # half-made parts that a pickle left lying about
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    if np is not None and isinstance(value, np.ndarray | np.generic):
        return f"{name} of dtype {str(value.dtype)[:_KEY_CHARS]}"
    return name
