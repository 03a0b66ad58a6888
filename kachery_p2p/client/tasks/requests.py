"""Requests for tasks: made at once, watched as they go on, awaited or waited for."""

from __future__ import annotations

import asyncio
import codecs as text_codecs
import concurrent.futures
import os
from collections.abc import Generator
from typing import Any, Final

from kachery_p2p.client.display.notebook_html import table
from kachery_p2p.client.session import offline
from kachery_p2p.client.session.connection import connection
from kachery_p2p.client.session.tracebacks import without_our_frames
from kachery_p2p.local import loops
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import (
    BadInput,
    DaemonNotRunning,
    DeadlineExceeded,
    KacheryError,
    LinkClosed,
    TaskCancelled,
    TaskFailed,
    TaskUnknown,
)
from kachery_p2p.protocol.limits import (
    MAX_TASK_LOG_KEPT,
    MAX_TASK_RETRIES,
    MAX_TASK_SECONDS,
    START_SECONDS,
    TASK_BACKEND_SECONDS,
    TASK_BYTES,
)
from kachery_p2p.protocol.numbers import real, whole
from kachery_p2p.protocol.tasks.task import Payload, TaskType, check_function_id

from . import values as task_values
from .context import current, waits_for_tasks
from .functions import check_type

_PAUSE_SECONDS: Final = 0.1


class TaskRequest:
    """A task that was asked of other nodes. Made by :func:`request_task`; in async code, ``await`` it.

    It goes on by itself. Its attributes may be read from any thread, at any time.
    """

    def __init__(
        self, task: bytes, function: str, type: TaskType, channel: str | None, timeout: float | None
    ) -> None:
        self.task_id: str = task.hex()
        """32 hex digits, by which ``task show`` and ``task cancel`` know it."""
        self.task_function_id = function
        self.status = "looking"
        """``looking``, ``no backend yet``, ``queued`` or ``running``; in the end ``finished``,
        ``failed``, ``cancelled`` or, for an action of which nobody can say whether it ended,
        ``unknown``."""
        self.progress: tuple[float | None, str] = (None, "")
        """Fraction done (None: not known) and message, as the function says them."""
        self.place: int | None = None
        """How many are before it in the queue, if it is in one."""
        self.from_cache = False
        """Whether the result was computed before, for this or another request."""
        self.node: str | None = None
        """Id (64 hex digits) of the node that runs it, or computed the result."""
        self.traceback: str | None = None
        """Where the function raised, as its own machine printed it."""
        self._task = task
        self._type = type
        self._channel = channel
        self._timeout = timeout
        self._log = ""
        self._label = ""
        self._decoder = text_codecs.getincrementaldecoder("utf-8")("replace")
        self._outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        self._cancelling = False
        self._accepted = asyncio.Event()
        self._background: asyncio.Future[Any] | None = None

    # --- what users read ---------------------------------------------------------------------

    @property
    def log(self) -> str:
        """What the function printed so far; of much, the newest 1,000,000 characters."""
        return self._log

    @property
    @without_our_frames
    def result(self) -> Any:
        """What the function returned; None until the task has ended.

        Raises:
            TaskFailed: the function raised, or could not be run.
            TaskUnknown: an action began, and nobody can say whether it ended.
            TaskCancelled: it was cancelled, by whomever.
            Others as :func:`arequest_task` says.
        """
        return self._outcome.result() if self._outcome.done() else None

    @property
    def error_message(self) -> str | None:
        """Why it did not finish, in words; None if it did, or has not ended."""
        if not self._outcome.done():
            return None
        error = self._outcome.exception()
        if error is None:
            return None
        # The traceback has an attribute of its own.
        return str(error).replace(f"\n\nOn that node:\n{self.traceback}", "")

    @without_our_frames
    def wait(self, timeout_sec: float | None = None) -> Any:
        """The result, once the task has ended, or True if it is an action, whose :attr:`result` says
        what it returned. None if it has not ended within so many seconds, as :attr:`status` says.
        Raises as :attr:`result`."""
        if not self.ended_within(timeout_sec):
            return None
        result = self.result
        return True if self._type == "action" else result

    def ended_within(self, seconds: float | None) -> bool:
        """Whether the task ends within so many seconds (None: it will, however long it takes)."""
        self._check_thread("wait")
        if seconds is not None:
            seconds = real("timeout_sec", seconds)
        if self._outcome.done():
            return True
        self._check_process()
        with waits_for_tasks():
            done, _ = concurrent.futures.wait([self._outcome], timeout=seconds)
        loops.end_with_program()
        return bool(done)

    def cancel(self) -> None:
        """Cancel it, wherever it is. It ends soon after, as ``cancelled``, unless it ended before."""
        try:
            self._loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:
            return  # its loop has ended, and it with it

    def __await__(self) -> Generator[Any, None, Any]:
        """The result. Raises as :attr:`result`."""
        return self._wait_for_it().__await__()

    async def _wait_for_it(self) -> Any:
        self._check_process()
        with waits_for_tasks():
            return await asyncio.shield(asyncio.wrap_future(self._outcome))

    def __repr__(self) -> str:
        return f"<TaskRequest {self.task_id} {self.task_function_id} ({self.status})>"

    def _repr_html_(self) -> str:
        """What notebooks show; what others wrote is escaped."""
        fraction, message = self.progress
        done = "" if fraction is None else f"{fraction:.0%} "
        value = repr(self.result) if self.status == "finished" else ""
        rows: list[tuple[str, object]] = [
            ("function", self.task_function_id),
            ("status", self.status),
            ("in the queue after", self.place if self.status == "queued" else None),
            ("progress", f"{done}{message}"),
            ("node", self.node),
            ("result", value if len(value) <= 200 else f"{value[:200]}..."),
            ("error", self.error_message),
            ("task id", self.task_id),
        ]
        return table("Task request", rows)

    def _check_thread(self, name: str) -> None:
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            raise RuntimeError(
                f"{name}() would wait for the loop that it blocks: use 'await request'"
            )

    def _check_process(self) -> None:
        if self._process != os.getpid() and not self._outcome.done():
            raise RuntimeError(
                "it was asked for before this process was forked, and only the one that asked hears "
                "of its end: wait there, or ask here for the same"
            )

    # --- how it goes on, on its loop ---------------------------------------------------------

    async def start(self, params: dict[str, Any]) -> None:
        """Returns when the node has the request, or it has ended: then whoever asked may go."""
        self._background = asyncio.ensure_future(self._go_on(params))
        try:
            await self._accepted.wait()
        except asyncio.CancelledError:
            self._cancel()
            raise

    async def _go_on(self, params: dict[str, Any]) -> None:
        try:
            result = await self._ask(params)
            value = await self._conclude(result)
        except asyncio.CancelledError:
            self._outcome.set_exception(
                self._cancelled("its event loop ended; its node goes on with it")
            )
            raise
        except Exception as error:  # whatever it is, it is for who waits
            if self.status not in ("cancelled", "unknown"):
                self.status = "failed"
            self._outcome.set_exception(error)
        else:
            self.status = "finished"
            self._outcome.set_result(value)
        finally:
            self._accepted.set()

    async def _ask(self, params: dict[str, Any]) -> Any:
        """Ask the node, again under the same id if it goes away meanwhile."""
        loop = asyncio.get_running_loop()
        end = None if self._timeout is None else loop.time() + self._timeout
        until_back: float | None = None
        while True:
            left = None if end is None else max(0.0, end - loop.time())
            try:
                node = await connection()
                if self._cancelling:
                    raise self._cancelled("before it was asked for")
                return await node.call(
                    "task.request", {**params, "timeout": left}, on_progress=self._on_progress
                )
            except (LinkClosed, DaemonNotRunning) as error:
                if until_back is None and isinstance(error, DaemonNotRunning):
                    raise  # it was never there
                if until_back is None or isinstance(error, LinkClosed):
                    until_back = loop.time() + START_SECONDS if end is None else end
                if loop.time() >= until_back:
                    if end is not None:
                        raise DeadlineExceeded(what=self._what(), seconds=self._timeout) from error
                    raise
                self.status = "looking"
            await asyncio.sleep(_PAUSE_SECONDS)

    def _on_progress(self, info: dict[str, Any]) -> None:
        self._accepted.set()
        self.status = info.get("state") or self.status
        self.place = info.get("place")
        self.node = info.get("node") or self.node
        self._label = info.get("label") or self._label
        if info.get("fraction") is not None or info.get("message"):
            self.progress = (info.get("fraction"), info.get("message") or "")
        if info.get("log"):
            self._log = (self._log + self._decoder.decode(info["log"]))[-MAX_TASK_LOG_KEPT:]

    async def _conclude(self, result: Any) -> Any:
        """The value of an answer. Raises what it says instead."""
        self.from_cache = bool(result["cached"])
        self.node = result["node"] or self.node
        self.traceback = result["traceback"] or None
        known = (self.node or "?")[:8]
        node = f"{self._label} ({known})" if self._label else known
        reason = result["reason"] or "it did not say why"
        match result["state"]:
            case "finished":
                payload = codec.convert(Payload, result["payload"])
                return await task_values.aunpack(payload, self._channel)
            case "cancelled":
                raise self._cancelled(result["reason"] or "by its requester")
            case "unknown":
                self.status = "unknown"
                raise TaskUnknown(function=self.task_function_id, node=node, reason=reason)
        raise TaskFailed(
            function=self.task_function_id, node=node, reason=reason, traceback=self.traceback or ""
        )

    def _cancel(self) -> None:
        self._cancelling = True
        if not self._outcome.done():
            self._cancel_task = asyncio.ensure_future(self._say_cancel())

    async def _say_cancel(self) -> None:
        try:
            known = (await (await connection()).call("task.cancel", {"task": self._task}))[
                "cancelled"
            ]
        except KacheryError:
            known = True  # the node went away; when it is back, it is not asked again
        if not known and self._background is not None and not self._outcome.done():
            # The request has not come there yet, or its answer is on the way.
            await asyncio.sleep(_PAUSE_SECONDS)
            if not self._outcome.done():
                await self._say_cancel()

    def _cancelled(self, reason: str) -> TaskCancelled:
        self.status = "cancelled"
        return TaskCancelled(function=self.task_function_id, reason=reason)

    def _what(self) -> str:
        return f"Task {self.task_function_id!r}"


def _seconds(name: str, value: float) -> float:
    seconds = real(name, value)
    if not seconds >= 0:
        raise BadInput(what=name, reason=f"{value!r} is not 0 or more seconds")
    return seconds


async def arequest_task(
    task_function_id: str,
    task_kwargs: dict[str, Any] | None = None,
    task_function_type: TaskType = "pure-calculation",
    channel: str | None = None,
    timeout_sec: float | None = None,
    backend_timeout_sec: float = TASK_BACKEND_SECONDS,
    retries: int = 0,
    cached: bool = True,
) -> TaskRequest:
    """Ask for a task function to be run by whichever node offers it.

    Returns when the local node has the request, which from then on goes on by itself, also when this
    program ends; ``request.cancel()`` ends it. Get the result with ``await request``, or from another
    thread with ``request.wait()`` and ``request.result``.

    The result of a pure calculation that anybody on the channel has already is taken from there. An
    action runs once for each request, or not at all.

    Args:
        task_function_id: the id under which it was registered there.
        task_kwargs: arguments by name: JSON values and numpy arrays.
        task_function_type: as it was registered: pure-calculation, query or action.
        channel: name or id of the only channel on which it may run; any by default.
        timeout_sec: for the whole; None, or more than a year: as long as it takes.
        backend_timeout_sec: to wait until a node that offers it is there.
        retries: how often it is begun again after it failed, or was lost; not for actions.
        cached: whether an old result of a pure calculation will do.

    Raises:
        BadInput: an argument that can never work; names it.
        DaemonNotRunning, NeedsNode
        The result raises, besides: AccessDenied, TaskNotAllowed, NoBackend, DeadlineExceeded,
        ForgedResult, Unreachable, UnknownChannel.
    """
    check_function_id(task_function_id)
    type = check_type(task_function_type)
    offline.require_node("request_task")
    if timeout_sec is not None:
        timeout_sec = _seconds("timeout_sec", timeout_sec)
        if timeout_sec > MAX_TASK_SECONDS:
            timeout_sec = None
    backend_timeout_sec = min(
        _seconds("backend_timeout_sec", backend_timeout_sec), MAX_TASK_SECONDS
    )
    retries = whole("retries", retries)
    if not 0 <= retries <= MAX_TASK_RETRIES:
        raise BadInput(what="retries", reason=f"{retries!r} is not 0 to {MAX_TASK_RETRIES}")
    kwargs = await task_values.encode_kwargs({} if task_kwargs is None else task_kwargs, channel)
    await connection()  # without a node, it is said at once
    inside = current()
    task = os.urandom(TASK_BYTES)
    request = TaskRequest(task, task_function_id, type, channel, timeout_sec)
    await request.start(
        {
            "task": task,
            "function": task_function_id,
            "type": type,
            "kwargs": kwargs,
            "channel": channel,
            "backend_timeout": backend_timeout_sec,
            "retries": retries,
            "cached": bool(cached),
            "within": None if inside is None else inside.task,
        }
    )
    return request
