"""Task functions: named functions that other nodes may request, registered in this process.

A backend runs only functions that were registered here, by name; nothing that a requester sends is
ever run. The decorated function stays what it was: calling it is a normal call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.tasks.task import TASK_TYPES, TaskType, check_function_id

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class TaskFunction:
    """A function with the id and type under which it may be requested."""

    id: str
    type: TaskType
    function: Callable[..., Any]


_registered: dict[str, TaskFunction] = {}

in_worker = False
"""Whether this is a worker process of a backend, in which no further backend is started."""


def taskfunction(function_id: str, /, type: TaskType = "pure-calculation") -> Callable[[F], F]:
    """Register a function under an id, so that a backend of this process can serve it.

    >>> @taskfunction("count_captain.1", type="pure-calculation")
    ... def count_captain(*, text: str) -> int:
    ...     return text.lower().split().count("captain")
    >>> count_captain(text="Captain, my captain")
    2

    The function takes keyword arguments (JSON values and numpy arrays) and returns a value, or is
    async, or returns a concurrent.futures.Future. Registering another one under the same id replaces
    the first.

    Args:
        function_id: 1 to 200 characters; end it with a version, so that a changed calculation gets a
            new id and old results are not taken for its.
        type: ``pure-calculation``: the same arguments always give the same result, which is kept and
            shared. ``query``: asked afresh each time. ``action``: has an effect, and never runs twice
            for one request.

    Raises:
        BadInput: the id or type is none, or what is decorated cannot be called.
    """
    check_function_id(function_id)
    checked = check_type(type)

    def register(function: F) -> F:
        if not callable(function):
            raise BadInput(what=f"task function {function_id!r}", reason="it cannot be called")
        _registered[function_id] = TaskFunction(function_id, checked, function)
        return function

    return register


@contextlib.contextmanager
def only_registered() -> Iterator[None]:
    """Import modules in here: what they decorate is registered anew and nothing else, and a
    :func:`run_task_backend` at their end does nothing."""
    global in_worker
    _registered.clear()
    before, in_worker = in_worker, True
    try:
        yield
    finally:
        in_worker = before


def check_type(type: str) -> TaskType:
    """The type, if it is one. Raises BadInput."""
    for known in TASK_TYPES:
        if type == known:
            return known
    raise BadInput(what=f"task type {type!r}", reason=f"it is one of {', '.join(TASK_TYPES)}")


def choose(function_ids: Iterable[str] | None) -> dict[str, TaskFunction]:
    """Registered functions by id; all of them for None.

    Raises:
        BadInput: there are none, or one is not registered.
    """
    if isinstance(function_ids, str):
        raise BadInput(what="task_function_ids", reason="a str; give a list of ids")
    chosen = {each: find(each) for each in (_registered if function_ids is None else function_ids)}
    if not chosen:
        reason = "none is registered; decorate a function with @taskfunction(id) first"
        raise BadInput(what="task functions", reason=reason)
    return chosen


def find(function: str | Callable[..., Any]) -> TaskFunction:
    """The registered function of this id, or that this decorated function is. Raises BadInput."""
    if isinstance(function, str):
        found = _registered.get(function)
    else:
        found = next((each for each in _registered.values() if each.function is function), None)
    if found is None:
        what = f"task function {function!r}"
        reason = "it is not registered in this process; decorate it with @taskfunction(id)"
        raise BadInput(what=what, reason=reason)
    return found
