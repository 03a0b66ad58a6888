"""Real nodes for tests: each is a process of its own, started and stopped through the command line.

A :class:`Daemon` has folders and an environment of its own, so several live side by side. Whatever
happens to the test, its process is killed at the end, by its process descriptor.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
_END_SECONDS = 10
_CALL_SECONDS = 120


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder with a path short enough for the sockets below it."""
    folder = Path(tempfile.mkdtemp(prefix="kp", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Daemon:
    """A node in ``folder/label``; ``options`` are those of 'daemon start', with underscores.

    An option that is True is given without a value. ``proxy=True`` and ``listen`` are as there.
    """

    def __init__(
        self,
        folder: Path,
        label: str,
        listen: str | None = None,
        proxy: bool = False,
        netns: str | None = None,
        **options: Any,
    ) -> None:
        """``netns``: the network namespace in which the node runs; its clients stay outside."""
        self.label = label
        self._prefix = ["ip", "netns", "exec", netns] if netns else []
        self.home = folder / label
        self.home.mkdir(parents=True, exist_ok=True)
        self.options = {"label": label, "listen": listen, "proxy": proxy, **options}
        self.storage = Path(options.get("storage_dir") or self.home / "kachery-storage")
        self.env = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("KACHERY", "XDG_"))
            },
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.home / "run"),
            "XDG_STATE_HOME": str(self.home / "state"),
            "PYTHONPATH": str(ROOT),
        }
        self.pid = 0
        self.node_id = ""
        self._descriptor: int | None = None
        atexit.register(self.kill)

    @property
    def url(self) -> str:
        """The address at which other nodes reach it; it must listen."""
        return f"ws://{self.options['listen']}"

    def cli(
        self, *arguments: str, check: bool = True, stdin: str | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run ``kachery-p2p ARGUMENTS`` with its environment; ``env`` is added to that."""
        prefix = self._prefix if arguments[:2] == ("daemon", "start") else []
        try:
            done = subprocess.run(
                [*prefix, sys.executable, "-m", "kachery_p2p.cli", *arguments],
                env={**self.env, **env},
                cwd=self.home,
                text=True,
                capture_output=True,
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                timeout=_CALL_SECONDS,
            )
        finally:
            if arguments[:2] == ("daemon", "start"):
                self._watch()
        if check:
            assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stderr}"
        return done

    def python(self, code: str, *arguments: str, stdin: str | None = None) -> str:
        """Run Python code with its environment and return what it printed."""
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=self.env,
            cwd=self.home,
            text=True,
            capture_output=True,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            timeout=_CALL_SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def info(self) -> dict[str, Any]:
        described: dict[str, Any] = json.loads(self.cli("info", "--json").stdout)
        return described

    def start(self) -> Self:
        """Start it, or start it again on the same folders. Returns when it answers."""
        arguments: list[str] = []
        for name, value in self.options.items():
            if value is not None and value is not False:
                arguments.append(f"--{name.replace('_', '-')}")
                if value is not True:
                    arguments.append(str(value))
        info = json.loads(self.cli("daemon", "start", "--json", *arguments).stdout)
        self.pid, self.node_id = info["pid"], info["node_id"]
        return self

    def _watch(self) -> None:
        """Take charge of the process at its socket, if there is one, however it came there."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            try:
                sock.connect(str(self.home / "run" / "kachery-p2p" / "node.sock"))
            except OSError:
                return
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", raw)[0]
        if pid != self.pid or self._descriptor is None:
            if self._descriptor is not None:
                os.close(self._descriptor)
            self.pid, self._descriptor = pid, os.pidfd_open(pid)

    def stop(self) -> None:
        """Stop it in order; returns when its process is gone."""
        self.cli("daemon", "stop")
        self._gone()

    def kill(self) -> None:
        """SIGKILL it, if it runs; returns when its process is gone."""
        if self._descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
            self._gone()

    def _gone(self) -> None:
        if self._descriptor is not None:
            ended, _, _ = select.select([self._descriptor], [], [], _END_SECONDS)
            assert ended, f"pid {self.pid} is still there"
            os.close(self._descriptor)
            self._descriptor = None

    def close(self) -> None:
        """Kill it and forget it."""
        self.kill()
        atexit.unregister(self.kill)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


class Lab:
    """Three nodes on one channel: ``a``, its owner, and ``b``, neither of which listens, and
    ``proxy``, which does."""

    def __init__(self, folder: Path, channel: str = "lab", *, direct: bool = False) -> None:
        """``direct``: ``a`` listens too, so that ``b`` links to it without the proxy."""
        self.channel = channel
        self.proxy = Daemon(folder, "proxy", listen=f"127.0.0.1:{free_port()}", proxy=True)
        self.a = Daemon(folder, "a", listen=f"127.0.0.1:{free_port()}" if direct else None)
        self.b = Daemon(folder, "b")

    def __enter__(self) -> Self:
        try:
            for daemon in (self.proxy, self.a, self.b):
                daemon.start()
            self.a.cli("channel", "create", self.channel, "--bootstrap", self.proxy.url)
            self.a.cli("channel", "add-node", self.channel, self.b.node_id, "--label", "b")
            text = self.a.cli("channel", "export", self.channel).stdout
            self.proxy.cli("channel", "join", "-", "--roles", "none", stdin=text)
            self.b.cli("channel", "join", "-", stdin=text)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in (self.b, self.a, self.proxy):
            daemon.close()
