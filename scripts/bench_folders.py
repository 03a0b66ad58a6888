"""``scripts/bench folders``: a folder of many small files from one computer to another, beside rsync
and ``tar | ssh``, in one run.

Theirs go through an ssh server of this benchmark's own, on a port and with keys that it makes; what is
not installed (``apt-get install rsync openssh-server``) is left out, and said to be. With ``--rtt``
both go over one road with a round trip of that many milliseconds. Ours and theirs take turns. Beside
the rates it prints the processor time that each process took, which says more than they do on a machine
that has other things to do as well.
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

from bench_programs import LOAD_DIR, STORE_DIR
from bench_report import Row, processor_seconds, run, scratch, settle
from bench_roads import Far, Pair, far

from tests.daemons import announced, at, free_port

_MOST_SECONDS = 600
"""For one of theirs: who takes longer is not waited for."""
_SSHD_FOLDERS = "/usr/sbin:/usr/local/sbin"


def make_files(top: Path, count: int, size: int) -> Path:
    """A folder of so many files, a hundred in each of its folders, whose contents nobody has."""
    for number in range(count):
        if number % 100 == 0:
            inside = top / f"d{number // 100:04}"
            inside.mkdir(parents=True)
        (inside / f"{number:06}.dat").write_bytes(os.urandom(size))
    return top


class Ssh:
    """An ssh server on the far computer that lets in whoever has its key."""

    def __init__(self, folder: Path, there: Far) -> None:
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
            "ListenAddress": there.address,
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
            [*there.inside, server, "-D", "-q", "-f", "/dev/null", *settings],
            stderr=subprocess.DEVNULL,
        )
        self.address = there.address
        self.command = (
            f"ssh -q -p {there.port(port)} -i {folder / 'user'} -o StrictHostKeyChecking=no "
            f"-o UserKnownHostsFile={folder / 'known'} -o IdentitiesOnly=yes -F /dev/null"
        )
        deadline = time.monotonic() + 10
        while subprocess.run([*self.command.split(), self.address, "true"]).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError("its ssh server lets nobody in")
            time.sleep(0.2)

    def stop(self) -> None:
        self._server.terminate()
        self._server.wait()


class Bench:
    """``count`` files of ``size`` bytes, from the far computer to this one."""

    def __init__(self, folder: Path, count: int, size: int, there: Far) -> None:
        self.folder, self.count, self.size, self.there = folder, count, size, there
        self.rows: dict[str, Row] = {}

    def add(self, name: str, value: float, unit: str, asked: str = "") -> None:
        self.rows.setdefault(name, Row(name, [], unit, asked)).values.append(value)

    def print_rows(self) -> None:
        for row in self.rows.values():
            print(row, flush=True)
        self.rows.clear()

    @contextlib.contextmanager
    def processors(self, lab: Pair, what: str) -> Iterator[None]:
        """Rows of what the nodes took for it."""
        nodes = {"A": lab.a, "B": lab.b, "proxy": lab.proxy}
        before = {name: processor_seconds(node.pid) for name, node in nodes.items()}
        yield
        for name, node in nodes.items():
            took = processor_seconds(node.pid) - before[name]
            if took > 0.05:
                self.add(f"{what}: processor time of node {name}", took, "s")

    def ours(self, number: int) -> None:
        """A folder from A to B, once, and what of it is cheap the second time."""
        source = make_files(self.folder / f"source{number}", self.count, self.size)
        target = self.folder / f"ours{number}"
        settle()
        with Pair(self.folder / f"lab{number}", self.there) as lab:
            with self.processors(lab, "store_dir"):
                first = run(lab.a, STORE_DIR, str(source))
            self.told("store_dir", first, ">= 8000 asked")
            (source / "d0000" / "000000.dat").write_bytes(os.urandom(self.size))
            again = run(lab.a, STORE_DIR, str(source))
            self.add("store_dir, one file changed", again["seconds"], "s")
            with at(lab.b):
                announced(again["uri"])
            settle()
            with self.processors(lab, "load_dir"):
                loaded = run(lab.b, LOAD_DIR, again["uri"], str(target))
            self.told("load_dir", loaded, ">= 2000 asked" if self.there.rtt else ">= 5000 asked")
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
            "ssh tar | tar": f"mkdir {target} && {ssh.command} {ssh.address} 'tar -C {source} -c .' "
            f"| tar -C {target} -x",
        }
        if shutil.which("rsync"):
            ways["rsync -a"] = f"rsync -a -e '{ssh.command}' {ssh.address}:{source}/ {target}"
        for name, command in ways.items():
            settle()
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            start = time.perf_counter()
            subprocess.run(
                ["bash", "-c", f"set -o pipefail; {command}"], check=True, timeout=_MOST_SECONDS
            )
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
    try:
        with far(options.rtt / 1000) as there:
            print(
                f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {options.files} files of "
                f"{options.size} bytes, round trip {options.rtt:g} ms ({there.kind}), "
                f"median (min .. max) of {options.runs}",
                flush=True,
            )
            measure(Bench(folder, options.files, options.size, there), options.runs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def measure(bench: Bench, runs: int) -> None:
    missing = why_no_ssh()
    ssh = Ssh(bench.folder / "ssh", bench.there) if missing is None else None
    try:
        for number in range(runs):
            bench.ours(number)
            if ssh is not None:
                bench.theirs(ssh, number)
    finally:
        if ssh is not None:
            ssh.stop()
    bench.print_rows()
    if missing is not None:
        print(f"({missing}: no comparison with rsync and tar | ssh)")
    elif shutil.which("rsync") is None:
        print("(rsync is not installed)")
