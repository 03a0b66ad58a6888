"""The pool of processes: every end of a run, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import kachery_p2p as kc
from kachery_p2p.client.tasks.executors import ExecutorRunner, count_slots
from kachery_p2p.client.tasks.functions import TaskFunction
from kachery_p2p.client.tasks.lines import LineServer, line_to
from kachery_p2p.client.tasks.processes import ProcessPool
from kachery_p2p.client.tasks.run import Job, Outcome
from kachery_p2p.protocol import errors

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


FUNCTIONS: list[Callable[..., Any]] = [
    pid, spin, sleep, ignore, look, asynchronous, leave_a_child, die, kill, talk,
]  # fmt: skip


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
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def cancelled(runner: Runner, name: str) -> Outcome:
    """The end of a run that was cancelled while the function was running."""
    running = asyncio.Event()
    one = job(name)
    task = asyncio.create_task(runner.run(one, lambda *_: running.set()))
    async with asyncio.timeout(20):
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


async def test_progress_and_prints_come_from_the_process() -> None:
    pool = ProcessPool(functions(), 1)
    told: list[Any] = []
    outcome = await pool.run(job("talk"), lambda *update: told.append(update))
    assert told[0] == (0.25, "quarter", b"first\n")
    assert outcome.log.endswith(b"last\n")
    await pool.close()


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
