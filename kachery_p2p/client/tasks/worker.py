"""What runs in a worker process of the pool (:mod:`.processes`).

The parent's end of the socket is its only tie: when that closes, whatever the reason, this process and
all that it started are gone within ``TASK_CANCEL_SECONDS``.

Frames are a big-endian u32 and so many bytes of msgpack, a list whose first item says what it is.

* to the worker: ``job`` (id, function id, the pickled function or None if it was sent before, kwargs,
  channel), ``cancel`` (job id)
* from the worker: ``begun`` (job id), ``update`` (job id, fraction, message, log), ``waiting`` (job id,
  whether its function waits for other tasks), ``end`` (job id, outcome, bytes of memory held, whether
  this process is unfit for another run)

What a function writes to standard output or error, by whatever means, the parent hears from the pipe
that both are here.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Final

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.limits import TASK_CANCEL_SECONDS

from . import functions as task_functions
from .context import TaskContext
from .renewal import held_memory
from .run import Outcome, failure, perform
from .script import Place, adopt
from .surroundings import apart, kept_surroundings

HEADER: Final = 4


def frame(*items: Any) -> bytes:
    """Items as one frame."""
    packed = codec.pack(codec.plain(items))
    return len(packed).to_bytes(HEADER, "big") + packed


def main(descriptor: int, place: Place = (None, None)) -> None:
    """Run jobs that come over the socket ``descriptor`` until its other end closes. ``place``: of the
    script whose functions they are."""
    task_functions.in_worker = True
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Heard while it runs; and no letter that this computer's locale lacks is an error.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    # Ctrl-C is the parent's affair, which ends us in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)
    try:
        _Worker(sock, place).run()
    except BaseException:
        # Nobody is left who could report, and a thread of the user's must not keep this alive: the
        # parent sees the end, and says that the run was lost.
        try:
            traceback.print_exc()  # where to, the function may have closed
        finally:
            os._exit(1)


def _flush() -> None:
    """Whatever was written and lies in a buffer of this process goes out before the end is told."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        # The function may have put anything in their place, or closed them.
        with contextlib.suppress(Exception):
            if stream is not None:
                stream.flush()
    # What libraries write by C's stdio.
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).fflush(None)


class _Worker:
    def __init__(self, sock: socket.socket, place: Place) -> None:
        self._socket = sock
        self._place = place
        self._sending = threading.Lock()
        self._jobs: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        self._functions: dict[str, Callable[..., Any]] = {}
        self._lock = threading.Lock()
        self._running: tuple[bytes, TaskContext] | None = None
        self._cancelled: bytes | None = None

    def run(self) -> None:
        threading.Thread(target=self._read, name="kachery-p2p-worker", daemon=True).start()
        while (job := self._jobs.get()) is not None:
            self._perform(*job)

    def _send(self, *items: Any) -> None:
        data = frame(*items)
        with self._sending:
            self._socket.sendall(data)

    def _perform(
        self, job: bytes, name: str, pickled: bytes | None, kwargs: bytes, channel: str
    ) -> None:
        context = TaskContext(
            lambda fraction, message, log: self._send("update", job, fraction, message, log),
            lambda waiting: self._send("waiting", job, waiting),
        )
        context.task = job
        with self._lock:
            self._running = (job, context)
            cancelled = self._cancelled == job
        if cancelled:
            context.cancel()
        try:
            function = self._function(name, pickled)
            adopt(function, self._place)
        except BaseException as error:
            found = failure(error)
            reason = f"its worker process could not load it: {found.reason}"
            outcome = Outcome("failed", reason=reason, traceback=found.traceback)
            worn = False
        else:
            self._send("begun", job)
            with kept_surroundings() as surroundings:
                outcome = apart(
                    lambda: perform(function, kwargs, channel, context, whole_process=True)
                )
                _flush()
            worn = surroundings.worn
        with self._lock:
            self._running = None
        _flush()
        held = held_memory()
        try:
            self._send("end", job, outcome, held, worn)
        except (ValueError, TypeError) as error:  # something in it that msgpack does not take
            self._send("end", job, failure(error), held, worn)

    def _function(self, name: str, pickled: bytes | None) -> Callable[..., Any]:
        if pickled is not None:
            import cloudpickle

            self._functions[name] = cloudpickle.loads(pickled)
        return self._functions[name]

    def _read(self) -> None:
        try:
            file = self._socket.makefile("rb")
            while len(head := file.read(HEADER)) == HEADER:
                kind, *items = codec.unpack(file.read(int.from_bytes(head, "big")))
                if kind == "job":
                    self._jobs.put(items)
                else:
                    self._cancel(items[0])
        finally:
            self._end()

    def _cancel(self, job: bytes | None) -> None:
        with self._lock:
            self._cancelled = job
            running = self._running
        if running is not None and job in (None, running[0]):
            running[1].cancel()

    def _end(self) -> None:
        """The parent closed the socket, or is gone."""
        self._jobs.put(None)
        self._cancel(None)
        time.sleep(TASK_CANCEL_SECONDS)
        os.killpg(os.getpgrp(), signal.SIGKILL)
