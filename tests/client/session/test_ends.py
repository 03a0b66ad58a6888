"""Where a loop cannot be, or is at its end: what a program hears then."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

import kachery_p2p as kc
from kachery_p2p.local import loops
from kachery_p2p.protocol.errors import BadInput, LoopNotMade

TIMEOUT = 60


def script(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A program of its own, without a node."""
    start = f"import os\nos.environ['KACHERY_P2P_OFFLINE_STORAGE_DIR'] = {str(folder)!r}\n"
    return subprocess.run(
        [sys.executable, "-c", start + "import kachery_p2p as kc\n" + code],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


@pytest.mark.parametrize(
    "code",
    [
        "print(kc.load_text(kc.store_text('hi')))",
        "kc.load_text(kc.store_text('hi')); raise SystemExit(print('hi'))",
        "import atexit; atexit.register(lambda: print(kc.load_text(kc.store_text('hi'))))",
        "import atexit; u = kc.store_text('hi'); atexit.register(lambda: print(kc.load_text(u)))",
        "import asyncio, atexit\n"
        "atexit.register(lambda: print(asyncio.run(kc.aload_text(kc.store_text('hi')))))",
    ],
)
def test_a_program_ends_without_a_word(code: str, tmp_path: Path) -> None:
    done = script(code, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hi\n", "")


def test_an_awaited_call_without_asyncio_says_what_to_do() -> None:
    call = kc.aget_node_id()
    with pytest.raises(BadInput, match="no event loop of asyncio"):
        call.send(None)


@pytest.mark.parametrize(
    ("name", "question"),
    [("gevent.monkey", "is_module_patched"), ("eventlet.patcher", "is_monkey_patched")],
)
def test_a_library_that_replaces_threads_is_named_and_nothing_waits(
    name: str, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType(name)
    setattr(module, question, lambda what: what == "socket")
    monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(LoopNotMade, match=name.partition(".")[0]):
        loops.new_event_loop()
    setattr(module, question, lambda what: False)
    loops.new_event_loop().close()


DAEMON_THREAD = """
import threading
begun = threading.Event()
def work():
    while True:
        {call}
        begun.set()
threading.Thread(target=work, daemon=True).start()
begun.wait(60)
"""


@pytest.mark.parametrize(
    "call",
    [
        "kc.store_bytes(bytes(1_000_000))",
        "kc.load_text(kc.store_text('hi'))",
        "kc.load_file(kc.store_text('hi'))",
    ],
)
def test_a_thread_that_ends_with_the_program_ends_without_a_word(call: str, tmp_path: Path) -> None:
    for _ in range(3):
        done = script(DAEMON_THREAD.format(call=call), tmp_path)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_thread_that_the_program_waits_for_may_call_until_it_ends(tmp_path: Path) -> None:
    code = """
import threading
def work():
    threading.main_thread().join()
    for number in range(20):
        uri = kc.store_bytes(bytes(1_000_000 + number))
        assert len(kc.load_bytes(uri)) == 1_000_000 + number
        assert kc.load_file(uri)
    print("done")
threading.Thread(target=work).start()
"""
    done = script(code, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
