"""Many files at once, had here with few calls: what :mod:`.many` and :mod:`.directories` share.

The node fetches a batch and says of each file when it is here. It is then read from the storage,
compared with its hash. What does not come so, or is not right, or lies where this process cannot look,
is loaded as a single file is, which does all that can be done, and says what was the matter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from kachery_p2p.client.display.progress import Transfer
from kachery_p2p.client.files import local_storage as storage
from kachery_p2p.client.files.content import Content
from kachery_p2p.client.files.scope import only_within
from kachery_p2p.client.files.uris import without_nones
from kachery_p2p.client.session.blocking import Right
from kachery_p2p.client.session.connection import Connection, connection
from kachery_p2p.local import places
from kachery_p2p.protocol.errors import KacheryError, LocalError, NotFound, from_wire
from kachery_p2p.protocol.limits import BATCH_FILE, MANY_AT_ONCE
from kachery_p2p.protocol.uri import KacheryUri

_GROUP: Final = 64
"""Files that are read from the storage together."""


class Come(NamedTuple):
    """A file, by its place among those that were asked for, and where it is in the storage; of a small
    one its content, too. Neither if nobody reachable has it; or why it could not be had. ``right``:
    whether it was what it should be until it was copied from there."""

    place: int
    path: str | None
    content: bytes | None
    error: KacheryError | None
    right: Right | None = None


_Told = tuple[int, KacheryError | None]
"""A file, by its place, and why it is not here."""
Advanced = Callable[[int, int], object]
"""Is told of a file that takes long, by its place: so many bytes of it are here."""


async def fetch_files(
    uris: Sequence[KacheryUri],
    *,
    channel: str | None,
    local_only: bool,
    advanced: Advanced = lambda place, done: None,
) -> AsyncGenerator[list[Come], None]:
    """At most ``BATCH_FILES`` files, some at a time, as they come. To be closed, if not used up.

    Raises:
        LocalError: it is no single file's fault.
    """
    plain = [place for place, uri in enumerate(uris) if _is_plain(uri)]
    left = set(range(len(uris)))
    if len(plain) > 1 and places.offline_dir() is None and not local_only:
        node = await connection()
        root = node.greeter.storage_dir if node.greeter.owns_storage else None
        async for group in _from_node(node, uris, plain, channel):
            come = await asyncio.to_thread(_read, root, uris, group)
            left -= {each.place for each in come}
            yield come
    turns = asyncio.Semaphore(MANY_AT_ONCE)

    async def one(place: int) -> Come:
        async with turns:
            return await _single(uris[place], place, channel, local_only, advanced)

    pending = {asyncio.ensure_future(one(place)) for place in sorted(left)}
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            yield [task.result() for task in done]
    finally:
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)


def _is_plain(uri: KacheryUri) -> bool:
    """Whether it is likely to be small: a large one has a manifest, and comes by itself."""
    return uri.manifest is None and uri.chunk_of is None


async def _from_node(
    node: Connection, uris: Sequence[KacheryUri], wanted: Sequence[int], channel: str | None
) -> AsyncIterator[list[_Told]]:
    """Have the node fetch these; what it says of each, some at a time."""
    within = only_within(channel)
    params = without_nones(
        files=[[uris[place].hash, None] for place in wanted], channel=within or channel
    )
    group: list[_Told] = []
    items = node.call_for_items("load_batch", {**params, "only": within is not None})
    try:
        async for (number, _, failure), _ in items:
            error = None if failure is None else from_wire(*failure)
            if isinstance(error, LocalError):
                raise error
            group.append((wanted[number], error))
            if len(group) >= _GROUP:
                yield group
                group = []
    finally:
        await items.aclose()
    if group:
        yield group


def _read(root: Path | None, uris: Sequence[KacheryUri], told: Sequence[_Told]) -> list[Come]:
    """What has come of these, or could not. Not those that must be looked at by themselves: large ones,
    and what is not right or cannot be seen from here."""
    come: list[Come] = []
    for place, error in told:
        if error is not None:
            come.append(Come(place, None, None, None if isinstance(error, NotFound) else error))
            continue
        blob = None if root is None else storage.find(root, uris[place].hash)
        if root is not None and blob is not None and blob.size <= BATCH_FILE:
            data = storage.read_checked(root, blob)
            if data is not None:
                come.append(Come(place, str(blob.path), data, None))
    return come


async def _single(
    uri: KacheryUri, place: int, channel: str | None, local_only: bool, advanced: Advanced
) -> Come:
    with Transfer("loading", uri.label, lambda info: advanced(place, info["done"])) as moving:
        content = Content(uri, local_only, channel, moving)
        try:
            here = await content.here_checked()
        except LocalError:
            raise
        except NotFound:
            return Come(place, None, None, None)
        except KacheryError as error:
            return Come(place, None, None, error)
    if here is None:
        return Come(place, None, None, None)
    return Come(place, str(here.blob.path), None, None, here.still)
