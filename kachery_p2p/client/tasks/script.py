"""What a function of a script finds as ``__main__`` in another process.

Functions of a script or notebook are sent by value, so that the script is not run again. But pickle and
multiprocessing name things by their module: ``__main__.square``. So what such a function refers to is
put where that name leads, and the script's place is told, for the start methods of multiprocessing that
run it again in a process of their own (as they do when the script itself calls them).

cloudpickle sends functions and classes by value, but what ``functools.lru_cache`` makes of a function
it names by its module. So that is sent as what it is made of: the function and the cache's bounds. The
cache begins empty in each process.

Non-goals: what the function does not refer to.
"""

from __future__ import annotations

import functools
import importlib.machinery
import inspect
import io
import os
import sys
import types
from collections.abc import Callable
from typing import Any, Final

from kachery_p2p.protocol.errors import BadInput

from .functions import TaskFunction

Place = tuple[str | None, str | None]
"""A script's name as a module (``python -m``) and its file, as far as it has them."""

MAIN = "__main__"


def place_of_script() -> Place:
    """Where the script of this process lies."""
    from multiprocessing import process

    main = sys.modules.get(MAIN)
    name = getattr(getattr(main, "__spec__", None), "name", None)
    file = getattr(main, "__file__", None)
    if isinstance(file, str):
        start: str = getattr(process, "ORIGINAL_DIR", None) or os.getcwd()
        file = os.path.normpath(os.path.join(start, file))
    return name, file if isinstance(file, str) else None


def adopt(function: Callable[..., Any], place: Place = (None, None)) -> None:
    """Let ``__main__`` of this process have what a function refers to, if it is a script's."""
    names = _globals_of(function)
    if names.get("__name__") != MAIN:
        return
    main = sys.modules[MAIN]
    vars(main).update({name: value for name, value in names.items() if not name.startswith("__")})
    name, file = place
    if file is not None:
        main.__file__ = file
        for each in (function, *names.values()):
            _say_file(each, names, file)
    if name is not None:
        main.__spec__ = importlib.machinery.ModuleSpec(name, None)


def _say_file(value: Any, names: dict[str, Any], file: str) -> None:
    """Let tracebacks name a script and show its lines: code that is sent by value does not know where
    it comes from."""
    found: Any = value
    while isinstance(found, functools.partial):
        found = found.func
    members = list(vars(found).values()) if isinstance(found, type) else [found]
    for member in members:
        plain = getattr(member, "__func__", getattr(member, "fget", member))
        while isinstance(plain, types.FunctionType):
            if plain.__globals__ is names and plain.__code__.co_filename != file:
                plain.__code__ = _in_file(plain.__code__, file)
            plain = getattr(plain, "__wrapped__", None)


def _in_file(code: types.CodeType, file: str) -> types.CodeType:
    inner = (_in_file(each, file) if isinstance(each, types.CodeType) else each
             for each in code.co_consts)  # fmt: skip
    return code.replace(co_filename=file, co_consts=tuple(inner))


def _globals_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The names that the code of something callable sees."""
    found: Any = function
    while isinstance(found, functools.partial):
        found = found.func
    found = inspect.unwrap(found)
    found = getattr(found, "__func__", found)  # of a method
    if not isinstance(found, types.FunctionType):
        found = getattr(type(found), "__call__", None)  # noqa: B004  # the function, not whether
    return found.__globals__ if isinstance(found, types.FunctionType) else {}


# --- sending ------------------------------------------------------------------------------------

_Cached: Final = type(functools.lru_cache(abs))


def pickled(function: TaskFunction) -> bytes:
    """A function for another process.

    Raises:
        BadInput: it holds something that cannot be sent.
    """
    try:
        return _dumps(function.function)
    except Exception as error:  # whatever the things that it refers to raise when they are pickled
        reason = (
            f"it cannot be sent to a worker process ({type(error).__name__}: {error}); open what it "
            "uses inside it, or run it in threads with executor=ThreadPoolExecutor()"
        )
        raise BadInput(what=f"task function {function.id!r}", reason=reason) from error


def _dumps(value: Any) -> bytes:
    import cloudpickle

    by_value = cloudpickle.list_registry_pickle_by_value()

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
        def reducer_override(self, found: Any) -> Any:
            if isinstance(found, _Cached) and not _can_be_named(found, by_value):
                return _cached, (found.__wrapped__, found.cache_parameters()), vars(found)
            return super().reducer_override(found)

    with io.BytesIO() as file:
        Pickler(file).dump(value)
        return file.getvalue()


def _can_be_named(found: Any, by_value: set[str]) -> bool:
    """Whether another process finds it under its name."""
    module = found.__module__
    parts = str(module).split(".")
    above = {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    if module == MAIN or module not in sys.modules or above & by_value:
        return False
    there: Any = sys.modules[module]
    for name in found.__qualname__.split("."):
        there = getattr(there, name, None)
    return there is found


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)
