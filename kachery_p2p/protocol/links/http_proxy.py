"""Which HTTP proxy a WebSocket goes through, as the environment says: the rules of curl and requests.

``wss_proxy``, ``https_proxy``, ``all_proxy`` for ``wss://``; ``ws_proxy``, ``https_proxy``,
``http_proxy``, ``all_proxy`` for ``ws://``. Lower case counts more than upper case. An empty value
means none, and the next variable is asked, as requests does (curl asks no further). ``HTTP_PROXY`` is
not believed inside a CGI program, where it is a header that anybody may have sent.

``no_proxy`` names, with commas or spaces between, what is reached directly: ``*`` for everything, a
domain with all below it (``example.org``, ``.example.org``), an address, a network (``10.0.0.0/8``),
and any of these with a port. Names are not looked up.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

_KINDS: Final = {
    "wss": ("wss", "https", "all"),
    "ws": ("ws", "https", "http", "all"),
}
_SOCKS_PORT: Final = 1080
"""For a SOCKS proxy without a port, as curl has it; an HTTP proxy's is that of its scheme."""
_SPLIT: Final = re.compile(r"[,\s]+")
_PORT: Final = re.compile(r"(.+):([0-9]{1,5})")


class HttpProxy(NamedTuple):
    """``url``: with its scheme. ``variable``: which named it."""

    url: str
    variable: str

    @property
    def shown(self) -> str:
        """What to call it in errors, without the password that may be in its URL."""
        try:
            parts = urlsplit(self.url)
            where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        except ValueError:  # its address is none
            where = "?"
        return f"the HTTP proxy {where} ({self.variable})"


def choose_http_proxy(
    environ: Mapping[str, str], scheme: str, host: str, port: int
) -> HttpProxy | None:
    """The proxy for a URL, or None.

    Args:
        scheme: ``ws`` or ``wss``.
        host: a name, or an address without brackets.
    """
    found = next(filter(None, (_named(environ, f"{kind}_proxy") for kind in _KINDS[scheme])), None)
    if found is None or bypasses(_value(environ, "no_proxy")[0], host, port):
        return None
    return found


def _named(environ: Mapping[str, str], name: str) -> HttpProxy | None:
    value, variable = _value(environ, name)
    if not value or (variable == "HTTP_PROXY" and "REQUEST_METHOD" in environ):
        return None
    return HttpProxy(_completed(value), variable)


def _completed(value: str) -> str:
    """A proxy as the WebSocket library takes it: with a scheme, and with what others leave out."""
    scheme, separator, rest = value.partition("://")
    if not separator:
        scheme, rest = "http", value
    scheme = scheme.lower()
    if scheme == "socks":  # so it stands in the settings of desktops
        scheme = "socks5h"
    user, at, where = rest.rpartition("@")
    if at and ":" not in user:
        user += ":"
    if scheme.startswith("socks"):
        try:
            parts = urlsplit(f"//{where}")
            if parts.port is None:
                where = f"{parts.netloc.removesuffix(':')}:{_SOCKS_PORT}"
        except ValueError:  # its address is none: who dials says so
            pass
    return f"{scheme}://{user}{at}{where}"


def _value(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    for variable in (name, name.upper()):
        if variable in environ:
            return environ[variable].strip(), variable
    return "", name


def bypasses(no_proxy: str, host: str, port: int) -> bool:
    """Whether a host is reached directly."""
    host = host.strip("[]").partition("%")[0].rstrip(".").lower()  # without an IPv6 zone
    address = _address(host)
    return any(
        _covers(entry, host, address, port) for entry in _SPLIT.split(no_proxy.lower()) if entry
    )


def _covers(entry: str, host: str, address: _Address | None, port: int) -> bool:
    if entry == "*":
        return True
    if not _is_numeric(entry.strip("[]")) and (split := _PORT.fullmatch(entry)):
        # Not what only looks like a port: the last part of an IPv6 address.
        entry, only = split[1], int(split[2])
        if only != port:
            return False
    entry = _bare(entry)
    if "/" in entry:
        network = _network(entry)
        return network is not None and address is not None and address in network
    exact = _address(entry)
    if exact is not None or address is not None:
        return exact == address
    domain = entry.removeprefix("*").strip(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _bare(entry: str) -> str:
    """Without brackets, which stand around an address or a network, or before the latter's slash."""
    return entry.replace("[", "").replace("]", "")


def _is_numeric(entry: str) -> bool:
    return _address(entry) is not None or _network(entry) is not None


def _address(text: str) -> _Address | None:
    """An IPv4 address that is written as an IPv6 one is the same address."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
