"""Tasks with real nodes: what one offers, others request, watch and cancel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kachery_p2p as kc
from kachery_p2p.client.tasks import functions as task_functions
from kachery_p2p.protocol import errors
from tests import forked
from tests.daemons import Lab, at, short_folder

pytestmark = pytest.mark.processes

SCRIPT = """
import os, sys, time
import kachery_p2p as kc

@kc.taskfunction("add.1")
def add(*, a, b):
    with open(os.environ["RUNS"], "a") as file:
        file.write("x")
    return a + b

@kc.taskfunction("scale.1")
def scale(*, x, by):
    return x * by

@kc.taskfunction("talk.1", type="query")
def talk(*, name):
    print("hello", name)
    kc.task_progress(0.5, "half")
    time.sleep(0.3)
    return (name, os.getpid())

@kc.taskfunction("raise.1", type="query")
async def fail():
    raise LookupError("nothing there")

@kc.taskfunction("strange.1", type="query")
def strange():
    return object()

@kc.taskfunction("die.1", type="query")
def die():
    os._exit(3)

@kc.taskfunction("die.2", type="action")
def die_in_action():
    os._exit(3)

@kc.taskfunction("spin.1", type="query")
def spin():
    while True:
        pass

@kc.taskfunction("append.1", type="action")
def append(*, path, number, seconds=0):
    with open(path, "a") as file:
        file.write(f"{number}\\n")
    time.sleep(seconds)
    return number

@kc.taskfunction("nest.1", type="query")
def nest(*, depth):
    return depth and 1 + kc.request_task("nest.2", {"depth": depth - 1}, "query", "lab").wait()

@kc.taskfunction("nest.2", type="query")
async def anest(*, depth):
    if not depth:
        return 0
    return 1 + await (await kc.arequest_task("nest.1", {"depth": depth - 1}, "query", "lab"))

@kc.taskfunction("crowd.1", type="query")
def crowd(*, n):
    # How many run at this moment, this one counted.
    mine = os.environ["RUNS"] + f".crowd.{n}"
    open(mine, "w").close()
    time.sleep(0.1)
    folder, name = os.path.split(os.environ["RUNS"])
    count = sum(entry.startswith(name + ".crowd.") for entry in os.listdir(folder))
    os.unlink(mine)
    return count

print("serving", flush=True)
kc.run_task_backend(["lab"], slots=2, label="bench")
print("served", flush=True)
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One for the whole module."""
    with short_folder() as folder, Lab(folder) as made:
        made.a.env["RUNS"] = str(folder / "runs")
        (folder / "runs").touch()
        (folder / "serve.py").write_text(SCRIPT)
        yield made


@contextlib.contextmanager
def serving(lab: Lab) -> Iterator[subprocess.Popen[str]]:
    """An unguarded script on node a, ended with Ctrl-C at the end."""
    script = lab.a.home.parent / "serve.py"
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(script)],
        env=lab.a.env,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"
        with at(lab.b):
            yield process
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
        assert (process.returncode, out) == (0, "served\n")
        assert not workers_of(process.pid)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def workers_of(pid: int) -> list[int]:
    """Processes whose parent this is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(path.parent.name))
    return found


@pytest.fixture(scope="module")
def backend(lab: Lab) -> Iterator[subprocess.Popen[str]]:
    with serving(lab) as process:
        yield process


def ask(function: str, kind: Any = "query", **kwargs: Any) -> kc.TaskRequest:
    return kc.request_task(function, kwargs, kind, "lab", timeout_sec=60)


def done(request: kc.TaskRequest) -> kc.TaskRequest:
    assert request.ended_within(60), request
    return request


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_result_comes_back_and_is_kept(lab: Lab, backend: Any) -> None:
    first = done(ask("add.1", "pure-calculation", a=1, b=1000.0))
    assert (first.status, first.result, first.error_message) == ("finished", 1001, None)
    assert first.node == lab.a.node_id
    assert not first.from_cache
    again = done(ask("add.1", "pure-calculation", b=1000, a=1.0))
    assert (again.result, again.from_cache) == (1001, True)
    assert Path(lab.a.env["RUNS"]).read_text() == "x"
    assert again.task_id != first.task_id


def test_arrays_of_any_size_go_in_and_out(backend: Any) -> None:
    small, large = np.arange(5.0), np.arange(300_000).reshape(3, -1)
    for array in (small, large):
        request = done(ask("scale.1", "pure-calculation", x=array, by=2))
        np.testing.assert_array_equal(request.result, 2 * array)


def test_progress_and_prints_are_seen_while_it_runs(backend: Any) -> None:
    request = ask("talk.1", name="é")
    assert request.result is None or request.status == "finished"
    until(lambda: request.log and request.progress[0] is not None)
    assert request.log == "hello é\n"
    assert request.progress == (0.5, "half")
    name, pid = done(request).result
    assert name == "é"
    assert pid in workers_of(backend.pid)


@pytest.mark.parametrize(
    ("function", "kind", "kwargs", "error", "said"),
    [
        ("raise.1", "query", {}, errors.TaskFailed, "LookupError: nothing there"),
        ("talk.1", "query", {"nam": 1}, errors.TaskFailed, "wrong arguments"),
        ("strange.1", "query", {}, errors.TaskFailed, "cannot be sent"),
        ("die.1", "query", {}, errors.TaskFailed, "status 3"),
        ("die.2", "action", {}, errors.TaskUnknown, "status 3"),
    ],
)
def test_errors_say_what_was_the_matter(
    backend: Any, function: str, kind: Any, kwargs: Any, error: Any, said: str
) -> None:
    request = done(ask(function, kind, **kwargs))
    with pytest.raises(error, match=said):
        _ = request.result
    assert request.status == ("unknown" if kind == "action" else "failed")
    assert request.error_message is not None
    assert said in request.error_message
    assert "Traceback" not in request.error_message
    if function == "raise.1":
        assert request.traceback is not None
        assert "in fail" in request.traceback
    # The backend goes on.
    assert done(ask("talk.1", name="x")).status == "finished"


@pytest.mark.parametrize("seconds", [1e6, 1e300, float("inf"), np.float32(1e9)])
def test_any_number_of_seconds_is_a_time_for_a_task(backend: Any, seconds: float) -> None:
    request = kc.request_task(
        "talk.1", {"name": "x"}, "query", "lab", timeout_sec=seconds, backend_timeout_sec=seconds
    )
    assert done(request).status == "finished"


def test_without_a_backend_the_request_says_so(backend: Any) -> None:
    request = kc.request_task("nobody.1", {}, "query", "lab", backend_timeout_sec=1)
    until(lambda: request.status != "looking")
    assert request.status in ("no backend yet", "failed")
    assert done(request).status == "failed"
    with pytest.raises(errors.NoBackend, match=r"nobody\.1"):
        _ = request.result
    with pytest.raises(errors.BadInput):
        kc.request_task("add.1", {"a": float("nan")})
    with pytest.raises(errors.UnknownChannel):
        _ = done(kc.request_task("add.1", {"a": 1, "b": 2}, channel="other")).result


def test_a_cancelled_task_frees_its_slot(backend: Any) -> None:
    for _ in range(3):
        request = ask("spin.1")
        until(lambda request=request: request.status == "running")
        request.cancel()
        assert request.ended_within(10)
        assert request.status == "cancelled"
        with pytest.raises(errors.TaskCancelled):
            _ = request.result
    assert done(ask("talk.1", name="x")).status == "finished"
    (offer,) = [each for each in kc.list_tasks("lab") if each["function"] == "spin.1"]
    assert (offer["running"], offer["queued"], offer["slots"]) == (0, 0, 2)


def test_functions_that_wait_for_functions_need_no_more_slots(backend: Any) -> None:
    request = ask("nest.1", depth=5)
    assert request.ended_within(60), request.status
    assert request.result == 5


@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)", "os.kill(os.getpid(), 2)"])
def test_what_a_script_asked_for_before_it_ended_is_done(
    lab: Lab, backend: Any, ending: str
) -> None:
    out = lab.a.home.parent / f"fire-{len(ending)}"
    code = (
        "import os, kachery_p2p as kc\n"
        f"kc.request_task('append.1', {{'path': {str(out)!r}, 'number': 4}}, 'action', 'lab')\n"
        f"{ending}"
    )
    forked.run([sys.executable, "-c", code], env=lab.b.env, timeout=30, check=False)
    until(lambda: out.exists() and out.read_text() == "4\n")


def test_requests_are_awaited_in_ones_own_loop(lab: Lab, backend: Any) -> None:
    async def main() -> None:
        request = await kc.arequest_task("talk.1", {"name": "x"}, "query", "lab")
        with pytest.raises(RuntimeError, match="await"):
            request.wait()
        assert (await request)[0] == "x"
        failing = await kc.arequest_task("raise.1", {}, "query", "lab")
        with pytest.raises(errors.TaskFailed):
            await failing
        requests = [await kc.arequest_task("add.1", {"a": n, "b": 0}) for n in range(50)]
        assert [await each for each in requests] == list(range(50))

    asyncio.run(main())


def test_a_backend_offers_again_when_its_node_is_back(lab: Lab, backend: Any) -> None:
    out = lab.a.home.parent / "actions"
    running = ask("append.1", "action", path=str(out), number=1, seconds=3)
    until(lambda: running.status == "running")
    lab.a.kill()
    lab.a.start()
    assert done(running).status in ("finished", "unknown")
    request = kc.request_task("talk.1", {"name": "again"}, "query", "lab", backend_timeout_sec=30)
    assert done(request).result[0] == "again"
    assert out.read_text() == "1\n"


def test_a_request_survives_a_restart_of_its_own_node(lab: Lab, backend: Any) -> None:
    out = lab.a.home.parent / "more-actions"
    running = ask("append.1", "action", path=str(out), number=2, seconds=2)
    until(lambda: running.status == "running")
    lab.b.kill()
    lab.b.start()
    assert done(running).result == 2
    assert out.read_text() == "2\n"


# --- in one's own loop ---------------------------------------------------------------------------


@contextlib.contextmanager
def registered(**functions: Any) -> Iterator[None]:
    before = dict(task_functions._registered)
    task_functions._registered.clear()
    for name, function in functions.items():
        kc.taskfunction(f"{name}.9")(function)
    try:
        yield
    finally:
        task_functions._registered.clear()
        task_functions._registered.update(before)


def test_one_process_serves_itself_in_threads(lab: Lab) -> None:
    from concurrent.futures import ThreadPoolExecutor

    calls: list[int] = []

    def square(*, x: int) -> int:
        calls.append(x)
        print("squaring", x)
        return x * x

    async def main() -> None:
        with ThreadPoolExecutor(2) as executor:
            async with kc.task_backend("lab", executor=executor):
                request = await kc.arequest_task("square.9", {"x": 7}, channel="lab")
                assert await request == 49
                assert request.log == "squaring 7\n"
        assert calls == [7]
        request = await kc.arequest_task("square.9", {"x": 7}, channel="lab")
        assert await request == 49  # nobody serves it any more

    with at(lab.a), registered(square=square):
        asyncio.run(main())
        with pytest.raises(errors.UnknownChannel):
            kc.run_task_backend(["other"])


def test_what_is_computed_here_is_shared(lab: Lab) -> None:
    calls: list[int] = []

    def cube(*, x: int) -> list[int]:
        calls.append(x)
        return [x**3]

    with registered(cube=cube):
        with at(lab.a):
            assert kc.run_task(cube, {"x": 3}, channel="lab") == [27]
            assert kc.run_task(cube, {"x": 3.0}, channel="lab") == [27]
            assert asyncio.run(kc.arun_task(cube, {"x": 4}, channel="lab")) == [64]
        with at(lab.b):
            request = done(kc.request_task("cube.9", {"x": 3}, channel="lab", timeout_sec=30))
            assert (request.result, request.from_cache) == ([27], True)
            assert request.node == lab.a.node_id
    assert calls == [3, 4]


DASK = """
import os, sys, time
import kachery_p2p as kc
from dask.distributed import Client, LocalCluster

@kc.taskfunction("dask.1")
def work(*, n):
    print("working on", n)
    time.sleep(0.02)
    return [n, os.getpid()]

if __name__ == "__main__":
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster, Client(cluster) as client:
        print(*[w["pid"] for w in client.run(lambda: {"pid": os.getpid()}).values()], flush=True)
        kc.run_task_backend(["lab"], executor=client.get_executor())
    print("served", flush=True)
"""


def test_a_dask_cluster_loses_nothing_when_a_worker_is_killed(lab: Lab) -> None:
    pytest.importorskip("distributed")
    script = lab.a.home.parent / "on_dask.py"
    script.write_text(DASK)
    process = forked.Popen(
        [sys.executable, str(script)], env=lab.a.env, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        with at(lab.b):
            requests = [ask("dask.1", "pure-calculation", n=n) for n in range(200)]
            until(lambda: sum(each.status == "finished" for each in requests) > 40)
            os.kill(workers[0], signal.SIGKILL)
            results = [done(each).result for each in requests]
            assert [n for n, _ in results] == list(range(200))
            assert len({pid for _, pid in results}) >= 2
            # A later one reported over its line.
            assert done(ask("dask.1", "pure-calculation", n=1_000)).log == "working on 1000\n"
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "served\n")
    finally:
        process.kill()
        process.wait()


def test_no_more_run_at_once_than_there_are_slots(lab: Lab, backend: Any) -> None:
    requests = [kc.request_task("crowd.1", {"n": n}, "query", channel="lab") for n in range(10)]
    assert max(request.wait(30) for request in requests) <= 2
