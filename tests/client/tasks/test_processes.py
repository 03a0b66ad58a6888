"""The pool of processes: every end of a run, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import faulthandler
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kachery_p2p as kc
from kachery_p2p.client.tasks import processes
from kachery_p2p.client.tasks.context import waits_for_tasks
from kachery_p2p.client.tasks.executors import ExecutorRunner, count_slots
from kachery_p2p.client.tasks.functions import TaskFunction
from kachery_p2p.client.tasks.lines import LineServer, line_to
from kachery_p2p.client.tasks.processes import ProcessPool
from kachery_p2p.client.tasks.renewal import Renewal, all_memory
from kachery_p2p.client.tasks.run import Job, Outcome
from kachery_p2p.protocol import errors
from tests.patience import patience

pytestmark = pytest.mark.processes

Runner = ProcessPool | ExecutorRunner


def pid() -> int:
    return os.getpid()


def spin() -> None:
    while True:
        pass


def sleep() -> None:
    time.sleep(1_000)


def ignore() -> None:
    while True:
        try:
            time.sleep(1_000)
        except BaseException:  # noqa: S112
            continue


def look() -> str:
    while not kc.task_cancelled():
        time.sleep(0.01)
    return "partial"


async def asynchronous() -> None:
    await asyncio.Event().wait()


def leave_a_child() -> int:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1_000)"])
    number = child.pid
    child.returncode = 0  # it is meant to be left
    return number


def both_return() -> str:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return "parent"
    print("the child has done its part")
    return "child"


def child_raises() -> str:
    child = os.fork()
    if not child:
        raise ValueError("the child failed")
    return f"parent, child ended with {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}"


def die(*, status: int) -> None:
    os._exit(status)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def talk() -> None:
    print("first")
    kc.task_progress(0.25, "quarter")
    time.sleep(0.3)
    threading.Thread(target=print, args=("last",)).start()
    time.sleep(0.01)


def write_in_all_ways() -> None:
    print("line-print")
    print("line-stderr", file=sys.stderr)
    subprocess.run(["echo", "line-child"], check=True)
    os.write(1, b"line-descriptor\n")
    sys.stdout.buffer.write(b"line-bytes\n")
    print("line-half \ud800")
    logging.warning("logged")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("warned", stacklevel=1)
    ctypes.CDLL(None).puts(b"stdio")
    child = os.fork()
    if child == 0:
        print("fork")
        os._exit(0)
    os.waitpid(child, 0)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.map(print, ["pool"])


def crash() -> None:
    faulthandler.enable()
    ctypes.string_at(0)


_leaked: list[bytes] = []


def leak() -> int:
    _leaked.append(b"x" * 200_000_000)
    return os.getpid()


def outer(*, path: str) -> str:
    # As a request does that waits; the pipe opens when somebody opens its other end.
    with waits_for_tasks(), open(path) as file:
        return file.read()


def inner(*, path: str) -> None:
    with open(path, "w") as file:
        file.write("from inside")


FUNCTIONS: list[Callable[..., Any]] = [
    pid, spin, sleep, ignore, look, asynchronous, leave_a_child, die, kill, talk,
    write_in_all_ways, crash, leak, outer, inner, both_return, child_raises,
]  # fmt: skip


def heard(told: list[Any], outcome: Outcome) -> bytes:
    """All that a run wrote."""
    return b"".join(update[2] for update in told) + outcome.log


async def check_nesting(runner: Runner, freed: asyncio.Event, folder: Path) -> None:
    """A function that waits for another one has all the slots, and ends."""
    os.mkfifo(folder / "fifo")
    arguments = json.dumps({"path": str(folder / "fifo")}).encode()
    waiting = asyncio.create_task(runner.run(job("outer", arguments), ignored))
    async with asyncio.timeout(patience(30)):
        await freed.wait()
        assert (runner.free, runner.waiting) == (1, 1)
        assert (await runner.run(job("inner", arguments), ignored)).state == "finished"
        outcome = await waiting
    assert outcome.payload is not None
    assert outcome.payload.data == b'"from inside"'


def functions() -> dict[str, TaskFunction]:
    return {each.__name__: TaskFunction(each.__name__, "query", each) for each in FUNCTIONS}


def job(name: str, kwargs: bytes = b"{}", kind: Any = "query") -> Job:
    return Job(os.urandom(16), name, kind, kwargs, "lab")


def ignored(*_: object) -> None:
    pass


def is_there(number: int) -> bool:
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(patience(10)):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def cancelled(runner: Runner, name: str) -> Outcome:
    """The end of a run that was cancelled while the function was running."""
    running = asyncio.Event()
    one = job(name)
    task = asyncio.create_task(runner.run(one, lambda *_: running.set()))
    async with asyncio.timeout(patience(20)):
        await running.wait()
        runner.cancel(one.id)
        return await task


async def number(pool: ProcessPool) -> int:
    outcome = await pool.run(job("pid"), ignored)
    assert outcome.payload is not None
    assert outcome.payload.data is not None
    return int(outcome.payload.data)


async def test_processes_start_when_needed_and_are_used_again() -> None:
    pool = ProcessPool(functions(), 2)
    first = await number(pool)
    assert {await number(pool) for _ in range(5)} == {first}
    both = await asyncio.gather(number(pool), number(pool))
    assert len(set(both)) == 2
    assert pool.free == 2
    await pool.close()
    assert not any(is_there(each) for each in both)


@pytest.mark.parametrize("name", ["spin", "sleep", "ignore"])
async def test_what_does_not_stop_is_ended_with_its_process(name: str) -> None:
    pool = ProcessPool(functions(), 1)
    before = await number(pool)
    outcome = await cancelled(pool, name)
    assert outcome.state == "killed"
    assert pool.free == 1
    assert not is_there(before)
    assert await number(pool) != before
    await pool.close()


@pytest.mark.parametrize("name", ["look", "asynchronous"])
async def test_what_stops_keeps_its_process(name: str) -> None:
    pool = ProcessPool(functions(), 1)
    before = await number(pool)
    assert (await cancelled(pool, name)).state == "cancelled"
    assert await number(pool) == before
    await pool.close()


async def test_a_worker_that_dies_fails_its_run_alone() -> None:
    pool = ProcessPool(functions(), 2)
    other = asyncio.create_task(cancelled(pool, "look"))
    died = await pool.run(job("die", b'{"status":3}'), ignored)
    assert (died.state, died.reason) == ("lost", "its worker process exited with status 3")
    killed = await pool.run(job("kill"), ignored)
    assert killed.state == "lost"
    assert "SIGKILL" in killed.reason
    assert (await other).state == "cancelled"
    # One that dies while it has nothing to do is no trouble.
    idle = await number(pool)
    os.kill(idle, signal.SIGKILL)
    await until(lambda: not is_there(idle))
    assert await number(pool) != idle
    await pool.close()


async def test_children_of_a_worker_end_with_it() -> None:
    pool = ProcessPool(functions(), 1)
    outcome = await pool.run(job("leave_a_child"), ignored)
    assert outcome.payload is not None
    assert outcome.payload.data is not None
    child = int(outcome.payload.data)
    assert is_there(child)
    await pool.close()
    await until(lambda: not is_there(child))


@pytest.mark.parametrize(
    ("name", "result", "written"),
    [
        ("both_return", "parent", "the child has done its part"),
        ("child_raises", "parent, child ended with 1", "ValueError: the child failed"),
    ],
)
async def test_of_a_function_that_forks_the_result_is_that_of_who_was_asked(
    name: str, result: str, written: str
) -> None:
    pool = ProcessPool(functions(), 1)
    told: list[Any] = []
    outcome = await pool.run(job(name), lambda *update: told.append(update))
    assert outcome.payload is not None, outcome
    assert outcome.payload.data == json.dumps(result).encode()
    assert written in heard(told, outcome).decode()
    await pool.close()


async def test_progress_and_prints_come_from_the_process() -> None:
    pool = ProcessPool(functions(), 1)
    told: list[Any] = []
    outcome = await pool.run(job("talk"), lambda *update: told.append(update))
    assert (0.25, "quarter") in [update[:2] for update in told]
    assert heard(told, outcome) == b"first\nlast\n"
    await pool.close()


async def test_whatever_writes_in_a_worker_is_heard_in_its_order() -> None:
    pool = ProcessPool(functions(), 1)
    told: list[Any] = []
    outcome = await pool.run(job("write_in_all_ways"), lambda *update: told.append(update))
    assert outcome.state == "finished", outcome
    lines = heard(told, outcome).decode().splitlines()
    assert [line for line in lines if line.startswith("line")] == [
        f"line-{each}"
        for each in ("print", "stderr", "child", "descriptor", "bytes", "half \\ud800")
    ]
    assert {"fork", "pool", "stdio"} <= set(lines)
    assert any(line.endswith("logged") for line in lines)
    assert any(line.endswith("UserWarning: warned") for line in lines)
    # The next run hears nothing of it.
    told.clear()
    assert heard(told, await pool.run(job("pid"), lambda *update: told.append(update))) == b""
    await pool.close()


async def test_what_python_says_before_it_aborts_is_heard() -> None:
    pool = ProcessPool(functions(), 1)
    told: list[Any] = []
    outcome = await pool.run(job("crash"), lambda *update: told.append(update))
    assert (outcome.state, "SIGSEGV" in outcome.reason) == ("lost", True)
    assert b"Segmentation fault" in heard(told, outcome)
    await pool.close()


async def test_a_process_that_ran_often_enough_is_renewed() -> None:
    pool = ProcessPool(functions(), 1, renewal=Renewal(most_runs=2))
    pids = [await number(pool) for _ in range(6)]
    assert [pids.count(each) for each in dict.fromkeys(pids)] == [2, 2, 2]
    await pool.close()
    assert not any(is_there(each) for each in pids)


async def test_a_process_that_has_grown_too_large_is_renewed() -> None:
    pool = ProcessPool(functions(), 1, renewal=Renewal(most_bytes=150_000_000))
    assert len({await number(pool) for _ in range(5)}) == 1
    leaked = [await pool.run(job("leak"), ignored) for _ in range(4)]
    pids = [each.payload.data for each in leaked if each.payload is not None]
    assert len(set(pids)) == 4
    await pool.close()


def test_a_bound_of_nothing_is_refused_and_by_default_a_slot_has_its_share_of_the_memory() -> None:
    for renewal in (Renewal(most_runs=0), Renewal(most_bytes=-1)):
        with pytest.raises(errors.BadInput, match="less than 1"):
            renewal.check()
    assert not Renewal().is_due(1_000_000, all_memory() // 4, 4)
    assert Renewal().is_due(1, all_memory() // 4 + 1, 4)
    assert all_memory() > 100_000_000


async def test_a_function_that_waits_for_others_leaves_its_slot(tmp_path: Path) -> None:
    freed = asyncio.Event()
    pool = ProcessPool(functions(), 1, freed.set)
    await check_nesting(pool, freed, tmp_path)
    assert pool.free == 1
    assert pool.waiting == 0
    await pool.close()


async def test_too_many_that_wait_for_others_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "MAX_TASKS_NESTED", 1)
    os.mkfifo(tmp_path / "fifo")
    freed = asyncio.Event()
    pool = ProcessPool(functions(), 1, freed.set)
    arguments = json.dumps({"path": str(tmp_path / "fifo")}).encode()
    first = asyncio.create_task(pool.run(job("outer", arguments), ignored))
    await freed.wait()
    second = await pool.run(job("outer", arguments), ignored)
    assert second.state == "failed"
    assert "does it wait for itself?" in second.reason
    assert (await pool.run(job("inner", arguments), ignored)).state == "finished"
    assert (await first).state == "finished"
    await pool.close()


SCRIPT = """
import asyncio, multiprocessing, os, pickle, sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
import functools
import kachery_p2p as kc
from kachery_p2p.client.tasks import functions as task_functions
from kachery_p2p.client.tasks.executors import ExecutorRunner
from kachery_p2p.client.tasks.processes import ProcessPool
from kachery_p2p.client.tasks.run import Job

def square(x):
    return x * x

@dataclass
class Point:
    x: int

def logged(function):
    @functools.wraps(function)
    def call():
        return function()
    return call

@kc.taskfunction("fork.1", type="query")
def fork():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(square, range(3))

@kc.taskfunction("spawn.1", type="query")
def spawn():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.map(square, range(3))

@kc.taskfunction("executor.1", type="query")
@logged
def executor():
    with ProcessPoolExecutor(2) as pool:
        return list(pool.map(square, range(3)))

@kc.taskfunction("pickle.1", type="query")
def pickles():
    return [pickle.loads(pickle.dumps(Point(n))).x ** 2 for n in range(3)]

async def main(beside):
    functions = task_functions.choose(None)
    if beside:
        pool = ExecutorRunner(beside, functions, 1, lambda: None)
    else:
        pool = ProcessPool(functions, 1)
    for id in functions:
        outcome = await pool.run(Job(os.urandom(16), id, "query", b"{}", None), lambda *_: None)
        print(id, outcome.reason or outcome.payload.data.decode(), flush=True)
    await pool.close()

if __name__ == "__main__":
    if sys.argv[1:] == ["executor"]:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as beside:
            asyncio.run(main(beside))
    else:
        asyncio.run(main(None))
"""


@pytest.mark.parametrize("how", [["script.py"], ["-m", "script"], ["script.py", "executor"]])
def test_a_script_may_use_processes_and_pickles_inside_its_functions(
    tmp_path: Path, how: list[str]
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, *how], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    ids = ("fork.1", "spawn.1", "executor.1", "pickle.1")
    assert done.stdout.splitlines() == [f"{id} [0,1,4]" for id in ids], done.stderr


FAILING = """
import asyncio, functools, os
import kachery_p2p as kc
from kachery_p2p.client.tasks import functions as task_functions
from kachery_p2p.client.tasks.processes import ProcessPool
from kachery_p2p.client.tasks.run import Job

class Helper:
    @staticmethod
    def work(items):
        return [1 / item for item in items]  # in a method

def passed_on(function):
    @functools.wraps(function)
    def call():
        return function()  # in a decorator
    return call

@kc.taskfunction("fail.1", type="query")
@passed_on
def fail():
    return (lambda: Helper().work([0]))()  # in the function

async def main():
    pool = ProcessPool(task_functions.choose(None), 1)
    job = Job(os.urandom(16), "fail.1", "query", b"{}", None)
    print((await pool.run(job, lambda *_: None)).traceback)
    await pool.close()

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_traceback_shows_the_lines_of_the_script(tmp_path: Path) -> None:
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    done = subprocess.run(
        [sys.executable, "failing.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.count(f'File "{script}"') == 4 + (sys.version_info < (3, 12)), done.stdout
    for line in ("in a method", "in a decorator", "in the function"):
        assert f"# {line}" in done.stdout


CACHING = """
import asyncio, functools, sys

@functools.lru_cache(maxsize=7, typed=True)
def fibonacci(n):
    "Of itself."
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

class Constant:
    @functools.cache
    def value(self): return 40

def add(n): return fibonacci(n) + Constant().value()

@functools.cache
def told():
    return [fibonacci.cache_parameters(), fibonacci.__doc__, fibonacci.__name__]

async def main():
    from kachery_p2p.client.tasks.functions import TaskFunction
    from kachery_p2p.client.tasks.processes import ProcessPool
    from kachery_p2p.client.tasks.run import Job
    functions = {each.__name__: TaskFunction(each.__name__, "query", each) for each in (add, told)}
    pool = ProcessPool(functions, 1)
    for name, kwargs in (("add", b'{"n":30}'), ("told", b"{}")):
        outcome = await pool.run(Job(bytes(16), name, "query", kwargs, "lab"), lambda *_: None)
        print(outcome.payload.data.decode() if outcome.payload else outcome.reason)
    await pool.close()

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_functions_of_a_script_that_keep_their_results_go_to_workers(tmp_path: Path) -> None:
    (tmp_path / "caching.py").write_text(CACHING)
    done = subprocess.run(
        [sys.executable, "caching.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    told = '[{"maxsize":7,"typed":true},"Of itself.","fibonacci"]'
    assert done.stdout.splitlines() == ["832080", told], done.stderr


def test_a_function_that_cannot_be_sent_is_refused_at_the_start() -> None:
    lock = threading.Lock()

    def function() -> None:
        lock.acquire()

    with pytest.raises(errors.BadInput, match="ThreadPoolExecutor"):
        ProcessPool({"f": TaskFunction("f", "query", function)})


def test_workers_end_when_their_parent_is_killed() -> None:
    code = """
import asyncio, os
from kachery_p2p.client.tasks.functions import TaskFunction
from kachery_p2p.client.tasks.processes import ProcessPool
from kachery_p2p.client.tasks.run import Job
def spin():
    print(os.getpid())
    while True: pass
async def main():
    pool = ProcessPool({"spin": TaskFunction("spin", "query", spin)}, 1)
    job = Job(bytes(16), "spin", "query", b"{}", "lab")
    await pool.run(job, lambda *update: print(update[2].decode(), flush=True))
asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        assert is_there(worker)
        process.kill()
    asyncio.run(until(lambda: not is_there(worker)))


# --- executors -----------------------------------------------------------------------------------


async def test_threads_run_functions_and_are_asked_to_stop() -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        freed = asyncio.Event()
        runner = ExecutorRunner(executor, functions(), count_slots(executor), freed.set)
        told: list[Any] = []
        outcome = await runner.run(job("talk"), lambda *update: told.append(update))
        assert outcome.state == "finished"
        assert told[0] == (0.25, "quarter", b"first\n")
        await freed.wait()
        assert runner.free == 1
        assert (await cancelled(runner, "look")).state == "cancelled"
        # The slot of one that goes on for long is not free, but its requester is told.
        go = threading.Event()
        runner = ExecutorRunner(
            executor, {"wait": TaskFunction("wait", "query", lambda: go.wait(60))}, 1, freed.set
        )
        assert (await cancelled(runner, "wait")).state == "killed"
        assert runner.free == 0
        freed.clear()
        go.set()
        await freed.wait()
        assert runner.free == 1
        await runner.close()


async def test_other_processes_report_over_the_line() -> None:
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        runner = ExecutorRunner(executor, functions(), count_slots(executor), lambda: None)
        told: list[Any] = []
        outcome = await runner.run(job("talk"), lambda *update: told.append(update))
        assert outcome.state == "finished"
        assert told[0] == (0.25, "quarter", b"first\n")
        assert (await cancelled(runner, "look")).state == "cancelled"
        died = await runner.run(job("die", b'{"status":3}'), ignored)
        assert died.state == "lost"
        broken = await runner.run(job("pid"), ignored)
        assert broken.state == "failed"
        assert "BrokenProcessPool" in broken.reason
        await runner.close()


@pytest.mark.parametrize("kind", ["threads", "processes"])
async def test_a_function_that_fills_an_executor_and_waits_does_not_wait_for_itself(
    tmp_path: Path, kind: str
) -> None:
    executor: concurrent.futures.Executor
    if kind == "threads":
        executor = concurrent.futures.ThreadPoolExecutor(1)
    else:
        context = multiprocessing.get_context("spawn")
        executor = concurrent.futures.ProcessPoolExecutor(1, mp_context=context)
    with executor:
        freed = asyncio.Event()
        runner = ExecutorRunner(executor, functions(), count_slots(executor), freed.set)
        await check_nesting(runner, freed, tmp_path)
        assert (await runner.run(job("pid"), ignored)).state == "finished"
        await runner.close()


async def test_what_threads_write_to_either_stream_is_heard() -> None:
    def write() -> None:
        print("out")
        print("err", file=sys.stderr)
        sys.stdout.buffer.write(b"bytes\n")
        sys.stderr.writelines(["lines\n"])

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        runner = ExecutorRunner(
            executor, {"write": TaskFunction("write", "query", write)}, 1, lambda: None
        )
        before = (sys.stdout, sys.stderr)
        told: list[Any] = []
        outcome = await runner.run(job("write"), lambda *update: told.append(update))
        assert heard(told, outcome) == b"out\nerr\nbytes\nlines\n"
        assert (sys.stdout, sys.stderr) == before
        await runner.close()


async def test_an_action_gets_the_word_to_begin_once() -> None:
    from kachery_p2p.client.tasks.context import TaskContext

    server = LineServer()
    await server.start()
    server.open("action", once=True, tell=ignored)
    server.open("query", once=False, tell=ignored)
    line = await asyncio.to_thread(line_to, server.port, server.token)
    assert line is not None

    async def begin(name: str) -> bool | None:
        return await asyncio.to_thread(line.begin, name, TaskContext(ignored))

    assert [await begin(name) for name in ("action", "action", "query", "query")] == [
        True, False, True, True,
    ]  # fmt: skip
    assert await begin("nobody") is False
    stranger = await asyncio.to_thread(line_to, server.port, "0" * 32)
    assert stranger is not None
    assert await asyncio.to_thread(stranger.begin, "query", TaskContext(ignored)) is None
    await server.close()
    assert await begin("query") is None
    assert await asyncio.to_thread(line_to, server.port, "1" * 32) is None


def test_slots_are_counted_or_asked_for() -> None:
    with concurrent.futures.ThreadPoolExecutor(3) as executor:
        assert count_slots(executor) == 3
    with pytest.raises(errors.BadInput, match="slots="):
        count_slots(concurrent.futures.Executor())
