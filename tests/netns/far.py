"""Hosts that are far away, on a way that loses packets: what a kernel does with netem, which many lack.

The way to such a host is a pair of TUN devices, one on either side, and a thread that carries packets
from each to the other, late, and not all of them. Needs root, iproute2 and /dev/net/tun. Bounded:
:data:`_MOST` packets each way; of more, the newest are lost, as in a router.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.netns.hosts import namespace, run

_TUNSETIFF = 0x400454CA
_TUN_WITHOUT_HEADER = 0x0001 | 0x1000
_MOST = 20_000
_MTU = 1_500


def _device(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH", name.encode(), _TUN_WITHOUT_HEADER))
    return fd


@dataclass
class Way:
    """Both directions between two devices. ``delay``: seconds, each way; ``loss``: a share of the
    packets; ``broken``: nothing passes, in silence."""

    ends: tuple[int, int]
    delay: float = 0.0
    loss: float = 0.0
    broken: bool = False
    carried: int = 0
    """Packets, both ways."""
    _rng: random.Random = field(default_factory=lambda: random.Random(1))
    _stop: threading.Event = field(default_factory=threading.Event)

    def carry(self) -> None:
        """Until :meth:`stop`."""
        under_way: dict[int, deque[tuple[float, bytes]]] = {end: deque() for end in self.ends}
        other = {self.ends[0]: self.ends[1], self.ends[1]: self.ends[0]}
        while not self._stop.is_set():
            now = time.monotonic()
            due = min((queue[0][0] for queue in under_way.values() if queue), default=now + 0.2)
            ready, _, _ = select.select(self.ends, (), (), max(0.0, min(0.2, due - now)))
            now = time.monotonic()
            for end in ready:
                self._take(end, under_way[other[end]], now + self.delay)
            for end, queue in under_way.items():
                while queue and queue[0][0] <= now:
                    with contextlib.suppress(OSError):  # the device is full, or going away
                        os.write(end, queue.popleft()[1])

    def _take(self, end: int, queue: deque[tuple[float, bytes]], due: float) -> None:
        with contextlib.suppress(OSError):
            for _ in range(64):
                packet = os.read(end, _MTU + 64)
                self.carried += 1
                lost = self.broken or self._rng.random() < self.loss
                if not lost and len(queue) < _MOST:
                    queue.append((due, packet))

    def stop(self) -> None:
        self._stop.set()


@dataclass
class FarHost:
    """``name`` of the namespace where its programs run; ``address`` is the host's, or that of the
    router it is behind; ``gateway`` is this side's, as the host reaches it. ``here`` and ``there`` are
    the devices, and ``outer`` the namespace of the one that is there."""

    name: str
    address: str
    gateway: str
    way: Way
    here: str = ""
    there: str = ""
    outer: str = ""

    def move(self) -> None:
        """It has another address from now on, as in another network, and the old one leads nowhere."""
        network, _, last = self.address.rpartition(".")
        old, self.address = self.address, f"{network}.{int(last) + 1}"
        run(f"ip addr del {self.gateway} peer {old} dev {self.here}")
        run(f"ip addr add {self.gateway} peer {self.address} dev {self.here}")
        run(f"ip -n {self.outer} addr del {old} peer {self.gateway} dev {self.there}")
        run(f"ip -n {self.outer} addr add {self.address} peer {self.gateway} dev {self.there}")
        run(f"ip -n {self.outer} route replace default via {self.gateway}")

    def plug(self, *, out: bool) -> None:
        """Its cable is pulled out, or put in again."""
        run(f"ip -n {self.outer} link set {self.there} {'down' if out else 'up'}")
        if not out:
            run(f"ip -n {self.outer} route replace default via {self.gateway}")


@contextlib.contextmanager
def far_host(number: int, *, behind_nat: bool = False) -> Iterator[FarHost]:
    """One of several, numbered from 0."""
    here, there = f"kf{os.getpid()}h{number}", f"kf{os.getpid()}t{number}"
    name = f"kp{os.getpid()}f{number}"
    gateway, address = f"10.214.{number}.1", f"10.214.{number}.2"
    with contextlib.ExitStack() as stack:
        stack.enter_context(namespace(name))
        ends = _device(here), _device(there)
        for end in ends:
            stack.callback(os.close, end)
        run(f"ip addr add {gateway} peer {address} dev {here}")
        run(f"ip link set {here} mtu {_MTU} up")
        # Far hosts reach one another by way of this one, which is no router otherwise.
        run(f"sysctl -qw net.ipv4.conf.{here}.forwarding=1")
        run(f"ip link set {there} netns {name}")
        run(f"ip -n {name} addr add {address} peer {gateway} dev {there}")
        run(f"ip -n {name} link set {there} mtu {_MTU} up")
        run(f"ip -n {name} route add default via {gateway}")
        way = Way(ends)
        thread = threading.Thread(target=way.carry, daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(way.stop)
        inside = stack.enter_context(_behind(name, there, number)) if behind_nat else name
        yield FarHost(inside, address, gateway, way, here, there, name)


@contextlib.contextmanager
def _behind(router: str, up: str, number: int) -> Iterator[str]:
    """A host behind a router that translates addresses; yields its namespace's name."""
    inside, down = f"{router}i", f"kf{os.getpid()}d{number}"
    with namespace(inside):
        run(f"ip -n {router} link add {down} type veth peer name eth0 netns {inside}")
        run(f"ip -n {router} addr add 192.168.0.1/24 dev {down}")
        run(f"ip -n {router} link set {down} up")
        run(f"ip -n {inside} addr add 192.168.0.2/24 dev eth0")
        run(f"ip -n {inside} link set eth0 up")
        run(f"ip -n {inside} route add default via 192.168.0.1")
        run(f"ip netns exec {router} sysctl -qw net.ipv4.ip_forward=1")
        run(f"ip netns exec {router} iptables -t nat -A POSTROUTING -o {up} -j MASQUERADE")
        yield inside


def only_to(host: FarHost, address: str, port: int) -> None:
    """From now on the host reaches one port of one address, and nothing else."""
    for rule in (
        f"-A OUTPUT -d {address} -p tcp --dport {port} -j ACCEPT",
        "-A OUTPUT -o lo -j ACCEPT",
        "-A OUTPUT -j REJECT",
    ):
        subprocess.run(["ip", "netns", "exec", host.name, "iptables", *rule.split()], check=True)
