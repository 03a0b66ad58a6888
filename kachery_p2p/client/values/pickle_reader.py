"""Reads pickles without ever calling what they name.

The standard unpickler runs whatever ``find_class`` returns and whatever ``__setstate__`` does with
hostile arguments; numpy's own, given false flags, takes raw bytes for object pointers. This reader
therefore interprets the opcodes itself: a global is only a name, and REDUCE and BUILD know the few
names that numbers, sets, slices and arrays need, and make those from checked parts.

Known by name, so that pickles from numpy 1 and 2 and from Python's protocols 0 to 5 load: builtins
(also as ``__builtin__``) range, xrange, complex, set, frozenset, slice, bytes; numpy ndarray and
dtype; ``_reconstruct``, ``scalar`` and ``_frombuffer`` of numpy.core and numpy._core;
``_codecs.encode`` (how protocols up to 2 write bytes); and the values of the standard library in
pickle_standard.py. Everything else is UnsafePickle.

Invariants: memory grows with the data only (memo indexes are keys, not sizes), and nothing that is
hashed is deep or, unfolded, large: hashing a tuple visits all that is in it, on the C stack.

Not here: the check of what came out (pickles.py), Python 2's byte strings, titles of dtype fields.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any, Final

from kachery_p2p.protocol import limits
from kachery_p2p.protocol.errors import BadInput, UnsafePickle

from . import pickle_standard
from .pickle_arrays import PickledArray, PickledDType, damaged, new_array
from .pickle_standard import PickledUuid

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
    **pickle_standard.NAMES,
}
_STANDARD: Final = frozenset(pickle_standard.NAMES.values())


class _Global:
    """A name that the pickle mentions: one of the values of _KNOWN."""

    stands_for = "name of a function or type"
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


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
            raise damaged(f"{name} at byte {self._at}: {error}") from error
        except (RecursionError, MemoryError) as error:
            raise damaged("it needs more memory than there is") from error

    # --- bytes -----------------------------------------------------------------------------------

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise damaged("it is cut off")
        part = bytes(self._data[self._at : end])
        self._at = end
        return part

    def _number(self, form: struct.Struct) -> Any:
        return form.unpack(self._take(form.size))[0]

    def _line(self) -> bytes:
        size = 256
        while True:
            line, newline, _ = bytes(self._data[self._at : self._at + size]).partition(b"\n")
            if newline:
                self._at += len(line) + 1
                return line
            if self._at + size >= len(self._data):
                raise damaged("it has a line without an end")
            size *= 16

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
        if type(value) in _UNBUILT:
            value.keys.append(key)
        self._memo[key] = value

    def _get(self, key: int) -> None:
        self._stack.append(self._memo[key])

    def _top(self, kind: type) -> Any:
        """The value on top, which must be of exactly this type."""
        value = self._stack[-1]
        if type(value) is not kind:
            raise damaged(f"it adds to a {type(value).__name__} as if to a {kind.__name__}")
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
            raise damaged(f"it is nested more than {limits.MAX_PICKLE_DEPTH} deep")
        # Set even where it is trivial: the id may have been that of something now gone.
        self._nesting[id(value)] = (depth + 1, size)
        self._stack.append(value)

    def _tuple(self, items: list[Any]) -> None:
        self._push_fixed(tuple(items), items)

    def _last(self, count: int) -> None:
        if len(self._stack) < count:
            raise damaged("its stack is too short")
        items = self._stack[-count:]
        del self._stack[-count:]
        self._tuple(items)

    def _key(self, value: Any) -> Any:
        """``value``, if it may be hashed."""
        if (
            type(value) in _FIXED
            and self._nesting.get(id(value), _EMPTY)[1] > limits.MAX_PICKLE_KEY
        ):
            raise damaged(f"a dict key or set member has over {limits.MAX_PICKLE_KEY} items")
        return value

    def _keys(self, items: Any) -> list[Any]:
        return [self._key(item) for item in items]

    def _set_items(self, target: dict[Any, Any], items: list[Any]) -> None:
        if len(items) % 2:
            raise damaged("it has a dict key without a value")
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

    def _new_list(self) -> None:
        items = self._pop_mark()
        self._stack.append(items)

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
            case "frozenset", (list(items),):
                self._new_frozenset(items)
            case "set", (list(items),):
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
                self._stack.append(PickledDType(code))
            case "_reconstruct", (_Global(), *_):
                self._stack.append(PickledArray())
            case "scalar", (PickledDType() as kind, bytes(data)):
                self._stack.append(new_array(kind.dtype, (), data, "C")[()])
            case "_frombuffer", (
                bytes() | bytearray() as data,
                PickledDType() as kind,
                shape,
                order,
            ):
                self._stack.append(new_array(kind.dtype, shape, data, order))
            case name, _ if name in _STANDARD and name != "UUID":
                self._stack.append(pickle_standard.make(name, args))
            case _:
                raise UnsafePickle(what=f"a call of {function.name} with these arguments")

    def _new_object(self) -> None:
        args = self._stack.pop()
        kind = self._stack.pop()
        if type(kind) is not _Global or kind.name != "UUID" or args != ():
            raise UnsafePickle(what=f"an object of the type {getattr(kind, 'name', '?')}")
        self._stack.append(PickledUuid())

    def _build(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if type(target) is PickledDType:
            target.build(state)
        elif type(target) is PickledArray:
            match state:
                case (int(), shape, PickledDType() as kind, bool() | 0 | 1 as fortran, bytes(data)):
                    array = new_array(kind.dtype, shape, data, "F" if fortran else "C")
                case _:
                    raise UnsafePickle(what="an array of Python objects")
            self._replace(target, array)
        elif type(target) is PickledUuid:
            self._replace(target, target.build(state))
        else:
            raise UnsafePickle(what=f"a state for a {type(target).__name__}")

    def _replace(self, target: PickledArray | PickledUuid, made: Any) -> None:
        """What was built takes the place of what stood for it."""
        self._stack[-1] = made
        for key in target.keys:
            if self._memo.get(key) is target:
                self._memo[key] = made


_UNBUILT: Final = frozenset({PickledArray, PickledUuid})
_FIXED: Final = frozenset({tuple, frozenset, slice})
_EMPTY: Final = (1, 1)


# --- opcodes ------------------------------------------------------------------------------------

_U1, _U2, _U4, _U8 = (struct.Struct(form) for form in ("<B", "<H", "<I", "<Q"))
_I4, _F8 = struct.Struct("<i"), struct.Struct(">d")


def _push(value: Any) -> Callable[[PickleReader], None]:
    return lambda reader: reader._stack.append(value)


def _read(form: struct.Struct) -> Callable[[PickleReader], None]:
    return lambda reader: reader._stack.append(reader._number(form))


def _sized(form: struct.Struct, make: Callable[[bytes], Any]) -> Callable[[PickleReader], None]:
    """Read a length, then so many bytes, and push what ``make`` makes of them."""
    return lambda reader: reader._stack.append(make(reader._take(reader._number(form))))


def _text_line(make: Callable[[bytes], Any]) -> Callable[[PickleReader], None]:
    return lambda reader: reader._stack.append(make(reader._line()))


def _utf8(data: bytes) -> str:
    # Python pickles lone surrogates (file names that are not UTF-8) this way.
    return data.decode("utf-8", "surrogatepass")


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _integer_line(line: bytes) -> int | bool:
    if line in (b"00", b"01"):
        return line == b"01"
    return int(line.removesuffix(b"L"))


def _protocol(reader: PickleReader) -> None:
    protocol = reader._number(_U1)
    if protocol > pickle.HIGHEST_PROTOCOL:
        raise damaged(f"pickle protocol {protocol} is unknown")


def _global(reader: PickleReader) -> None:
    module, name = reader._line().decode(), reader._line().decode()
    reader._push_global(module, name)


_OPERATIONS: Final[dict[int, Callable[[PickleReader], Any]]] = {
    code[0]: operation
    for code, operation in {
        pickle.PROTO: _protocol,
        pickle.FRAME: lambda r: r._take(8),
        pickle.MARK: PickleReader._mark,
        pickle.POP: PickleReader._pop,
        pickle.POP_MARK: PickleReader._pop_mark,
        pickle.DUP: lambda r: r._stack.append(r._stack[-1]),
        pickle.NONE: _push(None),
        pickle.NEWTRUE: _push(True),
        pickle.NEWFALSE: _push(False),
        pickle.INT: _text_line(_integer_line),
        pickle.LONG: _text_line(_integer_line),
        pickle.FLOAT: _text_line(float),
        pickle.UNICODE: _text_line(lambda line: line.decode("raw-unicode-escape")),
        pickle.BININT: _read(_I4),
        pickle.BININT1: _read(_U1),
        pickle.BININT2: _read(_U2),
        pickle.BINFLOAT: _read(_F8),
        pickle.LONG1: _sized(_U1, _integer),
        pickle.LONG4: _sized(_U4, _integer),
        pickle.SHORT_BINUNICODE: _sized(_U1, _utf8),
        pickle.BINUNICODE: _sized(_U4, _utf8),
        pickle.BINUNICODE8: _sized(_U8, _utf8),
        pickle.SHORT_BINBYTES: _sized(_U1, bytes),
        pickle.BINBYTES: _sized(_U4, bytes),
        pickle.BINBYTES8: _sized(_U8, bytes),
        pickle.BYTEARRAY8: _sized(_U8, bytearray),
        pickle.EMPTY_TUPLE: _push(()),
        pickle.TUPLE: lambda r: r._tuple(r._pop_mark()),
        pickle.TUPLE1: lambda r: r._last(1),
        pickle.TUPLE2: lambda r: r._last(2),
        pickle.TUPLE3: lambda r: r._last(3),
        pickle.EMPTY_LIST: lambda r: r._stack.append([]),
        pickle.LIST: PickleReader._new_list,
        pickle.APPEND: PickleReader._append,
        pickle.APPENDS: PickleReader._appends,
        pickle.EMPTY_DICT: lambda r: r._stack.append({}),
        pickle.DICT: PickleReader._new_dict,
        pickle.SETITEM: PickleReader._setitem,
        pickle.SETITEMS: PickleReader._setitems,
        pickle.EMPTY_SET: lambda r: r._stack.append(set()),
        pickle.ADDITEMS: PickleReader._additems,
        pickle.FROZENSET: lambda r: r._new_frozenset(r._pop_mark()),
        pickle.GLOBAL: _global,
        pickle.STACK_GLOBAL: PickleReader._stack_global,
        pickle.REDUCE: PickleReader._reduce,
        pickle.NEWOBJ: PickleReader._new_object,
        pickle.BUILD: PickleReader._build,
        pickle.PUT: lambda r: r._put(int(r._line())),
        pickle.BINPUT: lambda r: r._put(r._number(_U1)),
        pickle.LONG_BINPUT: lambda r: r._put(r._number(_U4)),
        pickle.MEMOIZE: lambda r: r._put(len(r._memo)),
        pickle.GET: lambda r: r._get(int(r._line())),
        pickle.BINGET: lambda r: r._get(r._number(_U1)),
        pickle.LONG_BINGET: lambda r: r._get(r._number(_U4)),
    }.items()
}
