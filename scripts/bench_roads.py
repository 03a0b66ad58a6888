"""Two computers with a road between them, for benchmarks: a far one, with servers, and this one.

Where that can be, the far one is a network namespace, and the kernel delays what passes, so that TCP is
what it is on a long road. Elsewhere it is this computer, behind a process that delays what passes, and
takes some of the processor's time for it; :attr:`Far.kind` says which.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.daemons import Daemon, free_port
from tests.netns import hosts

RATE = 125_000_000
"""Bytes a second of a forwarder's road: an Ethernet's of 1 Gbit/s."""


class Forwarder:
    """A process with a TCP port before another one, behind which everything is ``delay`` seconds late
    each way, and which carries ``RATE`` bytes a second."""

    def __init__(self, target: int, delay: float) -> None:
        self.port = free_port()
        arguments = [str(self.port), str(target), str(delay)]
        self._process = subprocess.Popen(
            [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class Carrier:
    """What runs in that process."""

    def __init__(self, target: int, delay: float) -> None:
        self._target, self._delay = target, delay
        self._free = [0.0, 0.0]
        """When each direction has sent what it was given: all connections share it."""

    async def serve(self, port: int) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", port)
        print("ready", flush=True)
        await server.serve_forever()

    async def _accept(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        far, onward = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            await asyncio.gather(self._carry(near, onward, 0), self._carry(far, back, 1))
        except OSError:
            back.transport.abort()
            onward.transport.abort()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: int
    ) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1024)
        loop = asyncio.get_running_loop()

        async def deliver() -> None:
            while True:
                due, data = await under_way.get()
                if (left := due - loop.time()) > 0:
                    await asyncio.sleep(left)
                if not data:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()

        delivering = asyncio.create_task(deliver())
        try:
            while True:
                data = await reader.read(65_536)
                sent = max(loop.time(), self._free[way]) + len(data) / RATE
                self._free[way] = sent
                await under_way.put((sent + self._delay, data))
                if not data:
                    break
            await delivering
        finally:
            delivering.cancel()


class Far:
    """The far computer. ``address``: where its servers listen."""

    def __init__(self, netns: str | None, rtt: float) -> None:
        self.netns = netns
        self.address = "127.0.0.1" if netns is None else hosts.INNER
        self.rtt = rtt
        self._forwarders: dict[int, Forwarder] = {}

    @property
    def kind(self) -> str:
        """What the road is, in words."""
        if self.netns is not None:
            return "network namespaces"
        return f"a forwarder of {RATE / 1e6:g} MB/s" if self.rtt else "loopback"

    @property
    def inside(self) -> list[str]:
        """What a command begins with that runs there."""
        return [] if self.netns is None else ["ip", "netns", "exec", self.netns]

    def port(self, port: int) -> int:
        """By which port of :attr:`address` a port of it is reached from here."""
        if self.netns is not None or not self.rtt:
            return port
        if port not in self._forwarders:
            self._forwarders[port] = Forwarder(port, self.rtt / 2)
        return self._forwarders[port].port

    def stop(self) -> None:
        for each in self._forwarders.values():
            each.stop()


@contextlib.contextmanager
def far(rtt: float) -> Iterator[Far]:
    """A computer at the end of a road with a round trip of so many seconds."""
    why = hosts.why_not("tc") if rtt else "there is nothing to delay"
    if why is not None:
        if rtt:
            print(f"(no network namespaces: {why})")
        there = Far(None, rtt)
        try:
            yield there
        finally:
            there.stop()
        return
    with hosts.host(delay=rtt / 2) as name:
        yield Far(name, rtt)


class Pair:
    """Two nodes on one channel, ``a`` on the far computer and ``b`` on this one, and their proxy on the
    far one, where ``a`` is reached directly."""

    def __init__(self, folder: Path, there: Far) -> None:
        folder.mkdir(exist_ok=True)
        self._there = there
        self.proxy = self._listening(folder, "proxy", proxy=True)
        self.a = self._listening(folder, "a")
        self.b = Daemon(folder, "b")
        self._stack = contextlib.ExitStack()

    def _listening(self, folder: Path, label: str, *, proxy: bool = False) -> Daemon:
        port = free_port()
        options = {}
        if (outside := self._there.port(port)) != port:
            options["public_url"] = f"ws://{self._there.address}:{outside}"
        address = f"{self._there.address}:{port}"
        return Daemon(
            folder, label, listen=address, proxy=proxy, netns=self._there.netns, **options
        )

    def __enter__(self) -> Pair:
        with contextlib.ExitStack() as stack:
            for daemon in (self.proxy, self.a, self.b):
                stack.enter_context(daemon)
            port = int(self.proxy.options["listen"].rpartition(":")[2])
            url = f"ws://{self._there.address}:{self._there.port(port)}#{self.proxy.node_id}"
            self.a.cli("channel", "create", "lab", "--bootstrap", url)
            self.a.cli("channel", "add-node", "lab", self.b.node_id)
            text = self.a.cli("channel", "export", "lab").stdout
            self.proxy.cli("channel", "join", "-", "--roles", "none", stdin=text)
            self.b.cli("channel", "join", "-", stdin=text)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class Nginx:
    """nginx on the far computer, serving one folder. ``url``: where it is reached from here."""

    def __init__(self, folder: Path, root: Path, there: Far) -> None:
        port = free_port()
        config = folder / "nginx.conf"
        config.write_text(
            f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr crit;\n"
            f"user root; events {{}}\n"
            f"http {{ access_log off; sendfile on; server {{ listen {there.address}:{port};"
            f" root {root}; }} }}\n"
        )
        self.url = f"http://{there.address}:{there.port(port)}"
        self._address = there.address, port
        self._process = subprocess.Popen(
            [*there.inside, "nginx", "-p", str(folder), "-c", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._listens()

    def _listens(self) -> None:
        """Wait until it does."""
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(self._address, 1).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def nginx(folder: Path, root: Path, there: Far) -> Nginx | None:
    """One that runs; None, and that is said, if it is not installed."""
    if shutil.which("nginx") is None:
        print("(nginx is not installed: no comparison with the plain web)")
        return None
    return Nginx(folder, root, there)


if __name__ == "__main__":
    asyncio.run(Carrier(int(sys.argv[2]), float(sys.argv[3])).serve(int(sys.argv[1])))
