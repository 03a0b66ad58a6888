"""``scripts/bench storage``: a storage with very many files, how fast it is verified, and origins.

    ./scripts/bench storage blobs [--count N]     start with so many small files, announce and list them
    ./scripts/bench storage verify [--gb N]       beside sha1sum, and beside BLAKE3 on all cores
    ./scripts/bench storage origin [--count N] [--gb N] [--kind folder|nginx|s3]
                                                  many objects; parts of a large file

For nginx it must be installed, and moto for S3. Files are dropped from the page cache before each turn
of ``verify``, unless ``--warm``.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from bench_report import Row, processor_seconds, run, scratch
from blake3 import blake3

from kachery_p2p.storage import paths
from tests.daemons import Daemon, Lab, announced, at
from tests.node.backing.folders import write_index
from tests.node.backing.servers import nginx, s3

_MB: Final = 1_000_000
_MAKE_AT_ONCE: Final = 50_000_000

FOUND: Final = """
import json, sys, time
import kachery_p2p as kc
uris = json.load(sys.stdin)
left = set(uris)
start = time.perf_counter()
while left and time.perf_counter() - start < 600:
    left = {uri for uri in left if not kc.find_file(uri)["holders"]}
    if left:
        time.sleep(0.1)
print(json.dumps({"left": len(left)}))
"""

READ_PARTS: Final = """
import json, random, sys, time
import kachery_p2p as kc
uri, size, count, length = sys.argv[1], *map(int, sys.argv[2:])
rng = random.Random(1)
start = time.perf_counter()
asked = 0
for _ in range(count):
    at = rng.randrange(size - length)
    data = kc.load_bytes(uri, at, at + length)
    asked += len(data)
print(json.dumps({"asked": asked, "seconds": time.perf_counter() - start}))
"""


def peak_mb(daemon: Daemon) -> float:
    """The most memory that a node held, in megabytes."""
    (line,) = (
        line
        for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    )
    return int(line.split()[1]) * 1_024 / _MB


def small_name(number: int) -> tuple[str, bytes]:
    data = b"small %d" % number
    return hashlib.sha1(data).hexdigest(), data


def make_small(root: Path, count: int) -> list[str]:
    """So many small files in kachery's layout; some of their hashes, the first and the last among
    them."""
    names = []
    for number in range(count):
        name, data = small_name(number)
        path = paths.text_of(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        names.append(name)
    names.sort()
    chosen = random.Random(1).sample(names, min(100, count))
    return [names[0], *chosen, names[-1]]


# --- many small files ---------------------------------------------------------------------------


def blobs(folder: Path, count: int) -> None:
    lab = Lab(folder / "lab")
    begun = time.perf_counter()
    some = make_small(lab.a.storage, count)
    print(f"{count} files made in {time.perf_counter() - begun:.0f} s", flush=True)
    uris = json.dumps([f"sha1://{name}" for name in some])
    with Lab(folder / "lab") as lab:
        for what in ("that was never seen", "whose index is there"):
            lab.a.stop()
            begun = time.perf_counter()
            lab.a.start()
            print(Row(f"start of a folder {what}", [time.perf_counter() - begun], "s", "< 3 asked"))
            print(Row("first line of ls", [first_line(lab.a)], "s", "< 1 asked"), flush=True)
            run(lab.b, FOUND, stdin=uris)
            print(Row("announced after", [time.perf_counter() - begun], "s", "< 60 asked"))
            print(Row("first line of ls", [first_line(lab.a)], "s", "< 1 asked"))
            used = indexed(lab.a)
            print(Row("all of it in the index after", [time.perf_counter() - begun], "s"))
            print(f"used: {used} bytes")
            for name in ("a", "proxy", "b"):
                daemon = getattr(lab, name)
                print(Row(f"memory of {name} at most", [peak_mb(daemon)], "MB", "<= 150 asked"))
            sys.stdout.flush()


def indexed(daemon: Daemon) -> int:
    """Wait until a node has all of its folder in its index, which waits until it is announced; the
    bytes that it takes."""
    begun = time.perf_counter()
    while not (usage := json.loads(daemon.cli("du", "--json").stdout))["complete"]:
        assert time.perf_counter() - begun < 600, "the index was never complete"
        time.sleep(1)
    return int(usage["used"])


def first_line(daemon: Daemon) -> float:
    command = [sys.executable, "-m", "kachery_p2p.cli", "ls"]
    begun = time.perf_counter()
    with subprocess.Popen(command, env=daemon.env, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        program.stdout.readline()
        seconds = time.perf_counter() - begun
        program.stdout.close()
        program.terminate()
    return seconds


# --- verifying ----------------------------------------------------------------------------------


def verify(folder: Path, gb: int, warm: bool, runs: int) -> None:
    with Daemon(folder, "n") as node:
        files = _stored(node, folder, gb)
        total = sum(map(os.path.getsize, files))

        def sha1sum() -> None:
            subprocess.run(["sha1sum", *files], check=True, stdout=subprocess.DEVNULL)

        def b3sum() -> None:
            for path in files:
                blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()

        def ours() -> None:
            report = json.loads(node.cli("verify", "--again", "--json").stdout)
            assert not report["damaged"]
            assert report["bytes"] >= total

        figures: dict[str, list[float]] = {}
        took: dict[str, list[float]] = {}
        works: dict[str, Callable[[], None]] = {"sha1sum": sha1sum, "BLAKE3": b3sum, "verify": ours}
        for _ in range(runs):
            for name, work in works.items():
                if not warm:
                    forget(files)
                begun, before = time.perf_counter(), processor(node)
                work()
                figures.setdefault(name, []).append(total / _MB / (time.perf_counter() - begun))
                took.setdefault(name, []).append((processor(node) - before) / total * 1e9)
        for name, values in figures.items():
            print(Row(f"{name}, {total / 1e9:.1f} GB in {len(files)} files", values, "MB/s"))
            print(Row("  processor time for a gigabyte", took[name], "s"))
        mine = Row("", figures["verify"], "").median
        for name in ("sha1sum", "BLAKE3"):
            ratio = mine / Row("", figures[name], "").median
            print(Row(f"verify, as a part of {name}", [ratio], "", ">= 0.8 asked"))
        print(Row("memory of the node at most", [peak_mb(node)], "MB"))


def _stored(node: Daemon, folder: Path, gb: int) -> list[str]:
    """Files of a gigabyte, and of the last one a thousand small ones; where they are."""
    found: list[str] = []
    for number in range(gb):
        sizes = [10**9] if number < gb - 1 else [10**6] * 1_000
        sources = [folder / f"{place}.dat" for place in range(len(sizes))]
        for place, (source, size) in enumerate(zip(sources, sizes, strict=True)):
            rng = random.Random(f"{number} {place}")
            with open(source, "wb") as file:
                for start in range(0, size, _MAKE_AT_ONCE):
                    file.write(rng.randbytes(min(_MAKE_AT_ONCE, size - start)))
        uris = node.cli("store", *map(str, sources)).stdout.split()
        found += [paths.text_of(node.storage, uri[7:47]) for uri in uris]
        for source in sources:
            source.unlink()
    return found


def processor(node: Daemon) -> float:
    """Seconds of processor time that the node, this program and its children have taken."""
    usages = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return processor_seconds(node.pid) + sum(each.ru_utime + each.ru_stime for each in usages)


def forget(files: list[str]) -> None:
    """Drop files from the page cache."""
    os.sync()
    for path in files:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


# --- origins ------------------------------------------------------------------------------------


def origin(folder: Path, count: int, gb: int, kind: str) -> None:
    root = folder / "origin"
    root.mkdir()
    with contextlib.ExitStack() as stack:
        if kind == "folder":
            url = str(root)
        elif kind == "nginx":
            url = stack.enter_context(nginx(root)).url
        else:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setenv("MOTO_S3_DEFAULT_KEY_BUFFER_SIZE", str(_MB))  # the rest goes to the disk
            program = [str(Path(__file__).with_name("bench_s3.py"))]
            url = stack.enter_context(s3(patch, program, str(folder / "s3.log")))
            stack.callback(tell_errors, folder / "s3.log")
        if gb:
            parts(folder / "p", root, url, gb, kind)
        if count:
            many(folder / "m", root, url, count, kind)


def many(folder: Path, root: Path, url: str, count: int, kind: str) -> None:
    some = make_small(root, count)
    if kind == "s3":
        upload(root, url)
    elif kind == "nginx":
        write_index(root)
    lab = Lab(folder)
    lab.a.options["origin"] = url
    uris = json.dumps([f"sha1://{name}" for name in some])
    with lab:
        for what in ("that was never listed", "that was listed"):
            lab.a.stop()
            begun = time.perf_counter()
            lab.a.start()
            started = time.perf_counter() - begun
            print(Row(f"{kind}: start with an origin {what}", [started], "s", "< 5 asked"))
            run(lab.b, FOUND, stdin=uris)
            print(Row(f"{kind}: all are announced after", [time.perf_counter() - begun], "s"))
            print(Row(f"{kind}: memory of the node", [peak_mb(lab.a)], "MB", "< 150 asked"))
            told = json.loads(lab.a.cli("origins", "--json").stdout)
            print(told if isinstance(told, dict) else told[0], flush=True)


def parts(folder: Path, root: Path, url: str, gb: int, kind: str) -> None:
    """1 MB here and there of a large file that lies in an archive, read from another node."""
    lab = Lab(folder)
    lab.a.options["archive" if kind != "nginx" else "origin"] = url
    with lab:
        source = folder / "source.dat"
        with open(source, "wb") as file:
            for number in range(gb * 20):
                file.write(random.Random(number).randbytes(_MAKE_AT_ONCE))
        size = source.stat().st_size
        if kind == "nginx":
            with Daemon(folder, "maker", archive=str(root)) as maker:
                uri = maker.cli("store", str(source)).stdout.strip()
                maker.cli("archive", uri)
            write_index(root)
            lab.a.cli("origins", "--refresh")
        else:
            uri = lab.a.cli("store", str(source)).stdout.strip()
            begun = time.perf_counter()
            command = [sys.executable, "-m", "kachery_p2p.cli", "archive", uri]
            subprocess.run(command, env=lab.a.env, check=True, stdout=subprocess.DEVNULL)
            rate = size / _MB / (time.perf_counter() - begun)
            print(Row(f"{kind}: archived, written and read back", [rate], "MB/s"))
            lab.a.cli("rm", "--force", uri)
        source.unlink()
        with at(lab.b):
            announced(uri)
        before = moved(lab.a)
        answer: dict[str, Any] = run(lab.b, READ_PARTS, uri, str(size), "50", str(_MB))
        held = moved(lab.a) - before
        ratio = held / answer["asked"]
        print(Row(f"{kind}: read of the origin for what was asked", [ratio], "", "< 1.1 asked"))
        print(Row(f"{kind}: 1 MB of {gb} GB", [1_000 * answer["seconds"] / 50], "ms"))
        print(Row(f"{kind}: memory of the node", [peak_mb(lab.a)], "MB"), flush=True)


def tell_errors(log: Path) -> None:
    """Print what a server has logged of errors of its own."""
    lines = log.read_text().splitlines()
    for place, line in enumerate(lines):
        if "Traceback" in line or '" 500 ' in line:
            print("\n".join(lines[place : place + 40]))
            return


def moved(daemon: Daemon) -> int:
    """Bytes that a node has read, from sockets and files."""
    text = Path(f"/proc/{daemon.pid}/io").read_text()
    return int(text.split("rchar: ")[1].split()[0])


def upload(root: Path, url: str) -> None:
    import boto3

    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    for path in (root / "sha1").rglob("*"):
        if path.is_file():
            key = f"{prefix}/{path.relative_to(root)}"
            client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench storage")
    parser.add_argument("what", choices=["blobs", "verify", "origin"])
    parser.add_argument("--count", type=int)
    parser.add_argument("--gb", type=int)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--kind", choices=["folder", "nginx", "s3"], default="folder")
    parser.add_argument("--warm", action="store_true")
    options = parser.parse_args(arguments)
    folder = scratch()
    try:
        if options.what == "blobs":
            blobs(folder, options.count or 1_000_000)
        elif options.what == "verify":
            verify(folder, options.gb or 20, options.warm, options.runs)
        else:
            count = 100_000 if options.count is None else options.count
            origin(folder, count, 5 if options.gb is None else options.gb, options.kind)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0
