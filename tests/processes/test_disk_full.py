"""Full disks, real ones: a small tmpfs under a node's folders.

What does not fit is refused with a StorageFull, nothing half-written stays, what was there before is
unharmed, the node lives on, and goes on from where it was when there is room again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kachery_p2p as kc
from kachery_p2p.protocol.errors import StorageFull
from tests.daemons import Daemon, Lab, at

pytestmark = pytest.mark.processes

MB = 1_000_000


@pytest.fixture
def small_disk(short_folder: Path) -> Iterator[Callable[[str, int], Path]]:
    """Makes disks of so many bytes."""
    mounted: list[Path] = []

    def make(name: str, size: int) -> Path:
        if os.getuid() != 0:
            pytest.skip("only root can mount a tmpfs")
        path = short_folder / name
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        mounted.append(path)
        return path

    yield make
    for path in mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def content(name: str, size: int) -> bytes:
    return hashlib.shake_128(name.encode()).digest(size)


def write(daemon: Daemon, name: str, size: int) -> str:
    (daemon.home / name).write_bytes(content(name, size))
    return name


def refused(daemon: Daemon, *arguments: str, where: Path) -> None:
    """The command ends with StorageFull, in which the folder is named."""
    done = daemon.cli(*arguments, "--json", check=False)
    assert done.returncode == StorageFull.exit_status, done.stderr
    assert (done.stdout, "Traceback" in done.stderr) == ("", False)
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert error["code"] == "storage-full"
    assert error["fields"]["path"].startswith(str(where))
    assert "free some" in error["message"]


def files(storage: Path) -> set[Path]:
    return {path for path in storage.rglob("*") if path.is_file()}


@contextlib.contextmanager
def filled(folder: Path, leave: int) -> Iterator[None]:
    """Take up the room on a disk but for so many bytes."""
    ballast = folder / "ballast"
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_bsize
    with ballast.open("wb") as file:
        left = max(0, free - leave)
        while left:
            left -= file.write(bytes(min(left, MB)))
    try:
        yield
    finally:
        ballast.unlink()


def test_a_store_that_does_not_fit_leaves_all_as_it_was(
    short_folder: Path, small_disk: Callable[[str, int], Path]
) -> None:
    disk = small_disk("disk", 48 * MB)
    with Daemon(short_folder, "n", storage_dir=disk) as node:
        earlier = node.cli("store", write(node, "earlier", 5 * MB)).stdout.strip()
        before = files(disk)
        for size in (30 * MB, 60 * MB):
            name = write(node, f"big-{size}", size)
            refused(node, "store", name, where=disk)
            assert files(disk) == before
        with filled(disk, leave=0):
            refused(node, "store", write(node, "small", 300_000), where=disk)
            refused(node, "store", write(node, "tiny", 100), where=disk)
        assert files(disk) == before
        assert node.info()["pid"] == node.pid
        path = node.cli("load", earlier).stdout.strip()
        assert Path(path).read_bytes() == content("earlier", 5 * MB)
        for name in ("small", "tiny"):
            assert node.cli("store", name).stdout.startswith("sha1://")


def test_a_load_that_does_not_fit_goes_on_when_there_is_room(
    short_folder: Path, small_disk: Callable[[str, int], Path]
) -> None:
    disk = small_disk("disk", 100 * MB)
    lab = Lab(short_folder)
    lab.b.options["storage_dir"] = disk
    with lab:
        big = lab.a.cli("store", write(lab.a, "big", 60 * MB)).stdout.strip()
        small = lab.a.cli("store", write(lab.a, "small", 200_000)).stdout.strip()
        before = files(disk)
        with filled(disk, leave=40 * MB):
            refused(lab.b, "load", big, where=disk)
            assert lab.b.info()["pid"] == lab.b.pid
            refused(lab.b, "load", big, where=disk)
            kept = {path.name for path in files(disk) - before} - {"ballast"}
            assert all(".partial" in name or "." not in name for name in kept), kept
        path = lab.b.cli("load", small).stdout.strip()
        assert Path(path).read_bytes() == content("small", 200_000)
        told = json.loads(lab.b.python(LOAD, big))
        assert Path(told["path"]).read_bytes() == content("big", 60 * MB)
        assert 0 < told["fetched"] < 50 * MB
        assert not [path for path in files(disk) if ".partial" in path.name]
        assert not list((disk / "tmp").iterdir())


LOAD = """
import json, sys
import kachery_p2p as kc
told = []
path = kc.load_file(sys.argv[1], progress=told.append)
print(json.dumps({"path": path, "fetched": told[-1]["fetched"]}))
"""


def test_a_full_state_folder_is_said_and_loses_nothing(
    short_folder: Path, small_disk: Callable[[str, int], Path]
) -> None:
    disk = small_disk("disk", 4 * MB)
    lab = Lab(short_folder)
    lab.a.options["state_dir"] = disk
    with lab:
        set_value(lab.a, "before", 1)
        with filled(disk, leave=0):
            done = lab.a.python(SET_UNTIL_FULL)
            code, path = json.loads(done)
            assert code == "storage-full"
            assert path.startswith(str(disk))
            assert get_value(lab.a, "before") == 1
            # What needs no state still works.
            uri = lab.a.cli("store", write(lab.a, "x", 1000)).stdout.strip()
            assert Path(lab.a.cli("load", uri).stdout.strip()).read_bytes() == content("x", 1000)
        set_value(lab.a, "after", 2)
        lab.a.stop()
        lab.a.start()
        assert (get_value(lab.a, "before"), get_value(lab.a, "after")) == (1, 2)
        assert Path(lab.b.cli("load", uri).stdout.strip()).read_bytes() == content("x", 1000)


SET_UNTIL_FULL = """
import json
import kachery_p2p as kc
try:
    for number in range(10_000):
        kc.set(["filling", number], "x" * 100_000)
except kc.errors.StorageFull as error:
    print(json.dumps([error.code, error.fields["path"]]))
"""


def set_value(daemon: Daemon, key: str, value: int) -> None:
    daemon.python(f"import kachery_p2p as kc; assert kc.set({key!r}, {value})")


def get_value(daemon: Daemon, key: str) -> Any:
    return json.loads(daemon.python(f"import kachery_p2p as kc; print(kc.get({key!r}))"))


@pytest.mark.parametrize("folder", ["storage_dir", "state_dir"])
def test_a_node_that_cannot_start_on_a_full_disk_says_so(
    short_folder: Path, small_disk: Callable[[str, int], Path], folder: str
) -> None:
    disk = small_disk("disk", 4 * MB)
    node = Daemon(short_folder, "n", **{folder: disk / "inside"})
    option = f"--{folder.replace('_', '-')}"
    with filled(disk, leave=0):
        done = node.cli("daemon", "start", "--json", option, str(disk / "inside"), check=False)
        assert done.returncode == StorageFull.exit_status, done.stderr
        error = json.loads(done.stderr.splitlines()[-1])["error"]
        assert error["code"] == "storage-full"
        assert error["fields"]["path"].startswith(str(disk))


def test_a_full_disk_keeps_nobody_from_reading_parts_of_a_file(
    short_folder: Path, small_disk: Callable[[str, int], Path]
) -> None:
    disk = small_disk("disk", 8 * MB)
    with Lab(short_folder) as lab:
        data = content("large", 60 * MB)
        uri = lab.a.cli("store", write(lab.a, "large", 60 * MB)).stdout.strip()
        lab.b.stop()
        lab.b.options["storage_dir"] = disk
        lab.b.start()
        with at(lab.b), filled(disk, leave=0), kc.open(uri) as file:
            places = range(0, 60 * MB, 3 * MB)
            assert all(file.read_at(place, 1_000) == data[place:][:1_000] for place in places)
            file.seek(30 * MB)
            assert file.read(20 * MB) == data[30 * MB :][: 20 * MB]
            refused(lab.b, "load", uri, where=disk)
        assert lab.b.info()["pid"] == lab.b.pid


def test_a_disk_that_is_smaller_than_the_limit_counts_as_the_limit(
    short_folder: Path, small_disk: Callable[[str, int], Path]
) -> None:
    disk = small_disk("disk", 96 * MB)
    lab = Lab(short_folder)
    lab.b.options |= {"storage_dir": disk, "max_storage": "10G"}
    with lab:
        names = [write(lab.a, f"{number}", 20 * MB) for number in range(6)]
        uris = lab.a.cli("store", *names).stdout.split()
        mine = lab.b.cli("store", write(lab.b, "mine", 10 * MB)).stdout.strip()
        for uri, name in zip(uris, names, strict=True):
            path = lab.b.cli("load", uri).stdout.strip()
            assert Path(path).read_bytes() == content(name, 20 * MB)
        assert Path(lab.b.cli("load", mine).stdout.strip()).read_bytes() == content("mine", 10 * MB)
        fetched = lab.b.cli("ls", "--fetched").stdout.splitlines()
        assert 1 <= len(fetched) < 6
        # What somebody else takes of the disk goes off, too; what must stay stays.
        with filled(disk, leave=5 * MB):
            refused(lab.b, "store", write(lab.b, "large", 80 * MB), where=disk)
            assert lab.b.cli("ls", "--fetched").stdout == ""
        assert Path(lab.b.cli("load", mine).stdout.strip()).read_bytes() == content("mine", 10 * MB)


def test_on_a_full_disk_room_can_be_made(
    short_folder: Path, small_disk: Callable[[str, int], Path]
) -> None:
    """Storage and state are on it: what makes room must not need any."""
    disk = small_disk("disk", 64 * MB)
    lab = Lab(short_folder)
    lab.b.options |= {"storage_dir": disk / "storage", "state_dir": disk / "state"}
    with lab:
        uris = lab.a.cli("store", *(write(lab.a, f"{n}", MB) for n in range(3))).stdout.split()
        for uri in uris:
            lab.b.cli("load", uri)
        names = write(lab.b, "mine", MB), write(lab.b, "small", 100)
        mine = lab.b.cli("store", *names).stdout.split()
        with filled(disk, leave=0):
            lab.b.cli("rm", uris[0])
            lab.b.cli("rm", "--force", *mine)
        assert set(lab.b.cli("ls").stdout.split()).isdisjoint({uris[0], *mine})
        with filled(disk, leave=0):
            lab.b.cli("gc", "--to", "1")
        assert lab.b.cli("ls").stdout == ""
