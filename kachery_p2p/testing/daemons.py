"""Nodes as processes of their own, started and stopped through the command line.

Whatever happens to the test, the process is killed at the end, by its process descriptor, so that it
can be no other process. (Linux.)
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any, Self

from kachery_p2p.local.socket_path import connect
from kachery_p2p.protocol.errors import DaemonNotStarted, from_wire

from .nodes import AnyNode

_END_SECONDS = 10


_PORTS = range(10_000, 32_000)
"""Below those that outgoing connections are given, which might take one before it is listened at."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses now."""
    for port in random.sample(_PORTS, 100):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise OSError(f"none of 100 ports from {_PORTS.start} to {_PORTS.stop} is free")


class Daemon(AnyNode):
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
        super().__init__(folder, label)
        self._netns = netns
        self.options = {"label": label, "listen": listen, "proxy": proxy, **options}
        if options.get("storage_dir"):
            self.storage = Path(options["storage_dir"])
        self.pid = 0
        self._descriptor: int | None = None
        atexit.register(self.kill)

    @property
    def url(self) -> str:
        """The address at which other nodes reach it; it must listen."""
        return f"ws://{self.options['listen']}"

    def _prefix(self, command: list[str]) -> list[str]:
        starts = command[2:4] == ["daemon", "start"]
        return ["ip", "netns", "exec", self._netns] if self._netns and starts else []

    def _run(
        self, command: list[str], stdin: str | None, env: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        try:
            return super()._run(command, stdin, env)
        finally:
            if command[2:4] == ["daemon", "start"]:
                self._watch()

    def start(self) -> Self:
        """Start it, or start it again on the same folders. Returns when it answers.

        Raises what 'daemon start' says."""
        arguments: list[str] = []
        for name, value in self.options.items():
            if value is not None and value is not False:
                arguments.append(f"--{name.replace('_', '-')}")
                if value is not True:
                    arguments.append(str(value))
        done = self.cli("daemon", "start", "--json", *arguments, check=False)
        if done.returncode != 0:
            self._raise(done.stderr)
        info = json.loads(done.stdout)
        self.pid, self.node_id = info["pid"], info["node_id"]
        return self

    def _raise(self, said: str) -> None:
        for line in said.splitlines():
            with contextlib.suppress(ValueError, LookupError, TypeError):
                error = json.loads(line)["error"]
                raise from_wire(error["code"], error["fields"])
        raise DaemonNotStarted(reason=said.strip(), log="its state folder")

    def _watch(self) -> None:
        """Take charge of the process at its socket, if there is one, however it came there."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            try:
                connect(sock, self.socket)
            except OSError:
                return
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", raw)[0]
        if pid != self.pid or self._descriptor is None:
            if self._descriptor is not None:
                os.close(self._descriptor)
            self.pid, self._descriptor = pid, os.pidfd_open(pid)

    def stop(self) -> None:
        """Stop it in order; returns when its process is gone. Nothing if there is none."""
        if self._descriptor is not None:
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
            if not ended:
                raise AssertionError(f"pid {self.pid} is still there")
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
