"""What scripts for kachery_client 1.2 and kachery_p2p 0.8 call, without a node and with some."""

from __future__ import annotations

import importlib
import io
import json
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kachery_client as kc
import kachery_p2p
from kachery_p2p.client.tasks.context import TaskContext
from kachery_p2p.client.tasks.run import call
from tests import forked
from tests.daemons import ROOT, Lab, at, short_folder

TEXT_URI = "sha1://6af826b3d648ccba6b4bbe58e93e22add640d728/file.txt"


@pytest.fixture
def folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of offline mode, by its older name."""
    monkeypatch.setenv("KACHERY_OFFLINE_STORAGE_DIR", os.environ["KACHERY_P2P_OFFLINE_STORAGE_DIR"])
    monkeypatch.delenv("KACHERY_P2P_OFFLINE_STORAGE_DIR")
    return folder


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_file_is_loaded_as_numpy_loads_it(folder: Path, save: Any) -> None:
    file = io.BytesIO()
    save(file, a=np.arange(3), b=np.eye(2))
    uri = kc.store_bytes(file.getvalue(), basename="x.npz")
    for more in ({}, {"mmap_mode": "r"}):
        loaded: Any = kc.load_npy(uri, **more)
        assert sorted(loaded.files) == ["a", "b"]
        np.testing.assert_equal(dict(loaded), {"a": np.arange(3), "b": np.eye(2)})


def test_an_npz_file_of_many_megabytes_and_a_broken_one(folder: Path) -> None:
    file = io.BytesIO()
    np.savez(file, big=np.zeros(3_000_000), empty=np.zeros(0))
    loaded: Any = kc.load_npy(kc.store_bytes(file.getvalue()))
    assert loaded["big"].shape == (3_000_000,)
    loaded.close()
    with pytest.raises(kc.errors.BadInput, match="npz"):
        kc.load_npy(kc.store_bytes(file.getvalue()[:1000]))
    objects = io.BytesIO()
    np.savez(objects, o=np.array([{}], dtype=object))
    held: Any = kc.load_npy(kc.store_bytes(objects.getvalue()))
    with pytest.raises(ValueError, match="allow_pickle"):
        held["o"]


def test_a_path_in_an_old_directory_that_leads_nowhere_is_none(folder: Path) -> None:
    text = kc.store_text("some-random-text").split("/")[2]
    listing = {"files": {"a.txt": {"sha1": text}}, "dirs": {"d": {"files": {}, "dirs": {}}}}
    directory = kc.store_json(listing).split("/")[2]
    assert kc.load_text(f"sha1dir://{directory}/a.txt") == "some-random-text"
    for path in ("nope", "", "/", "d", "d/nope", "a.txt/b", "nope/a.txt"):
        uri = f"sha1dir://{directory}/{path}"
        assert kc.load_file(uri) is None
        assert kc.load_text(uri) is kc.load_bytes(uri, 0, 1) is None


def test_load_functions_take_the_arguments_of_kachery_p2p(folder: Path) -> None:
    uri = kc.store_json([1])
    more: dict[str, Any] = {"p2p": False, "from_node": "ab" * 32, "from_channel": None}
    for load in (kc.load_json, kc.load_object, kc.load_text, kc.load_file):
        assert load(uri, **more) is not None
    assert kc.load_bytes(uri, 0, 3, write_to_stdout=False, p2p=True) == b"[1]"
    loaded = kc.load_npy(kc.store_npy(np.eye(2)), **more)
    assert loaded is not None
    assert kc.load_pkl(kc.store_pkl((1,)), **more) == (1,)
    with pytest.raises(kc.errors.BadInput, match="p2p and local_only"):
        kc.load_json(uri, p2p=False, local_only=False)  # type: ignore[call-arg]


def test_functions_are_pickled_by_their_public_names(folder: Path) -> None:
    for name in kc.__all__:
        value = getattr(kc, name)
        if callable(value):
            assert pickle.loads(pickle.dumps(value)) is value, name
    uris = [kc.store_text(str(number)) for number in range(4)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(kc.load_text, uris) == ["0", "1", "2", "3"]


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["kachery_client", "kachery_p2p"])
@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("_temporarydirectory", ["TemporaryDirectory"]),
        ("_preventkeyboardinterrupt", ["PreventKeyboardInterrupt"]),
        ("_shellscript", ["ShellScript"]),
        ("_exceptions", ["LoadFileError"]),
        ("_daemon_connection", ["_kachery_storage_dir", "_kachery_temp_dir", "_get_node_id"]),
        ("main", ["load_file", "store_npy", "load_subfeed", "get", "parse_uri", "load_object"]),
    ],
)
def test_private_modules_are_where_they_were(package: str, module: str, names: list[str]) -> None:
    found = importlib.import_module(f"{package}.{module}")
    for name in names:
        today = getattr(kachery_p2p, name, None)
        assert getattr(found, name) is today or today is None


def test_folders_that_scripts_ask_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kc._kachery_storage_dir() == str(folder)
    monkeypatch.setenv("KACHERY_TEMP_DIR", str(folder / "tmp"))
    assert kc._kachery_temp_dir() == str(folder / "tmp")
    assert (folder / "tmp").is_dir()
    monkeypatch.delenv("KACHERY_OFFLINE_STORAGE_DIR")
    assert kc._kachery_storage_dir() is None
    from kachery_client._daemon_connection import _connected_to_daemon

    assert not _connected_to_daemon()


def test_what_people_see_of_the_module_is_what_they_use() -> None:
    for module in (kc, kachery_p2p):
        public = [name for name in dir(module) if not name.startswith("_")]
        assert sorted(public) == sorted([*(n for n in kc.__all__ if n[0] != "_"), "open"])


@pytest.mark.parametrize("full", [False, True])
def test_a_users_mistake_shows_the_users_line_and_not_ours(
    full: bool, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "script.py"
    path.write_text("import kachery_client as kc\nkc.store_file('/nowhere/at/all')\n")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "KACHERY_P2P_TRACEBACK": "full" if full else ""}
    done = forked.run([sys.executable, str(path)], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == (2 if full else 1)
    frames = [line for line in done.stderr.splitlines() if line.startswith("  File")]
    assert "script.py" in frames[0 if not full else -1] or full
    assert len(frames) > 4 if full else len(frames) == 2
    assert "Cannot use '/nowhere/at/all'" in done.stderr.splitlines()[-1]


# --- scripts and interrupts ----------------------------------------------------------------------


def test_a_shell_script_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = kc.ShellScript(
        """

        #!/bin/bash
        echo "TEXT" > PATH
          exit 3
        """
    )
    assert script.elapsedTimeSinceStart() is script.scriptPath() is None
    assert not script.isRunning()
    assert not script.isFinished()
    script.substitute("TEXT", 17)
    script.substitute("PATH", tmp_path / "out")
    script.start()
    assert script.wait() == script.returnCode() == 3
    assert script.isFinished()
    assert (tmp_path / "out").read_text() == "17\n"

    shown = kc.ShellScript("echo out; echo err >&2", redirect_output_to_stdout=True)
    shown.start()
    assert shown.wait() == 0
    assert capfd.readouterr().out == "out\nerr\n"
    with pytest.raises(kc.errors.BadInput, match="indented less"):
        kc.ShellScript("    a\n  b")


def test_a_shell_script_is_stopped(tmp_path: Path) -> None:
    script = kc.ShellScript("exec sleep 1000", script_path=str(tmp_path / "s.sh"))
    script.start()
    assert script.isRunning()
    assert script.wait(timeout=0) is None
    with pytest.raises(kc.errors.BadInput, match="not ended"):
        script.returnCode()
    script.stop()
    assert script.returnCode() == -signal.SIGINT
    assert (tmp_path / "s.sh").exists()
    script.start()
    script.kill()
    assert script.returnCode() == -signal.SIGKILL


def test_a_script_that_outlives_the_interpreter_is_stopped() -> None:
    code = (
        "import kachery_client as kc; s = kc.ShellScript('exec sleep 1000'); s.start(); "
        "print(s._process.pid)"
    )
    done = forked.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_ctrl_c_is_kept_out_of_a_block(capsys: pytest.CaptureFixture[str]) -> None:
    from kachery_client._preventkeyboardinterrupt import PreventKeyboardInterrupt

    with PreventKeyboardInterrupt() as block:
        signal.raise_signal(signal.SIGINT)
        assert block.signal_received is not None
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    elsewhere = threading.Thread(target=PreventKeyboardInterrupt().__enter__)
    elsewhere.start()
    elsewhere.join()


# --- tasks ---------------------------------------------------------------------------------------


class HitherJob:
    """As hither's: ``wait()`` gives the value."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.cancelled = False

    def wait(self, timeout: float | None = None) -> Any:
        return self.value

    def cancel(self) -> None:
        self.cancelled = True


class JobResult:
    def __init__(self, return_value: Any, error: Any = None) -> None:
        self.return_value = return_value
        self.error = error


def context() -> TaskContext:
    return TaskContext(lambda *_: None)


def test_a_task_function_may_return_a_job() -> None:
    assert call(lambda: HitherJob({"a": 1}), {}, context()) == {"a": 1}
    assert call(lambda: HitherJob(JobResult([2])), {}, context()) == [2]

    async def later() -> Any:
        return HitherJob(3)

    assert call(later, {}, context()) == 3
    with pytest.raises(RuntimeError, match="it broke"):
        call(lambda: HitherJob(JobResult(None, "it broke")), {}, context())
    with pytest.raises(KeyError):
        call(lambda: HitherJob(JobResult(None, KeyError("x"))), {}, context())


def test_what_can_be_waited_for_and_is_no_job_stays_what_it_is() -> None:
    event = threading.Event()
    assert call(lambda: event, {}, context()) is event
    assert call(lambda: HitherJob, {}, context()) is HitherJob


def test_a_job_is_cancelled_with_its_task() -> None:
    job, running = HitherJob(None), context()
    call(lambda: job, {}, running)
    running.cancel()
    assert job.cancelled


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with short_folder() as folder, Lab(folder) as made:
        yield made


SERVE = """
import kachery_client as kc

class Job:
    status = "finished"
    def __init__(self, value):
        self.value = value
    def wait(self):
        return self
    @property
    def return_value(self):
        return self.value
    error = None

@kc.taskfunction("job.1", type="pure-calculation")
def job(*, b: str):
    return Job(f"b is {b}")

@kc.taskfunction("act.1", type="action")
def act():
    return "done"

kc.run_task_backend(channels=["lab"], task_function_ids=["job.1", "act.1"], backend_id="old one")
"""


@pytest.mark.processes
def test_a_backend_of_old_serves(lab: Lab) -> None:
    path = lab.a.home / "serve.py"
    path.write_text(SERVE)
    backend = forked.Popen([sys.executable, str(path)], env=lab.a.env, cwd=lab.a.home)
    try:
        with at(lab.b):
            job = kc.request_task(
                task_function_id="job.1", task_kwargs={"b": "x"},
                task_function_type="pure-calculation", channel="lab",
            )  # fmt: skip
            assert job.wait(timeout_sec=60) == job.result == "b is x"
            act = kc.request_task("act.1", {}, "action", "lab")
            assert act.wait(timeout_sec=60) is True
            assert act.result == "done"
            assert {offer["backend"] for offer in kc.list_tasks("lab")} == {"old one"}
    finally:
        backend.send_signal(signal.SIGINT)
        backend.wait()


def double(*, n: int) -> Any:
    return HitherJob(JobResult(2 * n))


@pytest.mark.processes
def test_a_calculation_of_ones_own_may_return_a_job_too(lab: Lab) -> None:
    kc.taskfunction("double.1", type="pure-calculation")(double)
    with at(lab.a):
        assert kc._run_task(double, {"n": 3}, channel="lab") == 6
        assert kc._run_task(task_function=double, kwargs={"n": 3}, channel="lab") == 6


@pytest.mark.processes
def test_uploading_is_storing(lab: Lab) -> None:
    with at(lab.a):
        path = lab.a.home / "x.txt"
        path.write_text("some-random-text")
        uri = kc.upload_file(str(path), channel="lab")
        assert uri == TEXT_URI.replace("file.txt", "x.txt")
        assert kc.upload_file(uri, channel="lab", single_chunk=True) == uri
        assert kc.load_json(kc.upload_json({"a": 1}, channel="lab")) == {"a": 1}
        assert kc.load_text(kc.upload_text("t", channel="lab", basename="t.txt")) == "t"
        np.testing.assert_equal(kc.load_npy(kc.upload_npy(np.eye(2), channel="lab")), np.eye(2))
        assert kc.load_pkl(kc.upload_pkl((1, 2), channel="lab")) == (1, 2)
        with pytest.raises(kc.errors.NotFound, match="on this computer"):
            kc.upload_file(f"sha1://{'0' * 40}/none", channel="lab")
        free = kc.store_text("for everybody")
        assert kc.upload_file(free, channel="lab") == free
    with at(lab.b):
        assert kc.load_text(uri, from_channel="lab") == "some-random-text"  # type: ignore[call-arg]


@pytest.mark.processes
def test_who_has_a_file_is_iterated_over(lab: Lab) -> None:
    with at(lab.a):
        uri = kc.store_text("found everywhere")
        here = kc.get_node_id(daemon_port=20431)
        assert here == kc.get_node_id(api_port=20431)
        assert [each["nodeId"] for each in kc.find_file(uri)] == [here]
        assert kc._kachery_storage_dir() == kc.node_info()["storage_dir"]
        empty = kc.store_json({"files": {}, "dirs": {}}).split("/")[2]
        assert list(kc.find_file(f"sha1dir://{empty}/nope")) == []
    with at(lab.b):
        assert kc.load_text(uri) == "found everywhere"
        found = kc.find_file(uri, timeout_sec=5)  # type: ignore[call-arg]
        assert {each["nodeId"] for each in found} == {here, kc.get_node_id()}
        assert json.loads(json.dumps(found))["holders"] == found["holders"]
        assert "local" in found
        assert {**found} == dict(found.items())
