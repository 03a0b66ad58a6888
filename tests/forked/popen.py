"""``subprocess.Popen`` that lets the server fork where that makes no difference."""

from __future__ import annotations

import atexit
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .request import ROOT, Reply, Request, current_limits, receive_reply

_SOCKET = "socket"
_DECIDES_AT_START = ("PYTHON", "LC_", "LANG", "MALLOC_", "LD_")
"""How names of variables begin that an interpreter, or the C library, reads only once."""
_MAX_PASSED = 32


@dataclass(frozen=True)
class Address:
    path: str
    environment: dict[str, str]
    """That the server was started with, as far as it decides at the start."""
    group: int
    session: int
    owner: int
    """The process that started it, and ends it."""


def _deciding(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(_DECIDES_AT_START) and name != "PYTHONPATH"
    }


BASE_PATH = [
    entry
    for entry in sys.path[1:]
    if entry not in os.environ.get("PYTHONPATH", "").split(os.pathsep) or entry == str(ROOT)
]
"""Where the server's interpreter, which has a first entry of its own, finds modules."""

_DAEMON = ("-m", "kachery_p2p.node")

_address: Address | None = None
_adopted = False
_starting = threading.Lock()


def _server() -> Address:
    """Of this process; in a program that the server forked, its server."""
    global _address
    with _starting:
        if _address is None:
            _address = _start()
        return _address


def adopt(address: Address) -> None:
    """In the server: programs that it forks ask it in turn, for daemons. What else they start may be
    waited for as a child is, with os.waitid(), and has to be theirs."""
    global _address, _adopted
    _address, _adopted = address, True


def _start() -> Address:
    folder = tempfile.mkdtemp(prefix="kf", dir="/tmp")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    here, there = socket.socketpair()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    address = Address(
        f"{folder}/{_SOCKET}", _deciding(environment), os.getpgrp(), os.getsid(0), os.getpid()
    )
    with listener, there:
        listener.bind(address.path)
        listener.listen(64)
        numbers = [listener.fileno(), there.fileno()]
        code = (
            "from tests.forked import server; from tests.forked.popen import Address; "
            f"server.main({numbers[0]}, {numbers[1]}, {address!r})"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=numbers,
        )
    atexit.register(_end, here, process, folder, os.getpid())
    return address


def _end(here: socket.socket, process: subprocess.Popen[bytes], folder: str, owner: int) -> None:
    if os.getpid() == owner:
        here.close()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


class Popen(subprocess.Popen[Any]):
    """As :class:`subprocess.Popen`. A program is forked if it is this interpreter's, given by ``-c``,
    ``-m`` or as a script, and asks for nothing that an interpreter only does when it starts."""

    is_forked = False
    _sock: socket.socket | None = None

    def _execute_child(self, *given: Any) -> None:
        (args, executable, preexec_fn, close_fds, pass_fds, cwd, env, _, _, shell) = given[:10]
        pipes = given[10:16]
        restore_signals, gid, gids, uid, umask, new_session, group = given[16:]
        changes = [executable, preexec_fn, gid, gids, uid]
        request = None
        if (
            all(each is None for each in changes)
            and close_fds
            and restore_signals
            and not shell
            and not signal.pthread_sigmask(signal.SIG_BLOCK, [])
        ):
            request = _request(args, pass_fds, cwd, env, umask, new_session, group)
        if request is None or not self._fork(request, pipes):
            super()._execute_child(*given)  # type: ignore[misc]

    def _fork(self, request: Request, pipes: tuple[int, ...]) -> bool:
        taken, _, _, out, _, err = pipes
        standard = [each if each >= 0 else own for own, each in enumerate((taken, out, err))]
        descriptors = [*standard, *request.descriptors[3:]]
        try:
            for each in descriptors:
                os.fstat(each)
        except OSError:
            return False
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(_server().path)
            request.send(sock, descriptors)
            answer = receive_reply(sock)
            if answer is None or answer[0] is not Reply.READY:
                number = answer[1] if answer else errno.ECONNRESET
                raise OSError(number, os.strerror(number), request.folder)
        except BaseException:
            sock.close()
            raise
        self.pid = answer[1]
        self.is_forked, self._sock = True, sock
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]
        return True

    def _ended(self, flags: int) -> tuple[int, int]:
        """As waitpid()."""
        assert self._sock is not None
        self._sock.setblocking(not flags & os.WNOHANG)
        try:
            answer = receive_reply(self._sock)
        except BlockingIOError:
            return 0, 0
        self._sock.close()
        return self.pid, answer[1] if answer else signal.SIGKILL

    def _try_wait(self, flags: int) -> tuple[int, int]:
        if not self.is_forked:
            return super()._try_wait(flags)  # type: ignore[misc, no-any-return]
        return self._ended(flags)

    def _internal_poll(self, *given: Any, **also: Any) -> int | None:
        if not self.is_forked:
            return super()._internal_poll(*given, **also)  # type: ignore[misc, no-any-return]
        lock = self._waitpid_lock  # type: ignore[attr-defined]
        if self.returncode is None and lock.acquire(False):
            try:
                if self.returncode is None:
                    pid, status = self._ended(os.WNOHANG)
                    if pid:
                        self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                lock.release()
        return self.returncode

    def __del__(self, *given: Any, **also: Any) -> None:
        super().__del__(*given, **also)  # type: ignore[misc]
        if self._sock is not None:
            self._sock.close()


def run(
    args: Any,
    *,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """As :func:`subprocess.run`."""
    if input is not None:
        options["stdin"] = subprocess.PIPE
    if capture_output:
        options["stdout"] = options["stderr"] = subprocess.PIPE
    with Popen(args, **options) as process:
        try:
            out, err = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def _request(
    args: Any,
    pass_fds: tuple[int, ...],
    cwd: Any,
    env: Mapping[Any, Any] | None,
    umask: int,
    new_session: bool,
    group: int,
) -> Request | None:
    """None: an interpreter has to be started for this."""
    if isinstance(args, str | bytes | os.PathLike) or not hasattr(os, "pidfd_open"):
        return None
    command = [os.fsdecode(each) for each in args]
    program = _program(command)
    if program is not None and _adopted and program[:2] != _DAEMON:
        return None
    folder = os.path.abspath(os.fsdecode(cwd or "."))
    if program is None or len(pass_fds) > _MAX_PASSED or not os.access(folder, os.X_OK):
        return None
    given = os.environ if env is None else env
    environment = {os.fsdecode(name): os.fsdecode(value) for name, value in given.items()}
    server = _server()
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    if _deciding(environment) != server.environment or not {*paths} <= {"", str(ROOT)}:
        return None
    if not new_session and (os.getsid(0), os.getpgrp()) != (server.session, server.group):
        return None
    kind, name, arguments, safe_path = program
    return Request(
        kind=kind,
        program=name,
        arguments=arguments,
        command=command,
        safe_path=safe_path,
        environment=environment,
        folder=folder,
        mask=umask if umask >= 0 else _umask(),
        limits=current_limits(),
        new_session=bool(new_session),
        group=group,
        descriptors=[0, 1, 2, *sorted(pass_fds)],
    )


def _program(command: list[str]) -> tuple[str, str, list[str], bool] | None:
    """Kind, program, arguments and whether -P is there."""
    if not command or command[0] != sys.executable:
        return None
    rest = command[1:]
    safe_path = rest[:1] == ["-P"]
    rest = rest[safe_path:]
    if len(rest) >= 2 and rest[0] in ("-c", "-m"):
        return rest[0], rest[1], rest[2:], safe_path
    if rest and rest[0].endswith(".py") and os.path.isfile(rest[0]):
        return "", rest[0], rest[1:], safe_path
    return None


def _umask() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    raise OSError("the system does not say what the umask is")
