"""The demonstration: a proxy and two leaves that listen on no port, a channel, five things shared.

Everything is done with the ``kachery-p2p`` command and the Python API, each node in an environment of
its own, as three people would on three computers. Prints what it does, and a table of what came
through. Exit status 0 only if every hash fits.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

BIG = 20_000_000

STORE = """
import json, sys
import numpy as np
import kachery_p2p as kc
rng = np.random.default_rng(0)
things = {
    "text": kc.store_text("some-random-text"),
    "dict": kc.store_json({"a": [1, 2, {"b": 3}]}),
    "array": kc.store_npy(rng.normal(size=(1000, 250))),
    "pickle": kc.store_pkl({"x": np.zeros((30, 40)), "when": (2026, 11, 21), "tags": {"raw"}}),
    "file": kc.store_file(sys.argv[1]),
}
print(json.dumps(things))
"""

LOAD = """
import hashlib, json, sys, time
import kachery_p2p as kc
results = {}
for kind, uri in json.loads(sys.argv[1]).items():
    last = {}
    start = time.perf_counter()
    path = kc.load_file(uri, progress=last.update)
    seconds = time.perf_counter() - start
    assert path is not None, f"nobody has {uri}"
    with open(path, "rb") as file:
        sha1 = hashlib.file_digest(file, "sha1").hexdigest()
    last.update(seconds=seconds, sha1=sha1)
    results[kind] = last
loaders = {"text": kc.load_text, "dict": kc.load_json, "array": kc.load_npy, "pickle": kc.load_pkl}
for kind, load in loaders.items():
    results[kind]["value"] = repr(load(json.loads(sys.argv[1])[kind])).replace("\\n", " ")[:60]
print(json.dumps(results))
"""


class Person:
    """Somebody with a computer: an environment of their own."""

    def __init__(self, folder: Path, name: str, console: Console) -> None:
        self.name = name
        self.folder = folder / name
        self.console = console
        self.started = False
        self.env = {
            **os.environ,
            "HOME": str(self.folder),
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "XDG_STATE_HOME": str(self.folder / "state"),
        }
        (self.folder / "run").mkdir(parents=True)

    def kachery(self, *arguments: str, stdin: str | None = None) -> str:
        """Run ``kachery-p2p``, and show it."""
        shown = " ".join(argument if argument else "''" for argument in arguments)
        self.console.print(f"[bold]{self.name}$[/] kachery-p2p {shown}", soft_wrap=True)
        command = [sys.executable, "-m", "kachery_p2p.cli", *arguments]
        return self._run(command, stdin)

    def python(self, program: str, *arguments: str) -> Any:
        return json.loads(self._run([sys.executable, "-c", program, *arguments], None))

    def _run(self, command: list[str], stdin: str | None) -> str:
        done = subprocess.run(
            command, env=self.env, input=stdin, capture_output=True, text=True, check=False
        )
        if done.returncode:
            self.console.print(done.stdout + done.stderr, markup=False)
            raise SystemExit(f"{self.name}: exit status {done.returncode}")
        return done.stdout


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def largest_file(folder: Path) -> Path:
    """The largest file of the environment that was installed."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return max(files, key=lambda path: path.stat().st_size)


def chosen_file(folder: Path) -> Path:
    if len(sys.argv) > 1:
        path = Path(sys.argv[1])
        if not path.is_file():
            raise SystemExit(f"{path} is not a file")
        return path
    path = largest_file(Path(sys.prefix))
    if path.stat().st_size > BIG:
        return path
    made = folder / "random.dat"  # nothing that large is installed: make one
    made.write_bytes(os.urandom(BIG + 1))
    return made


def size_of(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count} B"


def route_of(result: dict[str, Any]) -> str:
    routes = [
        f"{source['label']}, relayed by {source['via']}"
        if source["via"]
        else f"{source['label']}, direct"
        for source in result["sources"]
    ]
    return "; ".join(routes)


def show(console: Console, uris: dict[str, str], results: dict[str, dict[str, Any]]) -> bool:
    """The table; whether every hash fits."""
    uri_column = Column("URI", overflow="fold")
    table = Table("what", uri_column, "size", "seconds", "MB/s", "from", "hash", expand=False)
    good = True
    for kind, uri in uris.items():
        result = results[kind]
        fits = result["sha1"] == uri.split("/")[2]
        good = good and fits and bool(result["sources"])
        table.add_row(
            kind,
            uri,
            size_of(result["total"]),
            f"{result['seconds']:.3f}",
            f"{result['total'] / result['seconds'] / 1e6:.1f}",
            route_of(result),
            "[green]matches[/]" if fits else "[red]DIFFERS[/]",
        )
    console.print(table)
    for kind in ("text", "dict", "array", "pickle"):
        console.print(f"  {kind:7} on B: {results[kind]['value']}", markup=False, highlight=False)
    return good


def main() -> None:
    width = None if sys.stdout.isatty() else 180
    console = Console(width=width, highlight=False)
    folder = Path(tempfile.mkdtemp(prefix="kp", dir="/tmp"))  # socket paths must be short
    file = chosen_file(folder)
    proxy, alice, bob = (Person(folder, name, console) for name in ("P", "A", "B"))
    people: list[Person] = []
    try:
        url = f"ws://127.0.0.1:{free_port()}"
        console.rule("three nodes: a proxy that listens, and two leaves that do not")
        for person, extra in (
            (proxy, ["--listen", url.removeprefix("ws://"), "--proxy"]),
            (alice, []),
            (bob, []),
        ):
            people.append(person)
            person.kachery("daemon", "start", "--label", person.name, *extra)
        console.rule("a channel, owned by A")
        alice.kachery("channel", "create", "lab", "--bootstrap", url)
        node_id = json.loads(bob.kachery("info", "--json"))["node_id"]
        alice.kachery("channel", "add-node", "lab", node_id, "--label", "B", "--roles", "files")
        document = folder / "lab.kachery"
        document.write_text(alice.kachery("channel", "export", "lab"))
        for person in (proxy, bob):
            person.kachery("channel", "join", str(document))
        console.rule("A stores, B loads")
        uris = alice.python(STORE, str(file))
        for uri in uris.values():
            bob.kachery("find", uri)
        results = bob.python(LOAD, json.dumps(uris))
        good = show(console, uris, results)
        with open(file, "rb") as original:
            original_sha1 = hashlib.file_digest(original, "sha1").hexdigest()
        good = good and original_sha1 == results["file"]["sha1"]
        info = json.loads(proxy.kachery("info", "--json"))
        console.print(
            f"The proxy moved {size_of(info['relayed_bytes'])} that it could not read; "
            f"the file was {file}."
        )
        if not good:
            raise SystemExit("Something did not come through as it was stored.")
    finally:
        for person in people:
            person.kachery("daemon", "stop")
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
