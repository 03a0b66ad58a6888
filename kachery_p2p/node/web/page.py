"""The page that opens share links, as a proxy hands it to browsers.

It is a few files that are always the same, held in memory; whoever comes may have them. The page
gets nothing else from here over HTTP: what it shows it fetches as a visitor, over a WebSocket.

Invariants: the page may run its own scripts alone, and connect to where it came from alone; the
frame of a view runs what the view brings, and connects to nothing; nothing of a request but its path
decides what it gets.

Non-goals: who may connect (node/links/listener.py).
"""

from __future__ import annotations

import gzip
import http
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from kachery_p2p.node.context import Context

FOLDER: Final = Path(__file__).parents[2] / "page"
"""Where ``scripts/web`` puts what it builds, and the wheel has it."""

_INDEX: Final = "index.html"
_VIEW: Final = "view.html"
"""The document of the frame in which views run."""
_KINDS: Final = {
    _INDEX: "text/html; charset=utf-8",
    _VIEW: "text/html; charset=utf-8",
    "kachery.js": "text/javascript; charset=utf-8",
    "media.js": "text/javascript; charset=utf-8",
    "kachery.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "licences.txt": "text/plain; charset=utf-8",
}
"""By name, which is the last part of a path: a reverse proxy may put the node anywhere."""
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",  # hashes are computed in WebAssembly
        "style-src 'self'",
        "img-src 'self' blob:",
        "media-src 'self' blob:",
        "worker-src 'self'",  # of players, which ask the page for ranges
        "connect-src 'self'",
        "frame-src 'self' blob:",  # views; and PDFs, in the browser's own viewer
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types worker",  # which is one address, whatever it is asked
    )
)
_VIEW_POLICY: Final = "; ".join(
    (
        "sandbox allow-scripts",  # an origin of its own, also for who opens it without a frame
        "default-src 'none'",
        # Ours, and what the view brings. None that are inline: those would run in frames inside the
        # frame, where a fresh set of the browser's interfaces is, and could have pages prefetched.
        "script-src '{script}' 'unsafe-eval' blob:",
        "style-src 'unsafe-inline' blob:",
        "img-src blob: data:",
        "font-src blob: data:",
        "media-src blob: data:",
        "connect-src 'none'",
        "worker-src 'none'",
        "frame-src 'none'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'self'",
        "webrtc 'block'",
    )
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",
    "Connection": "close",
}
_OF_VIEW: Final = {
    "X-DNS-Prefetch-Control": "off",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), display-capture=(), "
    "clipboard-read=(), clipboard-write=(), usb=(), serial=(), hid=(), bluetooth=(), midi=()",
}
"""Headers that differ for it."""
_NOT_BUILT: Final = (
    "This node was installed without the page that opens share links. Install a released wheel of "
    "kachery_p2p, or run ./scripts/web in its source folder (it takes npm), then restart the node.\n"
)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True)
class _File:
    headers: dict[str, str]
    data: bytes
    packed: bytes
    tag: str


class Page:
    """``names``: under which ``host:port`` this node is known; asked each time."""

    def __init__(self, names: Callable[[], set[str]], folder: Path = FOLDER) -> None:
        self._names = names
        self._files = _read(folder)

    def answer(self, request: Request) -> Response | None:
        """The answer to a request for the page; None for one that wants a WebSocket."""
        if _field(request, "Upgrade").lower() == "websocket":
            return None
        if not self._files:
            return _text(http.HTTPStatus.SERVICE_UNAVAILABLE, _NOT_BUILT)
        found = self._files.get(_name_in(request.path))
        if found is None:
            return _text(http.HTTPStatus.NOT_FOUND, "There is nothing under this address.\n")
        if _field(request, "If-None-Match") == found.tag:
            return _response(http.HTTPStatus.NOT_MODIFIED, found.headers | {"ETag": found.tag}, b"")
        fields = found.headers | {"ETag": found.tag, "Vary": "Accept-Encoding"}
        if "gzip" not in _field(request, "Accept-Encoding"):
            return _response(http.HTTPStatus.OK, fields, found.data)
        return _response(http.HTTPStatus.OK, fields | {"Content-Encoding": "gzip"}, found.packed)

    def is_own(self, origin: str, host: str) -> bool:
        """Whether a page with this ``Origin`` came from here, by a name that this node is known under.

        That the two headers agree is not enough: whoever owns a name can have it lead to any address.
        """
        try:
            parts = urlsplit(origin)
            said = _netloc(parts.scheme, parts.netloc)
            return said == _netloc(parts.scheme, host) and said in self._names()
        except ValueError:
            return False


def _name_in(path: str) -> str:
    """The file that is asked for. What follows ``#`` is not sent, but programs that rewrite links in
    mails make ``%23`` of it; then it comes here, is used for nothing, and the page repairs it."""
    name = path.partition("?")[0].rpartition("/")[2]
    return _INDEX if not name or name.startswith("%23") else name


def _field(request: Request, name: str) -> str:
    """A header's value; of several with one name, all with commas between them."""
    return ", ".join(request.headers.get_all(name))


def own_names(context: Context, listening: str) -> set[str]:
    """The ``host:port`` under which browsers know this node: as it was told itself, as its channels
    name it, and on this computer."""
    port = listening.rpartition(":")[2]
    urls = [*context.urls, f"ws://{listening}"]
    urls += [f"ws://{host}:{port}" for host in ("localhost", "127.0.0.1", "[::1]")]
    for channel in context.book:
        bootstraps = context.book.signed(channel).document.bootstraps
        urls += [each.url for each in bootstraps if each.node_id == context.node_id]
    return {_page_name(url) for url in urls}


def _page_name(url: str) -> str:
    parts = urlsplit(url)
    return _netloc("https" if parts.scheme == "wss" else "http", parts.netloc)


def _netloc(scheme: str, text: str) -> str:
    """``host:port`` in lower case, with the port also where it is that of the scheme. Raises
    ValueError."""
    parts = urlsplit(f"//{text}")
    port = parts.port or _DEFAULT_PORTS.get(scheme, 0)
    return f"{(parts.hostname or '').lower()}:{port}"


def _read(folder: Path) -> dict[str, _File]:
    """The built page; nothing if it was not built, or a part of it is missing."""
    found = {}
    for name, kind in _KINDS.items():
        try:
            data = (folder / name).read_bytes()
        except OSError:
            return {}
        tag = f'"{sha256(data).hexdigest()[:32]}"'
        headers = {"Content-Type": kind}
        if name == _VIEW:
            headers |= _OF_VIEW | {"Content-Security-Policy": _view_policy(data)}
        found[name] = _File(headers, data, gzip.compress(data, mtime=0), tag)
    return found


def _view_policy(document: bytes) -> str:
    """The policy of the frame of views, which knows its one script by its hash."""
    script = document.partition(b"<script>")[2].partition(b"</script>")[0]
    return _VIEW_POLICY.format(script=f"sha256-{b64encode(sha256(script).digest()).decode()}")


def _text(status: http.HTTPStatus, text: str) -> Response:
    return _response(status, {"Content-Type": "text/plain; charset=utf-8"}, text.encode())


def _response(status: http.HTTPStatus, fields: dict[str, str], body: bytes) -> Response:
    headers = Headers(_HEADERS | fields | {"Content-Length": str(len(body))})
    return Response(status.value, status.phrase, headers, body)
