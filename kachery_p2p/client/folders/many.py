"""Many files at once: as quick as one call, one look-up and one commit for hundreds make it.

Results come as they are done, in no particular order. What goes wrong with one file is told of that
one, and the others go on; what would be the same for all (no node, a full disk) is raised. Of any
number of files only some hundreds are stored at once, and ``BATCHES_LOADED`` times as many loaded: each
batch of these waits for round trips."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from functools import partial
from typing import NamedTuple, TypeVar

from kachery_p2p.client.display.progress import Transfer
from kachery_p2p.client.files.loads import file_uri
from kachery_p2p.client.files.uris import PathLike, checked_label, name_of, path_text
from kachery_p2p.client.session import portal
from kachery_p2p.protocol.errors import BadInput, KacheryError, NotFound
from kachery_p2p.protocol.json_values import one
from kachery_p2p.protocol.limits import BATCH_FILES, BATCHES_LOADED
from kachery_p2p.protocol.uri import KacheryUri, build_uri

from .batches import Candidate, Tally, candidate, store_files
from .fetching import fetch_files

T = TypeVar("T")


class StoredFile(NamedTuple):
    """What became of one file that was to be stored. ``uri`` is None if it was not, and ``error`` says
    why."""

    path: PathLike
    uri: str | None
    error: KacheryError | None = None


class LoadedFile(NamedTuple):
    """What became of one file that was to be loaded. ``path`` is where it is in the storage: do not
    write to it. It is None if nobody reachable has it, or if ``error`` says why it could not be had."""

    uri: str
    path: str | None
    error: KacheryError | None = None


async def astore_many(
    paths: Iterable[PathLike] | AsyncIterable[PathLike], *, channel: str | None = None
) -> AsyncGenerator[StoredFile, None]:
    """Store many files: ``async for stored in astore_many(paths)``.

    Each is stored as :func:`store_file` does it; hundreds of small ones go together. ``paths`` may be
    any iterable, endless ones and generators too.

    Args:
        channel: provide them on this channel only; on all by default.

    Yields:
        :class:`StoredFile`: path, uri, and error if it could not be stored.

    Raises:
        LocalError that is no fault of one file, as :func:`store_file`. What was yielded is stored.
    """
    async for batch in _batches(paths):
        for stored in await _store_batch(batch, channel):
            yield stored


async def aload_many(
    uris: Iterable[str] | AsyncIterable[str],
    *,
    local_only: bool = False,
    channel: str | None = None,
) -> AsyncGenerator[LoadedFile, None]:
    """Load many files: ``async for loaded in aload_many(uris)``.

    Each is fetched and verified as :func:`load_file` does it; hundreds of small ones come together.

    Args:
        local_only: do not ask the network.
        channel: fetch them on this channel only.

    Yields:
        :class:`LoadedFile`: uri, path in the storage, and error if it could not be had. As they come.

    Raises:
        LocalError that is no fault of one file, as :func:`load_file`.
    """
    groups = _loaded(_batches(uris), local_only, channel)
    try:
        async for group in groups:
            for loaded in group:
                yield _still_here(loaded)
    finally:
        await groups.aclose()


def store_many(paths: Iterable[PathLike], *, channel: str | None = None) -> Iterator[StoredFile]:
    """Store many files: ``for stored in store_many(paths)``. As :func:`astore_many`."""
    for batch in _sync_batches(paths):
        yield from portal.run(partial(_store_batch, batch, channel), name="store_many")


def load_many(
    uris: Iterable[str], *, local_only: bool = False, channel: str | None = None
) -> Iterator[LoadedFile]:
    """Load many files: ``for loaded in load_many(uris)``. As :func:`aload_many`, and hundreds of them
    come at a time, then thousands."""

    async def all_of(some: list[list[str]]) -> list[LoadedFile]:
        groups = _loaded(_each(some), local_only, channel)
        return [loaded async for group in groups for loaded in group]

    left, at_once = _sync_batches(uris), 1
    while some := list(itertools.islice(left, at_once)):
        yield from map(_still_here, portal.run(partial(all_of, some), name="load_many"))
        at_once = min(2 * at_once, BATCHES_LOADED)


# --- parts ---------------------------------------------------------------------------------------


async def _batches(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[list[T]]:
    if isinstance(items, AsyncIterable):
        batch: list[T] = []
        async for item in items:
            batch.append(item)
            if len(batch) == BATCH_FILES:
                yield batch
                batch = []
        if batch:
            yield batch
        return
    for batch in _sync_batches(items):
        yield batch


def _sync_batches(items: Iterable[T]) -> Iterator[list[T]]:
    if isinstance(items, str | bytes) or not isinstance(items, Iterable):
        reason = f"{one(items)} by itself; give a list of them, or any other iterable"
        raise BadInput(what=repr(items)[:80], reason=reason)
    left = iter(items)
    while batch := list(itertools.islice(left, BATCH_FILES)):
        yield batch


async def _store_batch(paths: list[PathLike], channel: str | None) -> list[StoredFile]:
    looked = await asyncio.to_thread(lambda: [_look(path) for path in paths])
    files = [each for each in looked if isinstance(each, Candidate)]
    with Transfer("storing", f"{len(files)} files", False) as moving:
        outcomes = iter(await store_files(files, channel=channel, link=False, tally=Tally(moving)))
    results = []
    for path, each in zip(paths, looked, strict=True):
        outcome = next(outcomes) if isinstance(each, Candidate) else each
        if isinstance(outcome, KacheryError):
            results.append(StoredFile(path, None, outcome))
        else:
            assert isinstance(each, Candidate)
            label = checked_label(None, name_of(each.path))
            uri = build_uri(sha1=outcome.sha1, label=label, manifest=outcome.manifest)
            results.append(StoredFile(path, uri))
    return results


def _look(path: PathLike) -> Candidate | KacheryError:
    try:
        return candidate(os.path.abspath(path_text(path)))
    except BadInput as error:
        return error


def _still_here(loaded: LoadedFile) -> LoadedFile:
    """Where the storage has a limit, those that came first may have had to make room for the others."""
    if loaded.path is None or os.path.exists(loaded.path):
        return loaded
    detail = "it came, and had to make room for something else; load it by itself, or fewer at once"
    return LoadedFile(loaded.uri, None, NotFound(what=loaded.uri, detail=detail))


async def _each(batches: Iterable[list[T]]) -> AsyncIterator[list[T]]:
    for batch in batches:
        yield batch


async def _loaded(
    batches: AsyncIterator[list[str]], local_only: bool, channel: str | None
) -> AsyncGenerator[list[LoadedFile], None]:
    """Some batches at once, in groups as they come. What is wrong with the batches themselves is raised
    when all before it have come; what is no file's fault, at once."""
    come: asyncio.Queue[list[LoadedFile]] = asyncio.Queue(BATCHES_LOADED)
    turns = asyncio.Semaphore(BATCHES_LOADED)

    async def one(batch: list[str]) -> None:
        async for group in _load_batch(batch, local_only, channel):
            await come.put(group)
        turns.release()

    async def all_of() -> None:
        failure: Exception | None = None
        async with asyncio.TaskGroup() as tasks:
            try:
                await turns.acquire()
                async for batch in batches:
                    tasks.create_task(one(batch))
                    await turns.acquire()
            except Exception as error:  # whatever the caller's iterable raises
                failure = error
        if failure is not None:
            raise failure

    loading = asyncio.create_task(all_of())
    getting = asyncio.create_task(come.get())
    try:
        while True:
            await asyncio.wait({getting, loading}, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                group = getting.result()
                getting = asyncio.create_task(come.get())
                yield group
            elif come.empty():
                break
        try:
            loading.result()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
    finally:
        loading.cancel()
        getting.cancel()
        await asyncio.wait({loading, getting})


async def _load_batch(
    uris: list[str], local_only: bool, channel: str | None
) -> AsyncGenerator[list[LoadedFile], None]:
    parsed: list[tuple[str, KacheryUri]] = []
    for uri in uris:
        try:
            named = await file_uri(uri, local_only, channel, False)
        except BadInput as error:
            yield [LoadedFile(uri, None, error)]
            continue
        if named is None:
            yield [LoadedFile(uri, None)]
        else:
            parsed.append((uri, named))
    groups = fetch_files([each for _, each in parsed], channel=channel, local_only=local_only)
    try:
        async for group in groups:
            yield [LoadedFile(parsed[each.place][0], each.path, each.error) for each in group]
    finally:
        await groups.aclose()
