"""Sync calls that need no event loop: their connections, and what happens when they are disturbed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kachery_p2p as kc
from kachery_p2p.client.session import connection, portal, thread_connection
from kachery_p2p.protocol import limits
from kachery_p2p.protocol.errors import BadInput, DaemonNotRunning, LinkClosed, ProtocolViolation
from kachery_p2p.protocol.local import messages as local
from tests.daemons import Daemon, Lab, at, short_folder

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def node() -> Iterator[Daemon]:
    with short_folder() as folder, Lab(folder) as lab:
        yield lab.a


@pytest.fixture
def here(node: Daemon) -> Iterator[Daemon]:
    with at(node):
        yield node


def kept() -> list[thread_connection.ThreadConnection]:
    return [each for _, each in thread_connection._idle._kept]


def test_no_thread_and_no_loop_is_made_and_the_connection_serves_the_next_call(
    here: Daemon,
) -> None:
    assert kc.set("key", [1])
    [first] = kept()
    assert kc.get("key") == [1]
    assert kc.load_text(kc.store_text("text")) == "text"  # a load needs the loop
    assert kept() == [first]
    kc.create_feed().load_subfeed("n").append_message(1)
    assert kept() == [first]


def test_a_script_that_only_asks_never_starts_the_portal(here: Daemon) -> None:
    code = """
import sys, threading
import kachery_p2p as kc
subfeed = kc.create_feed().load_subfeed("n")
print(subfeed.append_message(1), subfeed.get_next_messages(), kc.get("nothing"), kc.store_text("x"))
print(len(threading.enumerate()), "uvloop" in sys.modules)
"""
    out = here.python(code)
    assert out.splitlines()[1] == "1 False"


def test_it_returns_and_raises_what_the_function_does(here: Daemon) -> None:
    with pytest.raises(BadInput, match="no JSON"):
        kc.set("key", float("nan"))
    subfeed = kc.create_feed().load_subfeed("n")
    with pytest.raises(BadInput):
        subfeed.append_message(b"bytes")
    assert subfeed.append_message(0) == 0
    with pytest.raises(kc.errors.FeedReadOnly):
        kc.load_subfeed(f"feed://{'ab' * 32}/n").append_message(1)
    assert subfeed.append_message(1) == 1


def test_threads_have_a_connection_each_and_few_are_kept(here: Daemon) -> None:
    subfeed = kc.create_feed().load_subfeed("n")
    count = limits.MAX_IDLE_CONNECTIONS + 12
    together = threading.Barrier(count)
    numbers: list[int] = []

    def work(number: int) -> None:
        together.wait(30)
        for _ in range(20):
            numbers.append(subfeed.append_message(number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(20 * count))
    assert 1 <= len(kept()) <= limits.MAX_IDLE_CONNECTIONS
    assert all(each.alive for each in kept())


def test_in_the_thread_of_a_running_loop(here: Daemon) -> None:
    async def cell() -> tuple[Any, Any]:
        kc.set("from a loop", 1)
        return kc.get("from a loop"), await kc.aget("from a loop")

    assert asyncio.run(cell()) == (1, 1)


def test_after_a_restart_of_the_node_the_next_call_works(node: Daemon) -> None:
    with at(node):
        kc.set("restart", 1)
        [before] = kept()
        node.stop()
        with pytest.raises(DaemonNotRunning):
            kc.get("restart")
        node.start()
        assert kc.get("restart") == 1
        assert before not in kept()


def test_another_node_is_asked_when_the_environment_says_so(here: Daemon) -> None:
    with short_folder() as folder, Lab(folder) as other:
        mine = kc.get_node_id()
        with at(other.b):
            assert kc.get_node_id() not in (mine, None)
        assert kc.get_node_id() == mine


FORK = """
import os
import kachery_p2p as kc
kc.set("who", "parent")
child = os.fork()
if not child:
    for number in range(50):
        kc.set("child", number)
    os._exit(0 if kc.get("child") == 49 else 1)
for number in range(50):
    kc.set("who", number)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(status, kc.get("who"), kc.get("child"))
"""


def test_a_forked_child_has_its_own(here: Daemon) -> None:
    assert here.python(FORK) == "0 49 49\n"


WAIT = """
import kachery_p2p as kc
subfeed = kc.create_feed().load_subfeed("n")
print("ready", flush=True)
try:
    subfeed.get_next_messages(wait_msec=100_000)
except KeyboardInterrupt:
    print("interrupted", subfeed.append_message(1), subfeed.get_next_messages(), flush=True)
"""


def test_ctrl_c_ends_a_wait_and_the_script_goes_on(here: Daemon) -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", WAIT],
        env=here.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)  # into the call; if it is not there yet, the rest is true all the same
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "interrupted 0 [1]\n", "")


# --- a node that does not behave ---------------------------------------------------------------


class FakeNode:
    """Greets, and then does what a test says with the first call."""

    def __init__(self, folder: Path, *replies: local.Message | bytes | None) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path = folder / "kachery-p2p" / "node.sock"
        path.parent.mkdir()
        self._listener.bind(str(path))
        self._listener.listen()
        self._replies = replies
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener, self._listener.accept()[0] as sock:
            sock.recv(4096)
            sock.sendall(local.encode_message(local.Welcome(1, "x", "ab" * 32, "/x", "x", False)))
            sock.recv(4096)
            for reply in self._replies:
                if reply is None:
                    return
                sock.sendall(reply if isinstance(reply, bytes) else local.encode_message(reply))
            sock.recv(4096)


@pytest.mark.parametrize(
    ("replies", "error"),
    [
        ((None,), LinkClosed),
        ((local.encode_message(local.Answer(1, {}))[:5], None), LinkClosed),
        ((local.Answer(2, {}),), ProtocolViolation),
        ((local.Chunk(1, b"x"),), ProtocolViolation),
        ((b"\xff\xff\xff\xff",), ProtocolViolation),
        ((b"\0\0\0\1\xc1",), ProtocolViolation),
        ((local.Failure(0, "busy", {"limit": "1"}),), kc.errors.Busy),
        ((local.Progress(1, {"done": 1}), local.Failure(1, "cancelled", {"what": "x"})),
         kc.errors.Cancelled),
    ],
)  # fmt: skip
def test_what_a_node_says_wrongly_is_an_error_and_the_connection_is_not_used_again(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch, replies: Any, error: type[Exception]
) -> None:
    for name in [name for name in os.environ if "KACHERY" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))
    portal.shutdown()
    FakeNode(short_folder, *replies)
    with pytest.raises(error):
        kc.get("key")
    assert not [each for each in kept() if error is not kc.errors.Cancelled and each.alive]
    portal.shutdown()


def test_what_waits_for_a_loop_although_it_said_that_it_needs_none_is_a_bug_that_says_so() -> None:
    async def asleep() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="was to need no event loop"):
        thread_connection.run(asleep)
    assert thread_connection.lease() is None


def test_what_turns_out_to_need_a_loop_gets_one() -> None:
    runs: list[bool] = []

    async def work() -> int:
        runs.append(thread_connection.lease() is not None)
        thread_connection.need_loop()
        await asyncio.sleep(0)
        return 7

    assert portal.run(work, asks_only=True) == 7
    assert runs == [True, False]
    portal.shutdown()


async def test_a_task_that_a_sync_call_left_behind_has_its_own_connection() -> None:
    left: list[asyncio.Task[bool]] = []

    async def has_lease() -> bool:
        return thread_connection.lease() is not None

    async def work() -> None:
        left.append(asyncio.get_running_loop().create_task(has_lease()))

    thread_connection.run(work)
    assert await left[0] is False
    assert connection.connection is not None
