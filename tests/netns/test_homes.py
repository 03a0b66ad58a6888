"""Two people at home: each behind a router that translates addresses, on lines that lose packets."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.daemons import Daemon, free_port, short_folder
from tests.netns import hosts

REASON = hosts.why_not("iptables")
pytestmark = [
    pytest.mark.netns,
    pytest.mark.processes,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]

STORE = """
import os, sys
import kachery_p2p as kc
print(kc.store_bytes(os.urandom(int(sys.argv[1]))))
"""

LOAD = """
import sys
import kachery_p2p as kc
print(len(kc.load_bytes(sys.argv[1])))
"""


@dataclass(frozen=True)
class Homes:
    a: Daemon
    b: Daemon
    home_a: hosts.Home
    home_b: hosts.Home


@pytest.fixture(scope="module")
def homes() -> Iterator[Homes]:
    port = free_port()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        home_a, home_b = stack.enter_context(hosts.home(1)), stack.enter_context(hosts.home(2))
        proxy = Daemon(folder, "proxy", listen=f"0.0.0.0:{port}", proxy=True)
        a, b = Daemon(folder, "a", netns=home_a.name), Daemon(folder, "b", netns=home_b.name)
        # They listen, in vain: nobody can reach them there.
        a.options["listen"] = b.options["listen"] = f"192.168.0.2:{free_port()}"
        for daemon in (proxy, a, b):
            stack.enter_context(daemon)
        urls = [f"ws://{home.gateway}:{port}#{proxy.node_id}" for home in (home_a, home_b)]
        a.cli("channel", "create", "lab", *(part for url in urls for part in ("--bootstrap", url)))
        a.cli("channel", "add-node", "lab", b.node_id, "--label", "b")
        text = a.cli("channel", "export", "lab").stdout
        proxy.cli("channel", "join", "-", "--roles", "none", stdin=text)
        b.cli("channel", "join", "-", stdin=text)
        yield Homes(a, b, home_a, home_b)


@pytest.fixture(autouse=True)
def roads_are_whole(homes: Homes) -> Iterator[None]:
    yield
    for home in (homes.home_a, homes.home_b):
        home.lose(0)
        home.cut(off=False)


def loaded(daemon: Daemon, uri: str) -> int:
    """Bytes of a file that the other one has just stored: the proxy is about to hear of it."""
    deadline = time.monotonic() + 30
    while True:
        done = daemon.cli("find", uri, "--json", check=False)
        if done.returncode == 0 and json.loads(done.stdout)["holders"]:
            return int(daemon.python(LOAD, uri))
        assert time.monotonic() < deadline, done.stdout + done.stderr
        time.sleep(0.1)


def test_each_gets_what_the_other_has_through_the_proxy(homes: Homes) -> None:
    uri = homes.a.python(STORE, "3000000").strip()
    assert loaded(homes.b, uri) == 3_000_000
    other = homes.b.python(STORE, "1000").strip()
    assert loaded(homes.a, other) == 1000
    routes = {link["label"]: link["via_label"] for link in status(homes.b)["links"]}
    assert routes["a"] == "proxy", "the addresses that they listen at lead nowhere"


def status(daemon: Daemon) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = json.loads(daemon.cli("status", "--json").stdout)
    return found


def test_a_road_that_loses_packets_costs_time_and_nothing_else(homes: Homes) -> None:
    homes.home_a.lose(0.02)
    homes.home_b.lose(0.02)
    uri = homes.a.python(STORE, "2000000").strip()
    assert loaded(homes.b, uri) == 2_000_000
    made = "import kachery_p2p as kc; s = kc.create_feed().load_subfeed('n'); print(s.uri)"
    feed = homes.a.python(made + "\nfor n in range(200): s.append_message(n)").strip()
    read = "import sys, kachery_p2p as kc; print(len(kc.load_subfeed(sys.argv[1]).get_next_messages()))"
    assert homes.b.python(read, feed) == "200\n"


def test_a_load_outlives_a_road_that_was_silent_for_a_while(homes: Homes, tmp_path: Path) -> None:
    uri = homes.a.python(STORE, "60000000").strip()
    slow = """
import sys, threading
import kachery_p2p as kc
def tell(info):
    print(info["done"], flush=True)
print("loaded", len(kc.load_bytes(sys.argv[1], progress=tell)))
"""
    assert loaded(homes.b, homes.a.python(STORE, "10").strip()) == 10
    process = subprocess.Popen(
        [sys.executable, "-c", slow, uri], env=homes.b.env, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        homes.home_a.cut(off=True)
        time.sleep(3)
        homes.home_a.cut(off=False)
        out, _ = process.communicate(timeout=90)
    assert out.splitlines()[-1] == "loaded 60000000"
