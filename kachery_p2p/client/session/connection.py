"""The async client's connection to the local node.

Look-up order: offline mode is somebody else's (:mod:`.offline`); a node that the program itself named
(:func:`~kachery_p2p.local.places.talking_to`) -> ``KACHERY_P2P_API_PORT`` ->
``$XDG_RUNTIME_DIR/kachery-p2p/node.sock`` -> ``/run/kachery-p2p/node.sock`` -> loopback TCP 20421 ->
where the notice in the state folder says (:mod:`kachery_p2p.local.notice`) ->
:class:`~kachery_p2p.protocol.errors.DaemonNotRunning`, which names everything that was tried.

One connection per event loop and node, made at first use and again after the node restarted, and
closed with the loop (:mod:`.loop_connection`); a sync call that needs no loop borrows one of its own
(:mod:`.thread_connection`). When the environment changes, the node is looked for anew.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from kachery_p2p.local import places, socket_path
from kachery_p2p.local.notice import Notice, read_notice
from kachery_p2p.protocol.errors import (
    BadInput,
    DaemonElsewhere,
    DaemonHangs,
    DaemonNotPermitted,
    DaemonNotRunning,
    LinkClosed,
    StorageMismatch,
)
from kachery_p2p.protocol.limits import CONNECT_LOCAL_SECONDS, DEFAULT_API_PORT
from kachery_p2p.protocol.local.proof import FULL, parse_token

from . import offline, thread_connection
from .greeter import Greeter, owner_of_peer
from .loop_connection import LoopConnection
from .thread_connection import ThreadConnection

_TOKEN_FILE_BYTES = 1_000
"""More than any has."""

Connection = LoopConnection | ThreadConnection
C = TypeVar("C", LoopConnection, ThreadConnection)


class _OfLoop:
    """An event loop's connections, by where the node was looked for."""

    def __init__(self) -> None:
        self.open: dict[object, LoopConnection] = {}
        self.locks: weakref.WeakValueDictionary[object, asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )


_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _OfLoop] = weakref.WeakKeyDictionary()


Made = tuple[socket.socket, Greeter]


def _attempts() -> list[tuple[str, Callable[[], Made]]]:
    """What to try, in order: (description, how to connect)."""
    port = places.api_port()
    if port is not None:
        return _tcp(port) or [(f"127.0.0.1:{port}", partial(_no_token, port))]
    return [_unix(path) for path in places.socket_candidates()] + _tcp(DEFAULT_API_PORT)


def _unix(path: Path) -> tuple[str, Callable[[], Made]]:
    def make() -> Made:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            socket_path.connect(sock, path)
            greeter = Greeter(None, owner_of_peer(sock, path))
        except BaseException:
            sock.close()
            raise
        return sock, greeter

    return str(path), make


def _tcp(port: int) -> list[tuple[str, Callable[[], Made]]]:
    """One attempt for each token that there is: what a killed node left behind may lie beside it."""
    # os.path.exists: a folder that this user may not look into holds nothing for this user.
    return [
        (f"127.0.0.1:{port} with {path}", partial(_with_token, port, path, right))
        for path, right in places.token_candidates(port)
        if os.path.exists(path)
    ]


def _with_token(port: int, path: Path, right: str) -> Made:
    with path.open(encoding="ascii", errors="replace") as file:
        owner = os.fstat(file.fileno()).st_uid
        token = parse_token(file.read(_TOKEN_FILE_BYTES), right)
    if token is None:
        raise PermissionError(errno.EPERM, "the file holds no token")
    sock = socket.create_connection(("127.0.0.1", port), timeout=CONNECT_LOCAL_SECONDS)
    return sock, Greeter(token, owner)


def _no_token(port: int) -> Made:
    raise FileNotFoundError(
        errno.ENOENT, f"no node has made a token for it ({places.token_name(port, FULL)})"
    )


async def connect(kind: Callable[[socket.socket], C]) -> C:
    """A new connection of this kind.

    Raises:
        DaemonNotRunning, DaemonNotPermitted, VersionMismatch, StorageMismatch
    """
    tried: list[str] = []
    refused: list[str] = []
    for name, make in chain(_attempts(), _noticed()):
        try:
            sock, greeter = make()
        except PermissionError as error:
            # Somebody else's, such as that of the user whose environment this is: go on.
            if _is_private(name):
                tried.append(f"{name}: it is another user's own")
            else:
                refused.append(f"{name}: {error.strerror}")
            continue
        except OSError as error:
            tried.append(f"{name}: {error.strerror or error}")
            continue
        connection = kind(sock)
        try:
            await connection.greet(greeter)
        except TimeoutError as error:
            connection.close()
            reason = f"{name}: connected, but no greeting within {CONNECT_LOCAL_SECONDS:g} s"
            raise DaemonHangs(reason=reason) from error
        except LinkClosed as error:
            tried.append(f"{name}: {error}")
            continue
        except DaemonNotPermitted as error:
            connection.close()
            if not greeter.by_token:
                raise
            refused.append(f"{name}: {error.fields['reason']}")
            continue
        except BaseException:
            connection.close()
            raise
        _check_storage(connection)
        return connection
    if refused:
        raise DaemonNotPermitted(reason="; ".join(refused + tried))
    notice = _notice()
    if notice is None:
        raise DaemonNotRunning(reason="tried " + "; ".join(tried))
    if not notice.is_here:
        raise DaemonElsewhere(host=notice.host, pid=notice.pid, storage=notice.storage_dir)
    raise DaemonHangs(
        reason=f"pid {notice.pid} has its socket at {notice.socket} (tried {'; '.join(tried)}); a "
        "socket that was lost is there again within seconds"
    )


def _notice() -> Notice | None:
    """What the node of this home says of itself, if the environment is to be asked at all."""
    if places.target() is not None or places.api_port() is not None:
        return None
    return read_notice(places.default_state_dir())


def _noticed() -> Iterator[tuple[str, Callable[[], Made]]]:
    """The socket that a node of ours was started with in another environment than this one."""
    notice = _notice()
    if notice is not None and notice.is_here:
        path = Path(notice.socket)
        if path not in places.socket_candidates():
            yield _unix(path)


def _is_private(name: str) -> bool:
    """Whether what is in the place where everybody looks is its owner's alone, as a personal node of
    root's is, or is in the runtime folder that another user's login left in the environment: then it is
    no matter of permission that it is not for this user."""
    if os.path.isabs(name) and not os.access(os.path.dirname(os.path.dirname(name)), os.X_OK):
        return True
    if os.path.dirname(name) != str(places.SYSTEM_RUNTIME):
        return False
    for path in (Path(name), places.SYSTEM_RUNTIME):
        try:
            status = path.stat()
        except OSError:
            continue
        return status.st_uid != os.getuid() and not status.st_mode & 0o077
    return False


def _check_storage(connection: Connection) -> None:
    wanted = None if places.target() else os.environ.get(places.STORAGE_VARIABLE)
    actual = connection.greeter.storage_dir
    if wanted and Path(wanted).absolute() != actual and not _same(Path(wanted), actual):
        connection.close()
        raise StorageMismatch(wanted=wanted, actual=str(actual))


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


async def connection() -> Connection:
    """The connection to the node that is meant here, made if need be: this event loop's, or that of
    the sync call that runs here without one. Raises as :func:`connect`."""
    lease = thread_connection.lease()
    if lease is not None:
        where = places.whereabouts()
        mine = lease.get(where)
        if mine is None:
            mine = await connect(ThreadConnection)
            lease.keep(where, mine)
        return mine
    return await _of_loop(_running_loop())


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError as error:
        raise BadInput(
            what="an awaited call",
            reason="no event loop of asyncio runs here; elsewhere, as under trio, call the sync "
            "function in a thread: trio.to_thread.run_sync(kc.load_text, uri)",
        ) from error


async def call(what: str, method: str, params: dict[str, Any]) -> Any:
    """One call of the local node. ``what``: the function that needs it, for NeedsNode. Raises what the
    node answers, as :func:`connect`, and NeedsNode."""
    offline.require_node(what)
    return await (await connection()).call(method, params)


async def items(
    what: str, method: str, params: dict[str, Any]
) -> AsyncGenerator[tuple[Any, bytes], None]:
    """The results of one call of the local node that has many: a generator of meta and data of each, as
    they come. Close it when no more are wanted. Arguments and errors as for :func:`call`."""
    offline.require_node(what)
    return (await connection()).call_for_items(method, params)


async def _of_loop(loop: asyncio.AbstractEventLoop) -> LoopConnection:
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
            current = await connect(LoopConnection)
            _forget_the_dead(mine)
            mine.open[where] = current
            # What asyncio.run() does to generators at its end is the only notice that we get.
            current.keeper = _until_the_loop_ends(mine, where, current)
            await anext(current.keeper)
        return current


async def _until_the_loop_ends(
    mine: _OfLoop, where: object, current: LoopConnection
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
