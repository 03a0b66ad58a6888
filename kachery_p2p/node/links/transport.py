"""Transports: how whole messages get to the other end of a link and back.

A transport moves messages (bytes) in order, tells when it is gone, and knows nothing else. There are
two real ones: a WebSocket, and a circuit through a proxy (:mod:`.circuit`); the simulator of the
tests has a third.

Every foreign error (websockets', the operating system's) is mapped here, once, to the error tree.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.exceptions import (
    InvalidHandshake,
    InvalidProxy,
    InvalidURI,
    WebSocketException,
)

from kachery_p2p.node.parties import STRANGERS, Party
from kachery_p2p.node.websocket import Dialled, Messages
from kachery_p2p.protocol.codec import Buffer
from kachery_p2p.protocol.errors import BadInput, LinkClosed, Unreachable
from kachery_p2p.protocol.limits import (
    DIAL_SECONDS,
    KIB,
    MAX_RECORD,
    MAX_URL,
)
from kachery_p2p.protocol.links.http_proxy import HttpProxy, choose_http_proxy
from kachery_p2p.protocol.links.knock import HEADER as KNOCK

from .gate import Gate
from .listener import Doors, Guarded, Listener

SUBPROTOCOL = "kachery-p2p"
_UNSENT_BYTES = 256 * KIB
"""What the kernel may hold unsent per socket: more would put control frames behind bulk."""
_CLOSE_SECONDS = 2.0
_BOTH_ENDS: dict[str, Any] = {
    "subprotocols": [SUBPROTOCOL],
    "compression": None,  # records are encrypted: nothing in them can be compressed
    "max_size": MAX_RECORD,
    "ping_interval": None,  # links have pings of their own, in their sessions
    "close_timeout": _CLOSE_SECONDS,
}
"""How we use a WebSocket, whichever end we are."""


class Transport(Protocol):
    """See the module. ``send`` waits while the route is full; both raise LinkClosed at its end."""

    name: str
    party: Party
    """On whose account work goes until it is clear who is at the other end."""

    @property
    def taken_at(self) -> float | None:
        """When (the loop's time) the other end last took part of what is being sent, if the transport
        knows; else None."""

    async def send(self, *parts: Buffer) -> None:
        """Send one message, which may be in several parts."""

    async def receive(self) -> Buffer: ...

    def belong_to(self, party: Party) -> None:
        """What comes is on this account from now on; until then nothing large comes."""

    def doubt(self) -> None:
        """What is waited for does not come: whatever carries this finds out whether it still does."""

    async def close(self) -> None: ...


class WebSocketTransport:
    """An open WebSocket connection, dialled or accepted. Text messages are refused."""

    taken_at = None

    def __init__(self, connection: Connection, messages: Messages, name: str) -> None:
        self.name = name
        self.party = connection.visit.party if isinstance(connection, Guarded) else STRANGERS
        self._connection = connection
        self._messages = messages

    async def send(self, *parts: Buffer) -> None:
        try:
            await self._messages.send(*parts)
        except LinkClosed as error:
            raise LinkClosed(**error.fields | {"peer": self.name}) from error

    async def receive(self) -> Buffer:
        try:
            return await self._messages.receive()
        except LinkClosed as error:
            raise LinkClosed(**error.fields | {"peer": self.name}) from error

    def belong_to(self, party: Party) -> None:
        self._messages.belong_to(party.name)

    def doubt(self) -> None:
        """Nothing that a node could ask carries a WebSocket."""

    async def close(self) -> None:
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._connection.close()
        except TimeoutError:
            # Closing waits without end for a peer that does not read.
            self._connection.transport.abort()
            await self._connection.wait_closed()
        self._messages.forget()


def check_url(url: str) -> str:
    """Return ``url`` if it is a ws:// or wss:// URL, else raise :class:`~.errors.BadInput`."""
    if not isinstance(url, str) or len(url) > MAX_URL:
        raise BadInput(what="URL", reason="not a text of reasonable length")
    if not url.startswith(("ws://", "wss://")) or len(url.split("://", 1)[1]) < 1:
        raise BadInput(what=f"URL {url!r}", reason="it must start with ws:// or wss://")
    return url


def _tune(connection: Connection) -> None:
    raw = connection.transport.get_extra_info("socket")
    if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)


class _Connect(connect):
    """Follows no redirect: what answers at a URL does not choose where else this node knocks."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def dial(
    url: str,
    *,
    tls: ssl.SSLContext | None = None,
    http_proxy: str | None = None,
    knock: str = "",
    at: str | None = None,
) -> WebSocketTransport:
    """Open a WebSocket, through ``http_proxy`` (a URL), or the one that the environment names.

    Args:
        knock: what is said to a node that is on one of our channels (protocol/links/knock.py).
        at: the IP address of the URL's host, which is not looked up then, nor is an HTTP proxy used.

    Raises:
        Unreachable: with the reason.
        BadInput: the URL can never work.
    """
    check_url(url)
    options: dict[str, Any] = {"ssl": tls} if tls is not None and url.startswith("wss:") else {}
    proxy = None if at is not None else _http_proxy(url, http_proxy)
    options["proxy"] = None if proxy is None else proxy.url
    if at is not None:
        options["host"] = at
    via = "" if proxy is None else f", at {proxy.shown}"
    try:
        connection = await _Connect(
            url,
            create_connection=Dialled,
            **_BOTH_ENDS,
            open_timeout=DIAL_SECONDS,
            user_agent_header=None,
            additional_headers={KNOCK: knock} if knock else None,
            **options,
        )
    except InvalidURI as error:
        raise BadInput(what=f"URL {url!r}", reason=str(error)) from error
    except (InvalidProxy, ImportError) as error:  # SOCKS takes another package
        raise Unreachable(
            what=url, reason=f"the HTTP proxy setting is wrong{via}: {error}"
        ) from error
    except TimeoutError as error:
        raise Unreachable(what=url, reason=f"no answer within {DIAL_SECONDS:g} s{via}") from error
    except ssl.SSLError as error:
        raise Unreachable(what=url, reason=f"TLS failed: {error}{via}") from error
    except OSError as error:
        raise Unreachable(what=url, reason=f"{_broken(error, url)}{via}") from error
    except ValueError as error:  # a host that is no name, a port that is none
        raise BadInput(what=f"URL {url!r}", reason=str(error)) from error
    except (InvalidHandshake, WebSocketException) as error:
        reason = f"no kachery-p2p node there: {error}{via}"
        raise Unreachable(what=url, reason=reason) from error
    _tune(connection)
    assert isinstance(connection, Dialled)
    assert connection.messages is not None
    return WebSocketTransport(connection, connection.messages, url)


def _broken(error: OSError, url: str) -> str:
    said = error.strerror or str(error)
    if said:
        return said
    # Whoever takes a TLS greeting for nonsense hangs up without a word.
    hint = " (does it speak TLS? else it is ws://)" if url.startswith("wss:") else ""
    return f"it closed the connection{hint}"


def _http_proxy(url: str, named: str | None) -> HttpProxy | None:
    """``named``: by the caller. Raises BadInput for a URL whose port is none."""
    if named is not None:
        return HttpProxy(named, "as given")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "wss" else 80)
    except ValueError as error:
        raise BadInput(what=f"URL {url!r}", reason=str(error)) from error
    return choose_http_proxy(os.environ, parts.scheme, host, port)


def tls_of(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """What a listener needs for TLS; None without a certificate. Raises BadInput."""
    if certificate is None:
        return None
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        tls.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise BadInput(what=f"--tls-cert {certificate}", reason=str(error)) from error
    return tls


async def listen(
    host: str,
    port: int,
    accept: Callable[[WebSocketTransport, Callable[[], None]], Awaitable[None]],
    gate: Gate,
    *,
    tls: ssl.SSLContext | None = None,
    doors: Doors | None = None,
) -> Listener:
    """Accept WebSockets on ``host:port`` (port 0: any free one).

    ``accept(transport, proved)`` runs for the life of each connection and calls ``proved()`` when
    the other side has shown who it is, and is welcome.

    Raises:
        BadInput: the address cannot be listened on.
    """

    async def handler(connection: Guarded, address: str, proved: Callable[[], None]) -> None:
        _tune(connection)
        assert connection.messages is not None
        await accept(WebSocketTransport(connection, connection.messages, address), proved)

    listener = Listener(
        handler,
        gate,
        doors or Doors(),
        tls=tls,
        protocol_options={
            "subprotocols": _BOTH_ENDS["subprotocols"],
            "max_size": _BOTH_ENDS["max_size"],
            "logger": logging.getLogger("websockets.server"),
        },
        connection_options={name: _BOTH_ENDS[name] for name in ("ping_interval", "close_timeout")},
    )
    await listener.open(host, port)
    return listener
