"""Whether every pair of nodes gets a file across, whatever lies between them: ``./scripts/trial
roads``.

Nodes of four kinds, each in a network namespace of its own: *open* (others can dial it), *relay only*
(it dials, nobody can dial it), *NAT* (behind a router that translates addresses), *HTTP proxy* (all
that it reaches is one port of an HTTP proxy). Between each and the rest lie ``delay`` and ``loss``.
One after the other, each kind loads a file from each. Then a source is limited, cut off in silence,
and killed, in the middle of a load, and comes back.

Prints a table in Markdown. Fails if a pair does not connect or a file does not arrive.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.connect_proxy import ConnectProxy
from tests.daemons import Daemon, free_port, short_folder
from tests.netns import hosts
from tests.netns.far import FarHost, far_host, only_to

KINDS: Final = ("open", "relay only", "NAT", "HTTP proxy")
LOSSES: Final = (0.0, 0.02)
RTTS: Final = (0, 50, 200)
"""Milliseconds between two nodes."""
PATIENCE: Final = 300.0

STORE = """
import json, os, sys
import kachery_p2p as kc
print(json.dumps([kc.store_bytes(os.urandom(int(sys.argv[1]))) for _ in range(int(sys.argv[2]))]))
"""

LOAD = """
import json, sys, time
import kachery_p2p as kc
last = {}
def tell(info):
    last.update(info)
    print(sum(each["bytes"] for each in info["sources"]), flush=True, file=sys.stderr)
start = time.time()
size = len(kc.load_bytes(sys.argv[1], progress=tell))
print(json.dumps({"seconds": time.time() - start, "size": size, "sources": last["sources"]}))
"""


@dataclass
class Place:
    kind: str
    host: FarHost
    daemon: Daemon
    uris: list[str] = field(default_factory=list)


class Roads:
    """Two nodes of each kind: one gives, one takes."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        self.givers: dict[str, Place] = {}
        self.takers: dict[str, Place] = {}
        self.failed: list[str] = []

    @contextlib.contextmanager
    def running(self, kinds: list[str]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            port = free_port()
            proxy = Daemon(self.folder, "proxy", listen=f"0.0.0.0:{port}", proxy=True)
            web = stack.enter_context(ConnectProxy("0.0.0.0"))
            for number, (places, kind) in enumerate(
                itertools.product((self.givers, self.takers), kinds)
            ):
                host = stack.enter_context(far_host(number, behind_nat=kind == "NAT"))
                label = f"{'giver' if places is self.givers else 'taker'}{number}"
                listen = f"{host.address}:{free_port()}" if kind == "open" else None
                daemon = Daemon(self.folder, label, netns=host.name, listen=listen)
                if kind == "HTTP proxy":
                    only_to(host, host.gateway, web.port)
                    daemon.env["ws_proxy"] = f"http://{host.gateway}:{web.port}"
                places[kind] = Place(kind, host, daemon)
            places_all = [*self.givers.values(), *self.takers.values()]
            for daemon in (proxy, *(place.daemon for place in places_all)):
                stack.enter_context(daemon)
            self._channel(proxy, places_all, port)
            yield

    def _channel(self, proxy: Daemon, places: list[Place], port: int) -> None:
        owner = places[0].daemon
        urls = [f"ws://{place.host.gateway}:{port}#{proxy.node_id}" for place in places]
        bootstraps = (part for url in urls for part in ("--bootstrap", url))
        owner.cli("channel", "create", "lab", *bootstraps)
        for place in places[1:]:
            daemon = place.daemon
            owner.cli("channel", "add-node", "lab", daemon.node_id, "--label", daemon.label)
        text = owner.cli("channel", "export", "lab").stdout
        proxy.cli("channel", "join", "-", "--roles", "none", stdin=text)
        for place in places[1:]:
            place.daemon.cli("channel", "join", "-", stdin=text)

    def store(self, count: int) -> None:
        for place in self.givers.values():
            place.uris = json.loads(place.daemon.python(STORE, str(self.size), str(count)))
            self._known(place)

    def _known(self, place: Place) -> None:
        deadline = time.monotonic() + PATIENCE
        taker = next(iter(self.takers.values())).daemon
        while True:
            found = taker.cli("find", place.uris[-1], "--json", check=False).stdout
            if found and json.loads(found)["holders"]:
                return
            assert time.monotonic() < deadline, f"nobody hears of what {place.kind} has"

    def set(self, rtt: float, loss: float) -> None:
        """Each packet passes two ways, there and back four."""
        for place in (*self.givers.values(), *self.takers.values()):
            place.host.way.delay, place.host.way.loss = rtt / 4000, loss / 2

    def load(self, giver: Place, taker: Place) -> str:
        """Seconds and route, as a cell of the table."""
        uri = giver.uris.pop()
        try:
            out = json.loads(taker.daemon.python(LOAD, uri))
        except AssertionError as error:
            self.failed.append(f"{taker.kind} from {giver.kind}: {error}")
            return "failed"
        taker.daemon.cli("rm", uri, "--force", check=False)
        via = {source["via"] for source in out["sources"]}
        route = "direct" if via == {None} else "relayed" if via else "in the answer"
        return f"{out['seconds']:.1f} s, {route}"

    def disturbed(self, what: str, giver: Place, taker: Place) -> str:
        """Something happens to the giver when a fifth has come; it is over 3 s later."""
        uri = giver.uris.pop()
        process = subprocess.Popen(
            [sys.executable, "-c", LOAD, uri],
            env=taker.daemon.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        times: list[float] = []
        for text in process.stderr:
            if text.strip().isdigit() and int(text) > self.size / 5:
                break
        way = giver.host.way
        if what == "limited":
            giver.daemon.cli("daemon", "set", "--max-upload", "2M")
        elif what == "cut off":
            way.broken = True
        else:
            giver.daemon.kill()
        time.sleep(3)
        over = time.time()
        if what == "cut off":
            way.broken = False
        elif what == "killed":
            giver.daemon.start()
            over = time.time()
        elif what == "limited":
            giver.daemon.cli("daemon", "set", "--max-upload", "none")
        last = -1
        for text in process.stderr:
            if text.strip().isdigit() and int(text) != last:
                last = int(text)
                times.append(time.time())
        out = process.stdout.read() if process.stdout else ""
        if process.wait() or json.loads(out)["size"] != self.size:
            self.failed.append(f"{what}: {taker.kind} from {giver.kind}")
            return "failed"
        after = next((at - over for at in times if at > over), 0.0)
        return f"{json.loads(out)['seconds']:.1f} s; goes on after {after:.1f} s"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/trial roads")
    parser.add_argument("--mb", type=int, default=50)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--rtt", type=float, nargs="*", default=list(RTTS))
    parser.add_argument("--loss", type=float, nargs="*", default=list(LOSSES))
    options = parser.parse_args()
    reason = hosts.why_not("iptables")
    if reason is not None:
        print(f"scripts/trial roads {reason}: nothing is tried")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # it leaves nothing behind
    with short_folder() as folder:
        roads = Roads(folder, options.mb * 1_000_000)
        with roads.running(options.kinds):
            table(roads, options)
            troubles(roads)
    for line in roads.failed:
        print(line)
    return 1 if roads.failed else 0


def table(roads: Roads, options: Any) -> None:
    print("| round trip, loss | from | " + " | ".join(f"to {k}" for k in options.kinds) + " |")
    print("|---|---|" + "---|" * len(options.kinds), flush=True)
    for loss, rtt in itertools.product(options.loss, options.rtt):
        roads.set(0, 0)
        roads.store(len(options.kinds))
        roads.set(rtt, loss)
        for giver in roads.givers.values():
            cells = [roads.load(giver, taker) for taker in roads.takers.values()]
            print(
                f"| {rtt:g} ms, {100 * loss:g} % | {giver.kind} | " + " | ".join(cells) + " |",
                flush=True,
            )


def troubles(roads: Roads) -> None:
    roads.set(20, 0)
    giver, taker = next(iter(roads.givers.values())), list(roads.takers.values())[-1]
    roads.store(3)
    for what in ("limited", "cut off", "killed"):
        print(
            f"{what}, {giver.kind} to {taker.kind}: {roads.disturbed(what, giver, taker)}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
