"""Hosts on one machine: network namespaces with links to this one. Needs root and iproute2."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OUTER = "10.213.7.1"
"""This side's address: the proxy listens here."""
INNER = "10.213.7.2"


def why_not(*programs: str) -> str | None:
    """Why there can be no hosts here that also need these programs, or None."""
    if os.geteuid() != 0:
        return "needs root"
    if not (shutil.which("ip") and shutil.which("tc")):
        return "needs iproute2"
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        return f"needs {' and '.join(missing)}"
    name = f"kptry{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "this kernel or container allows no network namespaces"
    try:
        # What a kernel has no module for fails only when it is asked for it.
        for program in programs:
            for command in _TRIALS[program]:
                done = subprocess.run(_inside(name, command), capture_output=True)
                if done.returncode:
                    return f"this kernel lacks what '{command}' needs"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
    return None


_TRIALS = {
    "tc": ("tc qdisc add dev lo root netem delay 1ms",),
    "iptables": (
        "iptables -t nat -A POSTROUTING -o x -j MASQUERADE",
        "iptables -A INPUT -m statistic --mode random --probability 0.5 -j DROP",
    ),
}


def _inside(name: str, command: str) -> list[str]:
    return ["ip", "netns", "exec", name, *command.split()]


def run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)


@contextlib.contextmanager
def namespace(name: str) -> Iterator[None]:
    run(f"ip netns add {name}")
    try:
        run(f"ip -n {name} link set lo up")
        yield
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


@contextlib.contextmanager
def _link(here: str, address: str, there: str, name: str, other: str) -> Iterator[None]:
    """Interface ``here`` of this namespace, with its address, linked to ``there`` of another."""
    run(f"ip link add {here} type veth peer name {there}")
    try:
        run(f"ip link set {there} netns {name}")
        run(f"ip addr add {address}/30 dev {here}")
        run(f"ip link set {here} up")
        run(f"ip -n {name} addr add {other}/30 dev {there}")
        run(f"ip -n {name} link set {there} up")
        yield
    finally:
        subprocess.run(["ip", "link", "del", here], capture_output=True)


@contextlib.contextmanager
def host(rate: str | None = None, *, delay: float = 0.0) -> Iterator[str]:
    """A host that sends at most at ``rate`` (as tc writes it); yields its namespace's name. ``delay``:
    so many seconds is everything late, in each direction."""
    name = f"kp{os.getpid()}"
    here, there = f"{name}a", f"{name}b"
    with namespace(name), _link(here, OUTER, there, name, INNER):
        if rate is not None:
            run(f"tc -n {name} qdisc add dev {there} root tbf rate {rate} burst 32kb latency 50ms")
        if delay:
            # As many packets as a fast line has under way: what does not fit is lost.
            late = f"root netem delay {1000 * delay:g}ms limit 100000"
            run(f"tc -n {name} qdisc add dev {there} {late}")
            run(f"tc qdisc add dev {here} {late}")
        yield name


@dataclass(frozen=True)
class Line:
    """A host behind a line of its own."""

    name: str
    """Of the host's namespace."""
    address: str
    """The host's."""
    gateway: str
    """This side's address, as the host reaches it."""
    interface: str
    """This side's."""

    @property
    def sent(self) -> int:
        """Bytes that the host has sent, headers and all."""
        return int(Path(f"/sys/class/net/{self.interface}/statistics/rx_bytes").read_text())


@contextlib.contextmanager
def line(number: int, rate: str) -> Iterator[Line]:
    """One of several hosts, which sends at most at ``rate`` (as tc writes it)."""
    name = f"kp{os.getpid()}l{number}"
    here, there = f"{name}a", f"{name}b"
    outer, inner = f"10.213.{100 + number}.1", f"10.213.{100 + number}.2"
    with namespace(name), _link(here, outer, there, name, inner):
        run(f"tc -n {name} qdisc add dev {there} root tbf rate {rate} burst 128kb latency 50ms")
        yield Line(name, inner, outer, here)


@dataclass(frozen=True)
class Home:
    """A host behind a router that translates addresses, as at home: nobody can call it."""

    name: str
    """Of the host's namespace."""
    router: str
    """Of the router's."""
    gateway: str
    """This side's address, as the host reaches it."""

    def lose(self, share: float) -> None:
        """From now on the host loses this share of the packets that come; 0: none."""
        run(f"ip netns exec {self.name} iptables -F INPUT")
        if share:
            run(
                f"ip netns exec {self.name} iptables -A INPUT -m statistic --mode random"
                f" --probability {share} -j DROP"
            )

    def cut(self, *, off: bool) -> None:
        """The router passes nothing on, in silence; or all again."""
        run(f"ip netns exec {self.router} iptables -P FORWARD {'DROP' if off else 'ACCEPT'}")


@contextlib.contextmanager
def home(number: int) -> Iterator[Home]:
    """All homes have the same private addresses, as real ones do. Needs iptables."""
    inside, router = f"kp{os.getpid()}h{number}", f"kp{os.getpid()}r{number}"
    up, down = f"{router}u", f"{router}d"
    gateway, public = f"10.213.{8 + number}.1", f"10.213.{8 + number}.2"
    with (
        namespace(router),
        namespace(inside),
        _link(f"{router}o", gateway, up, router, public),
    ):
        run(f"ip -n {router} link add {down} type veth peer name eth0 netns {inside}")
        run(f"ip -n {router} addr add 192.168.0.1/24 dev {down}")
        run(f"ip -n {router} link set {down} up")
        run(f"ip -n {inside} addr add 192.168.0.2/24 dev eth0")
        run(f"ip -n {inside} link set eth0 up")
        run(f"ip -n {inside} route add default via 192.168.0.1")
        run(f"ip netns exec {router} sysctl -qw net.ipv4.ip_forward=1")
        run(f"ip netns exec {router} iptables -t nat -A POSTROUTING -o {up} -j MASQUERADE")
        yield Home(inside, router, gateway)
