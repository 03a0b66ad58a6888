"""What a function changes of its process is not there for the next one."""

from __future__ import annotations

import decimal
import gc
import locale
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kachery_p2p.client.tasks.functions import TaskFunction
from kachery_p2p.client.tasks.processes import ProcessPool
from kachery_p2p.client.tasks.run import Job
from kachery_p2p.client.tasks.surroundings import kept_surroundings


def go_elsewhere() -> None:
    os.chdir("/")
    os.umask(0o777)


def go_where_nobody_is(tmp: str = "") -> None:
    folder = Path(tmp or os.environ["TMPDIR"]) / "gone"
    folder.mkdir()
    os.chdir(folder)
    folder.rmdir()


def close_numbers() -> None:
    for number in (0, 1, 2):
        os.close(number)


def close_streams() -> None:
    sys.stdout.close()
    sys.stderr.close()
    sys.stdin.close()


def take_streams_apart() -> None:
    sys.stdout.detach()  # type: ignore[union-attr]


def write_to_a_file() -> None:
    number = os.open(os.devnull, os.O_WRONLY)
    os.dup2(number, 1)
    sys.stderr = None
    sys.stdout = open(number, "w")  # noqa: SIM115


def set_an_alarm() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})


def raise_after_all() -> None:
    go_elsewhere()
    write_to_a_file()
    raise ValueError("after all")


def disturb_signals() -> None:
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def set_what_all_share() -> None:
    locale.setlocale(locale.LC_ALL, "C")
    sys.path.insert(0, "/elsewhere")
    sys.path.insert(0, "/elsewhere")
    sys.argv = ["another"]
    sys.setrecursionlimit(300)
    sys.excepthook = threading.excepthook = None  # type: ignore[assignment]
    gc.disable()
    socket.setdefaulttimeout(0.001)
    warnings.simplefilter("error")
    decimal.getcontext().prec = 3
    resource.setrlimit(resource.RLIMIT_NOFILE, (50, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sys.setprofile(lambda *_: None)


CHANGES: list[Callable[[], None]] = [
    go_elsewhere,
    go_where_nobody_is,
    close_numbers,
    close_streams,
    take_streams_apart,
    write_to_a_file,
    set_an_alarm,
    raise_after_all,
    disturb_signals,
    set_what_all_share,
]


def look() -> list[object]:
    """What the next function finds; it writes to all streams."""
    umask = os.umask(0o077)
    os.umask(umask)
    alarm = signal.getitimer(signal.ITIMER_REAL)[0]
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    print("printed")
    print("to the other", file=sys.stderr)
    os.write(1, b"to the number\n")
    failed = subprocess.run([sys.executable, "-c", "raise SystemExit(5)"], check=False)
    thread = threading.Thread(target=print)
    thread.start()
    thread.join()
    return [
        os.getcwd(), umask, alarm, len(blocked), sys.stdin.read(), failed.returncode,
        [str(signal.getsignal(each)) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)],
        locale.setlocale(locale.LC_ALL), [each for each in sys.path if each != "/elsewhere"],
        sys.path.index("/elsewhere") > 1 if "/elsewhere" in sys.path else True, sys.argv,
        sys.path.count("/elsewhere") < 2, sys.getrecursionlimit(), gc.isenabled(),
        socket.getdefaulttimeout(), [repr(each) for each in warnings.filters],
        decimal.getcontext().prec, resource.getrlimit(resource.RLIMIT_NOFILE),
        len(os.sched_getaffinity(0)), sys.getprofile() is None,
    ]  # fmt: skip


def job(name: str) -> Job:
    return Job(bytes(16), name, "query", b"{}", "lab")


@pytest.mark.processes
async def test_a_function_finds_a_worker_as_the_first_one_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    functions = {
        function.__name__: TaskFunction(function.__name__, "query", function)
        for function in (look, *CHANGES)
    }
    pool = ProcessPool(functions, 1, lambda: None)
    log = b""

    def hear(fraction: object, message: object, text: bytes) -> None:
        nonlocal log
        log += text

    first = await pool.run(job("look"), hear)
    assert first.state == "finished"
    written = log + first.log
    assert written == b"printed\nto the other\nto the number\n\n"
    for change in CHANGES:
        log = b""
        await pool.run(job(change.__name__), hear)
        log = b""
        then = await pool.run(job("look"), hear)
        assert (then.state, then.reason) == ("finished", ""), change.__name__
        assert then.payload == first.payload, change.__name__
        assert log + then.log == written, change.__name__
    await pool.close()


def test_a_folder_that_is_gone_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with kept_surroundings():
        go_where_nobody_is(str(tmp_path))
        with kept_surroundings():
            os.chdir("/")
    assert Path.cwd() == tmp_path


def leave_a_thread_at_work() -> int:
    threading.Thread(target=time.sleep, args=(0,)).start()
    threading.Thread(target=_talk_on).start()
    return os.getpid()


def _talk_on() -> None:
    while True:
        print("of the run that is over", flush=True)
        time.sleep(0.01)


def leave_a_pool_that_waits() -> int:
    pool = ThreadPoolExecutor(2)
    pool.submit(int).result()
    # Whoever keeps it for the next run, as modules do.
    vars(sys)["a_pool"] = pool
    return os.getpid()


def own_pid() -> int:
    return os.getpid()


@pytest.mark.processes
async def test_what_a_function_left_at_work_is_not_heard_in_the_next_run() -> None:
    found = (leave_a_thread_at_work, leave_a_pool_that_waits, own_pid)
    functions = {each.__name__: TaskFunction(each.__name__, "query", each) for each in found}
    pool = ProcessPool(functions, 1, lambda: None)
    heard: list[bytes] = []

    async def pid(name: str) -> bytes:
        heard.clear()
        outcome = await pool.run(job(name), lambda fraction, message, log: heard.append(log))
        assert outcome.payload is not None
        heard.append(outcome.log)
        return bytes(outcome.payload.data or b"")

    kept = await pid("leave_a_pool_that_waits")
    assert await pid("own_pid") == kept
    first = await pid("leave_a_thread_at_work")
    assert first == kept
    assert await pid("own_pid") != first
    assert b"".join(heard) == b""
    await pool.close()


@pytest.mark.processes
async def test_a_function_that_closes_all_and_breaks_what_tells_of_errors_is_lost_at_once() -> None:
    def close_all() -> None:
        sys.stderr = sys.__stderr__ = 5  # type: ignore[assignment]
        threading.Thread(target=time.sleep, args=(1e6,)).start()
        os.closerange(0, 1_000)

    pool = ProcessPool({"f": TaskFunction("f", "query", close_all)}, 1, lambda: None)
    outcome = await pool.run(job("f"), lambda *_: None)
    assert outcome.state == "lost"
    await pool.close()
