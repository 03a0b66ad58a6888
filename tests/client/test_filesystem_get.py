"""fsspec's own tests of what any file system must do, as far as they read: copies of files, folders and
patterns to the disk. Those that write first are about what cannot be here."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kachery_p2p as kc

fsspec = pytest.importorskip("fsspec")

from fsspec.implementations.local import LocalFileSystem  # noqa: E402
from fsspec.tests import abstract  # noqa: E402


class Stored(abstract.AbstractFixtures):  # type: ignore[misc]  # fsspec has no types
    """What these tests begin with, made on the disk and stored."""

    @pytest.fixture
    def fs(self, folder: Path) -> Any:
        return fsspec.filesystem("sha1dir", skip_instance_cache=True)

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return posixpath.join

    @pytest.fixture
    def fs_path(self) -> str:
        return ""

    def _stored(self, make: Callable[..., object], tmp_path: Path) -> Iterator[str]:
        top = tmp_path / "top"
        top.mkdir()
        make(LocalFileSystem(auto_mkdir=True), posixpath.join, str(top))
        yield f"{kc.store_dir(str(top))}/source"

    @pytest.fixture
    def fs_bulk_operations_scenario_0(self, folder: Path, tmp_path: Path) -> Iterator[str]:
        yield from self._stored(self._bulk_operations_scenario_0, tmp_path)

    @pytest.fixture
    def fs_glob_edge_cases_files(self, folder: Path, tmp_path: Path) -> Iterator[str]:
        yield from self._stored(self._glob_edge_cases_files, tmp_path)

    @pytest.fixture
    def fs_dir_and_file_with_same_name_prefix(self, folder: Path, tmp_path: Path) -> Iterator[str]:
        yield from self._stored(self._dir_and_file_with_same_name_prefix, tmp_path)

    @pytest.fixture
    def fs_10_files_with_hashed_names(self, folder: Path, tmp_path: Path) -> Iterator[str]:
        yield from self._stored(self._10_files_with_hashed_names, tmp_path)


class TestGet(Stored, abstract.AbstractGetTests):  # type: ignore[misc]
    test_get_directory_recursive = None  # writes what it reads; the others copy folders too
