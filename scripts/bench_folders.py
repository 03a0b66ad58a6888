"""``scripts/bench folders``: a folder of many small files from one computer to another, beside rsync
and ``tar | ssh``, in one run.

Theirs go through an ssh server of this benchmark's own on loopback, whose keys it makes; what is not
installed (``apt-get install rsync openssh-server``) is left out, and said to be. With ``--rtt`` both
roads have a round trip of that many milliseconds. Beside the rates it prints the processor time that
each process took, which says more than they do on a machine that has other things to do as well.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench_files import Road
from bench_programs import LOAD_DIR, STORE_DIR
from bench_report import Row, run, scratch, settle

from tests.daemons import Daemon, Lab, announced, at, free_port

_HERTZ = os.sysconf("SC_CLK_TCK")
_SSHD_FOLDERS = "/usr/sbin:/usr/local/sbin"


def make_files(top: Path, count: int, size: int) -> Path:
    """A folder of so many files, a hundred in each of its folders, whose contents nobody has."""
    for number in range(count):
        if number % 100 == 0:
            inside = top / f"d{number // 100:04}"
            inside.mkdir(parents=True)
        (inside / f"{number:06}.dat").write_bytes(os.urandom(size))
    return top


def processor_seconds(daemon: Daemon) -> float:
    """What a node has taken since it was started."""
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _HERTZ


class Ssh:
    """An ssh server on a port of loopback that lets in whoever has its key."""

    def __init__(self, folder: Path, rtt: float) -> None:
        folder.mkdir()
        for name in ("host", "user"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(command, check=True)
        port = free_port()
        server = shutil.which("sshd", path=f"{os.environ['PATH']}:{_SSHD_FOLDERS}")
        assert server is not None
        os.makedirs("/run/sshd", exist_ok=True)
        options = {
            "Port": port,
            "ListenAddress": "127.0.0.1",
            "HostKey": folder / "host",
            "PidFile": folder / "pid",
            "AuthorizedKeysFile": folder / "user.pub",
            "StrictModes": "no",
            "UsePAM": "no",
            "PermitRootLogin": "yes",
            "Subsystem": "sftp internal-sftp",
        }
        settings = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        self._server = subprocess.Popen(
            [server, "-D", "-q", "-f", "/dev/null", *settings], stderr=subprocess.DEVNULL
        )
        self._road = Road(port, rtt / 2)
        self.direct, self.command = (
            f"ssh -q -p {each} -i {folder / 'user'} -o StrictHostKeyChecking=no "
            f"-o UserKnownHostsFile={folder / 'known'} -o IdentitiesOnly=yes -F /dev/null"
            for each in (port, self._road.port)
        )
        deadline = time.monotonic() + 10
        while subprocess.run([*self.command.split(), "127.0.0.1", "true"]).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError("its ssh server lets nobody in")
            time.sleep(0.2)

    def stop(self) -> None:
        self._server.terminate()
        self._server.wait()


class Bench:
    """``count`` files of ``size`` bytes, ``runs`` times; ``rtt`` in seconds."""

    def __init__(self, folder: Path, count: int, size: int, runs: int, rtt: float) -> None:
        self.folder, self.count, self.size, self.runs, self.rtt = folder, count, size, runs, rtt
        self.rows: dict[str, Row] = {}

    def add(self, name: str, value: float, unit: str, asked: str = "") -> None:
        self.rows.setdefault(name, Row(name, [], unit, asked)).values.append(value)

    def print_rows(self) -> None:
        for row in self.rows.values():
            print(row, flush=True)
        self.rows.clear()

    @contextlib.contextmanager
    def processors(self, lab: Lab, what: str) -> Iterator[None]:
        """Rows of what the nodes took for it."""
        nodes = {"A": lab.a, "B": lab.b, "proxy": lab.proxy}
        before = {name: processor_seconds(node) for name, node in nodes.items()}
        yield
        for name, node in nodes.items():
            took = processor_seconds(node) - before[name]
            if took > 0.05:
                self.add(f"{what}: processor time of node {name}", took, "s")

    def ours(self, number: int) -> None:
        """A folder from A to B, once, and what of it is cheap the second time."""
        source = make_files(self.folder / f"source{number}", self.count, self.size)
        target = self.folder / f"ours{number}"
        settle()
        with Lab(self.folder / f"lab{number}") as lab:
            with self.processors(lab, "store_dir"):
                first = run(lab.a, STORE_DIR, str(source))
            self.told("store_dir", first, ">= 8000 asked")
            (source / "d0000" / "000000.dat").write_bytes(os.urandom(self.size))
            again = run(lab.a, STORE_DIR, str(source))
            self.add("store_dir, one file changed", again["seconds"], "s")
            with at(lab.b):
                announced(again["uri"])
            if self.rtt:
                lab.slow("b", delay=self.rtt / 2)
            settle()
            with self.processors(lab, "load_dir"):
                loaded = run(lab.b, LOAD_DIR, again["uri"], str(target))
            self.told("load_dir", loaded, ">= 2000 asked" if self.rtt else ">= 5000 asked")
            changed = run(lab.b, LOAD_DIR, again["uri"], str(target))
            self.add("load_dir, all is there", changed["seconds"], "s")
        self.compare(source, target)
        shutil.rmtree(source)

    def told(self, what: str, result: dict[str, float], asked: str) -> None:
        self.add(f"{what}, durable", self.count / result["seconds"], "files/s", asked)
        self.add(f"{what}: processor time of the client", result["processor"], "s")

    def compare(self, source: Path, target: Path) -> None:
        subprocess.run(["diff", "-r", str(source), str(target)], check=True)
        shutil.rmtree(target)

    def theirs(self, ssh: Ssh, number: int) -> None:
        """The same by rsync and tar, not synced."""
        source = make_files(self.folder / f"source{number}", self.count, self.size)
        target = self.folder / f"theirs{number}"
        ways = {
            "tar | ssh tar": f"tar -C {source} -c . | {ssh.command} 127.0.0.1 "
            f"'mkdir {target} && tar -C {target} -x'",
        }
        if shutil.which("rsync"):
            ways["rsync -a"] = f"rsync -a -e '{ssh.command}' {source}/ 127.0.0.1:{target}"
        for name, command in ways.items():
            settle()
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            start = time.perf_counter()
            subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], check=True)
            seconds = time.perf_counter() - start
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            self.add(f"{name}, not synced", self.count / seconds, "files/s")
            self.add(f"{name}: processor time on this side", took, "s")
            self.compare(source, target)
        shutil.rmtree(source)


def why_no_ssh() -> str | None:
    """What keeps us from comparing with what goes by ssh."""
    path = f"{os.environ['PATH']}:{_SSHD_FOLDERS}"
    for program in ("ssh", "ssh-keygen", "sshd", "tar"):
        if shutil.which(program, path=path) is None:
            return f"{program} is not installed"
    return None


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench folders")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=1_000, help="bytes of each file")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rtt", type=float, default=0.0, help="milliseconds of a round trip")
    options = parser.parse_args(arguments)
    folder = scratch()
    print(
        f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {options.files} files of ",
        end="",
    )
    print(
        f"{options.size} bytes, round trip {options.rtt:g} ms, median (min .. max) of {options.runs}"
    )
    bench = Bench(folder, options.files, options.size, options.runs, options.rtt / 1000)
    missing = why_no_ssh()
    try:
        for number in range(options.runs):
            bench.ours(number)
        bench.print_rows()
        if missing is not None:
            print(f"({missing}: no comparison with rsync and tar | ssh)")
            return 0
        if shutil.which("rsync") is None:
            print("(rsync is not installed)")
        ssh = Ssh(folder / "ssh", options.rtt / 1000)
        try:
            for number in range(options.runs):
                bench.theirs(ssh, number)
        finally:
            ssh.stop()
        bench.print_rows()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0
