"""What a function changes of its process is not there for the next one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
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


CHANGES: list[Callable[[], None]] = [
    go_elsewhere,
    go_where_nobody_is,
    close_numbers,
    close_streams,
    take_streams_apart,
    write_to_a_file,
    set_an_alarm,
    raise_after_all,
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
    return [os.getcwd(), umask, alarm, len(blocked), sys.stdin.read()]


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
    assert written == b"printed\nto the other\nto the number\n"
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
