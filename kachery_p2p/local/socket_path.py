"""Unix-domain sockets in folders whose paths are long.

The system takes 107 bytes for the path of such a socket, and a home folder on a cluster may need more.
On Linux the folder is opened then, and the socket is named relative to the descriptor.

Non-goals: other systems, where the system's own bound stays.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MAX_SOCKET_PATH: Final = 107
"""Bytes: the system's bound."""
_DESCRIPTORS: Final = "/proc/self/fd"


def fits(path: Path) -> bool:
    """Whether there can be a socket at ``path``."""
    return len(os.fsencode(path)) <= MAX_SOCKET_PATH or (
        hasattr(os, "O_PATH") and os.path.isdir(_DESCRIPTORS)
    )


def connect(sock: socket.socket, path: Path) -> None:
    """``sock.connect``. Raises OSError."""
    with _address(path) as address:
        sock.connect(address)


def bind(sock: socket.socket, path: Path) -> None:
    """``sock.bind``. Raises OSError."""
    with _address(path) as address:
        sock.bind(address)


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """The name of the socket at ``path`` for the system, as long as the block lasts."""
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH or not fits(path):
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"{_DESCRIPTORS}/{folder}/{path.name}"
    finally:
        os.close(folder)
