"""What this node says and minds when it dials: knocks, and which addresses of other members it trusts.

A URL in a channel document, or one that this node's user typed, is dialled as it is. One that another
*node* named is dialled by :func:`dial_member`: written anew with the fixed path, its host looked up
once, each address judged (protocol/links/addresses.py), and the connection made to one that passed, so
that no name can lead elsewhere afterwards.

Behind an HTTP proxy it is that proxy which would look names up, so only numbers are dialled then.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

from kachery_p2p.node.context import Context
from kachery_p2p.protocol.channels.member_urls import member_url
from kachery_p2p.protocol.errors import Unreachable
from kachery_p2p.protocol.limits import KNOCK_MARKS, MAX_DIAL_ADDRESSES
from kachery_p2p.protocol.links.addresses import (
    LINK_LOCAL,
    LOOPBACK,
    Address,
    Network,
    may_dial,
    parse_address,
    range_of,
)
from kachery_p2p.protocol.links.http_proxy import choose_http_proxy
from kachery_p2p.protocol.links.knock import RANDOM_BYTES, make_knock

from .transport import WebSocketTransport, dial

_LOCALHOST = "127.0.0.1"
_ANYWHERE = (IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))
"""Addresses for examples, which nobody has."""


@dataclass(frozen=True)
class Rules:
    """``own``: where this node is reached, and the proxies that a channel's owner named. ``networks``:
    what this node's user allows."""

    own: tuple[Address, ...] = ()
    networks: tuple[Network, ...] = ()

    def allow(self, address: Address) -> bool:
        return may_dial(address, own=self.own, allowed=self.networks)


class Dialling:
    """Made once by the composition root; ``listening`` is set when the node listens."""

    def __init__(self, context: Context, networks: tuple[Network, ...] = ()) -> None:
        self._context = context
        self._book = context.book
        self._networks = networks
        self.listening = ""

    def knock(self, node: str | None, channel: bytes | None = None) -> str:
        """What to say to a node, on whose account: a channel, or all that it is likely to be on."""
        if node is None:
            return ""
        channels = [channel] if channel is not None else self._common(node)
        context = self._context
        return make_knock(
            channels, bytes.fromhex(node), context.clock(), context.random_bytes(RANDOM_BYTES)
        )

    def _common(self, node: str) -> list[bytes]:
        likely: list[bytes] = []
        for channel in self._book:
            document = self._book.signed(channel).document
            if any(each.node_id == node for each in document.bootstraps):
                likely.append(channel)
            if len(likely) == KNOCK_MARKS:
                break
        return likely

    def rules(self, channel: bytes) -> Rules:
        """For addresses of members of a channel."""
        named = [*self._context.urls]
        if channel in self._book:
            named += [each.url for each in self._book.signed(channel).document.bootstraps]
        hosts = [urlsplit(url).hostname or "" for url in named] + [self.listening]
        return Rules(tuple(_addresses(hosts)), self._networks)


def _addresses(hosts: Iterable[str]) -> list[Address]:
    found = [parse_address(_LOCALHOST if host == "localhost" else host) for host in hosts]
    return [each for each in found if each is not None]


async def dial_member(
    url: str, rules: Rules, *, http_proxy: str | None = None, knock: str = ""
) -> WebSocketTransport:
    """Dial a URL that another node named. ``http_proxy`` and ``knock`` are as for
    :func:`~.transport.dial`.

    Raises:
        Unreachable: with the reason; also if it leads to where this node does not go.
        BadInput: it is no URL of a member.
    """
    target = member_url(url)
    parts = urlsplit(target)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    if http_proxy is not None or choose_http_proxy(os.environ, parts.scheme, host, port):
        literal = parse_address(host)
        if literal is None or not rules.allow(literal):
            raise Unreachable(
                what=url,
                reason="the HTTP proxy would be asked to go there, and only public IP addresses are "
                "dialled that way because another node says so",
            )
        return await dial(target, http_proxy=http_proxy, knock=knock)
    found = await _looked_up(url, host, port)
    allowed = [each for each in found if _goes(rules, each)]
    if not allowed:
        raise Unreachable(
            what=url,
            reason=f"it leads to {found[0]}, an address that means something else to each computer; "
            f"'daemon start --private-network {found[0]}' allows it",
        )
    failure: Unreachable | None = None
    for address in allowed[:MAX_DIAL_ADDRESSES]:
        try:
            return await dial(target, knock=knock, at=str(address))
        except Unreachable as error:
            failure = error
    assert failure is not None
    raise failure


async def _looked_up(url: str, host: str, port: int) -> list[Address]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # a name of which no lookup can be made
        raise Unreachable(what=url, reason=f"its name is not known ({error})") from error
    addresses = [parse_address(str(each[4][0])) for each in found]
    return [each for each in dict.fromkeys(addresses) if each is not None]


def _goes(rules: Rules, address: Address) -> bool:
    if rules.allow(address):
        return True
    if range_of(address) in (LOOPBACK, LINK_LOCAL):  # each computer has an address in these
        return False
    mine = _address_towards(address)
    return mine is not None and may_dial(address, own=(mine,))


def _address_towards(address: Address) -> Address | None:
    """This computer's address on the route there. Nothing is sent."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((str(address), 9))
        except OSError:  # there is no such route
            return None
        return parse_address(sock.getsockname()[0])


def own_addresses() -> tuple[Address | None, ...]:
    """This computer's addresses on the way to anywhere else. Nothing is sent."""
    return tuple(_address_towards(each) for each in _ANYWHERE)


class WebSocketDialer:
    """Dials over real WebSockets."""

    async def dial(self, url: str, *, knock: str = "") -> WebSocketTransport:
        """An address that a channel's owner or this node's user named."""
        return await dial(url, knock=knock)

    async def dial_member(self, url: str, rules: Rules, *, knock: str = "") -> WebSocketTransport:
        """One that another node named."""
        return await dial_member(url, rules, knock=knock)
