"""Fixtures for clients without a node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.client.session import portal


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of offline mode, which this process is in; it does not exist yet."""
    for name in [name for name in os.environ if "KACHERY" in name]:
        monkeypatch.delenv(name)
    # Whatever node there may be on this computer, it is not asked.
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("KACHERY_P2P_OFFLINE_STORAGE_DIR", str(tmp_path / "folder"))
    yield tmp_path / "folder"
    portal.shutdown()
