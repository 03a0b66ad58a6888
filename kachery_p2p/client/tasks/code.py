"""Whether the code behind a task function's id is what it was: a fingerprint of it.

It follows from what the function and everything of its own module that it refers to does: functions,
classes and plain constants. Comments, docstrings, blank lines and where the file lies do not count, nor
what other modules do.

A fingerprint is ``<Python's version>:<hash>``, since each version has bytecode of its own: those of two
versions say nothing of one another.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, Final

_PLAIN: Final = (type(None), bool, int, float, complex, str, bytes)
_MOST_FUNCTIONS: Final = 1_000
"""More of one module are not looked at."""


def fingerprint(function: Callable[..., Any]) -> str:
    """As the module says."""
    digest = hashlib.sha256()
    seen: set[int] = set()
    left = list(_functions_in(function))
    while left and len(seen) < _MOST_FUNCTIONS:
        found = left.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        _add_code(digest.update, found.__code__, found.__doc__)
        _add(digest.update, found.__defaults__, found.__kwdefaults__)
        for name, value in sorted(_referred(found).items()):
            if _is_plain(value):
                _add(digest.update, name, value)
            elif getattr(value, "__module__", None) == found.__module__:
                left.extend(_functions_in(value))
    return f"{sys.version_info.major}.{sys.version_info.minor}:{digest.hexdigest()}"


def _functions_in(value: Any) -> Iterator[types.FunctionType]:
    """The functions that something callable is made of."""
    for each in (value, inspect.unwrap(value) if callable(value) else value):
        plain = getattr(each, "__func__", each)
        if isinstance(plain, types.FunctionType):
            yield plain
        members = vars(each) if isinstance(each, type) else {}
        for name in sorted(members):
            member = getattr(members[name], "__func__", members[name])
            if isinstance(member, types.FunctionType):
                yield member


def _referred(function: types.FunctionType) -> dict[str, Any]:
    """The names that its code uses, with their values: globals, and what a closure holds."""
    names = _names_of(function.__code__)
    found = {name: value for name, value in function.__globals__.items() if name in names}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue  # not set yet
    return found


def _names_of(code: types.CodeType) -> set[str]:
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return set(code.co_names).union(*map(_names_of, inner))


def _add_code(update: Callable[[bytes], object], code: types.CodeType, doc: str | None) -> None:
    update(code.co_code)
    _add(update, code.co_names, code.co_varnames, code.co_freevars)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            _add_code(update, const, None)
        elif not (doc is not None and const == doc):
            _add(update, const)


def _add(update: Callable[[bytes], object], *values: Any) -> None:
    for value in values:
        if isinstance(value, frozenset):  # in another order each time
            value = sorted(map(repr, value))
        update(repr(value if _is_plain(value) else type(value).__name__).encode() + b"\0")


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    return type(value) in _PLAIN


def next_id(function_id: str) -> str:
    """An id for the next version of a function: ``count.2`` after ``count.1``."""
    name, dot, number = function_id.rpartition(".")
    if dot and number.isascii() and number.isdigit():
        return f"{name}.{int(number) + 1}"
    return f"{function_id}.2"
