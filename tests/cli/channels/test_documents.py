"""Where channel documents may come from, and where not."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.cli.channels import documents
from kachery_p2p.cli.channels.documents import check_url, read_document
from kachery_p2p.protocol.errors import (
    BadChannelDocument,
    BadInput,
    BadPath,
    DeadlineExceeded,
    Unreachable,
)
from kachery_p2p.protocol.limits import MAX_CHANNEL_TEXT

TEXT = "-----BEGIN KACHERY CHANNEL x-----\nAAAA\n-----END KACHERY CHANNEL-----\n"


class Handler(http.server.BaseHTTPRequestHandler):
    release: threading.Event

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "http://example.org/document")
            self.end_headers()
        elif self.path == "/hangs":
            self.release.wait()
        elif self.path == "/missing":
            self.send_error(404)
        else:
            content = b"x" * (MAX_CHANNEL_TEXT + 10) if self.path == "/long" else TEXT.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            try:
                self.wfile.write(content)
            except ConnectionError:
                return  # what is too long is not read to its end

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.release = threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{listening.server_address[1]}"
        Handler.release.set()
        listening.shutdown()
        thread.join()


def test_a_file_a_url_and_the_text_itself_give_the_same(server: str, tmp_path: Path) -> None:
    (tmp_path / "x.channel").write_text(TEXT)
    assert read_document(str(tmp_path / "x.channel")) == TEXT
    assert read_document(f"{server}/x.channel") == TEXT
    assert read_document(TEXT) == TEXT


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadPath, match="no such file"):
        read_document(str(tmp_path / "absent"))
    with pytest.raises(BadPath, match="directory"):
        read_document(str(tmp_path))
    with pytest.raises(BadPath, match="null"):
        read_document("a\0b")


def test_what_is_too_long_is_refused(server: str, tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * (MAX_CHANNEL_TEXT + 1))
    for source in (str(tmp_path / "long"), f"{server}/long"):
        with pytest.raises(BadChannelDocument, match="longer"):
            read_document(source)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/x",
        "http://127.0.0.1.example.org/x",
        "http://localhost.example.org/x",
        "http://[::2]/x",
        "ftp://example.org/x",
        "file:///etc/passwd",
        "https:///x",
        "http://[::1/x",
    ],
)
def test_an_unsafe_url_is_refused(url: str) -> None:
    with pytest.raises(BadInput):
        read_document(url)


@pytest.mark.parametrize(
    "url",
    ["https://example.org/x", "http://localhost:8/x", "http://127.1.2.3/", "http://[::1]:8/x"],
)
def test_https_and_loopback_are_allowed(url: str) -> None:
    check_url(url)


def test_a_redirect_may_not_lead_to_plain_http(server: str) -> None:
    with pytest.raises(BadInput, match="https"):
        read_document(f"{server}/moved")


def test_a_url_without_the_document_is_unreachable(server: str) -> None:
    with pytest.raises(Unreachable, match="404"):
        read_document(f"{server}/missing")


def test_a_server_that_hangs_is_given_up(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "REQUEST_SECONDS", 0.05)
    with pytest.raises((DeadlineExceeded, Unreachable)):
        read_document(f"{server}/hangs")
