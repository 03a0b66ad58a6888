"""The local API's sockets: a Unix-domain socket, and loopback TCP if asked for.

The messages are in :mod:`kachery_p2p.protocol.local.messages`, what they do in :mod:`.calls`. This
room knows who is calling: peer credentials come from the kernel (Unix) or a token file (TCP), are
logged once per connection, and decide whether the caller may change anything.

Bounds: clients, calls per client, frame size, what is queued for a client that does not read
(its calls wait). Descriptors that come with a call are closed when the call ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import pwd
import socket
import struct
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from kachery_p2p.local.framed import FramedSocket
from kachery_p2p.local.places import PORT_VARIABLE
from kachery_p2p.node.context import SOFTWARE
from kachery_p2p.protocol.errors import (
    BadInput,
    Busy,
    Cancelled,
    DaemonAlreadyRunning,
    DaemonNotPermitted,
    KacheryError,
    LinkClosed,
    ProtocolViolation,
    StorageDamaged,
    VersionMismatch,
    to_wire,
)
from kachery_p2p.protocol.limits import (
    MAX_LOCAL_CLIENTS,
    MAX_LOCAL_REQUESTS,
    PROTOCOL_VERSION,
)
from kachery_p2p.protocol.local import messages as local

from .calls import Calls
from .live_call import Caller, DeferredResult, LiveCall
from .services import Services

log = logging.getLogger(__name__)


class Connection:
    """One client."""

    def __init__(self, server: LocalServer, sock: socket.socket, *, unix: bool) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._greeted = False
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._live: dict[int, LiveCall] = {}
        self._full: set[int] = set()
        """Uploads that wait for the disk."""
        self.caller = server.identify(sock, unix=unix)
        self.socket = FramedSocket(sock, self._on_message, self._on_close)

    def resume(self) -> None:
        """Read on, unless calls or uploads are at their limit."""
        self._full -= {number for number in self._full if not self._uploads_too_much(number)}
        if not self._full and len(self._calls) < MAX_LOCAL_REQUESTS:
            self.socket.resume()

    def _uploads_too_much(self, number: int) -> bool:
        return number in self._live and self._live[number].upload.full

    def _on_message(self, message: local.Message) -> None:
        try:
            self._handle(message)
        except KacheryError as error:
            log.info("local client %s: %s", self.caller.name, error)
            self._answer(local.Failure(0, *to_wire(error)))
            raise

    def _handle(self, message: local.Message) -> None:
        if not self._greeted:
            self._on_greeting(message)
            return
        match message:
            case local.Call():
                self._on_call(message)
            case local.Piece(number, data):
                if number in self._live:
                    upload = self._live[number].upload
                    upload.put(data)
                    if upload.full:
                        self._full.add(number)
                        self.socket.pause()
            case local.Finish(number):
                if number in self._live:
                    self._live[number].upload.put(None)
            case local.Granted(number, credit):
                if number in self._live:
                    self._live[number].grant(credit)
            case local.CancelCall(number):
                if number in self._live:
                    self._calls[number].cancel()
            case _:
                raise ProtocolViolation(reason="a message that only a node sends")

    def _on_greeting(self, message: local.Message) -> None:
        if not isinstance(message, local.Greeting):
            raise ProtocolViolation(reason="the first message is not a greeting")
        if message.version != PROTOCOL_VERSION:
            raise VersionMismatch(ours=PROTOCOL_VERSION, theirs=message.version)
        if not self.socket.unix:
            self._server.check_token(message.token)
            self.caller.pid = message.pid
        self._greeted = True
        services = self._server.services
        self.socket.send(
            local.Welcome(
                PROTOCOL_VERSION,
                SOFTWARE,
                services.context.node_id,
                str(services.store.root),
                services.config.label,
                self.caller.read_only,
            )
        )

    def _on_call(self, call: local.Call) -> None:
        descriptor = self.socket.take_descriptor() if call.descriptors else None
        live = LiveCall(self.caller, self.socket, call.id, descriptor, self.resume)
        if call.id in self._calls or call.id < 1:
            live.close()
            raise ProtocolViolation(reason=f"call {call.id} is not new")
        self._live[call.id] = live
        try:
            begun = self._server.calls.begin(call.method, call.params, live)
        except Exception as error:  # answered as if the call had run into it
            begun = _failing(error)
        if isinstance(begun, DeferredResult) and not self.socket.backed_up:
            if begun.future.done():
                self._answer_later(call, live, begun)
                return
            begun.future.add_done_callback(lambda _: self._answer_later(call, live, begun))
            self._calls[call.id] = begun.future
        else:
            task = self._loop.create_task(
                self._run(call, live, begun), name=f"call {call.method[:40]}"
            )
            self._calls[call.id] = task
            task.add_done_callback(lambda _: self._task_ended(call, live, begun))
        if len(self._calls) >= MAX_LOCAL_REQUESTS:
            self.socket.pause()

    def _answer_later(self, call: local.Call, live: LiveCall, begun: DeferredResult) -> None:
        """What it waited for is there."""
        if not begun.future.cancelled():
            error = begun.future.exception()
            if error is None:
                self._finish(live, local.Answer(call.id, begun.finish(begun.future.result())))
            else:
                self._fail(call, live, error)
        self._ended(call, live)

    async def _run(
        self, call: local.Call, live: LiveCall, begun: Coroutine[Any, Any, Any] | DeferredResult
    ) -> None:
        try:
            try:
                result = await self._server.calls.wait(call.method, begun)
                await self.socket.drained()
                self._finish(live, local.Answer(call.id, result))
            except Exception as error:  # a bug in one call must not cost the client its connection
                self._fail(call, live, error)
        except asyncio.CancelledError:
            self._cancelled(call, live)
        # A call counts until its answer can leave: failures do not pile up either.
        with contextlib.suppress(LinkClosed):
            await self.socket.drained()

    def _fail(self, call: local.Call, live: LiveCall, error: BaseException) -> None:
        if not isinstance(error, KacheryError):
            log.error("call %s failed", call.method, exc_info=error)
        self._finish(live, local.Failure(call.id, *to_wire(error)))

    def _finish(self, live: LiveCall, message: local.Answer | local.Failure) -> None:
        live.close()
        if self._live.pop(message.id, None) is not None:
            self._answer(message)

    def _cancelled(self, call: local.Call, live: LiveCall) -> None:
        error = Cancelled(what=call.method[:40])
        self._finish(live, local.Failure(call.id, *to_wire(error)))

    def _task_ended(
        self, call: local.Call, live: LiveCall, begun: Coroutine[Any, Any, Any] | DeferredResult
    ) -> None:
        if not isinstance(begun, DeferredResult):
            begun.close()  # it never began, if the task was cancelled at once
        self._ended(call, live)

    def _ended(self, call: local.Call, live: LiveCall) -> None:
        if call.id in self._live:  # it was cancelled before it began
            self._cancelled(call, live)
        self._calls.pop(call.id, None)
        self.resume()

    def _answer(self, message: local.Message) -> None:
        if self.socket.closed:
            return
        try:
            self.socket.send(message)
        except BadInput as error:  # the answer is too large for a frame
            if isinstance(message, local.Answer):
                self.socket.send(local.Failure(message.id, *to_wire(error)))

    def _on_close(self, error: KacheryError | None) -> None:
        """The client has gone, or must go: cancel what it waits for."""
        for task in list(self._calls.values()):
            task.cancel()
        self._server.connections.discard(self)

    async def wait_closed(self) -> None:
        await asyncio.gather(*self._calls.values(), return_exceptions=True)


async def _failing(error: Exception) -> Any:
    raise error


class LocalServer:
    """Listens, identifies callers, and closes everything again."""

    def __init__(self, services: Services, calls: Calls) -> None:
        self.services = services
        self.calls = calls
        self.connections: set[Connection] = set()
        self.closing = False
        self._listeners: list[tuple[socket.socket, bool]] = []
        self._token = ""
        self._files: list[Path] = []

    async def start(self) -> None:
        """Raises DaemonAlreadyRunning, StorageDamaged (the folder), BadInput."""
        config = self.services.config
        self._make_runtime_dir()
        self._listen_unix(config.socket_path)
        if config.api_port is not None:
            self._listen_tcp(config.api_port)
        loop = asyncio.get_running_loop()
        for sock, unix in self._listeners:
            loop.add_reader(sock.fileno(), self._on_connection, sock, unix)

    def _make_runtime_dir(self) -> None:
        config = self.services.config
        group = config.group_id()
        mode = 0o700 if group is None and config.socket_mode & 0o077 == 0 else 0o755
        try:
            config.runtime_dir.mkdir(parents=True, exist_ok=True, mode=mode)
        except OSError as error:
            raise StorageDamaged(path=str(config.runtime_dir), reason=error.strerror) from error

    def _listen_unix(self, path: Path) -> None:
        if path.exists():
            probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            probe.settimeout(1.0)
            try:
                probe.connect(str(path))
            except (ConnectionRefusedError, FileNotFoundError):
                path.unlink(missing_ok=True)  # left behind by a node that was killed
            except OSError as error:
                raise DaemonAlreadyRunning(reason=f"{path}: {error.strerror}") from error
            else:
                raise DaemonAlreadyRunning(reason=f"something answers at {path}")
            finally:
                probe.close()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        config = self.services.config
        group = config.group_id()
        try:
            before = os.umask(0o177)
            try:
                sock.bind(str(path))
            finally:
                os.umask(before)
            if group is not None:
                os.chown(path, -1, group)
            os.chmod(path, config.socket_mode | (0o060 if group is not None else 0))
        except OSError as error:
            sock.close()
            raise StorageDamaged(path=str(path), reason=error.strerror) from error
        self._files.append(path)
        self._start_listening(sock, unix=True)

    def _listen_tcp(self, port: int) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as error:
            sock.close()
            raise BadInput(
                what=f"--api-port {port}",
                reason=f"{(error.strerror or str(error)).lower()}; stop what uses it, or choose "
                f"another port (clients find it by {PORT_VARIABLE})",
            ) from error
        port = sock.getsockname()[1]
        self._token = self.services.context.random_bytes(32).hex()
        path = self.services.config.runtime_dir / f"api-{port}.token"
        group = self.services.config.group_id()
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(fd, self._token.encode())
            if group is not None:
                os.fchown(fd, -1, group)
                os.fchmod(fd, 0o640)
        finally:
            os.close(fd)
        self._files.append(path)
        self._start_listening(sock, unix=False)

    def _start_listening(self, sock: socket.socket, *, unix: bool) -> None:
        sock.listen(128)
        sock.setblocking(False)
        self._listeners.append((sock, unix))

    def _on_connection(self, listener: socket.socket, unix: bool) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        if len(self.connections) >= MAX_LOCAL_CLIENTS:
            with contextlib.suppress(OSError):
                busy = Busy(limit=f"{MAX_LOCAL_CLIENTS} local clients")
                sock.send(local.encode_message(local.Failure(0, *to_wire(busy))))
            sock.close()
            return
        self.connections.add(Connection(self, sock, unix=unix))

    def identify(self, sock: socket.socket, *, unix: bool) -> Caller:
        """From the kernel where it can say, else the node's own user (the token proves that)."""
        pid, uid = 0, os.getuid()
        if unix and hasattr(socket, "SO_PEERCRED"):
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            pid, uid, _ = struct.unpack("3i", raw)
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = str(uid)
        read_only = self.services.config.others_read_only and uid not in (os.getuid(), 0)
        log.info("local client pid %s user %s%s", pid, name, " (read only)" if read_only else "")
        return Caller(pid=pid, uid=uid, name=name, read_only=read_only)

    def check_token(self, token: str | None) -> None:
        if token is None or not hmac.compare_digest(token.encode(), self._token.encode()):
            raise DaemonNotPermitted(reason="the token in the token file does not fit")

    async def close(self) -> None:
        self.closing = True
        loop = asyncio.get_running_loop()
        for sock, _ in self._listeners:
            loop.remove_reader(sock.fileno())
            sock.close()
        self._listeners.clear()
        for path in self._files:
            path.unlink(missing_ok=True)
        connections = list(self.connections)
        for connection in connections:
            connection.socket.close()
        for connection in connections:
            await connection.wait_closed()
