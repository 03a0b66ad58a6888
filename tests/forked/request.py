"""What the server is asked for: a program, and all that a process is born with."""

from __future__ import annotations

import json
import os
import resource
import socket
import struct
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent

_LENGTH = struct.Struct("!I")
_REPLY = struct.Struct("!iq")
_MAX_DESCRIPTORS = 64
MAX_BYTES = 8_000_000
"""Of a request: code, arguments and environment, of which the system takes no more either."""

LIMITS = tuple(value for name, value in sorted(vars(resource).items()) if name[:7] == "RLIMIT_")


class Reply(IntEnum):
    READY = 1
    """With the program's pid: it is about to run."""
    FAILED = 2
    """With an errno: it could not be made what was asked for."""
    ENDED = 3
    """With the status that waitpid() gives."""


@dataclass(frozen=True)
class Request:
    """Paths and arguments are text as :func:`os.fsdecode` makes it."""

    kind: str
    """``-c``, ``-m``, or nothing before a script."""
    program: str
    """Code, the name of a module, or a path."""
    arguments: list[str]
    command: list[str]
    """The whole of it, as typed."""
    safe_path: bool
    """-P: the folder is no place of modules."""
    environment: dict[str, str]
    folder: str
    mask: int
    """The umask."""
    limits: list[tuple[int, int]]
    """Soft and hard, in the order of :data:`LIMITS`."""
    new_session: bool
    group: int
    """As Popen's ``process_group``; -1: the same."""
    descriptors: list[int]
    """The numbers that those which come along get."""

    def send(self, sock: socket.socket, descriptors: list[int]) -> None:
        body = json.dumps(asdict(self)).encode()
        socket.send_fds(sock, [_LENGTH.pack(len(body))], descriptors)
        sock.sendall(body)


def receive(sock: socket.socket) -> tuple[Request, list[int]] | None:
    """A request, and the descriptors that came with it; None: who asked has gone."""
    head, descriptors, _, _ = socket.recv_fds(sock, _LENGTH.size, _MAX_DESCRIPTORS)
    body = _exactly(sock, _LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""
    if not body:
        for each in descriptors:
            os.close(each)
        return None
    fields: dict[str, Any] = json.loads(body)
    fields["limits"] = [tuple(pair) for pair in fields["limits"]]
    return Request(**fields), descriptors


def _exactly(sock: socket.socket, size: int) -> bytes:
    if size > MAX_BYTES:
        return b""
    with sock.makefile("rb") as file:
        body = file.read(size)
    return body if len(body) == size else b""


def send_reply(sock: socket.socket, reply: Reply, value: int) -> None:
    sock.sendall(_REPLY.pack(reply, value))


def receive_reply(sock: socket.socket) -> tuple[Reply, int] | None:
    """None: the server is gone. Raises BlockingIOError if none is there yet."""
    data = sock.recv(_REPLY.size)
    if len(data) < _REPLY.size:
        return None
    reply, value = _REPLY.unpack(data)
    return Reply(reply), value


def current_limits() -> list[tuple[int, int]]:
    return [resource.getrlimit(each) for each in LIMITS]
