"""The port on which other nodes connect: from an accepted socket to a WebSocket.

What happens before a stranger has said anything costs a descriptor and a timer. In this order: the
:class:`~.gate.Gate`; a first byte within ``FIRST_BYTE_SECONDS``; TLS if there is any; the request, of
at most ``MAX_UPGRADE_BYTES``, where the node's own page is handed out, pages of other sites are refused
and knocks (protocol/links/knock.py) are heard; then the WebSocket, which ``accept`` gets. All of it,
and the handshake and hello that follow, must be over within the deadline, or the connection is cut.

Invariant: each connection leaves the gate exactly once, and its descriptor is closed, whatever happens
at whichever point.

Non-goals: who is there and what for (opening.py, network.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import WebSocketException
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from kachery_p2p.node.parties import KNOCKED, STRANGERS, Party
from kachery_p2p.node.turns import Turns
from kachery_p2p.node.websocket import Messages, Opening
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.limits import (
    FIRST_BYTE_SECONDS,
    HANDSHAKE_SECONDS,
    MAX_UPGRADE_BYTES,
)
from kachery_p2p.protocol.links.addresses import (
    Network,
    client_address,
    group_of,
    host_port,
    is_trusted,
)
from kachery_p2p.protocol.links.knock import HEADER as KNOCK

from .acceptor import Acceptor
from .gate import Gate, Waiting

log = logging.getLogger(__name__)

_BACKLOG = 1024
_LOOK_BYTES = 4096
_KNOCK_LINE = re.compile(rb"\r\n" + KNOCK.encode() + rb": ([A-Za-z0-9_-]+)\r\n")
_SETTLED = 1.5
"""Times HANDSHAKE_SECONDS: after the hellos, half as long for a newer document to come."""

Accept = Callable[["Guarded", str, Callable[[], None]], Awaitable[None]]


class OwnPage(Protocol):
    """The page that this node itself hands to browsers."""

    def answer(self, request: Request) -> Response | None:
        """The answer to a browser that asks for it; None if something else is asked for."""

    def is_own(self, origin: str, host: str) -> bool:
        """Whether an ``Origin`` is that page's, by the ``Host`` that was asked."""


@dataclass(frozen=True)
class Doors:
    """What the user configured, and what the node knows, about who comes."""

    origins: frozenset[str] = frozenset()
    """Web sites whose pages may connect."""
    trusted: tuple[Network, ...] | None = None
    """Reverse proxies whose word on the client's address counts, beside this computer's own; None: no
    such word counts at all."""
    knows: Callable[[str], bool] = lambda knock: False
    """Whether a knock is right."""
    warn: Callable[[str], None] = lambda text: None
    page: OwnPage | None = None
    turns: Turns = field(default_factory=Turns)
    """On the processor: to open a WebSocket takes as long as some requests do."""


class Guarded(ServerConnection):
    """A WebSocket of the listener; ``peer`` is the client's address for people."""

    def __init__(self, protocol: ServerProtocol, visit: Visit, **options: Any) -> None:
        super().__init__(protocol, visit.listener, **options)  # type: ignore[arg-type]
        self.peer = visit.peer
        self.visit = visit
        self.messages: Messages | None = None
        """When it is open."""
        self._opening = Opening()
        self._came = 0
        self._early = b""
        """What came before its answer went."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not ServerConnection's: that one starts the handler of a websockets Server.
        super(ServerConnection, self).connection_made(transport)
        self.visit.connection = self

    def data_received(self, data: bytes) -> None:
        if self.messages is not None:  # a frame of control
            super().data_received(data)
            return
        self._came += len(data)
        if self._came > MAX_UPGRADE_BYTES:
            self.transport.abort()
            return
        head, rest = self._opening.split(data)
        self._early += rest
        if head:
            super().data_received(head)

    def opened(self) -> None:
        """The request is over: from now on data goes straight to where it belongs."""
        self.messages = Messages(self, served=True)
        self.messages.begin(self._early)
        self._early = b""

    def connection_lost(self, exc: Exception | None) -> None:
        self.visit.gone()
        super().connection_lost(exc)


class Visit:
    """One connection, from its acceptance to its end."""

    def __init__(self, listener: Listener, sock: socket.socket, peer: str) -> None:
        self.listener = listener
        self.peer = peer
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self.connection: Guarded | None = None
        """Once there is a transport that can be aborted: after TLS."""
        self._task: asyncio.Task[None] | None = None
        self._proved = False
        trusted = listener.doors.trusted
        self._proxied = trusted is not None and is_trusted(peer, trusted)
        self._waiting: Waiting | None = listener.gate.enter(
            None if self._proxied else group_of(peer), self.drop
        )
        if self._waiting is None:
            sock.close()
            return
        listener.visits.add(self)
        sock.setblocking(False)
        self._timer = self._loop.call_later(FIRST_BYTE_SECONDS, self._late)
        self._deadline = self._loop.time() + HANDSHAKE_SECONDS * _SETTLED
        self._loop.add_reader(sock.fileno(), self._on_first_byte)

    def _on_first_byte(self) -> None:
        if self._waiting is None:  # it had to make room in this very turn of the loop
            return
        self._loop.remove_reader(self._sock.fileno())
        self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._late)
        self._listen_in()
        self._task = self._loop.create_task(self._run(), name=f"visit of {self.peer}")
        self._task.add_done_callback(self._ended)

    def _listen_in(self) -> None:
        """Hear a knock before anything is done for whoever it is: in a crowd there is no time to lose.
        Inside TLS it is heard with the request."""
        assert self._waiting is not None  # see the caller
        head = b""
        if self.listener.tls is None:
            with contextlib.suppress(OSError):
                head = self._sock.recv(_LOOK_BYTES, socket.MSG_PEEK)
        found = _KNOCK_LINE.search(head)
        if found is not None and self.listener.doors.knows(found[1].decode()):
            self.listener.gate.recognise(self._waiting)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self.connection is None:  # no TLS, or it had to make room before there was any
            self._sock.close()
            self.gone()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)

    def _late(self) -> None:
        if self._waiting is not None:
            self.listener.gate.expel(self._waiting)

    @property
    def party(self) -> Party:
        """On whose account it is until it is clear who is there."""
        return KNOCKED if self._waiting is not None and self._waiting.known else STRANGERS

    def drop(self) -> None:
        """End it at once, at whichever point it is."""
        if self.connection is not None:
            self.connection.transport.abort()
        elif self._task is not None:
            self._task.cancel()
        else:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
            self.gone()

    def proved(self) -> None:
        """The other side has shown who it is, and is welcome."""
        if self._waiting is not None and self.listener.gate.leave(self._waiting, proved=True):
            self._proved = True
            self._timer.cancel()

    def gone(self) -> None:
        """The connection is closed."""
        if self._waiting is None:
            return
        self.listener.gate.leave(self._waiting)
        self._waiting = None
        self._timer.cancel()
        self.listener.gate.open -= self._proved
        self.listener.visits.discard(self)

    async def _run(self) -> None:
        listener = self.listener
        limit = {} if listener.tls is None else {"ssl_handshake_timeout": HANDSHAKE_SECONDS}
        try:
            await self._loop.connect_accepted_socket(
                self._made, self._sock, ssl=listener.tls, **limit
            )
        except OSError as error:  # something else than TLS, or nothing more
            log.debug("%s: %s", self.peer, error)
            return
        # What that returns is not the same on each loop.
        connection = self.connection
        if connection is None:  # it went away in that moment
            return
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await listener.doors.turns.metered(
                    lambda: self.party, lambda: connection.handshake(self._examine, None, None)
                )
            if connection.protocol.state is not State.OPEN:
                await self._refused(connection)
                return
            connection.opened()
            async with connection:
                await listener.accept(connection, self.peer, self.proved)
        except (TimeoutError, OSError, WebSocketException) as error:
            log.debug("%s: %s", self.peer, error)
        finally:
            connection.transport.abort()

    def _made(self) -> Guarded:
        protocol = ServerProtocol(**self.listener.protocol_options)
        return Guarded(protocol, self, **self.listener.connection_options)

    async def _refused(self, connection: Guarded) -> None:
        """It was told why, or handed the page; let that arrive."""
        response = connection.response
        asked = response is not None and response.status_code == http.HTTPStatus.OK
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HANDSHAKE_SECONDS if asked else FIRST_BYTE_SECONDS):
                await asyncio.shield(connection.connection_lost_waiter)

    def _examine(self, connection: ServerConnection, request: Request) -> Response | None:
        doors = self.listener.doors
        headers = request.headers
        if self._proxied and doors.trusted is not None:
            said = headers.get_all("X-Forwarded-For")
            self.peer = client_address(self.peer, said, doors.trusted)
        origins, host = headers.get_all("Origin"), ", ".join(headers.get_all("Host"))
        if doors.page is not None and (shown := doors.page.answer(request)) is not None:
            return shown
        if not all(self._is_allowed(origin, host) for origin in origins):
            return connection.respond(
                http.HTTPStatus.FORBIDDEN,
                "This node does not talk with pages of that site; its user allows them with "
                "--origins.\n",
            )
        if self._waiting is not None:
            gate, knocks = self.listener.gate, headers.get_all(KNOCK)
            if not self._waiting.known and len(knocks) == 1 and doors.knows(knocks[0]):
                gate.recognise(self._waiting)
            gate.locate(self._waiting, group_of(self.peer))
        return None

    def _is_allowed(self, origin: str, host: str) -> bool:
        doors = self.listener.doors
        own = doors.page is not None and doors.page.is_own(origin, host)
        return own or origin in doors.origins


class Listener:
    """Listens on all addresses of a host. ``accept(connection, address, proved)`` runs for the life of
    each WebSocket and calls ``proved()`` when the other side has shown who it is."""

    def __init__(
        self,
        accept: Accept,
        gate: Gate,
        doors: Doors,
        *,
        tls: ssl.SSLContext | None,
        protocol_options: dict[str, Any],
        connection_options: dict[str, Any],
    ) -> None:
        self.accept = accept
        self.gate = gate
        self.doors = doors
        self.tls = tls
        self.protocol_options = protocol_options
        self.connection_options = connection_options
        self.visits: set[Visit] = set()
        self._acceptors: list[Acceptor] = []

    @property
    def sockets(self) -> list[socket.socket]:
        return [each.sock for each in self._acceptors]

    def is_serving(self) -> bool:
        """What websockets asks of its server."""
        return bool(self._acceptors)

    async def open(self, host: str, port: int) -> None:
        """Raises BadInput: the address cannot be listened on."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, kind, protocol, _, address in dict.fromkeys(found):
                sock = socket.socket(family, kind, protocol)
                try:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if family == socket.AF_INET6:
                        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    sock.bind(address)
                    sock.listen(_BACKLOG)
                except BaseException:
                    sock.close()
                    raise
                self._acceptors.append(Acceptor(sock, self._on_socket, self._on_exhausted))
        except OSError as error:
            self.close()
            raise BadInput(
                what=f"--listen {host_port(host, port)}",
                reason=f"{error.strerror or error}; give an address of this computer and a free "
                "port",
            ) from error

    def at(self, host: str | None = None) -> str:
        """``HOST:PORT`` where it listens; ``host``: under another name of this computer."""
        bound = self.sockets[0].getsockname()
        return host_port(str(bound[0]) if host is None else host, int(bound[1]))

    def _on_socket(self, sock: socket.socket, address: Any) -> None:
        Visit(self, sock, str(address[0]))

    def _on_exhausted(self, told: str) -> None:
        self.gate.clear(0.5)
        self.doors.warn(told)

    def close(self) -> None:
        """Listen no more; connections that have not proved who they are end, links do not."""
        for each in self._acceptors:
            each.close()
        self._acceptors.clear()
        self.gate.clear()
