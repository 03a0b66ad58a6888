"""The sync side: scripts, threads, notebooks, forks, Ctrl-C and exit."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import os
import signal
import subprocess
import sys
import threading
import traceback
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kachery_p2p.client.session import portal
from kachery_p2p.client.session.tracebacks import TRACEBACK_VARIABLE
from kachery_p2p.local import loops
from kachery_p2p.protocol.errors import Cancelled, LoopNotMade, NotFound

TIMEOUT = 30


@pytest.fixture(autouse=True)
def fresh_portal() -> Iterator[None]:
    yield
    portal.shutdown()


async def adouble(number: int, *, plus: int = 0) -> int:
    """Double a number.

    Example: ``await kc.adouble(2)``, see :func:`adouble` and adoubled.
    """
    await asyncio.sleep(0)
    return 2 * number + plus


double = portal.twin(adouble)


def portal_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == portal.THREAD_NAME]


def script(text: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", text]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, **options)


def test_a_call_returns_what_the_coroutine_returns() -> None:
    assert double(4, plus=1) == 9


def test_all_calls_share_one_loop_in_one_thread() -> None:
    async def where() -> tuple[asyncio.AbstractEventLoop, str]:
        return asyncio.get_running_loop(), threading.current_thread().name

    assert not portal_threads()
    first, second = portal.run(where), portal.run(where)
    assert first == second
    assert first[1] == portal.THREAD_NAME
    assert len(portal_threads()) == 1


def test_fifty_threads_at_once_get_their_own_answers_from_one_portal() -> None:
    barrier = threading.Barrier(50)

    def call(number: int) -> int:
        barrier.wait(TIMEOUT)
        return double(number)

    with concurrent.futures.ThreadPoolExecutor(50) as threads:
        assert list(threads.map(call, range(50))) == list(range(0, 100, 2))
    assert len(portal_threads()) == 1


async def test_it_works_inside_a_running_loop() -> None:
    assert double(3) == 6


def test_the_callers_context_variables_are_seen() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    async def read() -> str:
        return variable.get()

    variable.set("mine")
    assert portal.run(read) == "mine"


def test_an_error_comes_through_with_its_traceback_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def afind() -> None:
        await asyncio.sleep(0)
        raise NotFound(what="it", detail="nobody was asked")

    with pytest.raises(NotFound) as caught:
        portal.twin(afind)()
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "call"
    assert len(names) == 2
    monkeypatch.setenv(TRACEBACK_VARIABLE, "full")
    with pytest.raises(NotFound) as caught:
        portal.twin(afind)()
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "afind"


def test_a_bug_comes_through_with_its_traceback() -> None:
    async def afind() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        portal.twin(afind)()
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "afind"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_coroutine_that_wants_to_exit_does_not_take_the_portal_along(
    kind: type[BaseException],
) -> None:
    async def leave() -> None:
        raise kind

    with pytest.raises(kind):
        portal.run(leave)
    assert double(1) == 2


def test_a_coroutine_that_is_cancelled_gives_the_typed_error() -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(Cancelled, match="load was cancelled"):
        portal.run(cancelled, name="load")


def test_calling_it_from_its_own_thread_is_refused() -> None:
    async def aouter() -> int:
        return double(1)

    with pytest.raises(RuntimeError, match="use 'await adouble"):
        portal.twin(aouter)()
    assert double(1) == 2


def test_a_shutdown_cancels_what_runs_and_the_next_call_starts_anew() -> None:
    started, cleaned = threading.Event(), threading.Event()

    async def wait() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        call = threads.submit(portal.run, wait)
        assert started.wait(TIMEOUT)
        portal.shutdown()
        with pytest.raises(Cancelled):
            call.result(TIMEOUT)
    assert cleaned.is_set()
    assert not portal_threads()
    assert double(1) == 2


def test_calls_that_race_with_a_shutdown_end() -> None:
    def call(number: int) -> int:
        try:
            return double(number)
        except Cancelled:
            return 2 * number

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(call, number) for number in range(200)]
        for _ in range(20):
            portal.shutdown()
        done = concurrent.futures.wait(calls, timeout=TIMEOUT)
    assert not done.not_done
    assert [call.result() for call in calls] == [2 * number for number in range(200)]


def test_a_twin_looks_like_its_original() -> None:
    assert double.__name__ == double.__qualname__ == "double"
    assert inspect.signature(double) == inspect.signature(adouble)
    assert typing.get_type_hints(double) == {"number": int, "plus": int, "return": int}
    assert not inspect.iscoroutinefunction(double)
    assert inspect.getdoc(double) == (
        "Double a number.\n\n"
        "Example: ``kc.double(2)``, see :func:`double` and adoubled.\n\n"
        "This waits for the result; in async code use :func:`adouble`."
    )


def test_a_twin_of_a_method_is_a_method() -> None:
    class Feed:
        length = 3

        async def acount(self, more: int) -> int:
            return self.length + more

        count = portal.twin(acount)

    assert Feed().count(2) == 5
    assert Feed.count.__qualname__.endswith("Feed.count")


def test_only_an_async_function_called_a_something_has_a_twin() -> None:
    async def load() -> None: ...

    def aload() -> None: ...

    for function in (load, aload):
        with pytest.raises(TypeError, match="is not an async function"):
            portal.twin(function)  # type: ignore[arg-type]


PRELUDE = """
import asyncio, os, sys, signal, threading
from kachery_p2p.client.session import portal
async def one(): return 1
"""


def test_a_script_ends_by_itself_and_quietly() -> None:
    done = script(PRELUDE + "print(portal.run(one))")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_exit_cancels_background_tasks_and_lets_them_clean_up() -> None:
    done = script(
        PRELUDE
        + """
async def serve():
    try: await asyncio.Event().wait()
    finally: print("cleaned", flush=True)
async def start():
    global task
    task = asyncio.create_task(serve())
    await asyncio.sleep(0)
portal.run(start)
print("end", flush=True)
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\ncleaned\n", "")


def test_a_forked_child_gets_a_portal_of_its_own_and_the_parent_keeps_its() -> None:
    done = script(
        PRELUDE
        + """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
async def who(): return os.getpid()
assert portal.run(who) == os.getpid()
child = os.fork()
if child == 0:
    print(portal.run(who) == os.getpid(), flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(portal.run(who) == os.getpid(), flush=True)
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\nTrue\n", "")


def test_a_forked_child_may_exit_in_the_ordinary_way() -> None:
    done = script(
        PRELUDE
        + """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
portal.run(one)
child = os.fork()
if child == 0:
    sys.exit(portal.run(one) + 6)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
reader, writer = os.pipe()
async def still_polls():
    ready = asyncio.Event()
    asyncio.get_running_loop().add_reader(reader, ready.set)
    os.write(writer, b"x")
    await ready.wait()
    asyncio.get_running_loop().remove_reader(reader)
    return "polls"
print(portal.run(still_polls))
"""
    )
    assert (done.returncode, done.stdout) == (0, "polls\n"), done.stderr


def interrupted(text: str) -> tuple[int, str, str]:
    """Run a script, send SIGINT when it says 'ready'; its exit status and what it wrote."""
    command = [sys.executable, "-W", "error", "-c", PRELUDE + text]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT)
    return process.returncode, out, err


def test_ctrl_c_cancels_the_coroutine_and_waits_for_its_clean_up() -> None:
    status, out, err = interrupted(
        """
async def wait():
    try:
        print("ready", flush=True)
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        print("cleaned", flush=True)
try:
    portal.run(wait)
except KeyboardInterrupt:
    print("interrupted", portal.run(one), flush=True)
"""
    )
    assert (status, out, err) == (0, "cleaned\ninterrupted 1\n", "")


def test_an_uncaught_ctrl_c_ends_the_script_as_usual() -> None:
    status, out, err = interrupted(
        """
async def wait():
    print("ready", flush=True)
    await asyncio.Event().wait()
portal.run(wait)
"""
    )
    assert status == -signal.SIGINT
    assert out == ""
    assert err.rstrip().endswith("KeyboardInterrupt")


NO_LOOP = """
import os, resource, sys, tempfile, warnings
os.environ["KACHERY_P2P_OFFLINE_STORAGE_DIR"] = tempfile.mkdtemp()
import kachery_p2p as kc
"""


@pytest.mark.parametrize("free", [0, 2, 5, 11])
def test_without_descriptors_a_call_says_so_and_works_once_there_are_some(free: int) -> None:
    done = script(
        NO_LOOP
        + f"""
kc.load_text
import asyncio, uvloop
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True: held.append(open(os.devnull))
except OSError: pass
for file in [held.pop() for _ in range({free})]: file.close()
try: kc.store_text("x")
except kc.errors.LoopNotMade as error: print("ulimit" in str(error))
for file in held: file.close()
print(kc.load_text(kc.store_text("y")))
"""
    )
    assert (done.returncode, done.stdout) == (0, "True\ny\n"), done.stderr


@pytest.mark.parametrize(
    "breakage",
    [
        "sys.modules['uvloop'] = None",
        # One that was built for another Python.
        "import importlib.abc\n"
        "class Broken(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'uvloop': raise SystemError('built for another Python')\n"
        "sys.meta_path.insert(0, Broken())",
        # What nest_asyncio puts in place of it takes no loop_factory.
        "import asyncio\nasyncio.run = lambda main, *, debug=False: 1 / 0",
    ],
)
def test_it_works_without_uvloop_and_with_an_asyncio_that_was_patched(breakage: str) -> None:
    done = script(NO_LOOP + f"{breakage}\nprint(kc.load_text(kc.store_text('x')))")
    assert (done.returncode, done.stdout) == (0, "x\n"), done.stderr


def test_a_loop_that_cannot_be_made_is_the_callers_error_and_the_next_call_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> asyncio.AbstractEventLoop:
        raise ValueError("no loop today")

    with monkeypatch.context() as patch:
        patch.setattr(loops, "new_event_loop", broken)
        with pytest.raises(LoopNotMade, match="ValueError: no loop today"):
            double(1)
    assert double(1) == 2


def test_a_thread_that_cannot_be_started_is_the_callers_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(LoopNotMade, match="can't start new thread"):
            double(1)
    assert double(1) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_loop_that_something_ended_is_made_anew() -> None:
    async def end_the_loop() -> None:
        def leave() -> None:
            raise SystemExit

        asyncio.get_running_loop().call_soon(leave)
        await asyncio.Event().wait()

    with pytest.raises(Cancelled):
        portal.run(end_the_loop)
    assert double(1) == 2


AT_THE_END = """
class Kept:
    def __del__(self):
        try: print(kc.store_text("in __del__"))
        except kc.errors.LoopNotMade as error: print("Python is ending" in str(error))
"""


@pytest.mark.parametrize("before", ["", "kc.store_text('before')"])
@pytest.mark.parametrize("where", ["kept = Kept()", "sys.modules['kept'] = Kept()"])
def test_a_call_in_del_at_exit_says_that_python_ends(before: str, where: str) -> None:
    done = script(NO_LOOP + AT_THE_END + f"{before}\n{where}")
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_a_handler_of_atexit_may_still_store() -> None:
    done = script(
        NO_LOOP
        + """
import atexit
kc.store_text("before")
atexit.register(lambda: print(kc.load_text(kc.store_text("at exit"))))
"""
    )
    assert (done.returncode, done.stdout) == (0, "at exit\n"), done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_program_without_standard_streams_is_served(closed: str, tmp_path: Path) -> None:
    code = NO_LOOP + (
        f"uri = kc.store_text('x'); open({str(tmp_path / 'out')!r}, 'w').write(kc.load_text(uri))"
    )
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_text() == "x"
