"""An HTTP proxy as institutions have them: it answers CONNECT, and moves bytes both ways."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

_PIECE = 1 << 16
_HEAD = 1 << 13


class ConnectProxy:
    """Listens on a free port while its ``with`` block lasts."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.asked: list[str] = []
        """``host:port`` of each connection that was asked for."""
        self.moved = 0
        self._listener = socket.create_server((address, 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join()
        for sock in self._sockets:
            sock.close()

    def _spawn(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            method, target, _ = client.recv(_HEAD).decode().split("\r\n")[0].split()
            if method != "CONNECT":
                client.sendall(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
                client.shutdown(socket.SHUT_RDWR)
                return
            self.asked.append(target)
            host, _, port = target.rpartition(":")
            server = socket.create_connection((host, int(port)))
            self._sockets.append(server)
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self._spawn(self._pump, server, client)
            self._pump(client, server)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE):
                with self._lock:
                    self.moved += len(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
