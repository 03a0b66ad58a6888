"""One run of a task function: arguments in, a payload or the reason why there is none out.

Used wherever functions run: worker processes, threads, other executors' processes, and by
:func:`run_task`. Nothing that a function does comes out of :func:`perform` as an exception.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, NoReturn

from msgspec import Struct

from kachery_p2p.client.files.scope import on_behalf_of
from kachery_p2p.protocol.errors import KacheryError
from kachery_p2p.protocol.limits import MAX_TASK_REASON, MAX_TASK_TRACEBACK
from kachery_p2p.protocol.tasks.messages import sendable
from kachery_p2p.protocol.tasks.task import Payload, TaskType

from . import values as task_values
from .context import TaskContext, running

_FRAMES: Final = 100
"""Of a traceback, the last, for each of the errors that led to one another."""

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
    here = os.getpid()
    try:
        value = call(function, arguments, context)
    except BaseException:
        if os.getpid() != here:
            traceback.print_exc()
            _leave_fork(1)
        raise
    if os.getpid() != here:
        _leave_fork(0)
    if context.noticed:
        return Outcome("cancelled", reason="it stopped when it was asked to")
    try:
        return Outcome("finished", task_values.pack(value, channel))
    except KacheryError as error:
        return _failed(str(error))


def _leave_fork(status: int) -> NoReturn:
    """The function forked, and this is its child that came back as well: it is not the one that was
    asked, and what it would tell is no result."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # the function may have put anything in their place
            stream.flush()
    os._exit(status)


def call(function: Callable[..., Any], arguments: dict[str, Any], context: TaskContext) -> Any:
    """What a function returns, after awaiting it, or waiting for its Future or its job."""
    return resolved(function(**arguments), context)


def resolved(value: Any, context: TaskContext) -> Any:
    """What a function returned, once it is there.

    Raises:
        What the awaitable, the Future or the job raises; RuntimeError for a job that failed.
    """
    if inspect.isawaitable(value):
        return resolved(asyncio.run(_awaited(value, context)), context)
    if isinstance(value, concurrent.futures.Future):
        context.on_cancel(value.cancel)
        return value.result()
    return _result_of_job(value, context) if _is_job(value) else value


def _is_job(value: Any) -> bool:
    """Whether it is a job as hither makes them: an object of somebody's own that can be waited for. A
    subprocess or an event of the standard library is none."""
    kind = type(value)
    foreign = kind.__module__.partition(".")[0] not in sys.stdlib_module_names
    return foreign and not isinstance(value, type) and callable(getattr(value, "wait", None))


def _result_of_job(job: Any, context: TaskContext) -> Any:
    """hither's ``wait()`` returns the value, hither2's an object that has it, or the error."""
    cancel = getattr(job, "cancel", None)
    if callable(cancel):
        context.on_cancel(lambda: _cancelled(cancel))
    result = job.wait()
    if not hasattr(result, "return_value"):
        return result
    if (error := getattr(result, "error", None)) is not None:
        raise error if isinstance(error, BaseException) else RuntimeError(str(error))
    return result.return_value


def _cancelled(cancel: Callable[[], Any]) -> None:
    # It is somebody's own code, and whether it can be cancelled is up to it.
    with contextlib.suppress(Exception):
        cancel()


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
        # Of a function that called itself a million times, more would take minutes.
        return "".join(traceback.format_exception(type(error), error, frames, limit=-_FRAMES))
    except BaseException:
        return ""  # as above: notes, causes and groups are the user's as well


def _failed(reason: str, shown: str = "") -> Outcome:
    reason = sendable(reason[:MAX_TASK_REASON])[:MAX_TASK_REASON]
    shown = sendable(shown[-MAX_TASK_TRACEBACK:])[-MAX_TASK_TRACEBACK:]
    return Outcome("failed", reason=reason, traceback=shown)
