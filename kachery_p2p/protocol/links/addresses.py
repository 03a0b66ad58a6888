"""IP addresses: with whom a stranger counts, whom a reverse proxy speaks for, and what may be dialled.

Which addresses a node dials because *another* node said so is decided here. The ranges that mean
something else to each computer (loopback, link-local, private) are dialled only by who is in the same
range, or was told so; else any member could have others knock at what listens inside their networks.

Invariants: an IPv4 address that is wrapped into an IPv6 one (mapped, compatible, 6to4, Teredo, NAT64)
is judged as what it leads to. Unknown means no.

Non-goals: looking up names (the caller does, once, and connects to what was judged), firewalls.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final

from kachery_p2p.protocol.errors import BadInput

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

PUBLIC: Final = "public"
NEVER: Final = "never"
LOOPBACK: Final = "loopback"
LINK_LOCAL: Final = "link-local"

_RANGES: Final[tuple[tuple[str, Network], ...]] = tuple(
    (name, ip_network(text))
    for name, text in (
        (LOOPBACK, "127.0.0.0/8"),
        (LOOPBACK, "::1/128"),
        (LINK_LOCAL, "169.254.0.0/16"),
        (LINK_LOCAL, "fe80::/10"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("172.16.0.0/12", "172.16.0.0/12"),
        ("192.168.0.0/16", "192.168.0.0/16"),
        ("100.64.0.0/10", "100.64.0.0/10"),
        ("fc00::/7", "fc00::/7"),
        (NEVER, "fec0::/10"),  # private, long ago
        (NEVER, "64:ff9b:1::/48"),  # leads to whatever a translator of this site likes
    )
)
_NAT64: Final = IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = IPv6Network("::/96")
_ONE_SITE: Final = 64
"""Bits of an IPv6 address that one stranger does not choose: the rest is any host's own."""


def parse_address(text: str) -> Address | None:
    """The address in a text, or None: ``10.0.0.1``, ``[::1]``, ``fe80::1%eth0``, with a port or
    without."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None


def host_port(host: str, port: int) -> str:
    """``HOST:PORT`` as it stands in a URL, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_network(text: str) -> Network:
    """A network such as ``10.0.0.0/8``, or a single address.

    Raises:
        BadInput: it is none.
    """
    try:
        return ip_network(text.strip())
    except ValueError as error:
        raise BadInput(what=f"network {text[:80]!r}", reason=str(error)) from error


def leads_to(address: Address) -> Address:
    """The IPv4 address that an IPv6 one leads to, else itself."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def group_of(text: str) -> str:
    """With whom a connection from this address counts: an IPv4 address, or an IPv6 network of 64 bits,
    any address of which one computer may have."""
    address = parse_address(text)
    if address is None:
        return text
    address = leads_to(address)
    if isinstance(address, IPv4Address):
        return str(address)
    return str(ip_network((int(address), _ONE_SITE), strict=False))


def within(address: Address, networks: Iterable[Network]) -> bool:
    """Whether it is in one of the networks, as it is or :func:`leads_to`."""
    inner = leads_to(address)
    return any(
        each in network
        for network in networks
        for each in (address, inner)
        if each.version == network.version
    )


def is_trusted(peer: str, trusted: Iterable[Network]) -> bool:
    """Whether a direct peer may say for whom it speaks: this computer, and what was configured."""
    address = parse_address(peer)
    return address is not None and (range_of(address) == LOOPBACK or within(address, trusted))


def client_address(peer: str, forwarded: Iterable[str], trusted: Iterable[Network]) -> str:
    """Who is at the other end of a reverse proxy.

    Args:
        peer: the address of the direct peer.
        forwarded: the values of all ``X-Forwarded-For`` headers, in order.
        trusted: networks of reverse proxies, beside this computer itself.

    Returns:
        The last address in the headers that is not a reverse proxy's, if the direct peer is one; what
        stands before that, anybody can have written. Else ``peer``.
    """
    networks = tuple(trusted)
    if not is_trusted(peer, networks):
        return peer
    said = [part for value in forwarded for part in value.split(",")]
    last = peer
    for part in reversed(said):
        address = parse_address(part)
        if address is None:
            break
        last = str(address)
        if not is_trusted(last, networks):
            break
    return last


def range_of(address: Address) -> str:
    """The range that an address is in: PUBLIC, NEVER, LOOPBACK, LINK_LOCAL, or a private network."""
    inner = leads_to(address)
    for name, network in _RANGES:
        if inner.version == network.version and inner in network:
            return name
    if inner.is_multicast or not inner.is_global:
        return NEVER
    return PUBLIC


def may_dial(address: Address, *, own: Iterable[Address], allowed: Iterable[Network] = ()) -> bool:
    """Whether a node dials an address that another node named.

    Args:
        own: where this node itself is reached, and the proxies that the channel's owner named.
        allowed: networks that this node's user named.
    """
    if within(address, allowed):
        return True
    where = range_of(address)
    if where in (PUBLIC, NEVER):
        return where == PUBLIC
    return any(range_of(each) == where for each in own)
