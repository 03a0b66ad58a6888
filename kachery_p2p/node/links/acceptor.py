"""Takes the connections that come to a listening socket, and goes on when it cannot.

A process that is out of descriptors, or out of memory for sockets, is told of the same connection
again and again. Then nothing is taken for ``ACCEPT_RETRY_SECONDS``, the user is warned, and whoever
owns the connections may let some go.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import socket
from collections.abc import Callable
from typing import Any

from kachery_p2p.protocol.limits import ACCEPT_AT_ONCE, ACCEPT_RETRY_SECONDS

log = logging.getLogger(__name__)

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_TELL_SECONDS = 60.0
"""So often it is written into the log, however often it is tried."""


class Acceptor:
    """Takes over ``sock``, which listens. ``on_socket`` gets each connection and its peer's address;
    ``on_exhausted`` is called, with a sentence for the user, when none can be taken."""

    def __init__(
        self,
        sock: socket.socket,
        on_socket: Callable[[socket.socket, Any], None],
        on_exhausted: Callable[[str], None],
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._on_socket = on_socket
        self._on_exhausted = on_exhausted
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.TimerHandle | None = None
        self._closed = False
        self._told_at = -math.inf
        self._read()

    def _read(self) -> None:
        self._again = None
        self._loop.add_reader(self.sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            if self._closed:
                return
            try:
                sock, address = self.sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                    return
                continue  # that connection was gone before it was taken
            self._on_socket(sock, address)

    def _pause(self, error: OSError) -> None:
        self._loop.remove_reader(self.sock.fileno())
        self._again = self._loop.call_later(ACCEPT_RETRY_SECONDS, self._read)
        told = (
            f"no connection can be accepted now ({error.strerror}); links and clients that are there "
            "go on. Raise the limit of open files ('ulimit -n', LimitNOFILE= in a systemd unit)"
        )
        if self._loop.time() - self._told_at > _TELL_SECONDS:
            self._told_at = self._loop.time()
            log.warning("%s", told)
        self._on_exhausted(told)

    def close(self) -> None:
        """Take nothing more, and close the socket; idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._again is not None:
            self._again.cancel()
        else:
            self._loop.remove_reader(self.sock.fileno())
        self.sock.close()
