"""``scripts/bench transfer|feeds|tasks --peers``: beside what people use instead, in one run, and
docs/benchmarks.md from it.

Everything is on this machine, over loopback. Who is compared with brings its own server, on a free
port, and is stopped at the end; what is not installed is left out, and said to be. ``pip`` fetches
those that are Python's into ``.venv/peers``, once. Each row says how many times as fast as the other
one we are, in turns; a row that we lose says why, by :data:`WHY`.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench_folders import Ssh, why_no_ssh
from bench_processor import forget, random_file
from bench_programs import LOAD, STORE
from bench_report import run, scratch, settle, take_turns
from bench_roads import Far

from tests.daemons import ROOT, Lab, free_port

DOCUMENT = ROOT / "docs" / "benchmarks.md"
VENV = ROOT / ".venv" / "peers"
PACKAGES = (
    "libtorrent", "magic-wormhole", "magic-wormhole-mailbox-server", "magic-wormhole-transit-relay"
)  # fmt: skip
_SECONDS = 120
"""In which one transfer of another tool must be over."""

WHY = {
    "rsync": "it neither encrypts nor hashes what a server that it trusts sends; ours is encrypted and "
    "compared with two hashes",
    "scp": "it compares nothing with a hash, and its ciphers run in one process of C at each end",
    "nginx": "plain HTTP from the page cache, without a copy; one hash, nothing encrypted",
    "aria2": "plain HTTP from the page cache, without a copy; one hash, nothing encrypted",
    "wormhole": "one stream, and one hash at the end",
    "libtorrent": "C++ with threads of its own; it hashes with SHA-1 alone and encrypts nothing",
    "hypercore": "it syncs nothing, and one process is both client and store",
    "dask": "scheduler and workers are one user's on one computer: nothing is encrypted, signed or "
    "kept, and who may run what is nobody's question",
}
"""A line on each that may be faster."""

SEED = """
import sys, time, libtorrent as lt
folder, name, torrent, port = sys.argv[1:]
storage = lt.file_storage()
lt.add_files(storage, f"{folder}/{name}")
made = lt.create_torrent(storage)
lt.set_piece_hashes(made, folder)
with open(torrent, "wb") as file:
    file.write(lt.bencode(made.generate()))
settings = {"listen_interfaces": f"127.0.0.1:{port}", "enable_dht": False, "enable_lsd": False,
            "enable_upnp": False, "enable_natpmp": False, "allow_multiple_connections_per_ip": True}
session = lt.session(settings)
session.add_torrent({"ti": lt.torrent_info(torrent), "save_path": folder, "flags":
                     lt.torrent_flags.seed_mode})
print("ready", flush=True)
sys.stdin.read()
"""

LEECH = """
import sys, time, libtorrent as lt
torrent, folder, port = sys.argv[1:]
settings = {"listen_interfaces": "127.0.0.1:0", "enable_dht": False, "enable_lsd": False,
            "enable_upnp": False, "enable_natpmp": False, "allow_multiple_connections_per_ip": True,
            "alert_mask": lt.alert.category_t.status_notification}
session = lt.session(settings)
start = time.perf_counter()
handle = session.add_torrent({"ti": lt.torrent_info(torrent), "save_path": folder})
handle.connect_peer(("127.0.0.1", int(port)))
while not handle.status().is_seeding:
    session.wait_for_alert(50)
    session.pop_alerts()
print(time.perf_counter() - start)
"""


@dataclass
class Comparison:
    """One line of the document. Figures of both are rates, or both are times: ``less`` says which."""

    what: str
    peer: str
    unit: str
    ours: list[float]
    theirs: list[float]
    less: bool = False
    asked: str = ""

    @property
    def ratios(self) -> list[float]:
        return [
            (b / a) if self.less else (a / b) for a, b in zip(self.ours, self.theirs, strict=True)
        ]

    def line(self) -> str:
        ratio = statistics.median(self.ratios)
        name = next((each for each in WHY if self.peer.startswith(each)), "")
        why = WHY.get(name, "") if ratio < 1 else ""
        spread = f"{ratio:.2f} ({min(self.ratios):.2f} to {max(self.ratios):.2f})"
        figures = [_figure(statistics.median(each)) for each in (self.ours, self.theirs)]
        cells = (self.what, self.peer, *(f"{each} {self.unit}" for each in figures), spread)
        return "| " + " | ".join((*cells, self.asked or "", why)) + " |"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@dataclass
class Report:
    """What one run found. ``missing``: what was not compared with, and why."""

    what: str
    runs: int
    rows: list[Comparison] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def add(self, row: Comparison) -> None:
        self.rows.append(row)
        print(row.line(), flush=True)

    def skip(self, peer: str, why: str) -> None:
        self.missing.append(f"{peer}: {why}")
        print(f"({self.missing[-1]})", flush=True)

    def section(self) -> str:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        python, cores = platform.python_version(), os.cpu_count()
        lines = [
            f"`scripts/bench {self.what} --peers`, {today}: {_processor()}, {cores} cores, "
            f"{_memory_gb():.0f} GB, Linux {platform.release()}, Python {python}; median of "
            f"{self.runs}, in turns.",
            "",
            "| what | beside | ours | theirs | ours / theirs (spread) | asked | where we lose |",
            "|---|---|---|---|---|---|---|",
            *(row.line() for row in self.rows),
        ]
        if self.missing:
            lines += ["", "Not compared with " + "; ".join(self.missing) + "."]
        return "\n".join(lines)

    def write(self, document: Path = DOCUMENT) -> None:
        """Put it in its place in the document; the others' stay as they are."""
        text = document.read_text(encoding="utf-8")
        begin, end = f"<!-- {self.what} -->\n", f"<!-- end of {self.what} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        new, count = pattern.subn(lambda _: f"{begin}{self.section()}\n{end}", text)
        assert count == 1, f"{document} has no place for {self.what}"
        document.write_text(new, encoding="utf-8")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _python() -> Path | None:
    """The interpreter of those that are Python's; None if they cannot be had."""
    python = VENV / "bin" / "python"
    if not (VENV / "done").exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True, timeout=120)
            pip = [str(python), "-m", "pip", "install", "--quiet", *PACKAGES]
            subprocess.run(pip, check=True, timeout=300, stderr=subprocess.DEVNULL)
            (VENV / "done").touch()
    return python if (VENV / "done").exists() else None


def _timed(command: list[str], target: Path | None = None) -> float:
    """Seconds of a command, and of syncing what it made."""
    start = time.perf_counter()
    subprocess.run(command, check=True, timeout=_SECONDS, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)  # fmt: skip
    if target is not None:
        subprocess.run(["sync", str(target)], check=True)
    seconds = time.perf_counter() - start
    if target is not None:
        target.unlink()
    return seconds


class Transfer:
    """One file of ``mib`` MiB, by each way."""

    def __init__(self, folder: Path, report: Report, mib: int) -> None:
        self.folder, self.report = folder, report
        self.source = folder / "source"
        self.source.mkdir()
        self.file = random_file(self.source / "big.dat", mib)
        self.target = folder / "target.dat"
        self._stack = contextlib.ExitStack()
        self.ways: dict[str, tuple[Callable[[], float], str]] = {}
        """By peer: seconds of one transfer, and what is asked of the ratio."""

    @contextlib.contextmanager
    def _server(self, command: list[str], **options: object) -> Iterator[subprocess.Popen[str]]:
        process: subprocess.Popen[str] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, **options,  # type: ignore[call-overload]
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=30)

    def begin(self) -> None:
        for peer, prepare in {
            "nginx and curl": self._nginx,
            "aria2": self._aria2,
            "scp": self._scp,
            "rsync": self._rsync,
            "wormhole": self._wormhole,
            "libtorrent": self._libtorrent,
        }.items():
            try:
                why = prepare()
            except (OSError, subprocess.SubprocessError, AssertionError) as error:
                why = f"it did not start ({error})"
            if why is not None:
                self.report.skip(peer, why)

    def close(self) -> None:
        self._stack.close()

    def _nginx(self) -> str | None:
        if not (shutil.which("nginx") and shutil.which("curl")):
            return "nginx or curl is not installed"
        self.port = free_port()
        config = self.folder / "nginx.conf"
        config.write_text(
            f"daemon off; worker_processes 1; pid {self.folder}/nginx.pid; error_log stderr crit;\n"
            f"user root; events {{}}\nhttp {{ access_log off; sendfile on; server {{ listen "
            f"127.0.0.1:{self.port}; root {self.source}; }} }}\n"
        )
        self._stack.enter_context(
            self._server(["nginx", "-p", str(self.folder), "-c", str(config)])
        )
        time.sleep(0.5)
        command = (
            f"set -o pipefail; curl -sf http://127.0.0.1:{self.port}/{self.file.name}"
            f" | tee {self.target} | sha1sum"
        )
        self.ways["nginx: curl, tee, sha1sum, sync"] = (
            lambda: _timed(["bash", "-c", command], self.target),
            "1.6",
        )
        return None

    def _aria2(self) -> str | None:
        if shutil.which("aria2c") is None or not hasattr(self, "port"):
            return "aria2c or nginx is not installed"
        digest = subprocess.run(
            ["sha1sum", str(self.file)], capture_output=True, text=True, check=True
        )
        command = [
            "aria2c", "--quiet", "-x", "4", "-s", "4", "--file-allocation=none",
            f"--checksum=sha-1={digest.stdout.split()[0]}", "-d", str(self.target.parent),
            "-o", self.target.name, f"http://127.0.0.1:{self.port}/{self.file.name}",
        ]  # fmt: skip
        self.ways["aria2: 4 connections, SHA-1, sync"] = lambda: _timed(command, self.target), ""
        return None

    def _scp(self) -> str | None:
        missing = why_no_ssh()
        if missing is not None or shutil.which("scp") is None:
            return missing or "scp is not installed"
        ssh = Ssh(self.folder / "ssh", Far(None, 0.0))
        self._stack.callback(ssh.stop)
        words = ssh.command.split()
        options = [each if each != "-p" else "-P" for each in words[1:]]
        command = ["scp", *options, f"127.0.0.1:{self.file}", str(self.target)]
        self.ways["scp, sync"] = lambda: _timed(command, self.target), "1.5"
        return None

    def _rsync(self) -> str | None:
        if shutil.which("rsync") is None:
            return "it is not installed"
        port = free_port()
        config = self.folder / "rsyncd.conf"
        config.write_text(
            f"use chroot = no\nuid = {os.getuid()}\ngid = {os.getgid()}\n"
            f"[source]\npath = {self.source}\n"
        )
        self._stack.enter_context(
            self._server(
                [
                    "rsync",
                    "--daemon",
                    "--no-detach",
                    f"--port={port}",
                    "--address=127.0.0.1",
                    f"--config={config}",
                ]
            )
        )
        time.sleep(0.5)
        source = f"rsync://127.0.0.1:{port}/source/{self.file.name}"
        command = ["rsync", "-W", source, str(self.target)]
        self.ways["rsync -W from its daemon, sync"] = lambda: _timed(command, self.target), "0.9"
        return None

    def _wormhole(self) -> str | None:
        python = _python()
        if python is None:
            return "pip could not install it"
        place, mailbox, relay = python.parent, free_port(), free_port()
        twist = str(place / "twist")
        for plugin, port in (("wormhole-mailbox", mailbox), ("transitrelay", relay)):
            self._stack.enter_context(
                self._server(
                    [twist, plugin, f"--port=tcp:{port}:interface=127.0.0.1"], cwd=self.folder
                )
            )
        time.sleep(3)
        wormhole = [
            str(place / "wormhole"), "--relay-url", f"ws://127.0.0.1:{mailbox}/v1",
            "--transit-helper", f"tcp:127.0.0.1:{relay}",
        ]  # fmt: skip
        count = 0

        def move() -> float:
            nonlocal count
            count += 1
            code = f"{count}-bench"
            send = [*wormhole, "send", "--hide-progress", "--code", code, str(self.file)]
            with self._server(send):
                receive = [*wormhole, "receive", "--hide-progress", "--accept-file",
                           "-o", str(self.target), code]  # fmt: skip
                return _timed(receive, self.target)

        self.ways["wormhole, its own mailbox and relay, sync"] = move, "2"
        return None

    def _libtorrent(self) -> str | None:
        python = _python()
        if python is None:
            return "pip could not install it"
        torrent, port = self.folder / "big.torrent", free_port()
        seed = [str(python), "-c", SEED, str(self.source), self.file.name, str(torrent), str(port)]
        seeding = self._stack.enter_context(self._server(seed))
        assert seeding.stdout is not None
        assert seeding.stdout.readline() == "ready\n"
        place = self.folder / "leech"
        leech = [str(python), "-c", LEECH, str(torrent), str(place), str(port)]

        def move() -> float:
            place.mkdir()
            try:
                done = subprocess.run(
                    leech, check=True, timeout=_SECONDS, capture_output=True, text=True
                )
                start = time.perf_counter()
                subprocess.run(["sync", str(place / self.file.name)], check=True)
                return float(done.stdout) + time.perf_counter() - start
            finally:
                shutil.rmtree(place)

        self.ways["libtorrent, sync"] = move, "2"
        return None


def transfer(runs: int, mib: int) -> int:
    """Every way in turns, ours among them: all see the same machine."""
    folder = scratch()
    report = Report("transfer", runs)
    moving = Transfer(folder, report, mib)
    try:
        moving.begin()
        with Lab(folder / "d", direct=True) as lab:
            uri = run(lab.a, STORE, str(moving.file))["uri"]

            def ours() -> float:
                result = run(lab.b, LOAD, uri)
                forget(lab.b, result["path"])
                return float(result["seconds"])

            size = moving.file.stat().st_size
            settle()
            works = [way for way, _ in moving.ways.values()]
            mine, *others = take_turns(runs, ours, *works)
        for (peer, (_, asked)), seconds in zip(moving.ways.items(), others, strict=True):
            our, their = ([size / each / 1e6 for each in some] for some in (mine, seconds))
            report.add(Comparison(f"{mib} MiB, direct", peer, "MB/s", our, their, asked=asked))
    finally:
        moving.close()
        shutil.rmtree(folder, ignore_errors=True)
    report.write()
    return 0


def report_beside(what: str, runs: int, rows: list[Comparison], missing: dict[str, str]) -> None:
    """The report of a bench that has its peers in its own run."""
    report = Report(what, runs)
    for peer, why in missing.items():
        report.skip(peer, why)
    for row in rows:
        report.add(row)
    report.write()
