"""What the tests of the page need: node, and the packages that ``scripts/web`` installs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

WEB = Path(__file__).parents[2] / "web"


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs of ``web/test``, built for node."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout[1:].split(".")[0]) < 20:
        pytest.skip(f"node 20 or newer is needed; this is {version.stdout.strip()}")
    if not (WEB / "node_modules").is_dir():
        pytest.skip("web/node_modules is not there: run ./scripts/web")
    folder = tmp_path_factory.mktemp("programs")
    subprocess.run(["node", "build.mjs", folder, "--tests"], cwd=WEB, check=True)
    return folder
