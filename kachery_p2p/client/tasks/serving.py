"""Serving task functions: in a script that does nothing else, or beside other things in one's own event
loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import Executor
from typing import Any, Final

from kachery_p2p.client.session import offline, portal
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.limits import MAX_TASK_SLOTS
from kachery_p2p.protocol.numbers import whole

from . import functions as task_functions
from .backend import Backend
from .executors import count_slots
from .renewal import Renewal

_log = logging.getLogger("kachery_p2p.tasks")

_LOOK_SECONDS: Final = 0.1
"""How often it is looked whether a threading.Event says to stop."""


@contextlib.asynccontextmanager
async def task_backend(
    channels: str | Iterable[str],
    task_function_ids: Iterable[str] | None = None,
    executor: Executor | None = None,
    slots: int | None = None,
    label: str = "",
    max_tasks_per_worker: int | None = None,
    max_memory_per_worker: int | None = None,
    backend_id: str | None = None,
) -> AsyncIterator[Backend]:
    """Serve task functions while the ``async with`` block runs, in one's own event loop.

    >>> async with kc.task_backend(channels=["lab"]):      # doctest: +SKIP
    ...     await something_else()

    It is registered when the block begins. Arguments and errors as :func:`run_task_backend`.
    """
    names = [channels] if isinstance(channels, str) else list(channels)
    if not names:
        raise BadInput(what="channels", reason="there is none; give the names of some")
    functions = task_functions.choose(task_function_ids)
    offline.require_node("run_task_backend")
    if executor is not None and slots is None:
        slots = await asyncio.to_thread(count_slots, executor)
    slots = None if slots is None else whole("slots", slots)
    if slots is not None and not 1 <= slots <= MAX_TASK_SLOTS:
        raise BadInput(what="slots", reason=f"{slots} is not between 1 and {MAX_TASK_SLOTS}")
    renewal = Renewal(max_tasks_per_worker, max_memory_per_worker)
    renewal.check()
    if executor is not None and renewal != Renewal():
        reason = "the processes are the executor's own; ask it to renew them"
        raise BadInput(what="max_tasks_per_worker and max_memory_per_worker", reason=reason)
    backend = Backend(functions, names, executor, slots, label or backend_id or "", renewal)
    serving = backend.serving = asyncio.ensure_future(backend.serve())
    ready = asyncio.ensure_future(backend.ready.wait())
    try:
        await asyncio.wait([serving, ready], return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
        yield backend
        if serving.done():
            await serving
    finally:
        ready.cancel()
        await backend.stop()
        serving.cancel()
        await asyncio.wait([serving])
        if not serving.cancelled():
            serving.exception()


async def arun_task_backend(
    channels: str | Iterable[str],
    task_function_ids: Iterable[str] | None = None,
    executor: Executor | None = None,
    slots: int | None = None,
    label: str = "",
    stop: threading.Event | None = None,
    max_tasks_per_worker: int | None = None,
    max_memory_per_worker: int | None = None,
    *,
    backend_id: str | None = None,
) -> None:
    """Offer task functions on channels and run them when other nodes ask, until told to stop.

    This node needs the role provide-tasks. When the node is restarted, the functions are offered again
    by themselves. In a worker process of a backend this does nothing, so that a script may end with it.

    What a function loads is what members of the channel may have on which it was asked for: files that
    this node has for other channels only are not there for it, unless it names one (``channel=``).

    What a function prints, on standard output or error, goes to who asked. With the default executor so
    does what its subprocesses, logging and libraries write; on others what goes through ``sys.stdout``
    and ``sys.stderr``. A function that waits for tasks that it requested (``request.wait()``, ``await
    request``) leaves its slot to them; at most 100 do so at once.

    Args:
        channels: names or ids of channels.
        task_function_ids: which registered functions; all by default.
        executor: where they run: any concurrent.futures.Executor, such as dask's
            ``client.get_executor()``. By default a pool of processes, one per processor, in which a
            function that does not stop when it is cancelled is ended with its process. On others
            cancelling can only ask.
        slots: how many run at once; by default as many as the executor has workers.
        label: shown to those who look what is on offer.
        stop: set it to end this.
        max_tasks_per_worker: a process is renewed after so many runs; by default never.
        max_memory_per_worker: a process is renewed when it holds more bytes than this after a run; by
            default more than this computer's memory (or its container's) divided by ``slots``.
        backend_id: what kachery_client called the label.

    Raises:
        BadInput: no function, no channel, or something that cannot be sent to a worker process.
        AccessDenied: a role is missing.
        UnknownChannel, ReadOnlyUser, DaemonNotRunning, NeedsNode
    """
    if _in_worker():
        return
    async with task_backend(
        channels, task_function_ids, executor, slots, label or backend_id or "",
        max_tasks_per_worker, max_memory_per_worker,
    ) as backend:  # fmt: skip
        _log.info("Serving on %s.", channels)
        # Nothing tells of a threading.Event.
        while not backend.ended and not (stop is not None and stop.is_set()):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)


def run_task_backend(
    channels: str | Iterable[str],
    task_function_ids: Iterable[str] | None = None,
    executor: Executor | None = None,
    slots: int | None = None,
    label: str = "",
    stop: threading.Event | None = None,
    max_tasks_per_worker: int | None = None,
    max_memory_per_worker: int | None = None,
    *,
    backend_id: str | None = None,
) -> None:
    if _in_worker():
        return
    ended = _Either(stop)
    with _until_signal(ended):
        portal.run(
            lambda: arun_task_backend(
                channels,
                task_function_ids,
                executor,
                slots,
                label or backend_id or "",
                ended,
                max_tasks_per_worker,
                max_memory_per_worker,
            ),
            name="run_task_backend",
        )


run_task_backend.__doc__ = (
    f"{arun_task_backend.__doc__}\n    Ctrl-C and SIGTERM end it in order, and it returns."
)


def _in_worker() -> bool:
    import multiprocessing

    # What multiprocessing itself goes by when it runs a script again in a new process.
    again = getattr(multiprocessing.current_process(), "_inheriting", False)
    return task_functions.in_worker or bool(again)


class _Either(threading.Event):
    """Set when it or another one is."""

    def __init__(self, other: threading.Event | None) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        return super().is_set() or (self._other is not None and self._other.is_set())


@contextlib.contextmanager
def _until_signal(stop: threading.Event) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM sets ``stop``; the next one does what it did before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    numbers: list[int] = [signal.SIGINT, signal.SIGTERM]

    def on_signal(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, before[number])

    for each in numbers:
        before[each] = signal.signal(each, on_signal)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
