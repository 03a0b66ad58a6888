"""Hosts on one machine: a network namespace with one link to this one. Needs root and iproute2."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

OUTER = "10.213.7.1"
"""This side's address: the proxy listens here."""
INNER = "10.213.7.2"


def why_not() -> str | None:
    """Why there can be no hosts here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    if not (shutil.which("ip") and shutil.which("tc")):
        return "needs iproute2"
    name = f"kptry{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "this kernel or container allows no network namespaces"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


def run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)


@contextlib.contextmanager
def host(rate: str | None = None) -> Iterator[str]:
    """A host that sends at most at ``rate`` (as tc writes it); yields its namespace's name."""
    name = f"kp{os.getpid()}"
    here, there = f"{name}a", f"{name}b"
    run(f"ip netns add {name}")
    try:
        run(f"ip link add {here} type veth peer name {there}")
        run(f"ip link set {there} netns {name}")
        run(f"ip addr add {OUTER}/30 dev {here}")
        run(f"ip link set {here} up")
        run(f"ip -n {name} addr add {INNER}/30 dev {there}")
        run(f"ip -n {name} link set {there} up")
        run(f"ip -n {name} link set lo up")
        if rate is not None:
            run(f"tc -n {name} qdisc add dev {there} root tbf rate {rate} burst 32kb latency 50ms")
        yield name
    finally:
        subprocess.run(["ip", "link", "del", here], capture_output=True)
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
