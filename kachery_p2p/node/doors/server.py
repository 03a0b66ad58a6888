"""The local API's sockets: a Unix-domain socket, and loopback TCP if asked for.

The messages are in :mod:`kachery_p2p.protocol.local.messages`, what they do in :mod:`.calls`. This
room knows who is calling: peer credentials come from the kernel (Unix), or a token that is never sent
is proved (TCP, :mod:`kachery_p2p.protocol.local.proof`); they are logged once per connection, and
decide whether the caller may change anything.

Bounds: clients (:mod:`.callers`), calls per client, frame size, what is queued for a client that does
not read (its calls wait), and for all of them together (local/budget.py). Descriptors that come with a
call are closed when the call ends; there are only so many at once (:mod:`.descriptors`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import socket
import struct
from collections.abc import Coroutine
from functools import partial
from typing import Any

from kachery_p2p.local.budget import Budget
from kachery_p2p.local.framed import FramedSocket
from kachery_p2p.local.places import PORT_VARIABLE
from kachery_p2p.node.context import SOFTWARE
from kachery_p2p.node.links.acceptor import Acceptor
from kachery_p2p.node.local.calls import Calls
from kachery_p2p.node.local.live_call import Caller, DeferredResult, LiveCall
from kachery_p2p.node.local.services import Services
from kachery_p2p.protocol.errors import (
    BadInput,
    Busy,
    Cancelled,
    DaemonNotPermitted,
    KacheryError,
    LinkClosed,
    ProtocolViolation,
    VersionMismatch,
    to_wire,
)
from kachery_p2p.protocol.limits import (
    LOCAL_PIECES_AT_ONCE,
    MAX_LOCAL_REQUESTS,
    PROTOCOL_VERSION,
)
from kachery_p2p.protocol.local import messages as local
from kachery_p2p.protocol.local import proof as local_proof

from .callers import Callers, Kind
from .descriptors import AllFiles, ClientFiles
from .token_files import TokenFiles, remove_stale
from .unix_door import UnixDoor

log = logging.getLogger(__name__)

_NOBODY = -1
"""No user's id."""


class Connection:
    """One client."""

    def __init__(self, server: LocalServer, sock: socket.socket, *, unix: bool) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._greeted = False
        self._challenge: local_proof.Challenge | None = None
        """Over TCP, when a client has begun to greet."""
        self._pid = 0
        self.turns = asyncio.Semaphore(LOCAL_PIECES_AT_ONCE)
        """Who has one reads a piece from the disk for this client, or waits until it can."""
        self.files = ClientFiles(server.files, self.resume)
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._live: dict[int, LiveCall] = {}
        self._full: set[int] = set()
        """Uploads that wait for the disk."""
        self.caller = server.identify(sock, unix=unix)
        self.kind = Kind.TCP if not unix else Kind.OWN if self.caller.is_owner else Kind.OTHER
        self.socket = FramedSocket(sock, self._on_message, self._on_close, server.budget)
        server.callers.enter(self)

    def refuse(self, error: KacheryError) -> None:
        """Tell the client why, as far as it listens, and close."""
        self._answer(local.Failure(0, *to_wire(error)))
        self.socket.close(error)

    def resume(self) -> None:
        """Read on, unless calls or uploads are at their limit."""
        self._full -= {number for number in self._full if not self._uploads_too_much(number)}
        if not self._full and len(self._calls) < MAX_LOCAL_REQUESTS and self.files.has_room():
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
            self._on_first(message)
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

    def _on_first(self, message: local.Message) -> None:
        match message:
            case local.Greeting() if self._challenge is None:
                if message.version != PROTOCOL_VERSION:
                    raise VersionMismatch(ours=PROTOCOL_VERSION, theirs=message.version)
                if self.socket.unix:
                    self._welcome(f"uid {self.caller.uid}")
                else:
                    self._show_token(message)
            case local.Proof(proof) if self._challenge is not None:
                if not self._challenge.is_client(proof):
                    raise DaemonNotPermitted(reason="it does not know the token in the token file")
                right = self._challenge.token.right
                self.caller = Caller(
                    pid=self._pid,
                    uid=self.caller.uid,
                    name=f"over TCP ({right})",
                    read_only=right != local_proof.FULL,
                )
                self._welcome(right)
            case _:
                raise ProtocolViolation(reason="the first message is not a greeting")

    def _show_token(self, greeting: local.Greeting) -> None:
        token = self._server.tokens.tokens.get(greeting.right)
        nonce = greeting.nonce
        if token is None or nonce is None or len(nonce) != local_proof.NONCE_BYTES:
            raise DaemonNotPermitted(reason="there is no token for what it asks")
        context = self._server.services.context
        ours = context.random_bytes(local_proof.NONCE_BYTES)
        self._pid = greeting.pid
        challenge = self._challenge = local_proof.Challenge(token, nonce, ours)
        self.socket.send(
            local.Challenge(ours, challenge.daemon_proof(), challenge.sign(context.key))
        )

    def _welcome(self, user: str) -> None:
        self._server.callers.greet(self, user)
        self._greeted = True
        caller, limits = self.caller, " (read only)" if self.caller.read_only else ""
        log.info("local client pid %s user %s%s", caller.pid, caller.name, limits)
        self.socket.greeted()
        services = self._server.services
        self.socket.send(
            local.Welcome(
                PROTOCOL_VERSION,
                SOFTWARE,
                services.context.node_id,
                str(services.store.root),
                services.config.label,
                self.caller.read_only,
                services.marker,
            )
        )

    def _on_call(self, call: local.Call) -> None:
        try:
            descriptor = self.socket.take_descriptor() if call.descriptors else None
        except Busy as error:
            self._answer(local.Failure(call.id, *to_wire(error)))
            return
        live = LiveCall(
            self.caller,
            self.socket,
            call.id,
            descriptor,
            self.resume,
            self.turns,
            self.files.closed,
        )
        if descriptor is not None and not self.files.opened():
            self.socket.pause()
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
                await self._deliver(live, local.Answer(call.id, result))
            except Exception as error:  # a bug in one call must not cost the client its connection
                self._fail(call, live, error)
        except asyncio.CancelledError:
            self._cancelled(call, live)
        # A call counts until its answer can leave: failures do not pile up either.
        with contextlib.suppress(LinkClosed):
            await self.socket.drained()

    async def _deliver(self, live: LiveCall, answer: local.Answer) -> None:
        """When the client has read enough; until then the answer counts as what waits for it."""
        if not self.socket.backed_up:
            self._finish(live, answer)
            return
        frame = local.encode_message(answer)
        live.close()
        await self.socket.deliver(frame)
        self._live.pop(answer.id, None)

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
        self._server.callers.leave(self)

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
        self.callers = Callers()
        self.budget = Budget()
        self.tokens = TokenFiles()
        self.files = AllFiles()
        self.closing = False
        self._door = UnixDoor(services.config)
        self._listeners: list[tuple[socket.socket, Acceptor]] = []
        """The Unix socket's is the first."""

    async def start(self) -> None:
        """Raises DaemonAlreadyRunning, StorageDamaged (the folder), BadInput."""
        config = self.services.config
        self._listen(self._door.open(), unix=True)
        remove_stale(config.runtime_dir)
        if config.api_port is not None:
            self._listen_tcp(config.api_port)

    def _listen(self, sock: socket.socket, *, unix: bool) -> None:
        acceptor = Acceptor(sock, partial(self._on_socket, unix), self._on_exhausted)
        self._listeners.append((sock, acceptor))

    async def look_after_socket(self) -> None:
        """Bind the Unix socket anew if it is no longer there. Raises StorageDamaged,
        DaemonAlreadyRunning."""
        await self.services.context.workers.disk(self._door.look)
        if self.closing or (sock := self._door.take()) is None:
            return
        before, acceptor = self._listeners.pop(0)
        acceptor.close()
        before.close()
        self._listen(sock, unix=True)
        self._listeners.insert(0, self._listeners.pop())
        self.tokens.restore()

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
        sock.listen(128)
        sock.setblocking(False)
        self._listen(sock, unix=False)
        context = self.services.context
        self.tokens.make(
            self.services.config, sock.getsockname()[1], context.key.public, context.random_bytes
        )

    def _on_socket(self, unix: bool, sock: socket.socket, address: Any) -> None:
        try:
            self.connections.add(Connection(self, sock, unix=unix))
        except OSError:  # it has gone again, which some systems say here
            sock.close()

    def _on_exhausted(self, told: str) -> None:
        self.callers.make_room()
        self.services.context.warn(told)

    def identify(self, sock: socket.socket, *, unix: bool) -> Caller:
        """From the kernel where it can say. Over TCP nobody is known before a token is proved."""
        if not unix:
            return Caller(pid=0, uid=_NOBODY, name="over TCP", read_only=True)
        pid, uid = 0, os.getuid()
        if hasattr(socket, "SO_PEERCRED"):
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            pid, uid, _ = struct.unpack("3i", raw)
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = str(uid)
        read_only = self.services.config.others_read_only and uid not in (os.getuid(), 0)
        return Caller(pid=pid, uid=uid, name=name, read_only=read_only)

    async def close(self) -> None:
        self.closing = True
        for sock, acceptor in self._listeners:
            acceptor.close()
            sock.close()
        self._listeners.clear()
        self.tokens.remove()
        self._door.close()
        connections = list(self.connections)
        for connection in connections:
            connection.socket.close()
        for connection in connections:
            await connection.wait_closed()
