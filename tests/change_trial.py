"""How soon a load goes on after a network has changed or a computer has slept: ``./scripts/trial
changes``.

Two nodes, ``a`` which gives and ``b`` which takes, each in a network namespace of its own, and a proxy,
whose link is all that either has. In the middle of a load a forwarder falls silent, a cable is pulled
out, an address changes, or the nodes' processes stop, and so many seconds later that is over.

Prints a table in Markdown. Fails if a file does not arrive.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.daemons import Daemon, free_port, short_folder, until
from tests.netns import hosts
from tests.netns.far import FarHost, far_host
from tests.road_trial import STORE

MB: Final = 60
RATE: Final = "4M"
CHANGES: Final = (
    "silent a 4", "silent b 4", "silent ab 8", "unplugged a 5", "unplugged b 5", "moved a 0",
    "moved b 0", "moved ab 0", "asleep a 60", "asleep b 60", "asleep ab 60", "asleep proxy 60",
)  # fmt: skip
"""What, to whom, and for how many seconds."""

LOAD: Final = """
import sys
import kachery_p2p as kc
tell = lambda info: print(info["done"], flush=True, file=sys.stderr)
print(len(kc.load_bytes(sys.argv[1], progress=tell)))
"""


@dataclass
class Place:
    daemon: Daemon
    host: FarHost | None = None


@contextlib.contextmanager
def places(folder: Path) -> Iterator[dict[str, Place]]:
    port = free_port()
    with contextlib.ExitStack() as stack:
        far = {name: stack.enter_context(far_host(60 + number)) for number, name in enumerate("ab")}
        for host in far.values():
            host.way.delay = 0.005
        proxy = Daemon(folder, "proxy", listen=f"0.0.0.0:{port}", proxy=True)
        made = {name: Daemon(folder, name, netns=host.name) for name, host in far.items()}
        for daemon in (proxy, *made.values()):
            stack.enter_context(daemon)
        a, b = made["a"], made["b"]
        urls = [f"ws://{host.gateway}:{port}#{proxy.node_id}" for host in far.values()]
        a.cli("channel", "create", "lab", *(part for url in urls for part in ("--bootstrap", url)))
        a.cli("channel", "add-node", "lab", b.node_id, "--label", "b")
        text = a.cli("channel", "export", "lab").stdout
        proxy.cli("channel", "join", "-", "--roles", "none", stdin=text)
        b.cli("channel", "join", "-", stdin=text)
        a.cli("daemon", "set", "--max-upload", RATE)
        found = {name: Place(made[name], host) for name, host in far.items()}
        yield {**found, "proxy": Place(proxy)}


def change(what: str, place: Place, *, over: bool) -> None:
    if what == "asleep":
        os.kill(place.daemon.pid, signal.SIGCONT if over else signal.SIGSTOP)
        return
    assert place.host is not None
    if what == "silent":
        place.host.way.broken = not over
    elif what == "unplugged":
        place.host.plug(out=not over)
    elif not over:
        place.host.move()


def loaded(uri: str, taker: Daemon, there: list[Place], what: str, seconds: float) -> str | None:
    """How soon it went on, in a cell of the table; None: the file did not come."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOAD, uri],
        env=taker.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    times: list[tuple[float, int]] = []

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            if line.strip().isdigit() and (not times or int(line) > times[-1][1]):
                times.append((time.monotonic(), int(line)))

    reader = threading.Thread(target=read)
    reader.start()
    until(lambda: times and times[-1][1] > MB * 100_000, "bytes come")
    begun = time.monotonic()
    for place in there:
        change(what, place, over=False)
    time.sleep(seconds)
    for place in there:
        change(what, place, over=True)
    over = time.monotonic()
    assert process.stdout is not None
    out = process.stdout.read()
    reader.join()
    if process.wait() or int(out) != MB * 1_000_000:
        return None
    came = [begun, *(at for at, _ in times if at > begun)]
    gap = max(after - before for before, after in itertools.pairwise(came))
    return f"{next(at for at in came if at > over) - over:.1f} | {gap:.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/trial changes")
    parser.add_argument("changes", nargs="*", default=CHANGES, metavar="'WHAT WHOM SECONDS'")
    options = parser.parse_args()
    reason = hosts.why_not()
    if reason is not None:
        print(f"scripts/trial changes {reason}: nothing is tried")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # it leaves nothing behind
    failed = 0
    with short_folder() as folder, places(folder) as found:
        giver, taker = found["a"].daemon, found["b"].daemon
        count = len(options.changes)
        uris = json.loads(giver.python(STORE, str(MB * 1_000_000), str(count)))
        last = uris[-1]
        until(
            lambda: json.loads(taker.cli("find", last, "--json").stdout)["holders"], "it is known"
        )
        print(
            "| what | whom | seconds | goes on after, s | longest gap, s |\n|---|---|---|---|---|"
        )
        for each in options.changes:
            what, whom, seconds = each.split()
            there = [found[name] for name in ([whom] if whom in found else whom)]
            cell = loaded(uris.pop(), taker, there, what, float(seconds))
            failed += cell is None
            print(f"| {what} | {whom} | {seconds} | {cell or 'failed |'} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
