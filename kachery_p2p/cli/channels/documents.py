"""Where a channel document, or an invitation, comes from: a file, a URL, standard input or the pasted
text.

Bounds: size and time, whatever the server at the URL does. What is in the text is verified by the
node; it is signed, so that the route it came on need not be trusted for what it says. It may carry an
open channel's secret, though, which is why plain http is refused except to this computer.
"""

from __future__ import annotations

import concurrent.futures
import ipaddress
import os
import sys
import threading
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from kachery_p2p.protocol.channels.invitation import is_invitation
from kachery_p2p.protocol.errors import (
    BadChannelDocument,
    BadInput,
    BadPath,
    DeadlineExceeded,
    Unreachable,
)
from kachery_p2p.protocol.limits import MAX_CHANNEL_TEXT, MAX_URL, REQUEST_SECONDS

_ARMOUR = "-----BEGIN "
_READ_BYTES = 65_536


def read_document(source: str) -> str:
    """The text that ``channel join`` was pointed to.

    Args:
        source: a path, an ``https://`` URL, ``-`` for standard input, or the text itself.

    Raises:
        BadPath: there is no such file.
        BadInput: a URL that is not safe to use.
        BadChannelDocument: too long.
        Unreachable, DeadlineExceeded: the URL does not give it.
    """
    if _ARMOUR in source or is_invitation(source):
        return source
    if source == "-":
        return _text(_standard_input())
    if "://" in source[:20]:
        return _text(_fetch(source))
    try:
        with Path(source).open("rb") as file:
            data = file.read(MAX_CHANNEL_TEXT + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadPath(path=source[:MAX_URL], reason=reason.lower()) from error
    return _text(data)


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise BadPath(path="standard input", reason="it is closed")
    data = bytearray()
    # One system call at a time: within a larger read, Ctrl-C may go unnoticed until the end.
    while len(data) <= MAX_CHANNEL_TEXT and (piece := os.read(sys.stdin.fileno(), _READ_BYTES)):
        data += piece
    return bytes(data)


def _text(data: bytes) -> str:
    if len(data) > MAX_CHANNEL_TEXT:
        raise BadChannelDocument(reason=f"longer than {MAX_CHANNEL_TEXT} bytes")
    return data.decode("utf-8", "replace")


def check_url(url: str) -> None:
    """Raise BadInput unless it is https, or http to this computer."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError as error:
        raise BadInput(what=f"URL {url[:MAX_URL]!r}", reason=str(error)) from error
    if host and (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))):
        return
    raise BadInput(
        what=f"URL {url[:MAX_URL]!r}",
        reason="a channel document is fetched over https:// only; download it yourself and give "
        "the file if you trust the way",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _fetch(url: str) -> bytes:
    check_url(url)
    outcome: concurrent.futures.Future[bytes] = concurrent.futures.Future()

    def work() -> None:
        try:
            outcome.set_result(_get(url))
        except BaseException as error:
            outcome.set_exception(error)

    # A daemon thread: urllib's timeout is per read, and a server that drips must not hold us.
    threading.Thread(target=work, daemon=True).start()
    try:
        return outcome.result(timeout=REQUEST_SECONDS)
    except BadInput:
        raise
    except TimeoutError as error:
        raise DeadlineExceeded(what=f"Fetching {url}", seconds=REQUEST_SECONDS) from error
    except (OSError, ValueError) as error:
        raise Unreachable(what=url, reason=str(error)) from error


def _get(url: str) -> bytes:
    import http.client
    import urllib.error
    import urllib.request

    class Redirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(
            self,
            req: urllib.request.Request,
            fp: IO[bytes],
            code: int,
            msg: str,
            headers: http.client.HTTPMessage,
            newurl: str,
        ) -> Any:
            try:
                check_url(newurl)
            except BadInput:
                fp.close()
                raise
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    opener = urllib.request.build_opener(Redirects)
    try:
        with opener.open(url, timeout=REQUEST_SECONDS) as response:
            data: bytes = response.read(MAX_CHANNEL_TEXT + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise
    except http.client.HTTPException as error:
        raise OSError(f"not an HTTP answer: {error!r}") from error
    return data
