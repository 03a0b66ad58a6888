"""Tasks from the shell."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kachery_p2p.cli.tasks.commands import plain
from tests import forked
from tests.daemons import Daemon, Lab, short_folder

pytestmark = pytest.mark.processes

MODULE = """
import helper, time
import kachery_p2p as kc

@kc.taskfunction("add.1")
def add(*, a, b):
    return a + b + helper.MORE

@kc.taskfunction("talk.1", type="query")
def talk(*, name):
    print("\\x1b[2Jhello", name)
    return b"raw" if name == "bytes" else (name, 1)

@kc.taskfunction("steps.1", type="query")
def steps():
    kc.task_progress(0.5, "half\\x1bway")
    while not kc.task_cancelled():
        time.sleep(0.01)

@kc.taskfunction("spin.1", type="query")
def spin():
    while True:
        pass

kc.run_task_backend(["lab"])
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with short_folder() as folder, Lab(folder) as made:
        yield made


@contextlib.contextmanager
def serving(node: Daemon, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """'task backend' on a node, ended with Ctrl-C at the end."""
    process = forked.Popen(
        [sys.executable, "-m", "kachery_p2p.cli", "task", "backend", *arguments],
        env=node.env,
        cwd=node.home,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out) == (0, ""), err
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture(scope="module")
def backend(lab: Lab) -> Iterator[subprocess.Popen[str]]:
    (lab.a.home / "functions.py").write_text(MODULE)
    (lab.a.home / "helper.py").write_text("MORE = 0\n")
    with serving(lab.a, "functions.py:", "--channel", "lab", "--slots", "1") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "serving add.1, talk.1, steps.1, spin.1 on lab\n"
        yield process


def request(node: Daemon, function: str, kwargs: Any, *more: str) -> Any:
    text = json.dumps(kwargs)
    return node.cli("task", "request", function, "--kwargs", text, *more, check=False)


def test_results_are_printed(lab: Lab, backend: Any) -> None:
    done = request(lab.b, "add.1", {"a": 1, "b": 2}, "--wait", "--channel", "lab")
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
    assert "finished" in done.stderr
    done = request(lab.b, "talk.1", {"name": "x"}, "--type", "query", "--wait")
    assert json.loads(done.stdout) == ["x", 1]
    assert "\\x1b[2Jhello x\n" in done.stderr
    done = request(lab.b, "talk.1", {"name": "bytes"}, "--type", "query", "--wait", "-q")
    assert (done.stdout, done.stderr) == ("raw", "")
    done = request(lab.b, "add.1", {"a": 1, "b": 2}, "--wait", "--json")
    found = json.loads(done.stdout)
    assert (found["result"], found["from_cache"], found["node"]) == (3, True, lab.a.node_id)


def test_progress_and_a_wrong_type_are_said(lab: Lab, backend: Any) -> None:
    with forked.Popen(
        [sys.executable, "-m", "kachery_p2p.cli", "task", "request", "steps.1", "--type", "query",
         "--wait"],
        env=lab.b.env, stderr=subprocess.PIPE, text=True,
    ) as asking:  # fmt: skip
        assert asking.stderr is not None
        assert any(line.endswith(": 50% half\\x1bway\n") for line in asking.stderr)
        asking.send_signal(signal.SIGINT)
        assert asking.wait() == 130
    done = lab.b.cli("task", "request", "steps.1", "--wait", check=False)
    assert done.returncode == 2
    assert "offered as a query" in done.stderr


def test_without_wait_the_task_is_named(lab: Lab, backend: Any) -> None:
    done = request(lab.b, "add.1", {"a": 2, "b": 2})
    assert done.returncode == 0, done.stderr
    assert len(bytes.fromhex(done.stdout.strip())) == 16
    done = request(lab.b, "talk.1", {"name": "x"}, "--type", "query")
    assert done.returncode == 2
    assert "--wait" in done.stderr


def test_errors_are_exit_statuses(lab: Lab, backend: Any) -> None:
    done = request(lab.b, "add.1", {"a": 1}, "--wait")
    assert done.returncode == 6
    assert "wrong arguments" in done.stderr
    assert done.stdout == ""
    done = request(lab.b, "nobody.1", {}, "--wait", "--backend-timeout", "0.5", "--json")
    assert done.returncode == 8
    assert json.loads(done.stderr.splitlines()[-1])["error"]["code"] == "no-backend"
    done = lab.b.cli("task", "request", "add.1", "--kwargs", "{a: 1}", check=False)
    assert done.returncode == 2
    for command in ("show", "cancel"):
        done = lab.b.cli("task", command, "ab" * 16, check=False)
        assert done.returncode == 8
        assert lab.b.cli("task", command, "xyz", check=False).returncode == 2


def test_offers_are_listed(lab: Lab, backend: Any) -> None:
    lines = lab.b.cli("task", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["add.1", "spin.1", "steps.1", "talk.1"]
    assert "0 of 1 running" in lines[0]
    offers = json.loads(lab.b.cli("task", "list", "--channel", "lab", "--json").stdout)["offers"]
    assert {each["node"] for each in offers} == {lab.a.node_id}


def test_a_task_is_shown_and_cancelled(lab: Lab, backend: Any) -> None:
    command = ["task", "request", "spin.1", "--type", "query", "--wait"]
    process = forked.Popen(
        [sys.executable, "-m", "kachery_p2p.cli", *command],
        env=lab.b.env,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        while not (line := process.stderr.readline()).endswith("running\n"):
            assert line
        task = line.partition(":")[0]
        (shown,) = json.loads(lab.b.cli("task", "show", task, "--json").stdout)
        assert (shown["state"], shown["side"]) == ("running", "requested")
        assert "running here" in lab.a.cli("task", "show", task).stdout
        assert lab.b.cli("task", "cancel", task).stdout == f"cancelled {task}\n"
        process.communicate(timeout=20)
        assert process.returncode == 130


def test_changed_files_are_loaded_again(lab: Lab, backend: Any) -> None:
    (lab.a.home / "helper.py").write_text("MORE = 1000\n")
    assert backend.stderr.readline() == "a file has changed; loading again\n"
    assert backend.stderr.readline().startswith("serving ")
    done = request(lab.b, "add.1", {"a": 5, "b": 6}, "--wait")
    assert done.stdout == "1011\n"
    (lab.a.home / "helper.py").write_text("MORE = \n")
    while "cannot be loaded" not in (line := backend.stderr.readline()):
        assert line
    (lab.a.home / "helper.py").write_text("MORE = 2_000\n")
    while not (line := backend.stderr.readline()).startswith("serving "):
        assert line
    assert request(lab.b, "add.1", {"a": 5, "b": 7}, "--wait").stdout == "2012\n"


def test_some_functions_of_a_module_by_its_name(lab: Lab, tmp_path: Path) -> None:
    (lab.b.home / "named.py").write_text(MODULE.replace(".1", ".2"))
    (lab.b.home / "helper.py").write_text("MORE = 0\n")
    with serving(lab.b, "named:", "add.2", "--no-reload") as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("serving add.2 on ")
        deadline = time.monotonic() + 20
        while "add.2" not in (shown := lab.b.cli("task", "list").stdout):
            assert time.monotonic() < deadline
        assert "talk.2" not in shown
    for wrong in ("nowhere.py:", "no_such_module:"):
        done = lab.b.cli("task", "backend", wrong, check=False)
        assert done.returncode == 2
    done = lab.b.cli("task", "backend", "named:", "other.1", check=False)
    assert done.returncode == 2
    assert "other.1" in done.stderr


def test_results_that_are_no_json_are_shown_as_lists() -> None:
    result = {1: (np.arange(3), np.float64(0.5)), "b": [b"x", None, True]}
    assert plain(result) == {"1": [[0, 1, 2], 0.5], "b": ["b'x'", None, True]}
