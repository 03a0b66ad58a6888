"""A worker process as its parent sees it: given jobs, heard, and seen to end.

It has a socket, over which it is told what to run and says how that ends (:mod:`.worker`), and its
standard output and error are one pipe, so that whatever writes there is heard: prints, logging, the
subprocesses of a function, and what a library or Python itself says before it aborts.

Invariant: every run that it was given ends with an :class:`~.run.Outcome`.
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
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

import msgspec

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.limits import KIB, TASK_CANCEL_SECONDS

from .context import Tell
from .run import Job, Outcome
from .script import place_of_script
from .worker import HEADER, frame

_DRAIN_SECONDS: Final = 0.5
"""After a worker's end, what it said last may still be in its socket."""
_PIPE_BYTES: Final = 64 * KIB
_MOST_DRAINED: Final = 16 * _PIPE_BYTES


@dataclass
class Run:
    """One job that a worker process has. ``fraction`` and ``message``: as it said last."""

    job: Job
    tell: Tell
    outcome: asyncio.Future[Outcome] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    begun: bool = False
    killed: bool = False
    waiting: bool = False
    fraction: float | None = None
    message: str = ""


class WorkerProcess(asyncio.Protocol):
    """One process. It runs one job at a time.

    ``on_gone``: called when it has ended; ``on_wait``: when its run begins or ends to wait for other
    tasks.
    """

    def __init__(
        self,
        on_gone: Callable[[WorkerProcess], object],
        on_wait: Callable[[WorkerProcess], object],
    ) -> None:
        self.runs = 0
        """How many it was given."""
        self.held = 0
        """Bytes of memory that it held after the last one."""
        self.worn = False
        """Whether that left it unfit for another one."""
        self.gone = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._on_gone = on_gone
        self._on_wait = on_wait
        self._sent: set[str] = set()
        self._run: Run | None = None
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._code: int | None = None
        self._closed = False
        self._lost = False
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as stack:
            stack.enter_context(theirs)
            stack.callback(ours.close)
            # One pipe for both, so that what it writes is heard in the order in which it was written.
            self._output, written = os.pipe()
            stack.callback(os.close, written)
            self._process = _launch(theirs, written)
            ours = ours.dup()
        os.set_blocking(self._output, False)
        self._loop.add_reader(self._output, self._hear_output)
        threading.Thread(target=self._wait, name="kachery-p2p-worker", daemon=True).start()
        self._connecting = self._loop.create_task(self._connect(ours))

    async def _connect(self, sock: socket.socket) -> None:
        # create_unix_connection and not create_connection: uvloop looks at the family.
        await self._loop.create_unix_connection(lambda: self, sock=sock)

    @property
    def waiting(self) -> bool:
        """Whether its run waits for other tasks, and has given its slot up."""
        return self._run is not None and self._run.waiting

    @property
    def usable(self) -> bool:
        return self._code is None and not self._closed and self._run is None

    def perform(self, run: Run, function: bytes) -> None:
        """Have it run a job."""
        self._run = run
        self.runs += 1
        job = run.job
        pickled = None if job.function in self._sent else function
        self._sent.add(job.function)
        self._write(frame("job", job.id, job.function, pickled, job.kwargs, job.channel))

    def cancel(self, job: bytes) -> None:
        if self._run is not None and self._run.job.id == job:
            self._write(frame("cancel", job))
            self._loop.call_later(TASK_CANCEL_SECONDS, self._kill_run, self._run)

    def _kill_run(self, run: Run) -> None:
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
                run.fraction, run.message, log = items
                run.tell(run.fraction, run.message, log)
            elif kind == "waiting":
                run.waiting = bool(items[0])
                self._on_wait(self)
            else:
                outcome = codec.convert(Outcome, items[0])
                self.held = int(items[1])
                self.worn = bool(items[2])
                # It wrote all of it before it said this.
                log = outcome.log + self._drained()
                self._finish(msgspec.structs.replace(outcome, log=log))

    def _hear_output(self) -> None:
        try:
            data = os.read(self._output, _PIPE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._output)
        elif self._run is not None:
            self._run.tell(self._run.fraction, self._run.message, data)
        else:
            with contextlib.suppress(OSError):  # of nobody's run: for the backend's own terminal
                os.write(2, data)

    def _drained(self) -> bytes:
        """What it wrote and nobody has heard; of children that go on writing, a part."""
        found = bytearray()
        with contextlib.suppress(OSError):  # nothing more, or closed
            while len(found) < _MOST_DRAINED and (data := os.read(self._output, _PIPE_BYTES)):
                found += data
        return bytes(found)

    def end_run(self, reason: str) -> None:
        """End what it runs, and the process with it, for a reason of ours."""
        self._finish(Outcome("failed", reason=reason, log=self._drained()))
        self.kill()

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
        if self._lost:
            return
        self._lost = True
        if self._transport is not None:
            self._transport.close()
        # What it said last is what tells why: a fatal error of Python, or of a library.
        log = self._drained()
        self._loop.remove_reader(self._output)
        os.close(self._output)
        run = self._run
        if run is not None and run.killed:
            reason = "it did not stop when it was asked to, and its process was ended"
            self._finish(Outcome("killed", reason=reason, log=log))
        elif run is not None:
            self._finish(Outcome("lost", reason=f"its worker process {_how(self._code)}", log=log))


def _launch(sock: socket.socket, output: int) -> subprocess.Popen[bytes]:
    """A worker process with its end of a socket, and what all that it writes goes into.

    It begins with nothing of this one but its module path and environment: no fork of a process with
    threads, and the user's script is not run again.
    """
    number = sock.fileno()
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from kachery_p2p.client.tasks.worker import main; main({number}, {place_of_script()!r})"
    )
    return subprocess.Popen(
        [sys.executable, *_flags(), "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
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
