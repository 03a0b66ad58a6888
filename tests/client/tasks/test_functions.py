"""Task functions without any node: registering, values, what is printed, how runs end."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import dataclasses
import enum
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kachery_p2p as kc
from kachery_p2p.client.tasks import functions as task_functions
from kachery_p2p.client.tasks import values as task_values
from kachery_p2p.client.tasks.context import TaskContext
from kachery_p2p.client.tasks.run import Outcome, perform
from kachery_p2p.client.tasks.worker import HEADER, frame
from kachery_p2p.protocol import codec, errors
from kachery_p2p.protocol.limits import (
    MAX_INLINE_RESULT,
    MAX_TASK_MESSAGE,
    MAX_TASK_REASON,
    MAX_TASK_TRACEBACK,
)
from kachery_p2p.protocol.tasks.messages import make_update
from kachery_p2p.protocol.tasks.task import Payload


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """An empty one; what was there comes back."""
    before = dict(task_functions._registered)
    task_functions._registered.clear()
    yield
    task_functions._registered.clear()
    task_functions._registered.update(before)


def quiet() -> TaskContext:
    return TaskContext(lambda *_: None)


def run(function: Any, **kwargs: Any) -> Outcome:
    return perform(function, json.dumps(kwargs).encode(), None, quiet())


def value(outcome: Outcome) -> Any:
    assert outcome.state == "finished", outcome
    assert outcome.payload is not None
    return asyncio.run(task_values.aunpack(outcome.payload))


# --- registering ---------------------------------------------------------------------------------


def test_a_decorated_function_is_still_a_function() -> None:
    @kc.taskfunction("double.1", type="query")
    def double(*, x: int) -> int:
        kc.task_progress(0.5, "half")
        return 0 if kc.task_cancelled() else 2 * x

    assert double(x=4) == 8
    assert task_functions.find("double.1") == task_functions.find(double)
    assert task_functions.choose(None)["double.1"].type == "query"


@pytest.mark.parametrize("wrong", ["", "a\nb", "x" * 201, 5])
def test_a_wrong_id_is_refused(wrong: Any) -> None:
    with pytest.raises(errors.BadInput):
        kc.taskfunction(wrong)


def test_what_is_not_registered_is_not_served() -> None:
    with pytest.raises(errors.BadInput, match="taskfunction"):
        task_functions.choose(None)
    kc.taskfunction("a.1")(len)
    with pytest.raises(errors.BadInput, match=r"b\.1"):
        task_functions.choose(["a.1", "b.1"])
    with pytest.raises(errors.BadInput, match="list"):
        task_functions.choose("a.1")
    with pytest.raises(errors.BadInput, match="type"):
        kc.taskfunction("c.1", type="calculation")  # type: ignore[arg-type]
    with pytest.raises(errors.BadInput, match="called"):
        kc.taskfunction("d.1")(5)  # type: ignore[type-var]


def test_only_what_a_loaded_module_registers_is_left() -> None:
    kc.taskfunction("old.1")(len)
    with task_functions.only_registered():
        kc.taskfunction("new.1")(len)
        kc.run_task_backend(["nowhere"])  # at the end of a script: does nothing here
    assert list(task_functions.choose(None)) == ["new.1"]


# --- values --------------------------------------------------------------------------------------

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
_plain = st.recursive(
    _json | st.binary() | st.floats(),
    lambda inner: st.tuples(inner, inner) | st.dictionaries(st.integers(), inner, max_size=3),
    max_leaves=12,
)


@given(_plain)
def test_a_result_arrives_as_it_was(result: Any) -> None:
    found = asyncio.run(task_values.aunpack(task_values.pack(result)))
    assert repr(found) == repr(result)


@pytest.mark.parametrize(
    ("result", "written"),
    [
        ({"a": [1, None, "é"]}, "json"),
        (b"\0\1", "bytes"),
        ((1, 2), "pkl"),
        ({1: 2}, "pkl"),
        (float("inf"), "pkl"),
        (np.float32(0.1), "pkl"),
        ([np.arange(3)], "pkl"),
        (np.arange(6.0).reshape(2, 3)[:, ::2], "npy"),
        (np.array(5), "npy"),
    ],
)
def test_each_result_in_the_simplest_form_that_keeps_it(result: Any, written: str) -> None:
    payload = task_values.pack(result)
    assert payload.format == written
    found = asyncio.run(task_values.aunpack(payload))
    np.testing.assert_equal(found, result)
    assert type(found) is (bytes if written == "bytes" else type(result))


class Colour(enum.Enum):
    RED = 1


class Text(str):
    pass


@dataclasses.dataclass
class Point:
    x: int = 1


@pytest.mark.parametrize(
    ("result", "remedy"),
    [
        ([Colour.RED], "Use its .value"),
        ({"a": Point()}, "dataclasses.asdict"),
        (iter([1]), "Use list(x)"),
        (np.ma.masked_array([1, 2], [True, False]), "its .filled"),
        ([collections.namedtuple("P", "x")(1), {1}], "tuple(x)"),
        ([Text("a"), {1}], "Use str(x)"),
        ([collections.Counter("a"), {1}], "Use dict(x)"),
        (object(), "Convert it"),
    ],
)
def test_what_to_return_instead_is_said(result: Any, remedy: str) -> None:
    with pytest.raises(errors.BadInput) as caught:
        task_values.pack(result)
    assert remedy in str(caught.value)


@pytest.mark.parametrize("result", [object(), len, np.array([object()]), {"a": [threading.Lock()]}])
def test_a_result_that_cannot_be_sent_says_so(result: Any) -> None:
    with pytest.raises(errors.BadInput, match=r"returned .*cannot be sent"):
        task_values.pack(result)


@pytest.mark.parametrize(
    "result",
    [
        "x" * MAX_INLINE_RESULT,
        b"x" * (MAX_INLINE_RESULT + 1),
        np.arange(10_000.0),
        tuple(range(40_000)),
    ],
)
def test_a_large_result_is_stored(folder: Path, result: Any) -> None:
    payload = task_values.pack(result)
    assert payload.data is None
    assert payload.uri is not None
    assert payload.uri.startswith("sha1://")
    np.testing.assert_equal(asyncio.run(task_values.aunpack(payload)), result)
    again = asyncio.run(task_values.apack(result))
    assert again == payload


def test_a_large_result_that_nobody_has_is_not_found(folder: Path) -> None:
    folder.mkdir()
    for written in ("json", "npy", "bytes", "pkl"):
        with pytest.raises(errors.NotFound):
            asyncio.run(task_values.aunpack(Payload(written, None, f"sha1://{'0' * 40}/x")))


def test_arrays_in_arguments_are_files(folder: Path) -> None:
    arrays = {"x": np.arange(4), "y": [{"z": np.eye(2)}], "n": 1000.0}
    text = asyncio.run(task_values.encode_kwargs(arrays))
    assert asyncio.run(task_values.encode_kwargs(dict(reversed(arrays.items())))) == text
    assert json.loads(text)["n"] == 1000
    assert json.loads(text)["x"]["$npy"].startswith("sha1://")
    np.testing.assert_equal(task_values.decode_kwargs(text), arrays)


@pytest.mark.parametrize(
    "wrong",
    [
        {"a": {"$npy": f"sha1://{'0' * 40}/array.npy"}},
        {"a": float("nan")},
        {"a": {1: 2}},
        {"a": len},
        {"a": b"x"},
        [1],
        "text",
    ],
)
def test_arguments_that_cannot_be_sent_are_refused(wrong: Any) -> None:
    with pytest.raises(errors.BadInput):
        asyncio.run(task_values.encode_kwargs(wrong))


# --- runs ----------------------------------------------------------------------------------------


def test_functions_may_be_plain_async_or_give_a_future() -> None:
    def plain(*, x: int) -> int:
        return x + 1

    async def asynchronous(*, x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    with concurrent.futures.ThreadPoolExecutor(1) as executor:

        def future(*, x: int) -> concurrent.futures.Future[int]:
            return executor.submit(lambda: x + 1)

        for function in (plain, asynchronous, future):
            assert value(run(function, x=1)) == 2


def test_wrong_arguments_are_said_before_anything_runs() -> None:
    def function(*, x: int) -> None:
        raise AssertionError

    outcome = run(function, y=1)
    assert outcome.state == "failed"
    assert outcome.reason.startswith("wrong arguments")
    assert outcome.traceback == ""


@pytest.mark.parametrize("error", [ValueError("bad value"), SystemExit(3), KeyboardInterrupt()])
def test_whatever_is_raised_fails_the_run(error: BaseException) -> None:
    def function() -> None:
        raise error

    outcome = run(function)
    assert outcome.state == "failed"
    assert outcome.reason.startswith(type(error).__name__)
    assert "in function" in outcome.traceback
    assert "task_run" not in outcome.traceback


def test_of_a_deep_traceback_the_end_is_shown() -> None:
    def function(n: int = 500) -> Any:
        return function(n - 1) if n else [][0]

    shown = run(function).traceback
    assert "IndexError" in shown.splitlines()[-1]
    repeated = re.search(r"repeated (\d+) more times", shown)
    assert repeated is not None
    assert int(repeated[1]) < 100


def test_a_run_that_was_cancelled_and_noticed_it_gives_no_result() -> None:
    context = quiet()
    context.cancel()
    outcome = perform(kc.task_cancelled, b"{}", None, context)
    assert outcome.state == "cancelled"
    # Who did not ask has done all that there was to do.
    context = quiet()
    context.cancel()
    assert perform(lambda: 5, b"{}", None, context).state == "finished"


def test_cancelling_reaches_what_is_awaited() -> None:
    context = quiet()

    async def function() -> None:
        threading.Timer(0, context.cancel).start()
        await asyncio.Event().wait()

    assert perform(function, b"{}", None, context).state == "cancelled"
    waiting: concurrent.futures.Future[None] = concurrent.futures.Future()
    context = quiet()
    threading.Timer(0, context.cancel).start()
    assert perform(lambda: waiting, b"{}", None, context).state == "cancelled"


def test_what_is_printed_goes_to_the_run_that_printed_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    barrier = threading.Barrier(2)

    def function(*, name: str) -> None:
        for number in range(3):
            barrier.wait(10)
            print(name, number)

    before = sys.stdout
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        runs = [executor.submit(run, function, name=name) for name in ("a", "é")]
        logs = [each.result().log.decode() for each in runs]
    assert logs == ["a 0\na 1\na 2\n", "é 0\né 1\né 2\n"]
    assert sys.stdout is before
    print("mine")
    assert capsys.readouterr().out == "mine\n"


def test_progress_and_prints_are_told_in_order_and_bounded() -> None:
    told: list[tuple[float | None, str, bytes]] = []
    heard = threading.Event()

    def tell(fraction: float | None, message: str, log: bytes) -> None:
        told.append((fraction, message, log))
        heard.set()

    def function() -> None:
        print("one")
        kc.task_progress(7, "x" * 2_000)
        assert heard.wait(10)
        print("two" * 1_000_000)

    outcome = perform(function, b"{}", None, TaskContext(tell))
    assert outcome.state == "finished"
    assert told[0][2].startswith(b"one\n")
    assert told[0][:2] == (1.0, "x" * 1_000)
    assert outcome.log.endswith(b"two\n")
    assert len(outcome.log) < 1_000_000


# --- errors of every kind ------------------------------------------------------------------------


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text today")


class Leaving(Exception):
    def __str__(self) -> str:
        raise SystemExit


class Noted(Exception):
    __notes__ = (3, "a note \udce9")  # type: ignore[assignment]


def _open_a_file_that_is_no_utf_8() -> None:
    code = compile("raise KeyError('k')", "na\udce9me.py", "exec")
    exec(code)


def _raise(error: BaseException) -> Any:
    def function() -> None:
        raise error

    return function


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (_raise(ValueError("bad \udce9 name")), "ValueError: bad \\udce9 name"),
        (_raise(ValueError("x" * 5_000_000)), "ValueError: xxx"),
        (_raise(ValueError("\udce9" * 3_000_000)), "ValueError: \\udce9"),
        (_raise(SystemExit("bad \udce9")), "SystemExit: bad \\udce9"),
        (_raise(errors.BadPath(path="a\udce9", reason="no")), "Cannot use 'a\\udce9'"),
        (_raise(Silent()), "Silent, whose text cannot be had"),
        (_raise(Leaving()), "Leaving, whose text cannot be had"),
        (_raise(Noted("noted")), "Noted: noted"),
        (_raise(ExceptionGroup("g\udce9", [ValueError("\udce9")])), "ExceptionGroup: g\\udce9"),
        (_raise(asyncio.CancelledError()), "CancelledError"),
        (_open_a_file_that_is_no_utf_8, "KeyError: 'k'"),
    ],
)
def test_whatever_a_function_raises_the_report_can_be_sent(function: Any, reason: str) -> None:
    outcome = run(function)
    assert outcome.state == "failed"
    assert outcome.reason.startswith(reason)
    # As it goes from a worker to the backend, and from there to the node and to other nodes.
    assert codec.convert(Outcome, codec.unpack(frame("end", outcome)[HEADER:])[1]) == outcome
    assert make_update("failed", reason=outcome.reason, traceback=outcome.traceback)
    assert len(outcome.reason) <= MAX_TASK_REASON
    assert len(outcome.traceback) <= MAX_TASK_TRACEBACK


def test_progress_of_any_text_can_be_sent() -> None:
    told: list[Any] = []
    context = TaskContext(lambda *update: told.append(update))

    def talk() -> None:
        kc.task_progress(0.5, "file \udce9")
        kc.task_progress(None, "\udce9" * 1_000)
        context.flush()

    assert perform(talk, b"{}", None, context).state == "finished"
    assert all(codec.pack(update) for update in told)
    assert all(len(message) <= MAX_TASK_MESSAGE for _, message, _ in told)


def test_a_forked_process_does_not_wait_for_ever_for_a_task_of_its_parent() -> None:
    code = """
import asyncio, os
from kachery_p2p.client.tasks.requests import TaskRequest
async def make(): return TaskRequest(bytes(16), "f.1", "query", None, None)
request = asyncio.run(make())
async def awaited(): return await request
if pid := os.fork():
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
for wait in (request.wait, lambda: asyncio.run(awaited())):
    try: wait()
    except RuntimeError as error: print("forked" in str(error), flush=True)
os._exit(7)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stdout.split()) == (7, ["True", "True"])
