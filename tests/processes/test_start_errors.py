"""Nodes that cannot start: the exit status, the sentence with its remedy, and nobody disturbed.

(More of the command line's own refusals are in tests/cli/test_daemon.py.)
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kachery_p2p.protocol.errors import BY_CODE
from tests.daemons import Daemon, free_port

pytestmark = pytest.mark.processes


def refused(daemon: Daemon, *options: str, **env: str) -> tuple[str, dict[str, Any], str]:
    """How 'daemon start' with these options fails: code, fields, sentence."""
    done = daemon.cli("daemon", "start", "--json", *options, check=False, **env)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    *notes, last = done.stderr.splitlines()
    error = json.loads(last)["error"]
    assert notes[-1] == f"kachery-p2p: {error['message']}"
    assert done.returncode == BY_CODE[error["code"]].exit_status
    return error["code"], error["fields"], error["message"]


def undisturbed(node: Daemon) -> None:
    info = node.info()
    assert (info["pid"], info["node_id"]) == (node.pid, node.node_id)
    (node.home / "still").write_text("stores still")
    assert node.cli("store", "still").stdout.startswith("sha1://")


def startable(daemon: Daemon) -> None:
    """Nothing that failed before is in the way: no process, no lock, no socket."""
    with daemon:
        assert daemon.info()["pid"] == daemon.pid


@pytest.fixture
def other(short_folder: Path) -> Daemon:
    """The one that shall not start; its folders are its own."""
    return Daemon(short_folder, "other")


def test_on_a_storage_folder_in_use(node: Daemon, other: Daemon) -> None:
    code, fields, sentence = refused(other, "--storage-dir", str(node.storage))
    assert code == "storage-in-use"
    assert fields == {"pid": str(node.pid), "path": str(node.storage)}
    assert "Stop that one first" in sentence
    undisturbed(node)
    startable(other)


def test_on_a_storage_folder_in_use_by_another_name(node: Daemon, other: Daemon) -> None:
    alias = other.home / "alias"
    alias.symlink_to(node.storage)
    assert refused(other, "--storage-dir", str(alias))[0] == "storage-in-use"
    undisturbed(node)


def test_on_a_socket_in_use_though_all_folders_are_its_own(node: Daemon, other: Daemon) -> None:
    runtime = node.env["XDG_RUNTIME_DIR"]
    code, _, sentence = refused(other, XDG_RUNTIME_DIR=runtime)
    assert code == "daemon-already-running"
    assert f"pid {node.pid}" in sentence
    assert runtime in sentence
    assert "daemon stop" in sentence
    assert "--storage-dir" in sentence
    undisturbed(node)
    startable(other)


def test_on_a_state_folder_in_use(node: Daemon, other: Daemon) -> None:
    """Two nodes with one key and one database would undo one another's work."""
    state = Path(node.env["XDG_STATE_HOME"]) / "kachery-p2p"
    code, fields, sentence = refused(other, "--state-dir", str(state))
    assert code == "daemon-already-running"
    assert f"pid {node.pid}" in fields["reason"]
    assert str(node.socket) in fields["reason"]
    assert "daemon stop" in sentence
    undisturbed(node)
    startable(other)


@pytest.mark.parametrize("option", ["--listen", "--api-port"])
def test_on_a_port_in_use(node: Daemon, other: Daemon, option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        value = f"127.0.0.1:{port}" if option == "--listen" else port
        code, _, sentence = refused(other, option, value)
    assert code == "bad-input"
    for part in (f"{option} {value}", "already in use", "port"):
        assert part in sentence.lower()
    undisturbed(node)
    startable(other)


@pytest.mark.parametrize(
    "address", ["8080", ":8080", "127.0.0.1:", "127.0.0.1:99999", "256.0.0.1:1", "192.0.2.1:8080"]
)
def test_with_an_address_at_which_it_cannot_listen(other: Daemon, address: str) -> None:
    code, _, sentence = refused(other, "--listen", address)
    assert code == "bad-input"
    assert address in sentence
    assert "--listen" in sentence
    assert "HOST:PORT" in sentence or "free port" in sentence


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda path: path.chmod(0o644), "chmod 600"),
        (lambda path: path.write_text("no key"), "not a node key"),
        (lambda path: path.write_text(""), "not a node key"),
        (lambda path: (path.unlink(), path.mkdir()), "directory"),
    ],
    ids=["readable by others", "nonsense", "empty", "a folder"],
)
def test_with_a_key_that_cannot_be_used(other: Daemon, spoil: Any, part: str) -> None:
    other.start()
    other.stop()
    path = Path(other.env["XDG_STATE_HOME"]) / "kachery-p2p" / "node.key"
    spoil(path)
    code, fields, sentence = refused(other)
    assert code == "storage-damaged"
    assert fields["path"] == str(path)
    assert part in sentence.lower()


def test_with_a_storage_folder_that_cannot_be_written(other: Daemon) -> None:
    (other.home / "file").touch()
    for path in (other.home / "file", other.home / "file" / "inside", Path("/proc/storage")):
        code, fields, _ = refused(other, "--storage-dir", str(path))
        assert code == "storage-damaged"
        assert fields["path"].startswith(str(path))
    startable(other)


@pytest.fixture
def read_only(short_folder: Path) -> Iterator[Path]:
    """An existing folder that this user cannot write to; for root, that takes a mount."""
    folder = short_folder / "read-only"
    folder.mkdir(mode=0o555)
    if os.getuid() != 0:
        yield folder
        return
    command = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("option", ["--storage-dir", "--state-dir"])
def test_on_a_folder_that_is_read_only(other: Daemon, read_only: Path, option: str) -> None:
    code, fields, sentence = refused(other, option, str(read_only))
    assert code == "storage-read-only"
    assert option in sentence
    assert fields["path"].startswith(str(read_only))
    assert "read-only" in sentence.lower() or "permission denied" in sentence.lower()
    startable(other)


def test_with_too_few_files_that_it_may_open(other: Daemon) -> None:
    argv = [sys.executable, "-m", "kachery_p2p.cli", "daemon", "start", "--json"]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 40; exec "$@"', "sh", *argv],
        env=other.env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 71, done.stderr
    assert "may open 40 files, and a node takes 64" in done.stderr
    assert "Traceback" not in done.stderr
    startable(other)


def test_with_a_state_folder_that_cannot_be_made(other: Daemon) -> None:
    (other.home / "file").touch()
    for path in (other.home / "file", Path("/proc/state")):
        code, fields, _ = refused(other, "--state-dir", str(path))
        assert code == "storage-damaged"
        assert fields["path"].startswith(str(path))


def test_with_a_database_that_is_none(other: Daemon) -> None:
    other.start()
    other.stop()
    path = Path(other.env["XDG_STATE_HOME"]) / "kachery-p2p" / "state.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    code, fields, _ = refused(other)
    assert code == "storage-damaged"
    assert fields["path"] == str(path)


def test_with_a_certificate_that_cannot_be_used(other: Daemon) -> None:
    (other.home / "pem").write_text("no certificate")
    address = f"127.0.0.1:{free_port()}"
    for name in ("pem", "absent"):
        path = str(other.home / name)
        code, _, sentence = refused(
            other, "--listen", address, "--tls-cert", path, "--tls-key", path
        )
        assert code == "bad-input"
        assert path in sentence


def test_in_a_folder_whose_name_is_no_text(other: Daemon) -> None:
    """It would come up, and could tell nobody where it is."""
    storage = os.fsdecode(bytes(other.home) + b"/sto\xff")
    code, _, sentence = refused(other, "--storage-dir", storage)
    assert code == "bad-path"
    assert "LC_ALL=C.UTF-8" in sentence
    startable(other)


def test_on_a_label_that_is_no_text(other: Daemon) -> None:
    code, fields, _ = refused(other, "--label", "\udcff")
    assert (code, fields["what"]) == ("bad-input", "--label")
    startable(other)
