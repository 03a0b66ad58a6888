"""Progress: the numbers, and what a person sees of them on a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyte
import pytest

import kachery_p2p as kc
from kachery_p2p.client.display.progress import ProgressInfo, Transfer
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.storage.files.blobs import BlobStore
from kachery_p2p.storage.files.sources import PIECE
from tests import forked
from tests.daemons import Lab, free_port

MIB = 1 << 20
ROWS, COLUMNS = 24, 100

# --- the numbers ---------------------------------------------------------------------------------


def test_a_function_hears_of_every_load_and_store_at_its_end(folder: Path, tmp_path: Path) -> None:
    told: list[ProgressInfo] = []
    (tmp_path / "some.dat").write_bytes(b"x" * 1000)
    uri = kc.store_file(tmp_path / "some.dat", progress=told.append)
    kc.load_file(uri, progress=told.append)
    kc.load_bytes(uri, 10, 20, progress=told.append)
    kc.load_file(uri, tmp_path / "copy.dat", progress=told.append)
    kc.store_text("abc", progress=told.append)
    ends = [info for info in told if info["ended"]]
    assert [(info["what"], info["name"], info["total"]) for info in ends] == [
        ("storing", "some.dat", 1000),
        ("loading", "some.dat", 1000),
        ("loading", "some.dat", 10),
        ("copying", "some.dat", 1000),
        ("storing", "file.txt", 3),
    ]
    assert all(info["done"] == info["total"] and info["left"] == 0 for info in ends)
    assert set(told[0]) == set(ProgressInfo.__annotations__)


def test_nothing_is_said_of_the_end_of_what_was_not_found(folder: Path) -> None:
    told: list[ProgressInfo] = []
    assert kc.load_text(f"sha1://{'0' * 40}/a.txt", progress=told.append) is None
    assert told == []


def test_a_function_that_raises_is_logged_once_and_breaks_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    called = []

    def broken(info: ProgressInfo) -> None:
        called.append(info)
        raise ZeroDivisionError("the bar is too long")

    with caplog.at_level(logging.WARNING):
        uri = kc.store_text("some text", progress=broken)
        assert kc.load_text(uri, progress=broken) == "some text"
    assert len(called) == 2
    assert len(caplog.records) == 2
    assert "the bar is too long" in caplog.text
    with Transfer("loading", "a", broken) as moving:
        moving.tell(1)
        moving.complete(2)
    assert len(called) == 3, "after it raised, it is left alone"


@pytest.mark.parametrize("wrong", ["yes", 1, []])
def test_what_is_no_progress_is_refused(folder: Path, wrong: Any) -> None:
    with pytest.raises(BadInput, match="None, False or a function"):
        kc.store_text("x", progress=wrong)


def test_a_range_and_a_directory_tell_of_one_file_only(folder: Path) -> None:
    told: list[ProgressInfo] = []
    inner = kc.store_text("inside").split("/")[2]
    listing = kc.store_json({"files": {"b.txt": {"sha1": inner}}, "dirs": {}})
    uri = f"sha1dir://{listing.split('/')[2]}/b.txt"
    assert kc.load_text(uri, progress=told.append) == "inside"
    assert [info["name"] for info in told] == ["b.txt"]


def test_storage_says_after_every_piece_how_much_is_done(tmp_path: Path) -> None:
    path = tmp_path / "source.dat"
    path.write_bytes(os.urandom(PIECE) * 2 + b"end")
    wanted = [PIECE, 2 * PIECE, 2 * PIECE + 3]
    with BlobStore(tmp_path / "store").open() as store, path.open("rb") as file:
        stored: list[int] = []
        store.store_fd(file.fileno(), advanced=stored.append)
        assert stored == wanted
        linked: list[int] = []
        store.link_fd(file.fileno(), path, advanced=linked.append)
        assert linked == wanted


# --- a terminal ----------------------------------------------------------------------------------

BEGIN = """
import asyncio, logging, os, sys, threading, time
logging.basicConfig(format="%(levelname)s %(message)s")
from kachery_p2p.client.display import progress
from kachery_p2p.client.display.progress import Transfer
from kachery_p2p.client.display.progress_display import display
progress.SHOW_SECONDS = 0.0

def drawn(count=1):
    while display._screen is None or len(display.shown) < count:
        time.sleep(0.01)
    with display.aside():  # it is drawn anew after that
        pass
"""

ONE = (
    BEGIN
    + """
print("before")
with Transfer("loading", "a\\x1b[31m.dat") as moving:
    moving.begin()
    sources = [{"node": "n", "label": "l", "via": "direct", "bytes": 1}] * 2
    moving.hear({"verified": 1 << 20, "size": 3 << 20, "sources": sources})
    drawn()
    print("printed in between")
    logging.warning("logged in between")
    print("begun in between", end="")
    drawn()
print("after")
"""
)


class Seen:
    """What a terminal got, and what it shows of that in the end."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw.decode()
        self.screen = pyte.Screen(COLUMNS, ROWS)
        stream = pyte.Stream(self.screen)
        stream.feed(self.raw)
        self.lines = [line.rstrip() for line in self.screen.display if line.strip()]

    @property
    def frames(self) -> list[str]:
        """The lines of all that was ever drawn, without colours."""
        screen, found = pyte.Screen(COLUMNS, ROWS), []
        stream = pyte.Stream(screen)
        for piece in self.raw.split("\r"):
            stream.feed(piece)
            found += [line.rstrip() for line in screen.display if line.strip()]
            stream.feed("\r")
        return found


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """(our end, the program's end)."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    try:
        yield ours, theirs
    finally:
        os.close(ours)


def read_all(end: int) -> bytes:
    seen = b""
    with contextlib.suppress(OSError):  # what a terminal says at its end
        while piece := os.read(end, 65_536):
            seen += piece
    return seen


def environment(**more: str) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")},
        "TERM": "xterm-256color",
        **more,
    }


def on_a_terminal(code: str, *, pipe: bool = False, **more: str) -> tuple[Seen, str]:
    """What the terminal got, and what came through a pipe that was standard output."""
    with terminal() as (ours, theirs):
        process = forked.Popen(
            [sys.executable, "-c", code],
            env=environment(**more),
            stdout=subprocess.PIPE if pipe else theirs,
            stderr=theirs,
        )
        os.close(theirs)
        seen = Seen(read_all(ours))
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0, seen.raw
        return seen, (out or b"").decode()


def test_the_bar_shows_bytes_and_sources_and_is_gone_in_the_end() -> None:
    seen, _ = on_a_terminal(ONE)
    bars = [line for line in seen.frames if line.startswith("loading")]
    assert any("1.0 MB of 3.1 MB" in line and "2 sources" in line for line in bars)
    assert all(line.startswith("loading a\\x1b[31m.dat") for line in bars)
    assert seen.lines[-1] == "after"
    assert not [line for line in seen.lines if "loading" in line]
    assert not seen.screen.cursor.hidden


def test_prints_and_log_lines_stand_above_the_bar_unharmed() -> None:
    seen, _ = on_a_terminal(ONE)
    assert seen.lines == [
        "before",
        "printed in between",
        "WARNING logged in between",
        "begun in between",
        "after",
    ]


def test_what_goes_into_a_pipe_goes_on_going_there() -> None:
    seen, out = on_a_terminal(ONE, pipe=True)
    assert out == "before\nprinted in between\nbegun in betweenafter\n"
    assert seen.lines == ["WARNING logged in between"]
    assert [line for line in seen.frames if line.startswith("loading")]


MANY = (
    BEGIN
    + """
async def load(number, go_on):
    with Transfer("loading", f"part{number}", total=1 << 20) as moving:
        moving.begin()
        moving.tell(1 << 19)
        await go_on.wait()
        moving.complete(1 << 20)

async def main():
    first, second = asyncio.Event(), asyncio.Event()
    loads = asyncio.gather(*(load(n, second if n % 2 else first) for n in range(50)))
    await asyncio.to_thread(drawn, 50)
    first.set()
    while len(display.shown) > 25:
        await asyncio.sleep(0.01)
    await asyncio.to_thread(drawn)
    second.set()
    await loads

asyncio.run(main())
print("after")
"""
)


def test_fifty_loads_share_one_display() -> None:
    seen, _ = on_a_terminal(MANY)
    frames = seen.frames
    assert any("0 of 50 files done" in line and "26.2 MB of 52.4 MB" in line for line in frames)
    assert any("25 of 50 files done" in line and "39.3 MB of 52.4 MB" in line for line in frames)
    assert seen.raw.count("\x1b[?25l") == 3, "it appeared once, and came back from aside twice"
    assert seen.lines == ["after"]


THREADS = (
    BEGIN
    + """
def load(number):
    with Transfer("storing", f"part{number}") as moving:
        moving.begin()
        ready.wait()
        done.wait()

ready, done = threading.Barrier(9), threading.Barrier(9)
threads = [threading.Thread(target=load, args=[n]) for n in range(8)]
for each in threads: each.start()
ready.wait(); drawn(8); done.wait()
for each in threads: each.join()
print("after", len(display.shown), sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__)
"""
)


def test_so_do_those_of_many_threads() -> None:
    seen, _ = on_a_terminal(THREADS)
    assert any("0 of 8 files done" in line for line in seen.frames)
    assert seen.lines == ["after 0 True True"]


FORK = (
    BEGIN
    + """
with Transfer("loading", "a") as moving:
    moving.begin(); drawn()
    child = os.fork()
    if not child:
        mine = sys.stdout is sys.__stdout__ and display._screen is None and not display.shown
        os._exit(0 if mine else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print("child", status)
"""
)


@pytest.mark.filterwarnings("ignore")
def test_a_forked_child_has_its_streams_back() -> None:
    assert on_a_terminal(FORK)[0].lines[-1] == "child 0"


NEVER = (
    BEGIN
    + """
with Transfer("loading", "a", {argument}) as moving:
    moving.begin()
    if moving._timer is not None:
        moving._timer.join()
print("rich" in sys.modules, threading.active_count())
"""
)


def test_where_nobody_looks_nothing_is_drawn_or_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NEVER.format(argument="None")], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("False 1\n", "")


@pytest.mark.parametrize("argument", ["False", "print"])
def test_without_a_bar_rich_is_not_imported(argument: str) -> None:
    assert on_a_terminal(NEVER.format(argument=argument))[0].lines == ["False 1"]


def test_on_a_dumb_terminal_nothing_is_drawn() -> None:
    assert on_a_terminal(NEVER.format(argument="None"), TERM="dumb")[0].lines == ["False 1"]


FOREIGN = (
    BEGIN
    + """
from rich.progress import Progress
from rich.console import Console
with Progress(console=Console(stderr=True), auto_refresh=False, transient=True) as theirs:
    with Transfer("loading", "a") as moving:
        moving.begin(); moving._timer.join()
        print(display._screen, display.shown)
"""
)


def test_somebody_elses_live_display_is_left_alone() -> None:
    assert on_a_terminal(FOREIGN)[0].lines == ["None ()"]


QUICK = """
import sys, kachery_p2p as kc
uri = kc.store_text("some text")
assert kc.load_text(uri) == "some text"
print("rich" in sys.modules, "numpy" in sys.modules)
"""


def test_what_is_quick_draws_nothing(tmp_path: Path) -> None:
    seen, _ = on_a_terminal(QUICK, KACHERY_P2P_OFFLINE_STORAGE_DIR=str(tmp_path / "folder"))
    assert seen.raw.split() == ["False", "False"]


# --- with real nodes -----------------------------------------------------------------------------

LOAD = """
import logging, sys
import kachery_p2p as kc
try:
    kc.load_file(sys.argv[1])
except KeyboardInterrupt:
    print("interrupted", kc.load_text(sys.argv[2]), sys.stdout is sys.__stdout__)
"""


@pytest.mark.processes
def test_ctrl_c_gives_the_terminal_back(lab: Lab, tmp_path: Path) -> None:
    big = tmp_path / "big.dat"
    with big.open("wb") as file:
        file.truncate(64 * MIB)
    uri = lab.a.cli("store", str(big)).stdout.strip()
    here = lab.b.python("import kachery_p2p as kc; print(kc.store_text('next'))").strip()
    os.kill(lab.a.pid, signal.SIGSTOP)  # so the load cannot end before it is interrupted
    try:
        with terminal() as (ours, theirs):
            process = forked.Popen(
                [sys.executable, "-c", LOAD, uri, here],
                env={**lab.b.env, "TERM": "xterm-256color"},
                stdout=theirs,
                stderr=theirs,
            )
            os.close(theirs)
            raw = b""
            while b"loading" not in raw:
                raw += os.read(ours, 65_536)
            process.send_signal(signal.SIGINT)
            seen = Seen(raw + read_all(ours))
            assert process.wait(30) == 0
    finally:
        os.kill(lab.a.pid, signal.SIGCONT)
    assert seen.lines == ["interrupted next True"]
    assert not seen.screen.cursor.hidden


LINK = """
import json, sys
import kachery_p2p as kc
told = []
kc.link_file(sys.argv[1], progress=told.append)
print(json.dumps(told))
"""


@pytest.mark.processes
def test_the_node_says_how_much_is_stored(lab: Lab, tmp_path: Path) -> None:
    sparse = tmp_path / "sparse.dat"
    with sparse.open("wb") as file:
        file.truncate(512 * MIB)  # holes: much to hash, nothing on disk
    told = json.loads(lab.a.python(LINK, str(sparse)))
    assert told[-1]["ended"]
    assert told[-1]["done"] == told[-1]["total"] == 512 * MIB
    assert {info["what"] for info in told} == {"linking"}
    assert len(told) > 1
    assert all(0 <= info["done"] <= info["total"] == 512 * MIB for info in told)
    assert any(info["rate"] > 0 for info in told[:-1])


@pytest.mark.processes
def test_the_command_line_has_the_same_bar(lab: Lab, tmp_path: Path) -> None:
    paths = []
    for number in range(2):
        path = tmp_path / f"{number}.dat"
        with path.open("wb") as file:
            file.truncate(512 * MIB)
        paths.append(str(path))
    with terminal() as (ours, theirs):
        process = forked.Popen(
            [sys.executable, "-m", "kachery_p2p.cli", "link", *paths],
            env={**lab.a.env, "TERM": "xterm-256color"},
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        seen = Seen(read_all(ours))
        assert process.wait(30) == 0
    assert any(line.startswith("linking 2 files") and "of 1.1 GB" in line for line in seen.frames)
    assert len("".join(seen.lines).split("sha1://")) == 3
    assert not [line for line in seen.lines if "linking" in line]


FETCH = """
import json, sys
import kachery_p2p as kc
ends = {}
for name, uri in json.load(sys.stdin).items():
    for part in ("range", "whole") if name == "file" else ("whole",):
        told = []
        if part == "range":
            kc.load_bytes(uri, 1000, 2_000_000, progress=told.append)
        else:
            assert getattr(kc, f"load_{name}")(uri, progress=told.append) is not None
        ends[f"{name} {part}"] = told[-1]
big = bytes(30_000_000)
told = []
kc.store_bytes(big, progress=told.append)
ends["store"] = told[-1]
print(json.dumps(ends))
"""

GIVE = """
import json, os
import kachery_p2p as kc, numpy as np
with open("big.dat", "wb") as file:
    file.write(os.urandom(21_000_000))
print(json.dumps({
    "bytes": kc.store_bytes(os.urandom(3_000_000)), "text": kc.store_text("x" * 5_000_000),
    "json": kc.store_json(["y"] * 1_000_000), "npy": kc.store_npy(np.arange(400_000)),
    "pkl": kc.store_pkl({"z": np.arange(300_000)}), "file": kc.store_file("big.dat")}))
"""


@pytest.mark.processes
@pytest.mark.parametrize("tcp", [False, True])
def test_a_load_from_the_network_says_what_came_from_whom(short_folder: Path, tcp: bool) -> None:
    lab = Lab(short_folder)
    if tcp:
        lab.b.options["api_port"] = free_port()
    with lab:
        uris = lab.a.python(GIVE)
        if tcp:
            lab.b.env["KACHERY_P2P_API_PORT"] = str(lab.b.options["api_port"])
        ends = json.loads(lab.b.python(FETCH, stdin=uris))
    assert all(info["ended"] and info["done"] == info["total"] > 0 for info in ends.values())
    for name in ("text", "json", "npy", "pkl"):
        info = ends[f"{name} whole"]
        assert info["fetched"] == info["total"], name
        assert [source["label"] for source in info["sources"]] == ["a"]
        assert sum(source["bytes"] for source in info["sources"]) == info["total"]
    assert 0 < ends["file whole"]["fetched"] < 21_000_000, "the range was here already"
    assert ends["file range"]["total"] == 2_000_000 - 1000
    assert ends["store"]["total"] == 30_000_000
