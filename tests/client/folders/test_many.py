"""Many files at once, without a node."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import kachery_p2p as kc
from kachery_p2p.client.folders import many
from kachery_p2p.protocol.errors import BadInput, BadPath, BadUri


@pytest.fixture
def files(folder: Path, tmp_path: Path) -> list[Path]:
    top = tmp_path / "files"
    top.mkdir()
    made = [top / f"{number}.txt" for number in range(20)]
    for path in made:
        path.write_text(path.name)
    return made


def test_many_are_stored_and_loaded(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "a link").symlink_to(files[0])
    stored = list(kc.store_many([*files, tmp_path / "a link", files[1]]))
    assert [each.path for each in stored] == [*files, tmp_path / "a link", files[1]]
    assert [each.uri for each in stored[:20]] == [kc.store_file(path) for path in files]
    assert stored[20].uri == str(stored[0].uri).replace("0.txt", "a%20link")
    uris = [str(each.uri) for each in stored[:20]]
    loaded = {each.uri: each.path for each in kc.load_many(uris)}
    assert loaded.keys() == set(uris)
    for uri, path in zip(uris, files, strict=True):
        assert Path(str(loaded[uri])).read_text() == path.name


def test_what_is_wrong_with_one_is_told_of_that_one(files: list[Path], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    wrong = [tmp_path / "nowhere", tmp_path, "\0", tmp_path / "pipe", 7]
    stored = list(kc.store_many([files[0], *wrong, files[1]]))  # type: ignore[list-item]
    assert [each.error is None for each in stored] == [True, *[False] * 5, True]
    assert all(isinstance(each.error, BadPath) for each in stored[1:-1])
    absent = "sha1://" + "0" * 40
    uris = [str(stored[0].uri), "nonsense://x", absent, absent.replace("sha1", "sha1dir") + "/x"]
    loaded = {each.uri: each for each in kc.load_many(uris)}
    assert len(loaded) == 4
    assert loaded[uris[0]].path is not None
    assert isinstance(loaded[uris[1]].error, BadUri)
    assert loaded[uris[2]][1:] == loaded[uris[3]][1:] == (None, None)
    for single in ("x", b"x"):
        with pytest.raises(BadInput, match="by itself; give a list"):
            list(kc.store_many(single))  # type: ignore[arg-type]


def test_any_iterable_will_do_and_no_more_of_it_is_taken_than_that(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "BATCH_FILES", 3)
    taken: list[Path] = []

    def endless() -> Iterator[Path]:
        for path in itertools.cycle(files):
            taken.append(path)
            yield path

    some = list(itertools.islice(kc.store_many(endless()), 4))
    assert [each.path for each in some] == files[:4]
    assert len(taken) == 6
    assert list(kc.store_many([])) == list(kc.load_many(iter(()))) == []


async def test_the_async_ones_take_async_iterables(files: list[Path]) -> None:
    async def paths() -> AsyncIterator[Path]:
        for path in files:
            await asyncio.sleep(0)
            yield path

    uris = [str(each.uri) async for each in kc.astore_many(paths())]
    assert len(uris) == 20
    loaded = kc.aload_many(uris)
    async for first in loaded:
        assert first.path is not None
        break
    await loaded.aclose()
    assert len([each async for each in kc.aload_many(uris, local_only=True)]) == 20


@pytest.fixture
def uris(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Those of the files, of which three are a batch."""
    monkeypatch.setattr(many, "BATCH_FILES", 3)
    return [str(each.uri) for each in kc.store_many(files)]


async def test_what_has_come_is_told_while_the_next_are_not_known_yet(uris: list[str]) -> None:
    go_on = asyncio.Event()

    async def some() -> AsyncIterator[str]:
        for uri in uris[:7]:
            yield uri
        await go_on.wait()
        for uri in uris[7:]:
            yield uri

    found = []
    async for each in kc.aload_many(some()):
        found.append(each.uri)
        if len(found) == 6:
            go_on.set()
    assert sorted(found) == sorted(uris)


def test_an_error_of_the_iterable_comes_after_what_came_before_it(uris: list[str]) -> None:
    async def broken() -> AsyncIterator[str]:
        for uri in uris[:9]:
            yield uri
        raise OSError("no more")

    async def load() -> None:
        async for each in kc.aload_many(broken()):
            found.append(each.uri)

    found: list[str] = []
    with pytest.raises(OSError, match="no more"):
        asyncio.run(load())
    assert sorted(found) == sorted(uris[:9])


async def test_no_more_are_under_way_than_that_and_nothing_is_left_of_them(
    uris: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "BATCHES_LOADED", 2)
    taken: list[str] = []

    async def endless() -> AsyncIterator[str]:
        for uri in itertools.cycle(uris):
            taken.append(uri)
            yield uri

    before = asyncio.all_tasks()
    loaded = kc.aload_many(endless())
    async for number, each in _numbered(loaded):
        assert each.path is not None
        # Those that were told, two batches under way, two groups that wait, and the next one.
        assert len(taken) <= number + 3 * (1 + 2 + 2 + 1)
        if number == 50:
            break
        await asyncio.sleep(0)
    await loaded.aclose()
    assert asyncio.all_tasks() == before


async def _numbered(
    loaded: AsyncIterator[many.LoadedFile],
) -> AsyncIterator[tuple[int, many.LoadedFile]]:
    number = 0
    async for each in loaded:
        yield number, each
        number += 1


def test_the_sync_one_takes_a_batch_first_and_then_more_of_them(uris: list[str]) -> None:
    taken: list[str] = []

    def endless() -> Iterator[str]:
        for uri in itertools.cycle(uris):
            taken.append(uri)
            yield uri

    steps = []
    for _ in itertools.islice(kc.load_many(endless()), 60):
        if not steps or len(taken) != steps[-1]:
            steps.append(len(taken))
    assert steps == [3, 9, 21, 39, 57, 75]
