"""One run of a task function: arguments in, a payload or the reason why there is none out.

Used wherever functions run: worker processes, threads, other executors' processes, and by
:func:`run_task`. Nothing that a function does comes out of :func:`perform` as an exception.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from msgspec import Struct

from kachery_p2p.client.files.scope import on_behalf_of
from kachery_p2p.protocol.errors import KacheryError
from kachery_p2p.protocol.limits import MAX_TASK_REASON, MAX_TASK_TRACEBACK
from kachery_p2p.protocol.tasks.messages import sendable
from kachery_p2p.protocol.tasks.task import Payload, TaskType

from . import values as task_values
from .context import TaskContext, running

OutcomeState = Literal["finished", "failed", "cancelled", "killed", "lost"]
"""``killed``: its process did not stop and was ended. ``lost``: it ended without our doing, and the
function may have done anything until then."""


class Outcome(Struct, frozen=True):
    """How a run ended. ``log``: what was printed last."""

    state: OutcomeState
    payload: Payload | None = None
    reason: str = ""
    traceback: str = ""
    log: bytes = b""


class Job(Struct, frozen=True):
    """One run that was asked for. ``kwargs`` is canonical text, ``timeout`` seconds or None."""

    id: bytes
    function: str
    type: TaskType
    kwargs: bytes
    channel: str
    timeout: float | None = None


def perform(
    function: Callable[..., Any],
    kwargs: bytes,
    channel: str | None,
    context: TaskContext,
    *,
    whole_process: bool = False,
) -> Outcome:
    """Run a function in this thread, until it and what it returned are done with.

    Args:
        kwargs: the canonical text.
        channel: on which arrays are loaded, and a large result is stored. What is here but bound to
            other channels is not given to the function either, unless it names one of these.
        whole_process: nothing else runs in this process.
    """
    context.begin()
    try:
        with (
            running(context, whole_process=whole_process),
            on_behalf_of(channel, whole_process=whole_process),
        ):
            outcome = _perform(function, kwargs, channel, context)
    except BaseException as error:
        # SystemExit, and whatever else is not meant to end a worker.
        outcome = failure(error, context)
    return Outcome(
        outcome.state, outcome.payload, outcome.reason, outcome.traceback, context.finish()
    )


def _perform(
    function: Callable[..., Any], kwargs: bytes, channel: str | None, context: TaskContext
) -> Outcome:
    try:
        arguments = task_values.decode_kwargs(kwargs, channel)
    except KacheryError as error:
        return _failed(f"its arguments could not be loaded: {error}")
    with contextlib.suppress(ValueError):  # of a few functions nobody knows the arguments
        signature = inspect.signature(function)
        try:
            signature.bind(**arguments)
        except TypeError as error:
            return _failed(f"wrong arguments: {error}; it takes {signature}")
    value = call(function, arguments, context)
    if context.noticed:
        return Outcome("cancelled", reason="it stopped when it was asked to")
    try:
        return Outcome("finished", task_values.pack(value, channel))
    except KacheryError as error:
        return _failed(str(error))


def call(function: Callable[..., Any], arguments: dict[str, Any], context: TaskContext) -> Any:
    """What a function returns, after awaiting it or waiting for its Future."""
    value = function(**arguments)
    if inspect.isawaitable(value):
        return asyncio.run(_awaited(value, context))
    if isinstance(value, concurrent.futures.Future):
        context.on_cancel(value.cancel)
        return value.result()
    return value


async def _awaited(awaitable: Awaitable[Any], context: TaskContext) -> Any:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(awaitable)

    def cancel() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            loop.call_soon_threadsafe(task.cancel)

    context.on_cancel(cancel)
    return await task


def failure(error: BaseException, context: TaskContext | None = None) -> Outcome:
    """How a run ended whose function raised."""
    if context is not None and context.cancelled:
        return Outcome("cancelled", reason="it stopped when it was asked to")
    return _failed(_described(error), _shown(error))


def _described(error: BaseException) -> str:
    try:
        return task_values.reason_of(error)
    except BaseException as second:
        # The class is the user's, and so is its __str__: whatever that does, the report arrives.
        return f"{type(error).__name__}, whose text cannot be had ({type(second).__name__})"


def _shown(error: BaseException) -> str:
    try:
        frames = error.__traceback__
        # Ours, between the caller and the function, tell nobody anything.
        while frames is not None and frames.tb_frame.f_globals.get("__name__") == __name__:
            frames = frames.tb_next
        return "".join(traceback.format_exception(type(error), error, frames))
    except BaseException:
        return ""  # as above: notes, causes and groups are the user's as well


def _failed(reason: str, shown: str = "") -> Outcome:
    reason = sendable(reason[:MAX_TASK_REASON])[:MAX_TASK_REASON]
    shown = sendable(shown[-MAX_TASK_TRACEBACK:])[-MAX_TASK_TRACEBACK:]
    return Outcome("failed", reason=reason, traceback=shown)
