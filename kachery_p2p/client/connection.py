"""The async client's connection to the local node.

Look-up order: offline mode is somebody else's (:mod:`.offline`); a node that the program itself named
(:func:`~kachery_p2p.local.places.talking_to`) -> ``KACHERY_P2P_API_PORT`` ->
``$XDG_RUNTIME_DIR/kachery-p2p/node.sock`` -> ``/run/kachery-p2p/node.sock`` -> loopback TCP 20421 ->
:class:`~kachery_p2p.protocol.errors.DaemonNotRunning`, which names everything that was tried.

One connection per event loop and node, made at first use and again after the node restarted, and
closed with the loop. When the environment changes, the node is looked for anew. Every call ends:
with its answer, with the node's error, or with LinkClosed when the node goes away. Cancelling a call
cancels it in the node too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

from kachery_p2p.local import places
from kachery_p2p.local.framed import FramedSocket
from kachery_p2p.protocol import local
from kachery_p2p.protocol.errors import (
    DaemonNotPermitted,
    DaemonNotRunning,
    KacheryError,
    LinkClosed,
    ProtocolViolation,
    StorageMismatch,
    from_wire,
)
from kachery_p2p.protocol.limits import (
    CONNECT_LOCAL_SECONDS,
    DEFAULT_API_PORT,
    LOCAL_PIECE,
    PROTOCOL_VERSION,
)


class _OfLoop:
    """An event loop's connections, by where the node was looked for."""

    def __init__(self) -> None:
        self.open: dict[object, Connection] = {}
        self.locks: weakref.WeakValueDictionary[object, asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )


_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _OfLoop] = weakref.WeakKeyDictionary()


class _Call:
    def __init__(self, on_progress: Callable[[dict[str, Any]], None] | None) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.on_progress = on_progress
        self.chunks: list[bytes] = []
        self.received = 0


class Connection:
    """See the module. Made by :func:`connect`."""

    def __init__(self, sock: socket.socket) -> None:
        self.welcome: local.Welcome | None = None
        self.pid = os.getpid()
        self.keeper: AsyncGenerator[None, None] | None = None
        self._calls: dict[int, _Call] = {}
        self._last = 0
        self._greeted: asyncio.Future[local.Welcome] = asyncio.get_running_loop().create_future()
        self._socket = FramedSocket(sock, self._on_message, self._on_close)

    @property
    def storage_dir(self) -> Path:
        assert self.welcome is not None
        return Path(self.welcome.storage_dir)

    @property
    def alive(self) -> bool:
        return not self._socket.closed and self.pid == os.getpid()

    @property
    def passes_descriptors(self) -> bool:
        return self._socket.unix

    async def greet(self, token: str | None) -> None:
        self._socket.send(local.Greeting(PROTOCOL_VERSION, token, os.getpid()))
        async with asyncio.timeout(CONNECT_LOCAL_SECONDS):
            self.welcome = await self._greeted

    async def call(
        self,
        method: str,
        params: dict[str, Any],
        *,
        descriptor: int | None = None,
        pieces: memoryview | None = None,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> Any:
        """Do one call and return its result. Raises what the node answered.

        Args:
            descriptor: an open file that the node shall read; it stays the caller's.
            pieces: bytes that are streamed after the call.
            on_progress: called with what the node says of how far it is.
        """
        async with self._open(method, params, descriptor, on_progress) as (number, call):
            if pieces is not None:
                await self._upload(number, call, pieces)
            return await call.future

    async def call_for_bytes(
        self,
        method: str,
        params: dict[str, Any],
        *,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> tuple[Any, bytes]:
        """Do one call whose result comes with a stream of bytes."""
        async with self._open(method, params, None, on_progress) as (_, call):
            result = await call.future
            return result, b"".join(call.chunks)

    @contextlib.asynccontextmanager
    async def _open(
        self,
        method: str,
        params: dict[str, Any],
        descriptor: int | None,
        on_progress: Callable[[dict[str, Any]], None] | None,
    ) -> AsyncIterator[tuple[int, _Call]]:
        await self._socket.drained()
        self._last += 1
        number = self._last
        call = self._calls[number] = _Call(on_progress)
        try:
            sent = local.Call(number, method, params, 0 if descriptor is None else 1)
            self._socket.send(sent, descriptor)
            yield number, call
        except asyncio.CancelledError:
            # Wait for the node to have let go: what it keeps must be settled when we return.
            if self.alive and (call.future.cancelled() or not call.future.done()):
                # Who cancels a task cancels the future that it awaits.
                call.future = asyncio.get_running_loop().create_future()
                self._socket.send(local.CancelCall(number))
                with contextlib.suppress(KacheryError, TimeoutError):
                    async with asyncio.timeout(CONNECT_LOCAL_SECONDS):
                        await call.future
            raise
        finally:
            self._calls.pop(number, None)
            if call.future.done() and not call.future.cancelled():
                call.future.exception()

    async def _upload(self, number: int, call: _Call, data: memoryview) -> None:
        for start in range(0, len(data), LOCAL_PIECE):
            if call.future.done():  # the node has refused it already
                return
            await self._socket.drained()
            self._socket.send(local.Piece(number, bytes(data[start : start + LOCAL_PIECE])))
            if call.on_progress is not None:
                call.on_progress({"size": len(data), "done": start})
        self._socket.send(local.Finish(number))

    def _on_message(self, message: local.Message) -> None:
        match message:
            case local.Welcome():
                if not self._greeted.done():
                    self._greeted.set_result(message)
            case local.Failure(id=0):
                raise from_wire(message.code, message.fields)
            case local.Answer():
                self._end(message.id, message.result, None)
            case local.Failure():
                self._end(message.id, None, from_wire(message.code, message.fields))
            case local.Progress():
                call = self._calls.get(message.id)
                if call is not None and call.on_progress is not None:
                    call.on_progress(message.info)
            case local.Chunk():
                call = self._calls.get(message.id)
                if call is not None:
                    call.chunks.append(message.data)
                    call.received += len(message.data)
                    if call.on_progress is not None:
                        call.on_progress({"done": call.received})
            case _:
                raise ProtocolViolation(reason="a message that only a client sends")

    def _end(self, number: int, result: Any, error: KacheryError | None) -> None:
        call = self._calls.get(number)
        if call is None or call.future.done():
            return
        if error is not None:
            call.future.set_exception(error)
        else:
            call.future.set_result(result)

    def _on_close(self, error: KacheryError | None) -> None:
        reason: KacheryError = error or LinkClosed(
            peer="the local node", reason="it stopped, or was killed"
        )
        for call in self._calls.values():
            if not call.future.done():
                call.future.set_exception(reason)
        if not self._greeted.done():
            self._greeted.set_exception(reason)
            self._greeted.exception()

    def close(self) -> None:
        self._socket.close()


def _attempts() -> list[tuple[str, Callable[[], tuple[socket.socket, str | None]]]]:
    """What to try, in order: (description, how to connect)."""
    port = places.api_port()
    if port is not None:
        return [_tcp(port)]
    attempts = [_unix(path) for path in places.socket_candidates()]
    # os.path.exists: a folder that this user may not look into holds nothing for this user.
    if any(os.path.exists(path) for path in places.token_candidates(DEFAULT_API_PORT)):
        attempts.append(_tcp(DEFAULT_API_PORT))
    return attempts


def _unix(path: Path) -> tuple[str, Callable[[], tuple[socket.socket, str | None]]]:
    def make() -> tuple[socket.socket, str | None]:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(str(path))
        except BaseException:
            sock.close()
            raise
        return sock, None

    return str(path), make


def _tcp(port: int) -> tuple[str, Callable[[], tuple[socket.socket, str | None]]]:
    def make() -> tuple[socket.socket, str | None]:
        token = None
        for path in places.token_candidates(port):
            if os.path.exists(path):
                token = path.read_text(encoding="ascii", errors="replace")
                break
        sock = socket.create_connection(("127.0.0.1", port), timeout=CONNECT_LOCAL_SECONDS)
        return sock, token

    return f"127.0.0.1:{port}", make


async def connect() -> Connection:
    """A new connection.

    Raises:
        DaemonNotRunning, DaemonNotPermitted, VersionMismatch, StorageMismatch
    """
    tried: list[str] = []
    refused: list[str] = []
    for name, make in _attempts():
        try:
            sock, token = make()
        except PermissionError as error:
            # Somebody else's, such as that of the user whose environment this is: go on.
            refused.append(f"{name}: {error.strerror}")
            continue
        except OSError as error:
            tried.append(f"{name}: {error.strerror or error}")
            continue
        connection = Connection(sock)
        try:
            await connection.greet(token)
        except TimeoutError as error:
            connection.close()
            raise DaemonNotRunning(
                reason=f"{name}: connected, but no greeting within {CONNECT_LOCAL_SECONDS:g} s; "
                "the node may be stopped (see its log)"
            ) from error
        except LinkClosed as error:
            tried.append(f"{name}: {error}")
            continue
        except BaseException:
            connection.close()
            raise
        _check_storage(connection)
        return connection
    if refused:
        raise DaemonNotPermitted(reason="; ".join(refused + tried))
    raise DaemonNotRunning(reason="tried " + "; ".join(tried))


def _check_storage(connection: Connection) -> None:
    wanted = None if places.target() else os.environ.get(places.STORAGE_VARIABLE)
    actual = connection.storage_dir
    if wanted and Path(wanted).absolute() != actual and not _same(Path(wanted), actual):
        connection.close()
        raise StorageMismatch(wanted=wanted, actual=str(actual))


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


async def connection() -> Connection:
    """This event loop's connection to the node that is meant here, made if need be."""
    loop = asyncio.get_running_loop()
    mine = _loops.get(loop)
    if mine is None:
        mine = _loops[loop] = _OfLoop()
    where = places.whereabouts()
    current = mine.open.get(where)
    if current is not None and current.alive:
        return current
    lock = mine.locks.get(where)
    if lock is None:
        lock = mine.locks[where] = asyncio.Lock()
    async with lock:
        current = mine.open.get(where)
        if current is None or not current.alive:
            current = await connect()
            _forget_the_dead(mine)
            mine.open[where] = current
            # What asyncio.run() does to generators at its end is the only notice that we get.
            current.keeper = _until_the_loop_ends(mine, where, current)
            await anext(current.keeper)
        return current


async def _until_the_loop_ends(
    mine: _OfLoop, where: object, current: Connection
) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        current.close()
        if mine.open.get(where) is current:
            del mine.open[where]


def _forget_the_dead(mine: _OfLoop) -> None:
    """Connections whose node went away, and all of loops that were closed without notice: nobody
    will use them again."""
    for where in [where for where, each in mine.open.items() if not each.alive]:
        del mine.open[where]
    for loop in [loop for loop in _loops if loop.is_closed()]:
        for each in _loops.pop(loop).open.values():
            each.close()
