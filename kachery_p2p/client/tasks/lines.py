"""The reporting line between a backend and jobs in processes of the user's own executor.

A backend listens on a port of 127.0.0.1; a process that runs its jobs connects once, says the token
that came with the job, and then both sides send JSON, one value per line:

* from the job's process: ``{"token"}`` first, then ``{"job", "begin": true}``, ``{"job", "fraction",
  "message", "log"}`` and ``{"job", "waiting": bool}``, whether it waits for other tasks
* from the backend: ``{"job", "go": bool, "cancel": bool}`` as the answer to ``begin``, and ``{"job",
  "cancel": true}`` at any time

Invariant: an action gets the answer ``go`` once, so that an executor which repeats what its lost
worker had begun (as dask does) does not run it twice. Everything else runs without the line, too, for
example on another computer.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Final

from kachery_p2p.protocol.limits import KIB

from .context import TaskContext, Tell

_MOST_LINE: Final = 4096 * KIB
"""Bytes of one line: what a function printed and did not hand on yet, all of it escaped."""
_CONNECT_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = 10.0
"""A backend that cannot be reached is not tried again by this process for so long."""


# --- the backend's side --------------------------------------------------------------------------


@dataclass
class _Entry:
    once: bool
    tell: Tell
    wait: Callable[[bool], object]
    begun: bool = False
    cancelled: bool = False
    writer: asyncio.StreamWriter | None = None


class LineServer:
    """Where a backend's jobs in other processes report to."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(16)
        self.port = 0
        self._jobs: dict[str, _Entry] = {}
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_MOST_LINE)
            self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.close()
            await self._server.wait_closed()
            self._server = None

    def open(
        self,
        job: str,
        *,
        once: bool,
        tell: Tell,
        wait: Callable[[bool], object] = lambda waiting: None,
    ) -> None:
        """A job may report from now on. ``once``: it may begin one time only. ``wait``: told whether it
        waits for other tasks."""
        self._jobs[job] = _Entry(once, tell, wait)

    def end(self, job: str) -> None:
        """It may no longer."""
        self._jobs.pop(job, None)

    def begun(self, job: str) -> bool:
        entry = self._jobs.get(job)
        return entry is not None and entry.begun

    def cancel(self, job: str) -> None:
        """Tell a job to stop, now or when it begins."""
        entry = self._jobs.get(job)
        if entry is not None:
            entry.cancelled = True
            if entry.writer is not None:
                _say(entry.writer, {"job": job, "cancel": True})

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        # Whoever else reaches the port says nothing that is listened to; ValueError: a line that is
        # too long, or no JSON.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            async with asyncio.timeout(_CONNECT_SECONDS):
                first = json.loads(await reader.readline())
            if hmac.compare_digest(str(first["token"]).encode(), self.token.encode()):
                while line := await reader.readline():
                    self._hear(json.loads(line), writer)
        self._writers.discard(writer)
        writer.close()

    def _hear(self, said: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        entry = self._jobs.get(said["job"])
        if entry is None:
            if said.get("begin"):
                _say(writer, {"job": said["job"], "go": False, "cancel": True})
        elif said.get("begin"):
            go = not (entry.once and entry.begun)
            entry.begun = True
            entry.writer = writer
            _say(writer, {"job": said["job"], "go": go, "cancel": entry.cancelled})
        elif "waiting" in said:
            entry.wait(bool(said["waiting"]))
        else:
            entry.tell(said["fraction"], said["message"], said["log"].encode())


def _say(writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
    if not writer.is_closing():
        writer.write(json.dumps(value).encode() + b"\n")


# --- the job's side ------------------------------------------------------------------------------


class Line:
    """The connection of this process to one backend; made by :func:`line_to`.

    Raises:
        OSError: nobody answers there.
    """

    def __init__(self, port: int, token: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), _CONNECT_SECONDS)
        self._socket.settimeout(None)
        self._sending = threading.Lock()
        self._contexts: dict[str, TaskContext] = {}
        self._answers: dict[str, tuple[threading.Event, list[bool]]] = {}
        self.alive = True
        self._send({"token": token})
        threading.Thread(target=self._read, name="kachery-p2p-line", daemon=True).start()

    def begin(self, job: str, context: TaskContext) -> bool | None:
        """Ask whether a job may begin; None: the backend does not answer. From then on the job is
        told when it is to stop."""
        answered, go = threading.Event(), [False]
        self._contexts[job] = context
        self._answers[job] = (answered, go)
        try:
            self._send({"job": job, "begin": True})
            came = answered.wait(_CONNECT_SECONDS)
        except OSError:
            came = False
        self._answers.pop(job, None)
        return go[0] if came and self.alive else None

    def end(self, job: str) -> None:
        self._contexts.pop(job, None)

    def tell(self, job: str, fraction: float | None, message: str, log: bytes) -> None:
        """Report. Raises OSError."""
        text = log.decode("utf-8", "replace")
        self._send({"job": job, "fraction": fraction, "message": message, "log": text})

    def wait(self, job: str, waiting: bool) -> None:
        """Say whether a job waits for other tasks. Raises OSError."""
        self._send({"job": job, "waiting": waiting})

    def _send(self, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode() + b"\n"
        with self._sending:
            self._socket.sendall(data)

    def _read(self) -> None:
        try:
            file: IO[bytes] = self._socket.makefile("rb")
            while line := file.readline(_MOST_LINE):
                self._hear(json.loads(line))
        except (OSError, ValueError):
            pass  # it is gone; what runs here goes on without it
        finally:
            self.alive = False
            self._socket.close()
            for answered, _ in list(self._answers.values()):
                answered.set()

    def _hear(self, said: dict[str, Any]) -> None:
        context = self._contexts.get(said["job"])
        if context is not None and said.get("cancel"):
            context.cancel()
        waiting = self._answers.get(said["job"])
        if waiting is not None and "go" in said:
            waiting[1][0] = said["go"]
            waiting[0].set()


_lines: dict[tuple[int, str], Line] = {}
_failed: dict[tuple[int, str], float] = {}
_lock = threading.Lock()


def line_to(port: int, token: str) -> Line | None:
    """This process's line to a backend; None if it cannot be reached from here."""
    key = (port, token)
    with _lock:
        line = _lines.get(key)
        if line is not None and line.alive:
            return line
        if time.monotonic() < _failed.get(key, 0.0):
            return None
        try:
            line = _lines[key] = Line(port, token)
        except OSError:
            _failed[key] = time.monotonic() + _RETRY_SECONDS
            return None
        return line


def with_line(
    port: int, token: str, job: str, work: Callable[[TaskContext, bool | None], Any]
) -> Any:
    """Do ``work(context, go)``, where ``go`` is what :meth:`Line.begin` says."""
    line = line_to(port, token)

    def tell(fraction: float | None, message: str, log: bytes) -> None:
        if line is not None:
            line.tell(job, fraction, message, log)

    def wait(waiting: bool) -> None:
        if line is not None:
            line.wait(job, waiting)

    context = TaskContext(tell, wait)
    try:
        return work(context, None if line is None else line.begin(job, context))
    finally:
        if line is not None:
            line.end(job)
