"""Servers for tests: a web server with ranges and faults at will, and S3 by moto's standalone
server."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

_BUCKET: Final = "lab"
_PATIENCE: Final = 60.0


class Web:
    """Serves a folder. ``fault``: ``refuse``, ``silent``, ``cut`` (bodies end early) or ``whole``
    (ranges are ignored)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fault = ""
        self._closed = False
        self.sent: Counter[str] = Counter()
        """Bytes of bodies by the suffix of what was asked."""
        self.released = threading.Event()
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web.answer(self)

            do_HEAD = do_GET

            def log_message(self, *rest: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        if self._closed:  # connections that are still open end, too
            request.close_connection = True
            return
        if self.fault == "silent":
            self.released.wait(_PATIENCE)
            request.close_connection = True
            return
        path = self.root / request.path.lstrip("/")
        if self.fault == "refuse" or not path.is_file():
            request.send_response(403 if self.fault == "refuse" else 404)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        size, start, stop = path.stat().st_size, 0, path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if asked and self.fault != "whole":
            start, stop = int(asked[1]), min(size, int(asked[2]) + 1)
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        else:
            request.send_response(200)
        if self.fault == "cut":
            stop = start + (stop - start) // 2
        request.send_header("Content-Length", str(stop - start))
        request.end_headers()
        if request.command == "GET":
            with open(path, "rb") as file:
                file.seek(start)
                body = file.read(stop - start)
            with contextlib.suppress(OSError):
                request.wfile.write(body)
            self.sent[path.suffix] += len(body)

    def write_index(self) -> None:
        """As ``find sha1 -type f -printf '%f %s\\n' > index.txt`` does."""
        files = (each for each in (self.root / "sha1").rglob("*") if each.is_file())
        lines = [f"{each.name} {each.stat().st_size}\n" for each in files]
        (self.root / "index.txt").write_text("".join(lines))

    def close(self) -> None:
        self._closed = True
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextlib.contextmanager
def web(root: Path) -> Iterator[Web]:
    server = Web(root)
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def s3(patch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 server with an empty bucket; the URL of that. The environment says where it is."""
    pytest.importorskip("moto", reason="moto's server stands in for S3")
    boto3 = pytest.importorskip("boto3", reason="boto3 makes the bucket")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    endpoint = f"http://127.0.0.1:{port}"
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        patch.setenv(name, value)
    process = subprocess.Popen(
        command, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(port, process)
        boto3.client("s3").create_bucket(Bucket=_BUCKET)
        yield f"s3://{_BUCKET}/kachery"
    finally:
        process.kill()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    last = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            assert process.poll() is None, "the S3 server ended"
            assert time.monotonic() < last, "the S3 server does not come up"
            time.sleep(0.05)
        else:
            return
