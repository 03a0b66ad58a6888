"""Servers for tests: a web server with ranges and faults at will, nginx, and S3 by moto's standalone
server."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from .folders import write_index

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
        write_index(self.root)

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


class Nginx:
    """nginx, which serves a folder. ``setting``: more of its directives for that."""

    def __init__(self, root: Path, setting: str) -> None:
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        if program is None:
            pytest.skip("nginx is not installed")
        self._program = program
        self._folder = Path(tempfile.mkdtemp(prefix="kp"))
        self._root, self._port = root, _free_port()
        self.log = self._folder / "access.log"
        self.log.touch()
        self.url = f"http://127.0.0.1:{self._port}"
        self._start(setting)

    def _start(self, setting: str) -> None:
        file, folder = self._folder / "nginx.conf", self._folder
        temporary = (
            f"{what}_temp_path {folder}/{what};"
            for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        file.write_text(
            f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors;\n"
            "events {}\n"
            "http {\n"
            f"log_format sent '$status $body_bytes_sent $uri'; access_log {self.log} sent;\n"
            f"{' '.join(temporary)}\n"
            f"server {{ listen 127.0.0.1:{self._port} reuseport; root {self._root}; {setting} }}\n}}\n"
        )
        self._process = subprocess.Popen(
            [self._program, "-c", str(file), "-e", str(folder / "errors")]
        )
        _wait_for(self._port, self._process)

    def set(self, setting: str) -> None:
        """Have it set up so from now on."""
        self._end()
        self._start(setting)

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait(_PATIENCE)

    def sent(self) -> int:
        """Bytes of bodies."""
        return sum(int(line.split()[1]) for line in self.log.read_text().splitlines())

    def close(self) -> None:
        self._end()
        shutil.rmtree(self._folder)


@contextlib.contextmanager
def nginx(root: Path, setting: str = "") -> Iterator[Nginx]:
    server = Nginx(root, setting)
    try:
        yield server
    finally:
        server.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def s3(
    patch: pytest.MonkeyPatch,
    program: Sequence[str] = ("-m", "moto.server"),
    log: str = os.devnull,
) -> Iterator[str]:
    """An S3 server with an empty bucket; the URL of that. The environment says where it is.
    ``program``: what Python is to run as the server; ``log``: the file for what it prints."""
    pytest.importorskip("moto", reason="moto's server stands in for S3")
    boto3 = pytest.importorskip("boto3", reason="boto3 makes the bucket")
    port = _free_port()
    command = [sys.executable, *program, "-H", "127.0.0.1", "-p", str(port)]
    endpoint = f"http://127.0.0.1:{port}"
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        patch.setenv(name, value)
    with open(log, "ab") as out:
        process = subprocess.Popen(command, env=dict(os.environ), stdout=out, stderr=out)
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
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < last, "the server does not come up"
            time.sleep(0.05)
        else:
            return
