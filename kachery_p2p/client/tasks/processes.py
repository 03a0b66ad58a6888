"""A pool of processes that run task functions, each of which can be ended without harming the others.

It is our own because those that there are cannot do what tasks need: concurrent.futures and pebble
share one pipe among their workers, so that one that dies at the wrong moment breaks the whole pool, and
start them with multiprocessing, which runs the user's script again in every one. Here each worker has a
socket of its own and begins as an empty interpreter; functions of a script or notebook are sent to it
by value (cloudpickle), all others by name.

Invariants: at most ``slots`` processes, started when there is something to do; every run ends with an
:class:`~.run.Outcome`; one that was cancelled frees its slot within ``TASK_CANCEL_SECONDS`` and a
moment; what a worker leaves behind (its own children) ends with it, and it with this process, however
that ends.

Non-goals: which job runs when.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.limits import TASK_CANCEL_SECONDS

from .context import Tell
from .functions import TaskFunction
from .run import Job, Outcome
from .worker import HEADER, frame

_TRIES: Final = 3
"""A worker that dies before it begins a job has done nothing; then the job gets another one."""
_DRAIN_SECONDS: Final = 0.5
"""After a worker's end, what it said last may still be in its socket."""


def count_cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def pickled(function: TaskFunction) -> bytes:
    """A function for another process: by value if it is a script's or notebook's, else by name.

    Raises:
        BadInput: it holds something that cannot be sent.
    """
    import cloudpickle

    try:
        data: bytes = cloudpickle.dumps(function.function)
    except Exception as error:  # whatever the things that it refers to raise when they are pickled
        reason = (
            f"it cannot be sent to a worker process ({type(error).__name__}: {error}); open what it "
            "uses inside it, or run it in threads with executor=ThreadPoolExecutor()"
        )
        raise BadInput(what=f"task function {function.id!r}", reason=reason) from error
    return data


@dataclass
class _Run:
    job: Job
    tell: Tell
    outcome: asyncio.Future[Outcome] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    begun: bool = False
    killed: bool = False


class ProcessPool:
    """Runs jobs, at most ``slots`` at once. To be used in one event loop."""

    def __init__(self, functions: Mapping[str, TaskFunction], slots: int | None = None) -> None:
        """Raises BadInput if a function cannot be sent to a process."""
        self.slots = count_cpus() if slots is None else slots
        self._functions = {name: pickled(function) for name, function in functions.items()}
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._runs: dict[bytes, _Worker] = {}

    @property
    def free(self) -> int:
        return self.slots - len(self._runs)

    async def run(self, job: Job, tell: Tell) -> Outcome:
        """Run a job; ``tell`` is called on the loop with its progress and what it prints."""
        for _ in range(_TRIES):
            run = _Run(job, tell)
            outcome = await self._try(run)
            if outcome.state != "lost" or run.begun:
                break
        return outcome

    async def _try(self, run: _Run) -> Outcome:
        job = run.job
        while self._idle and not self._idle[-1].usable:
            self._idle.pop()
        worker = self._idle.pop() if self._idle else self._start()
        self._runs[job.id] = worker
        worker.perform(run, self._functions[job.function])
        try:
            return await run.outcome
        finally:
            if self._runs.get(job.id) is worker:
                del self._runs[job.id]
            if worker.usable and run.outcome.done() and not run.outcome.cancelled():
                self._idle.append(worker)
            else:
                worker.kill()

    def cancel(self, job: bytes) -> None:
        """Ask a run to stop; its process is ended if it does not."""
        worker = self._runs.get(job)
        if worker is not None:
            worker.cancel(job)

    async def close(self) -> None:
        """End all processes; returns when they are gone."""
        workers = list(self._workers)
        for worker in workers:
            worker.close()
        if workers:
            gone = [asyncio.ensure_future(worker.gone.wait()) for worker in workers]
            await asyncio.wait(gone, timeout=TASK_CANCEL_SECONDS)
            for worker in workers:
                worker.kill()
            await asyncio.wait(gone)

    def _start(self) -> _Worker:
        worker = _Worker(self._workers.discard)
        self._workers.add(worker)
        return worker


class _Worker(asyncio.Protocol):
    """One process. It runs one job at a time."""

    def __init__(self, on_gone: Callable[[_Worker], object]) -> None:
        self.gone = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._on_gone = on_gone
        self._sent: set[str] = set()
        self._run: _Run | None = None
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._code: int | None = None
        self._closed = False
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = _launch(theirs)
        threading.Thread(target=self._wait, name="kachery-p2p-worker", daemon=True).start()
        self._connecting = self._loop.create_task(self._connect(ours))

    async def _connect(self, sock: socket.socket) -> None:
        # create_unix_connection and not create_connection: uvloop looks at the family.
        await self._loop.create_unix_connection(lambda: self, sock=sock)

    @property
    def usable(self) -> bool:
        return self._code is None and not self._closed and self._run is None

    def perform(self, run: _Run, function: bytes) -> None:
        """Have it run a job."""
        self._run = run
        job = run.job
        pickled = None if job.function in self._sent else function
        self._sent.add(job.function)
        self._write(frame("job", job.id, job.function, pickled, job.kwargs, job.channel))

    def cancel(self, job: bytes) -> None:
        if self._run is not None and self._run.job.id == job:
            self._write(frame("cancel", job))
            self._loop.call_later(TASK_CANCEL_SECONDS, self._kill_run, self._run)

    def _kill_run(self, run: _Run) -> None:
        if self._run is run:
            run.killed = True
            self.kill()

    def kill(self) -> None:
        """End it, whatever it does; what it started goes with it."""
        if self._code is None:
            _kill_group(self._process.pid)

    def close(self) -> None:
        """Have it end by itself."""
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    def _write(self, data: bytes) -> None:
        if self._transport is None:
            self._unsent.append(data)
        elif not self._transport.is_closing():
            self._transport.write(data)

    # --- what it says ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no instance of it
        for data in self._unsent:
            self._transport.write(data)
        self._unsent.clear()
        if self._closed:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while len(buffer) >= HEADER:
            end = HEADER + int.from_bytes(buffer[:HEADER], "big")
            if len(buffer) < end:
                break
            kind, job, *items = codec.unpack(bytes(buffer[HEADER:end]))
            del buffer[:end]
            run = self._run
            if run is None or run.job.id != job:
                continue
            if kind == "begun":
                run.begun = True
            elif kind == "update":
                run.tell(*items)
            else:
                self._finish(codec.convert(Outcome, items[0]))

    def connection_lost(self, error: Exception | None) -> None:
        self._closed = True
        if self._code is not None:
            self._lose()
        else:
            self._loop.call_later(_DRAIN_SECONDS + TASK_CANCEL_SECONDS, self.kill)

    def _finish(self, outcome: Outcome) -> None:
        run, self._run = self._run, None
        if run is not None and not run.outcome.done():
            run.outcome.set_result(outcome)

    # --- its end -----------------------------------------------------------------------------

    def _wait(self) -> None:
        """In a thread: until the process is gone."""
        process = self._process
        if hasattr(os, "waitid"):
            # Its number is not free for another one until it was waited for.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            _kill_group(process.pid)
        code = process.wait()
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._ended, code)

    def _ended(self, code: int) -> None:
        self._code = code
        self.gone.set()
        self._on_gone(self)
        if self._closed or self._transport is None:
            self._lose()
        else:
            self._loop.call_later(_DRAIN_SECONDS, self._lose)

    def _lose(self) -> None:
        """It is gone, and will say nothing more."""
        if self._transport is not None:
            self._transport.close()
        run = self._run
        if run is not None and run.killed:
            reason = "it did not stop when it was asked to, and its process was ended"
            self._finish(Outcome("killed", reason=reason))
        elif run is not None:
            self._finish(Outcome("lost", reason=f"its worker process {_how(self._code)}"))


def _launch(sock: socket.socket) -> subprocess.Popen[bytes]:
    """A worker process with its end of a socket.

    It begins with nothing of this one but its module path and environment: no fork of a process with
    threads, and the user's script is not run again.
    """
    number = sock.fileno()
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from kachery_p2p.client.tasks.worker import main; main({number})"
    )
    return subprocess.Popen(
        [sys.executable, *_flags(), "-c", code],
        stdin=subprocess.DEVNULL,
        pass_fds=[number],
        start_new_session=True,
    )


def _flags() -> list[str]:
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return flags


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _how(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None or code >= 0:
        return f"exited with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = "; was there too little memory?" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"
