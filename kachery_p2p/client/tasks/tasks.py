"""Tasks besides requesting and serving them: what is on offer, what runs, and functions of one's own
whose results are shared."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from kachery_p2p.client.session import portal
from kachery_p2p.client.session.connection import call
from kachery_p2p.client.session.tracebacks import without_our_frames
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput, UnknownTask
from kachery_p2p.protocol.limits import TASK_BYTES
from kachery_p2p.protocol.tasks.task import Payload

from . import functions as task_functions
from . import run as task_run
from . import values as task_values
from .context import TaskContext
from .functions import TaskFunction


async def alist_tasks(channel: str | None = None) -> list[dict[str, Any]]:
    """The task functions that nodes of a channel, or of all channels, offer now.

    Returns:
        For each a dict with function, type, channel, node, label, backend (the labels of what serves
        it there), slots, running, queued, and allowed (whether that node runs it for others).

    Raises:
        UnknownChannel, AccessDenied, DaemonNotRunning, NeedsNode
    """
    offers: list[dict[str, Any]] = (await aget_offers(channel))["offers"]
    return offers


async def aget_offers(channel: str | None = None) -> dict[str, Any]:
    """``offers`` as :func:`alist_tasks` has them, and ``silent``: who did not answer, in words."""
    answer: dict[str, Any] = await call("list_tasks", "task.list", {"channel": channel})
    return answer


async def ashow_tasks(task_id: str | None = None) -> list[dict[str, Any]]:
    """The tasks that this node asked for or runs, and those that ended a short while ago.

    Args:
        task_id: 32 hex digits; None: all.

    Returns:
        For each a dict with task (32 hex digits), function, type, state, node, label, channel, since
        (seconds since 1970), reason, and side: "requested" or "running here".

    Raises:
        UnknownTask: there is none of that id.
        BadInput, DaemonNotRunning, NeedsNode
    """
    task = None if task_id is None else _parsed(task_id)
    answer = await call("show_tasks", "task.show", {"task": task})
    found: list[dict[str, Any]] = [{**each, "task": each["task"].hex()} for each in answer["tasks"]]
    if task_id is not None and not found:
        raise UnknownTask(task=task_id)
    return found


async def acancel_task(task_id: str) -> None:
    """Cancel a task that this node asked for.

    Raises:
        UnknownTask: none of that id goes on here.
        BadInput, ReadOnlyUser, DaemonNotRunning, NeedsNode
    """
    answer = await call("cancel_task", "task.cancel", {"task": _parsed(task_id)})
    if not answer["cancelled"]:
        raise UnknownTask(task=task_id)


def _parsed(task_id: str) -> bytes:
    try:
        task = bytes.fromhex(task_id)
    except ValueError:
        task = b""
    if len(task) != TASK_BYTES:
        reason = f"a task id has {2 * TASK_BYTES} hex digits; see 'kachery-p2p task show'"
        raise BadInput(what=task_id, reason=reason)
    return task


# --- functions of one's own ----------------------------------------------------------------------


async def arun_task(
    task_function: Callable[..., Any],
    kwargs: dict[str, Any] | None = None,
    channel: str | None = None,
) -> Any:
    """The result of a pure calculation of one's own: one that is known already, or computed here, in
    this process, and shared with the channel.

    Args:
        task_function: a function that was decorated with :func:`taskfunction` as a pure calculation.
        kwargs: its arguments by name: JSON values and numpy arrays.
        channel: name or id of the only channel to ask and to share with; all by default.

    Raises:
        BadInput: it is no such function, or what it takes or returns cannot be sent.
        AccessDenied: this node may not provide results on that channel.
        UnknownChannel, DaemonNotRunning, NeedsNode, and whatever the function raises.
    """
    function = _pure(task_function)
    arguments = {} if kwargs is None else kwargs
    found, text = await _known(function, arguments, channel)
    if found is not None:
        return await task_values.aunpack(found, channel)
    context = TaskContext(lambda *_: None)
    if inspect.iscoroutinefunction(task_function):
        value = await task_function(**arguments)
        value = await asyncio.to_thread(task_run.resolved, value, context)
    else:
        value = await asyncio.to_thread(task_run.call, task_function, arguments, context)
    return await _publish(function, text, value, channel)


_ask = without_our_frames(portal.run)


def run_task(
    task_function: Callable[..., Any],
    kwargs: dict[str, Any] | None = None,
    channel: str | None = None,
) -> Any:
    # No twin: the function is to run in the caller's own thread, where Ctrl-C reaches it.
    function = _pure(task_function)
    arguments = {} if kwargs is None else kwargs

    async def known() -> tuple[bool, Any, bytes]:
        found, text = await _known(function, arguments, channel)
        value = None if found is None else await task_values.aunpack(found, channel)
        return found is not None, value, text

    is_known, value, text = _ask(known, name="run_task")
    if is_known:
        return value
    computed = task_run.call(task_function, arguments, TaskContext(lambda *_: None))
    return _ask(lambda: _publish(function, text, computed, channel), name="run_task")


run_task.__doc__ = arun_task.__doc__


def _pure(f: Callable[..., Any]) -> TaskFunction:
    function = task_functions.find(f)
    if function.type != "pure-calculation":
        reason = f"it is a {function.type}, whose result is not shared; call it as it is"
        raise BadInput(what=f"task function {function.id!r}", reason=reason)
    return function


async def _known(
    function: TaskFunction, arguments: dict[str, Any], channel: str | None
) -> tuple[Payload | None, bytes]:
    """The result that there is, and the arguments as text."""
    text = await task_values.encode_kwargs(arguments, channel)
    params = {"function": function.id, "kwargs": text, "channel": channel, "look": True}
    answer = await call("run_task", "task.cached", params)
    payload = answer["payload"]
    return None if payload is None else codec.convert(Payload, payload), text


async def _publish(function: TaskFunction, text: bytes, value: Any, channel: str | None) -> Any:
    payload = await task_values.apack(value, channel)
    params = {
        "function": function.id, "type": function.type, "kwargs": text,
        "payload": codec.plain(payload), "channel": channel,
    }  # fmt: skip
    await call("run_task", "task.publish", params)
    return value
