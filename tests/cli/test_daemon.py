"""Nodes that are started, refused, stopped and killed through the command line."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kachery_p2p.cli import daemon as module
from kachery_p2p.cli import daemon_process as process
from kachery_p2p.cli.main import main
from kachery_p2p.cli.output import Output
from kachery_p2p.client.session import connection, loop_connection, thread_connection
from kachery_p2p.node.__main__ import config_from_json
from kachery_p2p.protocol.errors import Cancelled, DaemonNotStarted, StorageFull
from tests.daemons import Daemon, at, free_port

pytestmark = pytest.mark.processes


def exists(pid: int) -> bool:
    """Whether it runs; a zombie that nobody has reaped does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except FileNotFoundError:
        return False


def test_start_returns_when_the_node_answers_and_stop_when_it_is_gone(short_folder: Path) -> None:
    with Daemon(short_folder, "n") as node:
        assert exists(node.pid)
        assert node.info()["pid"] == node.pid
        done = node.cli("daemon", "stop", "--json")
        assert not exists(node.pid)
        assert json.loads(done.stdout) == {"stopped": True, "pid": node.pid}


def test_the_text_names_node_storage_and_socket(node: Daemon) -> None:
    node.stop()
    shown = node.cli("daemon", "start")
    for part in (node.node_id, str(node.storage), "node.sock"):
        assert part in shown.stdout


def test_with_no_configuration_it_works_and_says_the_next_two_commands(short_folder: Path) -> None:
    node = Daemon(short_folder, "n")
    try:
        told = node.cli("daemon", "start").stderr.splitlines()
        assert told[0] == "Next:"
        typed = [line.partition("#")[0].split()[1:] for line in told[1:]]
        assert typed == [["channel", "join", "INVITATION"], ["store", "PATH"]]
        # They are commands that exist, with arguments that they take.
        for command in typed:
            assert command[-1] in node.cli(*command[:-1], "--help").stdout
        node.cli("channel", "create", "lab", "--bootstrap", "ws://127.0.0.1:1#" + "0" * 64)
        node.stop()
        told = node.cli("daemon", "start").stderr.splitlines()
        assert [line.split()[1] for line in told[1:]] == ["store", "load"]
        node.stop()
        assert node.cli("daemon", "start", "--quiet").stderr == ""
    finally:
        node.close()


def test_a_second_start_is_refused_and_names_the_first(node: Daemon) -> None:
    for extra in ([], ["--foreground"]):
        done = node.cli("daemon", "start", *extra, check=False)
        assert done.returncode == 9
        assert f"pid {node.pid}" in done.stderr
    assert node.info()["pid"] == node.pid


def test_a_node_that_hangs_is_not_started_over(node: Daemon) -> None:
    os.kill(node.pid, signal.SIGSTOP)
    try:
        done = node.cli("daemon", "start", check=False)
    finally:
        os.kill(node.pid, signal.SIGCONT)
    assert done.returncode == 9
    assert f"pid {node.pid}" in done.stderr


def test_two_nodes_do_not_share_a_storage(node: Daemon, short_folder: Path) -> None:
    other = Daemon(short_folder, "other", storage_dir=node.storage)
    done = other.cli("daemon", "start", "--json", "--storage-dir", str(node.storage), check=False)
    assert done.returncode == 9
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert error["code"] == "storage-in-use"
    assert error["fields"]["pid"] == str(node.pid)


def test_after_a_kill_it_starts_again_as_the_same_node(node: Daemon) -> None:
    before, pid = node.node_id, node.pid
    node.kill()
    assert not exists(pid)
    assert node.cli("info", check=False).returncode == 3
    node.start()
    assert node.node_id == before
    assert node.pid != pid


def test_stopping_what_does_not_run_is_3(short_folder: Path) -> None:
    done = Daemon(short_folder, "n").cli("daemon", "stop", check=False)
    assert done.returncode == 3
    assert "daemon start" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--listen", "nonsense"], "HOST:PORT"),
        (["--auth-group", "no-such-group-here"], "no-such-group-here"),
        (["--public-url", "http://x"], "ws://"),
        (["--tls-cert", "x"], "--tls-key"),
    ],
)
def test_what_cannot_work_is_said_at_once(
    short_folder: Path, arguments: list[str], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "--auth-group" in arguments and os.getuid() != 0:
        pytest.skip("only root gets as far as looking for the group")
    done = Daemon(short_folder, "n").cli("daemon", "start", *arguments, check=False)
    assert done.returncode == 2
    assert part in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_port_in_use_is_an_error_and_leaves_no_process(short_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        node = Daemon(short_folder, "n")
        done = node.cli("daemon", "start", "--listen", address, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    node.start()  # which it could not if the first still had the storage
    node.close()


def test_files_in_the_users_folder_do_not_get_in_the_way(short_folder: Path) -> None:
    node = Daemon(short_folder, "n")
    trap = "raise SystemExit('the wrong module')"
    for folder in (node.home, node.home / "state" / "kachery-p2p"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "logging.py").write_text(trap)
    # The command itself must not look here either; as an installed script it does not.
    node.env["PYTHONSAFEPATH"] = "1"
    with node:
        assert node.info()["pid"] == node.pid


def test_with_an_api_port_it_answers_on_tcp_too(short_folder: Path) -> None:
    port = free_port()
    with Daemon(short_folder, "n", api_port=port) as node:
        done = node.cli("info", "--json", KACHERY_P2P_API_PORT=str(port))
        assert json.loads(done.stdout)["node_id"] == node.node_id


def test_the_environments_port_opens_none_and_is_pointed_out(short_folder: Path) -> None:
    port = str(free_port())
    with Daemon(short_folder, "n") as node:
        node.stop()
        done = node.cli("daemon", "start", "--json", KACHERY_P2P_API_PORT=port)
        assert json.loads(done.stdout)["pid"] == node.pid
        assert port in done.stderr


def test_in_the_foreground_it_is_this_very_process(short_folder: Path) -> None:
    node = Daemon(short_folder, "n")
    process = subprocess.Popen(
        [sys.executable, "-m", "kachery_p2p.cli", "daemon", "start", "--foreground"],
        env=node.env,
        cwd=node.home,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "is up" in line:
            break
    assert node.info()["pid"] == process.pid
    process.send_signal(signal.SIGINT)
    process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0


def test_a_node_without_a_terminal_goes_on_when_it_is_hung_up(short_folder: Path) -> None:
    with Daemon(short_folder, "n") as node:
        os.kill(node.pid, signal.SIGHUP)
        assert node.info()["pid"] == node.pid


@pytest.mark.skipif(not shutil.which("setsid"), reason="needs util-linux")
def test_a_node_whose_terminal_goes_ends_in_order(short_folder: Path) -> None:
    node = Daemon(short_folder, "n")
    command = [sys.executable, "-m", "kachery_p2p", "daemon", "start"]
    ours, theirs = pty.openpty()
    with open(ours), open(theirs) as terminal:
        process = subprocess.Popen(
            ["setsid", "--ctty", *command, "--foreground"],
            env=node.env,
            cwd=node.home,
            stdin=terminal,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if "is up" in line:
                break
        process.send_signal(signal.SIGHUP)
        process.stderr.read()
        process.stderr.close()
        assert process.wait() == 0


# --- a process that does not do as it should ---------------------------------------------------


class Children:
    """Sees what :func:`process._spawn` made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[subprocess.Popen[bytes]] = []
        spawn = process._spawn

        def spy(command: list[str], log: Path) -> subprocess.Popen[bytes]:
            self.made.append(spawn(command, log))
            return self.made[-1]

        monkeypatch.setattr(process, "_spawn", spy)


async def start(folder: Path, code: str) -> dict[str, Any]:
    config = {"state_dir": str(folder), "runtime_dir": str(folder)}
    output = Output()
    output.quiet = True
    return await process.start_process([sys.executable, "-c", code], config, output)


async def test_one_that_never_answers_is_ended(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Children(monkeypatch)
    monkeypatch.setattr(process, "START_SECONDS", 0.1)
    with pytest.raises(DaemonNotStarted, match="did not answer within"):
        await start(short_folder, "import signal; signal.pause()")
    assert children.made[0].returncode == -signal.SIGKILL


async def test_one_that_dies_is_quoted(short_folder: Path) -> None:
    with pytest.raises(DaemonNotStarted, match=r"status 9: the last words\. .*daemon\.out"):
        await start(short_folder, "import sys; print('the last words'); sys.exit(9)")


async def test_one_that_says_nothing_is_told_so(short_folder: Path) -> None:
    with pytest.raises(DaemonNotStarted, match="said nothing"):
        await start(short_folder, "raise SystemExit(1)")


async def test_the_error_it_names_is_the_error_raised(short_folder: Path) -> None:
    words = json.dumps({"code": "storage-full", "fields": {"what": "x", "path": "y"}})
    with pytest.raises(StorageFull, match="'y'"):
        await start(short_folder, f"print('noise'); print({words!r}); raise SystemExit(4)")


async def test_an_answer_of_another_process_is_not_taken_for_its_own(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def other(path: Path) -> dict[str, Any]:
        return {"pid": os.getpid()}

    monkeypatch.setattr(process, "_ask", other)
    monkeypatch.setattr(process, "START_SECONDS", 0.1)
    with pytest.raises(DaemonNotStarted):
        await start(short_folder, "import signal; signal.pause()")


# --- what it is given --------------------------------------------------------------------------


def config(**given: Any) -> dict[str, Any]:
    options = {
        "label": None,
        "storage_dir": None,
        "state_dir": None,
        "auth_group": None,
        "socket_mode": None,
        "others_read_only": False,
        "tls_cert": None,
        "tls_key": None,
        "durability": "full",
        "allow_tasks": (),
    }
    return module._config(**{**options, **given})


@pytest.mark.parametrize(
    ("given", "shared", "mode"),
    [
        ({}, False, 0o600),
        ({"auth_group": "lab"}, True, 0o600),
        ({"socket_mode": 0o660}, True, 0o660),
        ({"others_read_only": True}, True, 0o666),
        ({"others_read_only": True, "auth_group": "lab"}, True, 0o600),
    ],
)
def test_a_shared_node_has_its_socket_where_all_look(
    given: dict[str, Any], shared: bool, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/somewhere")
    made = config(**given)
    assert made["runtime_dir"] == ("/run/kachery-p2p" if shared else "/somewhere/kachery-p2p")
    assert made["socket_mode"] == mode


def test_durability_and_allowed_tasks_are_passed_on() -> None:
    made = config()
    assert (made["durable"], made["allow_tasks"]) == (True, None)
    made = config(durability="relaxed", allow_tasks=("a.1", "b.1"))
    assert (made["durable"], made["allow_tasks"]) == (False, ["a.1", "b.1"])


def test_paths_are_absolute_and_the_label_is_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    made = config(storage_dir=Path("s"), state_dir=Path("t"), tls_cert=Path("c"))
    assert [made["storage_dir"], made["state_dir"], made["tls_cert"]] == [
        os.path.abspath(name) for name in "stc"
    ]
    assert made["label"] == socket.gethostname()


def test_who_may_come_in_is_passed_on() -> None:
    assert config()["origins"] == []
    made = config(origins=["https://a"], private_networks=("10.0.0.0/8",), trust_forwarded=[])
    assert (made["origins"], made["private_networks"]) == (["https://a"], ["10.0.0.0/8"])
    assert made["trust_forwarded"] == []
    parsed = config_from_json(json.dumps(made))
    assert parsed.origins == ("https://a",)
    assert parsed.trusted() == ()
    parsed.check()


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        ([], None),
        (["--trust-forwarded"], []),
        (["--trust-forwarded", "--proxy"], []),
        (["--trust-forwarded=10.0.0.7"], ["10.0.0.7"]),
        (["--trust-forwarded=10.0.0.7, 10.1.0.0/16"], ["10.0.0.7", "10.1.0.0/16"]),
    ],
)
def test_trust_forwarded_may_name_networks_and_need_not(
    typed: list[str], given: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []

    def stop(**options: Any) -> None:
        seen.append(options)
        raise Cancelled(what="it")

    monkeypatch.setattr(module, "_config", stop)
    CliRunner().invoke(module.start, typed)
    assert [options["trust_forwarded"] for options in seen] == [given]


def test_a_proxy_that_nobody_can_connect_to_is_not_started(short_folder: Path) -> None:
    node = Daemon(short_folder, "n")
    done = node.cli("daemon", "start", "--proxy", check=False)
    assert done.returncode == 2
    assert "add --listen" in done.stderr


def elsewhere(node: Daemon, *arguments: str, **changed: str | None) -> Any:
    """A command in another environment than the node was started in."""
    env = {**node.env, **changed}
    return subprocess.run(
        [sys.executable, "-m", "kachery_p2p.cli", *arguments],
        env={name: value for name, value in env.items() if value is not None},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("runtime", [None, "/nowhere"])
def test_it_is_found_and_stopped_from_another_environment(
    node: Daemon, runtime: str | None
) -> None:
    found = elsewhere(node, "info", "--id", XDG_RUNTIME_DIR=runtime)
    assert (found.returncode, found.stdout.strip()) == (0, node.node_id), found.stderr
    again = elsewhere(node, "daemon", "start", XDG_RUNTIME_DIR=runtime)
    assert (again.returncode, f"pid {node.pid}" in again.stderr) == (9, True)
    assert elsewhere(node, "daemon", "stop", XDG_RUNTIME_DIR=runtime).returncode == 0
    assert not exists(node.pid)


def test_of_a_node_that_hangs_all_commands_say_the_same_and_it_can_be_ended(
    node: Daemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # In this process, so that what they wait for can be short.
    for where in (connection, loop_connection, thread_connection):
        monkeypatch.setattr(where, "CONNECT_LOCAL_SECONDS", 0.3)
    monkeypatch.setattr(module, "STOP_SECONDS", 0.3)
    os.kill(node.pid, signal.SIGSTOP)
    with at(node):
        assert main(["info"]) == 3
        said = capsys.readouterr().err
        assert "daemon stop --force" in said
        assert "daemon start" not in said
        assert main(["daemon", "start"]) == 9
        assert "daemon stop" in capsys.readouterr().err
        assert main(["daemon", "stop"]) == 3
        assert exists(node.pid)
        assert main(["daemon", "stop", "--force"]) == 0, capsys.readouterr().err
        assert not exists(node.pid)


def test_it_is_stopped_by_its_state_folder(node: Daemon) -> None:
    (state,) = {path.parent for path in node.home.rglob("node.key")}
    wrong = elsewhere(node, "daemon", "stop", "--state-dir", str(node.home))
    assert (wrong.returncode, exists(node.pid)) == (3, True)
    stopped = elsewhere(node, "daemon", "stop", "--state-dir", str(state), HOME="/nowhere")
    assert (stopped.returncode, exists(node.pid)) == (0, False), stopped.stderr


def test_what_lies_in_the_storage_is_loaded_without_the_node(node: Daemon) -> None:
    path = node.home / "f"
    path.write_text("content")
    uri = node.cli("store", str(path)).stdout.strip()
    big = node.home / "big"
    big.write_bytes(bytes(3_000_000))
    big_uri = node.cli("store", str(big)).stdout.strip()
    node.stop()
    code = f"""
import kachery_p2p as kc
part = kc.load_bytes({big_uri!r}, 5, 2_000_000, local_only=True)
print(kc.load_text({uri!r}, local_only=True), len(part))
print(kc.load_text("sha1://" + 40 * "0", local_only=True))
try: kc.load_text({uri!r})
except kc.errors.DaemonNotRunning: print("not running")
"""
    env = {**node.env, "KACHERY_STORAGE_DIR": str(node.storage)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["content 1999995", "None", "not running"], done.stderr


def test_a_node_of_another_computer_with_the_same_home_is_named(node: Daemon) -> None:
    import kachery_p2p.local.notice as notices

    (state,) = {path.parent for path in node.home.rglob("node.key")}
    node.stop()
    notice = notices.NoticeFile(state)
    notice.write(notices.Notice("/nowhere/node.sock", str(node.storage), "bigbox", 77))
    try:
        for command, status in ((["info"], 3), (["daemon", "start"], 9), (["daemon", "stop"], 3)):
            done = node.cli(*command, check=False)
            assert done.returncode == status, (command, done.stderr)
            assert "bigbox" in done.stderr
    finally:
        notice.remove()
