"""A node in a container that shares the host's name and folders, seen from outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemons import Daemon

pytestmark = pytest.mark.processes


@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("unshare") is None, reason="makes a container: needs root"
)
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_node_in_a_container_is_stopped_by_its_socket(
    force: list[str], short_folder: Path
) -> None:
    """Its process is number 1 there. Number 1 here is another one: not waited for, and never killed."""
    node = Daemon(short_folder, "boxed")
    command = [
        "unshare",
        "--pid",
        "--fork",
        "--mount-proc",
        sys.executable,
        "-m",
        "kachery_p2p.cli",
    ]
    boxed = subprocess.Popen(
        [*command, "daemon", "start", "--foreground"],
        env=node.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert boxed.stderr is not None
        assert any("is up" in line for line in boxed.stderr)
        assert node.info()["pid"] == 1
        told = node.cli("daemon", "stop", *force, "--json")
        assert json.loads(told.stdout) == {"stopped": True, "pid": 1}
        assert boxed.wait(timeout=30) == 0
    finally:
        boxed.kill()
        boxed.communicate()
