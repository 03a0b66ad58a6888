"""The node's key is its name for everybody: a power cut after the first start must not take it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.node.harness import laboratory


async def test_the_key_its_folder_and_the_folders_above_it_are_synced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def recorded(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", recorded)
    async with laboratory("A", channel=False) as lab:
        state = Path(os.path.realpath(lab.root)) / "A" / "state"
        key = synced.index(str(state / "node.new"))
        assert str(state) in synced[key:], "the name that the rename gave it"
        assert str(state.parent) in synced
        assert str(state.parent.parent) in synced
