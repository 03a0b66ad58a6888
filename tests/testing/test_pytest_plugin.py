"""The fixtures, in this process and as a project that installed kachery_p2p has them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import kachery_p2p as kc
from kachery_p2p.protocol.errors import DaemonNotRunning
from kachery_p2p.testing import AnyNode, Network
from tests.daemons import ROOT


def test_a_node_for_this_whole_process(kachery_node: AnyNode) -> None:
    assert kc.get_node_id() == kachery_node.node_id
    found = []
    thread = threading.Thread(target=lambda: found.append(kc.get_node_id()))
    thread.start()
    thread.join()
    code = "import kachery_p2p as kc; print(kc.get_node_id())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [*found, told.stdout.strip()] == [kachery_node.node_id] * 2


async def test_a_node_for_async_tests(kachery_node: AnyNode) -> None:
    assert await kc.aget_node_id() == kachery_node.node_id
    uri = await kc.astore_text("some text")
    assert Path(await kc.aload_file(uri) or "").is_relative_to(kachery_node.storage)


def test_a_network_and_no_other_node(kachery_network: Network) -> None:
    assert len(kachery_network) == 2
    with pytest.raises(DaemonNotRunning):
        kc.get_node_id()


@pytest.mark.kachery_network(3, channel="c")
async def test_a_network_as_the_mark_says(kachery_network: Network) -> None:
    assert len(kachery_network) == 3
    assert kachery_network.channel == "c"


def test_a_project_that_installed_it(tmp_path: Path) -> None:
    assert [p.value for p in entry_points(group="pytest11") if p.name == "kachery_p2p"] == [
        "kachery_p2p.pytest_plugin"
    ]
    ignored = shutil.ignore_patterns(".*", "__pycache__")
    project = shutil.copytree(ROOT / "examples" / "pytest_project", tmp_path / "p", ignore=ignored)
    # What pytest tells the programs that its tests start is not for another pytest.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "KACHERY", "COV"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"],
        cwd=project,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "failed" not in done.stdout
