"""A forked process becomes the program that was asked for, and runs it as an interpreter would."""

from __future__ import annotations

import builtins
import fcntl
import importlib.machinery
import io
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import time
import types
from dataclasses import dataclass
from typing import Any, TextIO

from . import popen
from .request import LIMITS, Reply, Request, current_limits, send_reply

_OURS = __name__.partition(".")[0]
"""The package of the tests, of which a program knows nothing."""


@dataclass
class Program:
    request: Request
    descriptors: list[int]
    sock: socket.socket
    """To whoever asked."""

    def become(self) -> None:
        """Everything that a process is born with. If it cannot be had, whoever asked hears why, as
        from Popen, and this process ends."""
        try:
            self._place_descriptors()
            self._settle()
        except OSError as error:
            send_reply(self.sock, Reply.FAILED, error.errno or 0)
            os._exit(255)
        send_reply(self.sock, Reply.READY, os.getpid())
        self.sock.close()
        self._make_interpreter()

    def _place_descriptors(self) -> None:
        wanted = self.request.descriptors
        above = max(wanted) + 1
        moved = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, above) for each in self.descriptors]
        kept = fcntl.fcntl(self.sock, fcntl.F_DUPFD_CLOEXEC, above)
        self.sock.close()
        self.sock = socket.socket(fileno=kept)
        for here, there in zip(moved, wanted, strict=True):
            os.dup2(here, there, inheritable=True)
        below = 0
        for each in sorted([*wanted, kept]):
            if below < each:  # of nothing, from 0, Python makes everything
                os.closerange(below, each)
            below = each + 1
        os.closerange(below, resource.getrlimit(resource.RLIMIT_NOFILE)[1])

    def _settle(self) -> None:
        request = self.request
        os.chdir(request.folder)
        os.umask(request.mask)
        if request.new_session:
            os.setsid()
        if request.group >= 0:
            os.setpgid(0, request.group)
        for which, now, wanted in zip(LIMITS, current_limits(), request.limits, strict=True):
            if now != wanted:
                resource.setrlimit(which, wanted)
        os.environ.clear()
        os.environ.update(request.environment)
        time.tzset()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _make_interpreter(self) -> None:
        request = self.request
        _open_streams()
        sys.argv = [request.kind or request.program, *request.arguments]
        sys.orig_argv = request.command
        first = "" if request.kind == "-c" else os.getcwd()
        if not request.kind:
            first = os.path.dirname(os.path.realpath(request.program))
        entries = request.environment.get("PYTHONPATH", "").split(os.pathsep)
        sys.path[:] = [
            *([] if request.safe_path else [first]),
            *(entry for entry in entries if entry),
            *popen.BASE_PATH,
        ]
        main = types.ModuleType("__main__")
        main.__dict__.update(
            __builtins__=builtins,
            __annotations__={},
            __loader__=importlib.machinery.BuiltinImporter,
        )
        sys.modules["__main__"] = main
        # What the program starts in turn is not started otherwise than by a test.
        subprocess.Popen = popen.Popen  # type: ignore[misc]
        for name in [*sys.modules]:
            if name.partition(".")[0] == _OURS:
                del sys.modules[name]

    def run(self) -> None:
        """Raises SystemExit, as the program or as an interpreter does, or KeyboardInterrupt; the
        interpreter, whose own this is, ends as it does after any program."""
        try:
            self._execute()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            trace = error.__traceback__
            while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
                trace = trace.tb_next
            sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
            sys.excepthook(type(error), error.with_traceback(trace), trace)
            sys.exit(1)

    def _execute(self) -> None:
        kind, program = self.request.kind, self.request.program
        names = sys.modules["__main__"].__dict__
        if kind == "-m":
            # What 'python -m' calls, with the traceback that it leaves.
            runpy._run_module_as_main(program)  # type: ignore[attr-defined]
        elif kind == "-c":
            exec(compile(program, "<string>", "exec"), names)
        else:
            names["__file__"], names["__cached__"] = program, None
            names["__loader__"] = importlib.machinery.SourceFileLoader("__main__", program)
            with open(program, "rb") as file:
                code = compile(file.read(), program, "exec")
            exec(code, names)


def _open_streams() -> None:
    """Of this process's descriptors, as the interpreter opens them when it starts."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = _stream(number, f"<{name}>", getattr(sys, f"__{name}__"))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _stream(number: int, name: str, before: io.TextIOWrapper) -> TextIO | None:
    mode = "r" if number == 0 else "w"
    unbuffered = before.write_through
    size = 0 if unbuffered and number else -1
    try:
        buffer: Any = open(number, mode + "b", size, closefd=False)  # noqa: SIM115  # until the end
    except OSError:
        return None
    raw = getattr(buffer, "raw", buffer)
    raw.name = name
    text = io.TextIOWrapper(
        buffer,
        encoding=before.encoding,
        errors=before.errors,
        newline="\n",
        line_buffering=not unbuffered and (number == 2 or raw.isatty()),
        write_through=unbuffered,
    )
    text.mode = mode  # type: ignore[misc]
    return text
