"""Other users of the same computer: who is let in, and to what."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

import kachery_p2p as kc
from kachery_p2p.local import places
from kachery_p2p.protocol.limits import MANIFEST_CHUNK
from tests.client.files.online import ABSENT
from tests.daemons import Daemon, Lab, at

pytestmark = pytest.mark.processes


# --- other users ---------------------------------------------------------------------------------


BECOME_NOBODY = """
import asyncio, json, os, pwd, sys
import kachery_p2p as kc
from tests.another_user import import_everything
# Once all is imported: nobody may be unable to read the folder that this Python is in.
import_everything()
nobody = pwd.getpwnam("nobody")
os.setgroups([])
os.setgid(nobody.pw_gid)
os.setuid(nobody.pw_uid)
"""


def as_nobody(daemon: Daemon, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BECOME_NOBODY + code, *arguments],
        env={**daemon.env, "PYTHONPATH": os.getcwd()},
        cwd="/",
        text=True,
        capture_output=True,
    )


@pytest.fixture
def open_folder(short_folder: Path) -> Path:
    """A folder that others may look into."""
    if os.getuid() != 0:
        pytest.skip("only root can be somebody else")
    short_folder.chmod(0o755)
    return short_folder


EVERYTHING = """
def attempt(function, *arguments):
    try:
        return function(*arguments)
    except kc.KacheryError as error:
        return [error.code, str(error)]
big, text = sys.argv[1:]
print(json.dumps({
    "text": attempt(kc.load_text, text),
    "range": attempt(lambda: kc.load_bytes(big, 0, 3).hex()),
    "get": attempt(kc.get, "key"),
    "store": attempt(kc.store_text, "x"),
    "file": attempt(kc.store_file, "/etc/passwd"),
    "link": attempt(kc.link_file, "/etc/passwd"),
    "set": attempt(kc.set, "key", 1),
    "delete": attempt(kc.delete, "key"),
    "leave": attempt(kc.channel_leave, "lab"),
    "stop": attempt(kc.stop_node),
}))
"""


def test_a_user_whom_the_socket_does_not_let_in_is_told_so(open_folder: Path) -> None:
    with Daemon(open_folder, "n") as node:
        done = as_nobody(node, EVERYTHING, ABSENT, ABSENT)
        assert done.returncode == 0, done.stderr
        for code, sentence in json.loads(done.stdout).values():
            assert code == "daemon-not-permitted"
            assert node.env["XDG_RUNTIME_DIR"] in sentence
            assert "--auth-group" in sentence


def test_a_read_only_user_may_load_and_change_nothing(open_folder: Path) -> None:
    node = Daemon(open_folder, "n")
    # Not by 'daemon start', whose socket would be in the one folder that all tests would share.
    config = {
        "state_dir": str(node.home / "state"),
        "storage_dir": str(node.storage),
        "runtime_dir": str(node.home / "run" / "kachery-p2p"),
        "socket_mode": 0o666,
        "others_read_only": True,
    }
    command = [sys.executable, "-m", "kachery_p2p.node", json.dumps(config), "--foreground"]
    process = subprocess.Popen(command, env=node.env, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "is up" in line:
                break
        with at(node):
            text = kc.store_text("to be read by others")
            big = kc.store_bytes(bytes(MANIFEST_CHUNK + 1))
            kc.set("key", "value")
        done = as_nobody(node, EVERYTHING, big, text)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told.pop("text") == "to be read by others"
        assert told.pop("range") == "000000"
        assert told.pop("get") == "value"
        for code, sentence in told.values():
            assert code == "read-only-user"
            assert "nobody" in sentence
        with at(node):
            assert kc.get("key") == "value"
    finally:
        process.terminate()
        process.communicate()


def test_a_socket_of_somebody_elses_does_not_hide_ones_own(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after 'su', with the other user's XDG_RUNTIME_DIR: the system's node is found anyway."""
    locked = mock.Mock(side_effect=PermissionError(errno.EACCES, "Permission denied"))
    mine = places.socket_candidates(lab.a.env)[0]
    monkeypatch.setattr(places, "socket_candidates", lambda: [tmp_path / "locked", mine])
    unix = kc.client.session.connection._unix
    monkeypatch.setattr(
        kc.client.session.connection,
        "_unix",
        lambda path: ("locked", locked) if path.name == "locked" else unix(path),
    )
    with at(lab.a):
        assert kc.get_node_id() == lab.a.node_id
    assert locked.called
