"""The commands of older shell scripts, with the options that they had."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kachery_p2p as kc
from kachery_p2p.protocol.errors import BY_CODE
from tests import forked
from tests.daemons import Daemon, Lab, at, free_port, short_folder

pytestmark = pytest.mark.processes

PROGRAM = "import sys; from kachery_p2p.cli.old_programs import {0}; sys.exit({0}())"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with short_folder() as folder, Lab(folder) as made:
        yield made


def older(node: Daemon, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return forked.run(
        [sys.executable, "-c", PROGRAM.format(program), *arguments],
        env=node.env, cwd=node.home, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def starts(node: Daemon, program: str, *arguments: str) -> tuple[dict[str, object], str]:
    """What the node says of itself that is started so, and what is said meanwhile."""
    process = forked.Popen(
        [sys.executable, "-c", PROGRAM.format(program), *arguments],
        env=node.env, cwd=node.home, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    said = ""
    try:
        assert process.stderr is not None
        for line in process.stderr:
            said += line
            if "is up" in line:
                break
        info = node.info()
        node.cli("daemon", "stop")
        assert process.wait(timeout=30) == 0
        return info, said
    finally:
        process.kill()
        process.communicate()


def test_a_bootstrap_is_a_proxy_that_listens(short_folder: Path) -> None:
    port, http = free_port(), free_port()
    info, said = starts(
        Daemon(short_folder, "boot"), "start_daemon", "--label", "Boot", "--isbootstrap",
        "--host", "127.0.0.1", "--port", str(http), "--websocket-port", str(port), "--noudp",
    )  # fmt: skip
    assert info["label"] == "Boot"
    assert str(info["listening"]).endswith(f":{port}")
    assert info["urls"] == [f"ws://127.0.0.1:{port}"]
    assert "ignored: --noudp" in said


def test_a_daemon_has_no_owner(short_folder: Path) -> None:
    info, said = starts(
        Daemon(short_folder, "n"), "kachery_daemon", "start", "--label", "Mine",
        "--owner", "me@example.org", "--verbose", "1",
    )  # fmt: skip
    assert (info["label"], info["listening"]) == ("Mine", None)
    assert "ignored: --verbose --owner" in said


def test_a_static_configuration_is_refused_with_what_to_do(short_folder: Path) -> None:
    node = Daemon(short_folder, "n")
    done = older(node, "start_daemon", "--label", "x", "--static-config", "http://nowhere")
    assert done.returncode == BY_CODE["bad-input"].exit_status
    assert "channel join INVITATION" in done.stderr


def test_a_file_is_stored_for_a_channel(lab: Lab) -> None:
    (lab.a.home / "x.txt").write_text("for the lab")
    done = older(lab.a, "store", "x.txt", "--upload-to-channel", "lab", "--single-chunk")
    assert done.returncode == 0, done.stderr
    assert older(lab.b, "cat", done.stdout.strip()).stdout == "for the lab"
    refused = older(lab.a, "store", "x.txt", "--upload-to-channel", "no-such-channel")
    assert refused.returncode != 0
    assert "no-such-channel" in refused.stderr


def test_messages_are_printed_as_they_come(lab: Lab) -> None:
    with at(lab.a):
        subfeed = kc.create_feed().load_subfeed("default")
        subfeed.append_message({"number": 1})
    printing = forked.Popen(
        [sys.executable, "-c", PROGRAM.format("print_messages"), subfeed.uri],
        env=lab.b.env, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert printing.stdout is not None
        assert json.loads(printing.stdout.readline()) == {"number": 1}
        with at(lab.a):
            kc.load_subfeed(subfeed.uri).append_message({"number": 2})
        assert json.loads(printing.stdout.readline()) == {"number": 2}
    finally:
        printing.terminate()
        printing.communicate()
