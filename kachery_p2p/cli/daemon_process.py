"""The process of a node, seen from outside: starting it, hearing what it says, seeing it end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import kachery_p2p
from kachery_p2p.client.session.greeter import Greeter
from kachery_p2p.client.session.loop_connection import LoopConnection
from kachery_p2p.local import places
from kachery_p2p.local.socket_path import connect
from kachery_p2p.protocol.errors import DaemonNotStarted, KacheryError, from_wire
from kachery_p2p.protocol.limits import START_SECONDS
from kachery_p2p.storage.disk import disk_errors
from kachery_p2p.storage.lock import process_exists

from .output import Output

POLL_SECONDS = 0.02
_LOG_LINES = 10
_LOG_TAIL = 20_000
"""Bytes of the log's end in which its last lines are looked for."""


def environment() -> dict[str, str]:
    """This one, such that the node's Python finds this very package without the current folder."""
    environment = dict(os.environ)
    folder = Path(kachery_p2p.__file__).absolute().parent.parent
    if folder.name not in ("site-packages", "dist-packages"):
        before = environment.get("PYTHONPATH", "").split(os.pathsep)
        paths = [os.path.abspath(path) for path in before if path]
        environment["PYTHONPATH"] = os.pathsep.join([*paths, str(folder)])
    return environment


async def start_process(
    command: list[str], config: dict[str, Any], output: Output
) -> dict[str, Any]:
    """Start the process and return what it says of itself. If that fails, it is ended."""
    log = Path(config["state_dir"]) / "daemon.out"
    child = _spawn(command, log)
    try:
        async with asyncio.timeout(START_SECONDS):
            info = await _until_ready(child, Path(config["runtime_dir"]) / places.SOCKET_NAME, log)
    except BaseException as error:
        child.kill()
        child.wait()
        if not isinstance(error, TimeoutError):
            raise
        told = log.with_name("node.log")
        for line in _last_lines(told):
            output.note(line)
        raise DaemonNotStarted(
            reason=f"it did not answer within {START_SECONDS:g} s, so it was ended again",
            log=str(told),
        ) from error
    child.returncode = 0  # it lives on; without this, Popen would warn that it does
    return info


def _spawn(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with disk_errors("the node's log", log):
        # Appending, so that nobody who still has the file open writes into the middle of it.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(log, flags, 0o600)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=log.parent,
            env=environment(),
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


async def _until_ready(child: subprocess.Popen[bytes], path: Path, log: Path) -> dict[str, Any]:
    while True:
        status = child.poll()
        if status is not None:
            raise _failure(log, status)
        info = await _ask(path)
        # Another one may have been quicker; then ours is about to say so.
        if info is not None and info["pid"] == child.pid:
            return info
        await asyncio.sleep(POLL_SECONDS)


async def _ask(path: Path) -> dict[str, Any] | None:
    """What the node at this socket says of itself, if there is one."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connect(sock, path)
    except OSError:
        sock.close()
        return None
    connection = LoopConnection(sock)
    try:
        await connection.greet(Greeter(None, None))
        info: dict[str, Any] = await connection.call("info", {})
    except (KacheryError, TimeoutError):
        return None
    else:
        return info
    finally:
        connection.close()


def _failure(log: Path, status: int) -> KacheryError:
    """Why the process ended: its last words if they are an error, else all that is known."""
    lines = _last_lines(log)
    try:
        told = json.loads(lines[-1])
        return from_wire(told["code"], told["fields"])
    except (IndexError, ValueError, TypeError, KeyError):
        if not lines:
            # It may have had no room to say anything.
            with disk_errors("the node's log", log):
                log.write_bytes(b"\n")
        said = lines[-1] if lines else "it said nothing"
        return DaemonNotStarted(reason=f"it ended with status {status}: {said}", log=str(log))


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL))
            text = file.read(_LOG_TAIL).decode("utf-8", "replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-_LOG_LINES:]


class ProcessEnd:
    """Sees a process end that is not our child, even one that nobody reaps."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._descriptor: int | None = None
        if hasattr(os, "pidfd_open"):
            # Without it: another system, or a node in another container. Then ask for the number.
            with contextlib.suppress(OSError):
                self._descriptor = os.pidfd_open(pid)

    async def wait(self) -> None:
        if self._descriptor is None:
            while process_exists(self._pid):  # noqa: ASYNC110  # nothing tells us of a stranger's end
                await asyncio.sleep(POLL_SECONDS)
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._descriptor)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
