"""The local API's calls about tasks.

=================  ===============================================================  ==================
method             parameters                                                       result
=================  ===============================================================  ==================
``task.request``   task, function, type, kwargs, channel?, backend_timeout,         state, payload, ...
                   timeout?, retries, cached, within?; sends progress
``task.cancel``    task                                                             cancelled
``task.list``      channel?                                                         offers, silent
``task.show``      task?                                                            tasks
``task.publish``   function, type, kwargs, payload, channel?
``task.cached``    function, kwargs, channel?, look                                 payload, node, ...
``task.offer``     backend, functions, channels, slots, label, running, codes;      (nothing)
                   signatures; ends with the backend; sends progress
``task.take``      backend, most, wait                                              jobs, cancel
``task.report``    backend, job, state, fraction, message, log, payload, ...         known
=================  ===============================================================  ==================

Whoever may change something may request; a backend moreover runs what others ask for, so it must be
started by somebody who may.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from kachery_p2p.node.tasks.jobs import Backend, Job
from kachery_p2p.node.tasks.request import Request, RequestState
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput, ProtocolViolation
from kachery_p2p.protocol.limits import (
    MAX_CALL_SECONDS,
    MAX_TASK_CODE,
    MAX_TASK_FUNCTIONS,
    MAX_TASK_KWARGS,
    MAX_TASK_LOG,
    MAX_TASK_MESSAGE,
    MAX_TASK_REASON,
    MAX_TASK_RETRIES,
    MAX_TASK_SECONDS,
    MAX_TASK_SIGNATURE,
    MAX_TASK_SLOTS,
    MAX_TASK_TRACEBACK,
    SHORT_TASK_KWARGS,
)
from kachery_p2p.protocol.tasks.messages import TaskUpdate, make_update
from kachery_p2p.protocol.tasks.result import sign_result
from kachery_p2p.protocol.tasks.signature import TaskSignature
from kachery_p2p.protocol.tasks.task import (
    Payload,
    TaskType,
    check_function_id,
    parse_kwargs,
    task_key,
)
from kachery_p2p.storage.tasks.store import ActionEnd

from .call_table import CallTable
from .live_call import LiveCall
from .services import Services

_Id = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Seconds = Annotated[float, Meta(ge=0, le=MAX_CALL_SECONDS)]
_TaskSeconds = Annotated[float, Meta(ge=0, le=MAX_TASK_SECONDS)]
_Code = Annotated[str, Meta(max_length=MAX_TASK_CODE)]
_Kwargs = Annotated[bytes, Meta(max_length=MAX_TASK_KWARGS)]

LASTING: Final = frozenset({"task.request", "task.offer"})
"""Calls that last as long as a task, or as a backend: weeks, if need be."""


class _Request(msgspec.Struct, frozen=True):
    task: _Id
    function: str
    type: TaskType
    kwargs: _Kwargs
    backend_timeout: _TaskSeconds
    channel: str | None = None
    timeout: _TaskSeconds | None = None
    retries: Annotated[int, Meta(ge=0, le=MAX_TASK_RETRIES)] = 0
    cached: bool = True
    within: _Id | None = None


class _Task(msgspec.Struct, frozen=True):
    task: _Id | None = None


class _Channel(msgspec.Struct, frozen=True):
    channel: str | None = None


class _Publish(msgspec.Struct, frozen=True):
    function: str
    type: TaskType
    kwargs: _Kwargs
    payload: Payload
    channel: str | None = None


class _Cached(msgspec.Struct, frozen=True):
    function: str
    kwargs: _Kwargs
    type: TaskType = "pure-calculation"
    channel: str | None = None
    look: bool = True


class _Offer(msgspec.Struct, frozen=True):
    backend: _Id
    functions: Annotated[list[tuple[str, TaskType]], Meta(max_length=MAX_TASK_FUNCTIONS)]
    channels: list[str]
    slots: Annotated[int, Meta(ge=1, le=MAX_TASK_SLOTS)]
    label: str = ""
    running: list[_Id] = []
    codes: Annotated[dict[str, _Code], Meta(max_length=MAX_TASK_FUNCTIONS)] = {}
    signatures: Annotated[dict[str, TaskSignature], Meta(max_length=MAX_TASK_FUNCTIONS)] = {}


class _Take(msgspec.Struct, frozen=True):
    backend: _Id
    most: Annotated[int, Meta(ge=0, le=MAX_TASK_SLOTS)]
    wait: _Seconds


class _Report(msgspec.Struct, frozen=True):
    backend: _Id
    job: _Id
    state: Literal["running"] | ActionEnd
    fraction: float | None = None
    message: Annotated[str, Meta(max_length=MAX_TASK_MESSAGE)] = ""
    log: Annotated[bytes, Meta(max_length=MAX_TASK_LOG)] = b""
    payload: Payload | None = None
    reason: Annotated[str, Meta(max_length=MAX_TASK_REASON)] = ""
    traceback: Annotated[str, Meta(max_length=MAX_TASK_TRACEBACK)] = ""


class TaskCalls:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._context = services.context
        self._book = services.context.book
        self._queue = services.task_queue
        self._requests = services.task_requests

    def calls(self) -> CallTable:
        return {
            "task.request": (_Request, self._request),
            "task.cancel": (_Task, self._cancel),
            "task.list": (_Channel, self._list),
            "task.show": (_Task, self._show),
            "task.publish": (_Publish, self._publish),
            "task.cached": (_Cached, self._cached),
            "task.offer": (_Offer, self._offer),
            "task.take": (_Take, self._take),
            "task.report": (_Report, self._report),
        }

    def _channel(self, name: str | None) -> bytes | None:
        return None if name is None else self._book.resolve(name)

    async def _check(self, function: str, kwargs: bytes) -> None:
        """Raises BadInput. Large arguments take too long for the event loop."""
        if len(kwargs) > SHORT_TASK_KWARGS:
            await self._context.workers.disk(_checked, function, kwargs)
        else:
            _checked(function, kwargs)

    # --- requests ----------------------------------------------------------------------------

    async def _request(self, params: _Request, live: LiveCall) -> Any:
        live.caller.require_write()
        await self._check(params.function, params.kwargs)
        now = asyncio.get_running_loop().time()

        def tell(state: RequestState, update: TaskUpdate, node: str, label: str) -> None:
            live.progress(
                {
                    "state": state,
                    "place": update.place,
                    "fraction": update.fraction,
                    "message": update.message,
                    "log": update.log,
                    "node": node or None,
                    "label": label,
                }
            )

        request = Request(
            params.task,
            params.function,
            params.type,
            params.kwargs,
            self._channel(params.channel),
            None if params.timeout is None else now + params.timeout,
            now + params.backend_timeout,
            params.retries,
            params.cached,
            now,
            self._context.clock(),
            tell,
            within=params.within,
        )
        return codec.plain(await self._requests.run(request))

    async def _cancel(self, params: _Task, live: LiveCall) -> Any:
        live.caller.require_write()
        request = self._requests.live.get(params.task or b"")
        if request is None:
            return {"cancelled": False}
        request.cancelled.set()
        return {"cancelled": True}

    async def _list(self, params: _Channel, live: LiveCall) -> Any:
        offers, silent = await self._services.task_backends.all(self._channel(params.channel))
        return {
            "offers": [
                {
                    "channel": self._services.network.name_of(channel),
                    "node": self._context.node_id if holder is None else holder.node,
                    "label": self._context.label if holder is None else holder.label,
                    **msgspec.structs.asdict(offer),
                    "signature": codec.plain(offer.signature),
                }
                for holder, channel, offer in offers
            ],
            "silent": silent,
        }

    async def _show(self, params: _Task, live: LiveCall) -> Any:
        tasks = [self._describe_request(request) for request in self._requests.live.values()]
        jobs = dict.fromkeys(self._queue.jobs.values())
        jobs |= dict.fromkeys(self._queue.ended.jobs())
        tasks += [self._describe_job(task, job) for job in jobs for task in sorted(job.tasks)]
        if params.task is not None:
            tasks = [task for task in tasks if task["task"] == params.task]
        return {"tasks": tasks}

    def _describe_request(self, request: Request) -> dict[str, Any]:
        where = request.where or request.channel
        return {
            "task": request.task,
            "function": request.function,
            "type": request.type,
            "state": request.state,
            "node": request.node,
            "label": request.label,
            "channel": "" if where is None else self._services.network.name_of(where),
            "since": request.at,
            "reason": request.reason,
            **request.step._asdict(),
            "side": "requested",
        }

    def _describe_job(self, task: bytes, job: Job) -> dict[str, Any]:
        return {
            "task": task,
            "function": job.function,
            "type": job.type,
            "state": job.state,
            "node": job.requester,
            "label": job.backend.label if job.backend is not None else "",
            "channel": self._services.network.name_of(job.channel),
            "since": job.since,
            "reason": job.reason,
            **job.step._asdict(),
            "side": "running here",
        }

    # --- results -----------------------------------------------------------------------------

    async def _publish(self, params: _Publish, live: LiveCall) -> Any:
        live.caller.require_write()
        await self._check(params.function, params.kwargs)
        channel = self._channel(params.channel)
        me = self._context.node_id
        channels = [channel] if channel is not None else list(self._book)
        able = [each for each in channels if "provide-tasks" in self._book.effective(each, me)]
        if channel is not None and not able:
            self._book.require(channel, node_id=me, role="provide-tasks", side="provider")
        result = sign_result(
            self._context.key,
            key=task_key(params.function, params.kwargs),
            function=params.function,
            type=params.type,
            timestamp=round(self._context.clock() * 1000),
            payload=params.payload,
        )
        for each in able:
            await self._services.task_results.keep(result, each)
        return {}

    async def _cached(self, params: _Cached, live: LiveCall) -> Any:
        await self._check(params.function, params.kwargs)
        key = task_key(params.function, params.kwargs)
        result = await self._requests.cached(
            key, params.type, self._channel(params.channel), look=params.look
        )
        if result is None:
            return {"payload": None, "node": "", "timestamp": 0}
        return {
            "payload": codec.plain(result.payload),
            "node": result.node.hex(),
            "timestamp": result.timestamp,
        }

    # --- backends ----------------------------------------------------------------------------

    async def _offer(self, params: _Offer, live: LiveCall) -> Any:
        live.caller.require_write()
        for function, _ in params.functions:
            check_function_id(function)
        channels = frozenset(self._book.resolve(name) for name in params.channels)
        for channel in channels:
            self._book.require(
                channel, node_id=self._context.node_id, role="provide-tasks", side="provider"
            )
        backend = Backend(
            params.backend,
            dict(params.functions),
            channels,
            params.slots,
            params.label,
            frozenset(params.running),
            params.codes,
            {
                name: each
                for name, each in params.signatures.items()
                if each.size <= MAX_TASK_SIGNATURE
            },
        )
        changed = await self._services.task_results.computed_otherwise(params.codes)
        self._queue.offer(backend)
        try:
            live.progress({"ready": True, "changed": changed})
            await asyncio.Event().wait()
        finally:
            self._queue.withdraw(backend)

    async def _take(self, params: _Take, live: LiveCall) -> Any:
        live.caller.require_write()
        jobs, cancel = await self._queue.take(params.backend, params.most, params.wait)
        return {
            "jobs": [
                {
                    "job": job.id,
                    "function": job.function,
                    "type": job.type,
                    "kwargs": job.kwargs,
                    "requester": job.requester,
                    "channel": self._services.network.name_of(job.channel),
                    "timeout": None,
                }
                for job in jobs
            ],
            "cancel": cancel,
        }

    async def _report(self, params: _Report, live: LiveCall) -> Any:
        live.caller.require_write()
        if (params.state == "finished") != (params.payload is not None):
            raise BadInput(what="task report", reason="its state and its payload do not fit")
        update = make_update(
            "running",
            fraction=params.fraction,
            message=params.message,
            log=params.log,
            reason=params.reason,
            traceback=params.traceback,
        )
        end = None if params.state == "running" else params.state
        known = await self._queue.report(params.backend, params.job, update, end, params.payload)
        return {"known": known}


def _checked(function: str, kwargs: bytes) -> None:
    check_function_id(function)
    try:
        parse_kwargs(kwargs)
    except ProtocolViolation as error:
        raise BadInput(what="task arguments", reason=str(error.fields["reason"])) from error
