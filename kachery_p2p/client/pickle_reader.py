"""Reads pickles without ever calling what they name.

The standard unpickler runs whatever ``find_class`` returns and whatever ``__setstate__`` does with
hostile arguments; numpy's own, given false flags, takes raw bytes for object pointers. This reader
therefore interprets the opcodes itself: a global is only a name, and REDUCE and BUILD know the few
names that numbers, sets, slices and arrays need, and make those from checked parts.

Known by name, so that pickles from numpy 1 and 2 and from Python's protocols 0 to 5 load: builtins
(also as ``__builtin__``) range, xrange, complex, set, frozenset, slice, bytes; numpy ndarray and
dtype; ``_reconstruct``, ``scalar`` and ``_frombuffer`` of numpy.core and numpy._core;
``_codecs.encode`` (how protocols up to 2 write bytes). Everything else is UnsafePickle.

Invariants: memory grows with the data only (memo indexes are keys, not sizes), and nothing that is
hashed is deep or, unfolded, large: hashing a tuple visits all that is in it, on the C stack.

Not here: the check of what came out (pickles.py), Python 2's byte strings, titles of dtype fields.
"""

from __future__ import annotations

import math
import pickle
import struct
from collections.abc import Callable
from typing import Any, Final, NoReturn

from kachery_p2p.protocol import limits
from kachery_p2p.protocol.errors import BadInput, UnsafePickle

Buffer = bytes | bytearray | memoryview

_BUILTINS: Final = frozenset({"range", "complex", "set", "frozenset", "slice", "bytes"})
_KNOWN: Final[dict[tuple[str, str], str]] = {
    **{(module, n): n for module in ("builtins", "__builtin__") for n in _BUILTINS},
    ("__builtin__", "xrange"): "range",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    **{(f"numpy.{core}.multiarray", "_reconstruct"): "_reconstruct" for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): "scalar" for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): "_frombuffer" for core in ("core", "_core")},
}
_DTYPE_KINDS: Final = frozenset("biufcmMSUV")
_ALIGNED_STRUCT: Final = 0x80
_MAX_DIMENSIONS: Final = 64


class _Global:
    """A name that the pickle mentions: one of the values of _KNOWN."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class _DType:
    """A dtype; BUILD replaces the plain one with one that has byte order, unit or fields."""

    __slots__ = ("code", "dtype")

    def __init__(self, code: str, dtype: Any) -> None:
        self.code = code
        self.dtype = dtype


class _Array:
    """An array that has no content yet, and the memo keys that must get it."""

    __slots__ = ("keys",)

    def __init__(self) -> None:
        self.keys: list[int] = []


class PickleReader:
    """One pickle, read once by :meth:`load`."""

    def __init__(self, data: Buffer) -> None:
        self._data = memoryview(data).cast("B")
        self._at = 0
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._nesting: dict[int, tuple[int, int]] = {}

    def load(self) -> Any:
        """The pickled value; its types are not checked yet.

        Raises:
            UnsafePickle: it names something unknown.
            BadInput: it is damaged or breaks a limit.
        """
        table, stop = _OPERATIONS, pickle.STOP[0]
        try:
            while True:
                code = self._data[self._at]
                self._at += 1
                if code == stop:
                    return self._stack.pop()
                operation = table.get(code)
                if operation is None:
                    raise UnsafePickle(what=f"the pickle operation {bytes([code])!r}")
                operation(self)
        except BadInput:
            raise
        except (IndexError, KeyError, ValueError, TypeError, OverflowError, struct.error) as error:
            # A short stack, an unknown memo key, text that is not UTF-8, an unhashable key, a shape
            # that numpy refuses: each of them means that these bytes are no whole pickle.
            name = type(error).__name__
            raise _damaged(f"{name} at byte {self._at}: {error}") from error
        except (RecursionError, MemoryError) as error:
            raise _damaged("it needs more memory than there is") from error

    # --- bytes -----------------------------------------------------------------------------------

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise _damaged("it is cut off")
        part = bytes(self._data[self._at : end])
        self._at = end
        return part

    def _number(self, form: struct.Struct) -> Any:
        return form.unpack(self._take(form.size))[0]

    def _line(self) -> str:
        rest = self._data[self._at : self._at + limits.MIB]
        line, newline, _ = bytes(rest).partition(b"\n")
        if not newline:
            raise _damaged("it has a line without an end")
        self._at += len(line) + 1
        return line.decode("utf-8")

    # --- stack and memo --------------------------------------------------------------------------

    def _mark(self) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._marked.pop()
        return items

    def _pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _put(self, key: int) -> None:
        value = self._stack[-1]
        if type(value) is _Array:
            value.keys.append(key)
        self._memo[key] = value

    def _get(self, key: int) -> None:
        self._stack.append(self._memo[key])

    def _top(self, kind: type) -> Any:
        """The value on top, which must be of exactly this type."""
        value = self._stack[-1]
        if type(value) is not kind:
            raise _damaged(f"it adds to a {type(value).__name__} as if to a {kind.__name__}")
        return value

    # --- containers ------------------------------------------------------------------------------

    def _push_fixed(self, value: Any, items: list[Any] | tuple[Any, ...]) -> None:
        """Push something immutable that holds ``items``, and note how deep and large it is."""
        depth, size = 0, 1
        for item in items:
            inner = self._nesting.get(id(item)) if type(item) in _FIXED else None
            if inner is None:
                size += 1
            else:
                depth = max(depth, inner[0])
                size += inner[1]
        if depth + 1 > limits.MAX_PICKLE_DEPTH:
            raise _damaged(f"it is nested more than {limits.MAX_PICKLE_DEPTH} deep")
        # Set even where it is trivial: the id may have been that of something now gone.
        self._nesting[id(value)] = (depth + 1, size)
        self._stack.append(value)

    def _tuple(self, items: list[Any]) -> None:
        self._push_fixed(tuple(items), items)

    def _last(self, count: int) -> None:
        if len(self._stack) < count:
            raise _damaged("its stack is too short")
        items = self._stack[-count:]
        del self._stack[-count:]
        self._tuple(items)

    def _key(self, value: Any) -> Any:
        """``value``, if it may be hashed."""
        if type(value) in _FIXED and self._nesting[id(value)][1] > limits.MAX_PICKLE_KEY:
            raise _damaged(f"a dict key or set member has over {limits.MAX_PICKLE_KEY} items")
        return value

    def _keys(self, items: Any) -> list[Any]:
        return [self._key(item) for item in items]

    def _set_items(self, target: dict[Any, Any], items: list[Any]) -> None:
        if len(items) % 2:
            raise _damaged("it has a dict key without a value")
        for position in range(0, len(items), 2):
            target[self._key(items[position])] = items[position + 1]

    def _append(self) -> None:
        item = self._stack.pop()
        self._top(list).append(item)

    def _appends(self) -> None:
        items = self._pop_mark()
        self._top(list).extend(items)

    def _setitem(self) -> None:
        items = self._stack[-2:]
        del self._stack[-2:]
        self._set_items(self._top(dict), items)

    def _setitems(self) -> None:
        items = self._pop_mark()
        self._set_items(self._top(dict), items)

    def _additems(self) -> None:
        items = self._keys(self._pop_mark())
        self._top(set).update(items)

    def _new_dict(self) -> None:
        items = self._pop_mark()
        self._stack.append({})
        self._set_items(self._stack[-1], items)

    def _new_frozenset(self, items: Any) -> None:
        members = self._keys(items)
        self._push_fixed(frozenset(members), members)

    # --- names and what they make ----------------------------------------------------------------

    def _push_global(self, module: Any, name: Any) -> None:
        known = None
        if isinstance(module, str) and isinstance(name, str):
            known = _KNOWN.get((module, name))
        if known is None:
            raise UnsafePickle(what=f"the name {f'{module}.{name}'[:100]!r}")
        self._stack.append(_Global(known))

    def _stack_global(self) -> None:
        name = self._stack.pop()
        self._push_global(self._stack.pop(), name)

    def _reduce(self) -> None:
        args = self._stack.pop()
        function = self._stack.pop()
        if type(function) is not _Global or type(args) is not tuple:
            raise UnsafePickle(what=f"a call of a {type(function).__name__}")
        match function.name, args:
            case "frozenset", ([*items],):
                self._new_frozenset(items)
            case "set", ([*items],):
                self._stack.append(set(self._keys(items)))
            case ("set" | "bytes") as name, ():
                self._stack.append(set() if name == "set" else b"")
            case "slice", (start, stop, step):
                self._push_fixed(slice(start, stop, step), args)
            case "range", (int(start), int(stop), int(step)):
                self._stack.append(range(start, stop, step))
            case "complex", (float(real), float(imag)):
                self._stack.append(complex(real, imag))
            case "encode", (str(text), "latin1" | "latin-1"):
                self._stack.append(text.encode("latin-1"))
            case "dtype", (str(code), *_):
                self._stack.append(_DType(code, _plain_dtype(code)))
            case "_reconstruct", (_Global(), *_):
                self._stack.append(_Array())
            case "scalar", (_DType() as kind, bytes(data)):
                self._stack.append(_new_array(kind.dtype, (), data, "C")[()])
            case "_frombuffer", (bytes() | bytearray() as data, _DType() as kind, shape, order):
                self._stack.append(_new_array(kind.dtype, shape, data, order))
            case _:
                raise UnsafePickle(what=f"a call of {function.name} with these arguments")

    def _build(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if type(target) is _DType:
            target.dtype = _dtype_of_state(target.code, state)
        elif type(target) is _Array:
            match state:
                case (int(), shape, _DType() as kind, bool() | 0 | 1 as fortran, bytes(data)):
                    array = _new_array(kind.dtype, shape, data, "F" if fortran else "C")
                case _:
                    raise UnsafePickle(what="an array of Python objects")
            self._stack[-1] = array
            for key in target.keys:
                if self._memo.get(key) is target:
                    self._memo[key] = array
        else:
            raise UnsafePickle(what=f"a state for a {type(target).__name__}")

    def push(self, value: Any) -> None:
        """Push a value that is no container."""
        self._stack.append(value)


_FIXED: Final = frozenset({tuple, frozenset, slice})


def _damaged(reason: str) -> BadInput:
    return BadInput(what="pickle", reason=f"it is damaged or not plain: {reason}")


# --- numpy -----------------------------------------------------------------------------------------


def _plain_dtype(code: str) -> Any:
    import numpy as np

    if code[:1] not in _DTYPE_KINDS or not (code[1:].isdecimal() or code in ("M8", "m8")):
        raise UnsafePickle(what=f"the dtype {code[:40]!r}")
    return np.dtype(code)


def _dtype_of_state(code: str, state: Any) -> Any:
    """The dtype that numpy's __setstate__ would make, from its public constructors."""
    import numpy as np

    plain = _plain_dtype(code)
    match state:
        case (3, str(order), None, None, None, int(), int(), int()):
            return _ordered(plain, order)
        case (4, str(order), None, None, None, int(), int(), int(), metadata):
            if plain.kind not in "mM":
                return _ordered(plain, order)
            match metadata:
                case (_, (bytes(unit), int(count), int(), int())):
                    name = f"[{count}{unit.decode('ascii')}]" if unit != b"generic" else ""
                    return _ordered(np.dtype(f"{plain.kind}8{name}"), order)
        case (3 | 4, "|", (_DType() as base, shape), None, None, int(), int(), int(), *_):
            return np.dtype((base.dtype, _checked_shape(shape)))
        case (3 | 4, "|", None, tuple(names), dict(fields), int(size), int(), int(flags), *_):
            chosen = [fields[name] for name in names]
            if not all(type(field) is tuple and len(field) == 2 for field in chosen):
                raise UnsafePickle(what="a dtype with titles")
            if not all(type(field[0]) is _DType for field in chosen):
                raise _damaged("a dtype has a field without a dtype")
            parts = {
                "names": list(names),
                "formats": [field[0].dtype for field in chosen],
                "offsets": [field[1] for field in chosen],
                "itemsize": size,
            }
            return np.dtype(parts, align=bool(flags & _ALIGNED_STRUCT))  # type: ignore[call-overload]
    raise _damaged("a dtype has a state that numpy does not write")


def _ordered(dtype: Any, order: str) -> Any:
    if order not in ("<", ">", "|", "="):
        raise _damaged("a dtype has an unknown byte order")
    return dtype if order == "|" else dtype.newbyteorder(order)


def _checked_shape(shape: Any) -> tuple[int, ...]:
    if (
        type(shape) is not tuple
        or len(shape) > _MAX_DIMENSIONS
        or not all(type(length) is int and length >= 0 for length in shape)
    ):
        raise _damaged("an array has an impossible shape")
    return shape


def _new_array(dtype: Any, shape: Any, data: bytes | bytearray, order: Any) -> Any:
    """A writable array of its own memory that holds exactly ``data``."""
    import numpy as np

    shape = _checked_shape(shape)
    if order not in ("C", "F"):
        raise _damaged("an array has an unknown order")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise _damaged("an array has a shape that does not fit its bytes")
    return np.ndarray(shape, dtype, buffer=data, order=order).copy(order)


# --- opcodes ---------------------------------------------------------------------------------------

_U1, _U2, _U4, _U8 = (struct.Struct(form) for form in ("<B", "<H", "<I", "<Q"))
_I4, _F8 = struct.Struct("<i"), struct.Struct(">d")

_R = PickleReader
_Operation = Callable[[PickleReader], Any]
