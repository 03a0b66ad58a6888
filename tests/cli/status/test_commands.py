"""``status`` with real nodes: printed, as JSON, in a pipe, and live on a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len

from tests import forked
from tests.daemons import Daemon, Lab
from tests.patience import patience

_ALTERNATE, _ORDINARY = b"\x1b[?1049h", b"\x1b[?1049l"


class Terminal:
    """A terminal on which ``kachery-p2p status`` runs, and all that it was sent."""

    def __init__(self, daemon: Daemon, *arguments: str, columns: int = 100, **env: str) -> None:
        self._ours, self._theirs = pty.openpty()
        self.resize(columns)
        self.before = termios.tcgetattr(self._theirs)
        self.received = b""
        self.process = forked.Popen(
            [sys.executable, "-m", "kachery_p2p.cli", "status", *arguments],
            env={**daemon.env, "TERM": "xterm-256color", **env},
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
        )

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("4H", 40, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def until(self, pattern: bytes, times: int = 1) -> None:
        """Read on until what was received from now on matches so often."""
        start, end = len(self.received), time.monotonic() + patience(30)
        while len(re.findall(pattern, self.received[start:])) < times:
            left = end - time.monotonic()
            assert left > 0, f"{pattern!r} never came: {self.received[start:][-3_000:]!r}"
            self._read(left)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        self.received += os.read(self._ours, 65_536)
        return True

    def ended(self) -> int:
        """Its exit status; what it sent last is read, too."""
        end = time.monotonic() + patience(30)
        while self.process.poll() is None:
            assert time.monotonic() < end
            self._read(0.05)
        while self._read(0.0):
            pass
        return self.process.returncode

    def is_restored(self) -> bool:
        on_screen = self.received.rfind(_ALTERNATE)
        shown = self.received.rfind(b"\x1b[?25h") > self.received.rfind(b"\x1b[?25l")
        left = self.received.rfind(_ORDINARY) > on_screen >= 0
        return left and shown and termios.tcgetattr(self._theirs) == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@contextlib.contextmanager
def terminal(daemon: Daemon, *arguments: str, columns: int = 100, **env: str) -> Iterator[Terminal]:
    opened = Terminal(daemon, *arguments, columns=columns, **env)
    try:
        yield opened
    finally:
        opened.close()


@pytest.mark.processes
def test_three_nodes_tell_their_links_feeds_and_storage(lab: Lab) -> None:
    code = (
        "import kachery_p2p as kc; uri = kc.store_bytes(bytes(100_000));"
        "subfeed = kc.create_feed('numbers').load_subfeed('primes');"
        "subfeed.append_messages([2, 3, 5]); print(uri, subfeed.uri)"
    )
    file, feed = lab.a.python(code).split()
    lab.b.cli("load", file)
    assert json.loads(lab.b.cli("feed", "tail", feed, "--json").stdout.splitlines()[0])
    status = json.loads(lab.b.cli("status", "--json").stdout)
    assert status["node"]["id"] == lab.b.node_id
    assert status["storage"]["blobs"] == 1
    assert status["storage"]["used"] == 100_000
    assert 0 < status["storage"]["free"] <= status["storage"]["size"]
    links = {link["node"]: link for link in status["links"]}
    assert links[lab.proxy.node_id]["via"] is None
    assert links[lab.a.node_id]["via"] == lab.proxy.node_id
    assert links[lab.a.node_id]["via_label"] == "proxy"
    assert links[lab.a.node_id]["received"] > 100_000
    assert [feed["size"] for feed in status["feeds"]] == [3]
    assert status["feeds"][0]["followed"]
    assert not status["feeds"][0]["own"]
    (channel,) = status["channels"]
    assert (channel["members"], channel["online"]) == (3, 2)
    assert sorted(channel["names"]) == ["a", "proxy"]
    assert set(status["totals"]) <= set(status)

    shown = lab.b.cli("status").stdout
    for part in ("100.0 kB in 1 file", "lab      all", "via proxy", "direct", "followed"):
        assert part in shown
    assert re.search(r"^a +\S{8}  via proxy .* ms ", shown, re.MULTILINE)
    own = lab.a.cli("status").stdout
    assert re.search(r"primes +3  own +1 node$", own, re.MULTILINE)
    proxy = lab.proxy.cli("status").stdout
    assert lab.proxy.url in proxy
    assert "1 circuit," in proxy
    assert re.search(r"^lab +proxy +3  (a, b|b, a)$", proxy, re.MULTILINE)


@pytest.mark.processes
def test_a_transfer_is_shown_while_it_runs(lab: Lab) -> None:
    code = "import sys, kachery_p2p as kc; print(kc.store_bytes(bytes(int(sys.argv[1]))))"
    uri = lab.a.python(code, "60000000").strip()
    watch = (
        "import asyncio, json, sys, kachery_p2p as kc\n"
        "async def main():\n"
        "    loading = asyncio.create_task(kc.aload_file(sys.argv[1]))\n"
        "    seen = []\n"
        "    while not loading.done():\n"
        "        seen.append(await kc.anode_status())\n"
        "        await asyncio.sleep(0)\n"
        "    await loading\n"
        "    after = await kc.anode_status()\n"
        "    print(json.dumps([[s['downloads'] for s in seen], after['downloads']]))\n"
        "asyncio.run(main())"
    )
    during, after = json.loads(lab.b.python(watch, uri))
    seen = [download for downloads in during for download in downloads if download["size"]]
    assert {each["sha1"] for each in seen} == {uri.split("?")[0].split("/")[2]}
    assert {each["size"] for each in seen} == {60_000_000}
    assert [each["verified"] for each in seen] == sorted(each["verified"] for each in seen)
    named = [source for each in seen for source in each["sources"]]
    assert {(source["label"], source["via"]) for source in named} == {("a", "proxy")}
    assert after == []


@pytest.mark.processes
@pytest.mark.parametrize("columns", ["30", "80", "160", "200"])
def test_a_pipe_gets_plain_lines_of_the_width_that_it_says(node: Daemon, columns: str) -> None:
    bootstrap = f"ws://127.0.0.1:1#{'5e' * 32}"
    node.cli("channel", "create", "lab", "--bootstrap", bootstrap)
    done = node.cli("status", COLUMNS=columns, FORCE_COLOR="1")
    assert max(map(cell_len, done.stdout.splitlines())) <= int(columns)
    assert all(line.isprintable() for line in done.stdout.splitlines())
    assert done.stderr == ""


@pytest.mark.processes
def test_a_pipe_that_says_nothing_gets_lines_that_are_not_cut(node: Daemon) -> None:
    name = "a-channel-with-a-name-that-is-longer-than-any-column-of-a-dashboard-should-be"
    node.cli("channel", "create", name, "--bootstrap", f"ws://127.0.0.1:1#{'5e' * 32}")
    node.env.pop("COLUMNS", None)
    shown = node.cli("status", "--once").stdout
    assert f"{name} (owner)  all" in shown
    assert "…" not in shown
    assert "unreachable; it is tried again" in shown or "connecting ..." in shown


@pytest.mark.processes
def test_once_on_a_terminal_has_colours_unless_they_are_not_wanted(node: Daemon) -> None:
    for env, codes in (({}, True), ({"NO_COLOR": "1"}, False)):
        with terminal(node, "--once", columns=80, **env) as shown:
            assert shown.ended() == 0
            text = shown.received.decode()
        assert ("\x1b[1;36m" in text) == codes
        assert bool(re.search(r"\x1b\[[\d;]*3\d", text)) == codes
        assert "\x1b[?" not in text
        lines = re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()
        assert max(map(cell_len, lines)) <= 80


@pytest.mark.processes
def test_the_live_view_refreshes_and_q_gives_the_terminal_back(node: Daemon) -> None:
    with terminal(node) as shown:
        shown.until(b"q quits")
        assert _ALTERNATE in shown.received
        shown.until(rb"q quits +[\d:]{8}", times=2)
        assert not shown.is_restored()
        shown.resize(40)
        shown.process.send_signal(signal.SIGWINCH)
        shown.until(b"q quits")
        shown.type(b"xy")
        shown.until(b"q quits")
        shown.type(b"q")
        assert shown.ended() == 0
        assert shown.is_restored()
        assert b"Traceback" not in shown.received


@pytest.mark.processes
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, -15)])
def test_a_signal_ends_the_live_view_and_gives_the_terminal_back(
    node: Daemon, number: signal.Signals, status: int
) -> None:
    with terminal(node) as shown:
        shown.until(b"q quits")
        shown.process.send_signal(number)
        assert shown.ended() == status
        assert shown.is_restored()
        assert b"Traceback" not in shown.received


@pytest.mark.processes
def test_the_live_view_says_that_the_node_went_away_and_goes_on_when_it_is_back(
    node: Daemon,
) -> None:
    with terminal(node) as shown:
        shown.until(b"q quits")
        node.stop()
        # One word of it: where the lines break depends on the name of the folder.
        shown.until(b"goes")
        node.start()
        shown.until(rb"up \d s")
        # A whole picture without the complaint; on a busy machine the node may be silent once more.
        end = time.monotonic() + patience(30)
        while True:
            shown.received = b""
            shown.until(b"q quits", times=2)
            if b"goes" not in shown.received[shown.received.index(b"q quits") :]:
                break
            assert time.monotonic() < end
        shown.type(b"Q")
        assert shown.ended() == 0


@pytest.mark.processes
def test_if_the_keyboard_is_no_terminal_it_is_printed_once(node: Daemon) -> None:
    ours, theirs = pty.openpty()
    try:
        done = forked.run(
            [sys.executable, "-m", "kachery_p2p.cli", "status"],
            env={**node.env, "TERM": "xterm"},
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            timeout=patience(30),
        )
        assert done.returncode == 0
        assert _ALTERNATE not in os.read(ours, 65_536)
    finally:
        os.close(ours)
        os.close(theirs)


def test_without_a_node_it_says_how_to_start_one(short_folder: Path) -> None:
    away = Daemon(short_folder, "n")
    for arguments in (["status"], ["status", "--once"], ["status", "--json"]):
        done = away.cli(*arguments, check=False)
        assert done.returncode == 3
        assert "kachery-p2p daemon start" in done.stderr
    with terminal(away) as shown:
        assert shown.ended() == 3
        assert b"daemon start" in shown.received
        assert _ALTERNATE not in shown.received
