"""What is fetched into a storage that is smaller than all of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path

import pytest

import kachery_p2p as kc
from kachery_p2p.client.files.content import Content, Here
from kachery_p2p.protocol.errors import NotFound, StorageLimitReached
from kachery_p2p.testing import Network

SIZE = 900_000
COUNT = 10


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network(2) as made:
        with made["B"].at():
            kc.set_max_storage("2.5M")
        yield made


@pytest.fixture
def stored(network: Network, tmp_path: Path) -> tuple[str, Path]:
    """The URI of a folder that A has, of which B has room for a fourth, and the folder."""
    top = tmp_path / "top"
    top.mkdir()
    for number in range(COUNT):
        (top / f"{number}.bin").write_bytes(random.randbytes(SIZE))
    for number in range(40):
        (top / f"small {number}").write_bytes(random.randbytes(20_000))
    with network["A"].at():
        return str(kc.store_dir(top)), top


def test_a_folder_larger_than_the_limit_is_loaded(
    network: Network, stored: tuple[str, Path], tmp_path: Path
) -> None:
    """The first files filled the room that was left, and the others were refused for want of it."""
    uri, top = stored
    with network["B"].at():
        kc.load_dir(uri, tmp_path / "out")
        assert kc.storage_usage()["used"] <= 2_500_000
    names = sorted(path.name for path in top.iterdir())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (top / name).read_bytes()


def test_many_callers_at_once_wait_for_room(
    network: Network, stored: tuple[str, Path], tmp_path: Path
) -> None:
    uri, top = stored
    names = [f"{number}.bin" for number in range(COUNT)]

    def copied(name: str) -> bool:
        kc.load_file(f"{uri}/{name}", tmp_path / name)
        return (tmp_path / name).read_bytes() == (top / name).read_bytes()

    with network["B"].at(), ThreadPoolExecutor(4) as threads:
        works = [threads.submit(copy_context().run, copied, name) for name in names]
        assert all(work.result() for work in works)


def test_of_many_files_only_those_that_are_there_have_a_path(
    network: Network, stored: tuple[str, Path]
) -> None:
    uri, _ = stored
    with network["B"].at():
        uris = [entry.uri for entry in kc.list_dir(uri) or [] if entry.size == SIZE]
        for loaded in kc.load_many(uris):
            if loaded.path is None:
                assert isinstance(loaded.error, NotFound)
                assert "make room" in str(loaded.error)
            else:
                assert Path(loaded.path).stat().st_size == SIZE


def test_what_can_never_fit_is_refused_at_once(network: Network) -> None:
    with network["A"].at():
        uri = kc.store_bytes(random.randbytes(3_000_000))
    with network["B"].at(), pytest.raises(StorageLimitReached):
        kc.load_file(uri)


def test_what_goes_before_it_is_copied_is_fetched_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was said that the destination does not exist."""
    top = tmp_path / "top"
    top.mkdir()
    (top / "x").write_bytes(b"x" * 100_000)
    uri = kc.store_dir(top)
    found: list[str] = []
    where_it_is, checked = Content.here, Content._path_of

    async def here(self: Content) -> Here | None:
        if len(found) % 3:  # it comes anew
            kc_path.parent.mkdir(parents=True, exist_ok=True)
            kc_path.write_bytes(b"x" * 100_000)
        return await where_it_is(self)

    async def path_of(self: Content, here: Here) -> str | None:
        where = await checked(self, here)
        found.append(str(where))
        if len(found) % 3:  # twice of three times it goes at once
            kc_path.unlink()
        return where

    kc_path = Path(str(kc.load_file(f"{uri}/x")))
    monkeypatch.setattr(Content, "here", here)
    monkeypatch.setattr(Content, "_path_of", path_of)
    assert kc.load_file(f"{uri}/x", tmp_path / "copy") == str(tmp_path / "copy")
    assert kc.load_dir(uri, tmp_path / "out") == str(tmp_path / "out")
    for copy in (tmp_path / "copy", tmp_path / "out" / "x"):
        assert copy.read_bytes() == b"x" * 100_000
    assert len(found) == 6
