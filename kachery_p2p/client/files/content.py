"""The content of one file: where it is, on this computer or after it came here, and that it is right.

Invariant: what is handed out was compared with its hash (:mod:`.local_storage`). What does not fit is
put aside, by the node if there is one, which then offers it to nobody; and it is fetched anew, from
whoever has it. Else it is a CorruptContent, never other bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from kachery_p2p.client.display.progress import Transfer, relay
from kachery_p2p.client.session import blocking, offline
from kachery_p2p.client.session.connection import connection
from kachery_p2p.local import places
from kachery_p2p.local.notice import read_notice
from kachery_p2p.protocol.errors import (
    BadPath,
    CorruptContent,
    DaemonNotRunning,
    NotFound,
    StorageFull,
)
from kachery_p2p.protocol.limits import LOCAL_PIECE, VERIFY_ON_READ
from kachery_p2p.protocol.uri import KacheryUri
from kachery_p2p.storage.files.blobs import Blob

from . import local_storage as storage
from .scope import only_within, scope
from .uris import without_nones

R = TypeVar("R")

_TRIES: Final = 3
"""What is damaged here, or goes before it is opened, is fetched anew so often."""


class Here(NamedTuple):
    """A blob in a storage folder, not checked."""

    root: Path
    blob: Blob

    def still(self, source: int, copy: int) -> bool:
        """Whether it was right until it was copied from one descriptor to another."""
        return storage.still_right(self.root, self.blob, source, copy)


@dataclass(frozen=True, slots=True)
class Content:
    """A file that somebody wants. All methods raise what :func:`.loads.aload_file` does, and give None
    if nobody has it."""

    uri: KacheryUri
    local_only: bool
    channel: str | None
    moving: Transfer

    async def path(self) -> str | None:
        """Where it is."""
        return await self._checked(self._path_of)

    async def data(self) -> bytes | None:
        """All of it."""
        try:
            return await self._checked(_reading(0, None))
        except StorageFull:
            if await self.without_node() is not None:
                raise
            # What is small can be had without room on the disk.
            return await self._fetched_range(0, None)

    async def here_checked(self) -> Here | None:
        """As :meth:`path`, with what tells whether it still is right (:meth:`Here.still`)."""

        async def take(here: Here) -> Here | None:
            return None if await self._path_of(here) is None else here

        return await self._checked(take)

    async def copied(self, copy: Callable[[str, blocking.Right], Awaitable[R]]) -> R | None:
        """What ``copy`` makes of the file at a path; once more if it changed meanwhile, or had to make
        room for something else."""

        async def take(here: Here) -> R | None:
            path = await self._path_of(here)
            try:
                return None if path is None else await copy(path, here.still)
            except NotFound as error:
                raise self._changed() from error

        return await self._checked(take)

    async def made_into(self, make: Callable[[bytes | str], R]) -> R | None:
        """What ``make`` makes of all of it, in a thread: of its bytes if it is small, else of the path
        where it is, and once more if it changed meanwhile."""

        async def take(here: Here) -> R | None:
            if here.blob.size <= VERIFY_ON_READ:
                data = await _read_small(here)
                return None if data is None else await asyncio.to_thread(make, data)
            path = await self._path_of(here)
            if path is None:
                return None
            try:
                made = await asyncio.to_thread(make, path)
            except Exception as error:
                if storage.is_known(here.root, here.blob):
                    raise
                raise self._changed() from error
            if not storage.is_known(here.root, here.blob):
                raise self._changed()
            return made

        try:
            return await self._checked(take)
        except StorageFull:
            if await self.without_node() is not None:
                raise
            # What is small can be had without room on the disk.
            data = await self._fetched_range(0, None)
            return None if data is None else await asyncio.to_thread(make, data)

    async def range(self, start: int, end: int | None) -> bytes | None:
        """Bytes [start, end), of which no more is fetched than that takes."""
        in_parts = self.uri.chunk_of is not None or (
            self.local_only and self.uri.manifest is not None
        )
        locate = self.here_or_fetched if in_parts else self.here
        data, damaged = await self._from_here(_reading(start, end), locate)
        elsewhere = not in_parts and not self.local_only
        if data is None and elsewhere and await self.without_node() is None:
            data = await self._fetched_range(start, end)
        if data is not None:
            self.moving.complete(len(data))
        elif damaged:
            raise self._corrupt()
        return data

    # --- checked ---------------------------------------------------------------------------------

    async def _checked(self, take: Callable[[Here], Awaitable[R | None]]) -> R | None:
        """What ``take`` makes of it once it is here."""
        taken, damaged = await self._from_here(take, self.here_or_fetched)
        if taken is None and damaged:
            raise self._corrupt()
        return taken

    async def _from_here(
        self,
        take: Callable[[Here], Awaitable[R | None]],
        locate: Callable[[], Awaitable[Here | None]],
    ) -> tuple[R | None, bool]:
        """What ``take`` makes of it, which is None if it is not right; and whether some was damaged."""
        damaged = False
        gone: NotFound | None = None
        for _ in range(_TRIES):
            gone = None
            try:
                here = await locate()
                if here is None:
                    break
                taken = await take(here)
                if taken is not None:
                    self.moving.complete(here.blob.size)
                    return taken, damaged
                damaged = not await self._compared(here, again=True) or damaged
            except NotFound as error:  # it had to make room, or was deleted: others may have it
                gone = error
        if gone is not None:
            raise gone
        return None, damaged

    async def _path_of(self, here: Here) -> str | None:
        root, blob = here
        if blob.size <= VERIFY_ON_READ:
            right = await _read_small(here) is not None
        else:
            right = storage.is_known(root, blob) or await self._compared(here)
        return str(blob.path) if right else None

    async def _compared(self, here: Here, *, again: bool = False) -> bool:
        """Have all of it compared with its hash, and put aside if it does not fit."""
        root, blob = here
        self.moving.begin()
        if await self.without_node() is not None:
            advanced = relay(self.moving)
            return await blocking.run(lambda gone: offline.check(root, blob, again, gone, advanced))
        node = await connection()
        remember = storage.to_remember(blob)
        params = {"sha1": blob.sha1, "again": again}
        answer = await node.call("check", params, on_progress=self.moving.hear)
        good: bool = answer["good"]
        if good:
            remember(root)
        return good

    def _changed(self) -> NotFound:
        return blocking.changed(f"sha1://{self.uri.hash}")

    def _corrupt(self) -> CorruptContent:
        return CorruptContent(what=f"sha1://{self.uri.hash}", source="the local storage")

    # --- where it is -----------------------------------------------------------------------------

    async def here(self) -> Here | None:
        """Where it is in the storage of this computer, if it is and may be read there."""
        folder = await self.without_node()
        if folder is not None:
            blob = storage.find(folder, self.uri.hash)
            if blob is None and not self._is_whole():
                await asyncio.to_thread(offline.find_parts, folder, self.uri)
                blob = storage.find(folder, self.uri.hash)
            if blob is None and storage.was_put_aside(folder, self.uri.hash):
                raise self._corrupt()  # it was here, and there is nobody else to have it from
            return None if blob is None else Here(folder, blob)
        node = await connection()
        within = only_within(self.channel)
        if within is not None:
            answer = await node.call("here", {"sha1": self.uri.hash, "channel": within})
            if not answer["here"]:
                return None
        greeter = node.greeter
        # Else the folder cannot be seen from here.
        blob = storage.find(greeter.storage_dir, self.uri.hash) if greeter.owns_storage else None
        return None if blob is None else Here(greeter.storage_dir, blob)

    async def here_or_fetched(self) -> Here | None:
        """As :meth:`here`; what is not here comes first, all of it."""
        here = await self.here()
        if here is not None or await self.without_node() is not None:
            return here
        if self.local_only and self._is_whole():
            return None
        self.moving.begin()
        node = await connection()
        try:
            params = self.to_fetch() | without_nones(
                chunk_of=self.uri.chunk_of, local=self.local_only or None
            )
            self.moving.hear(await node.call("load", params, on_progress=self.moving.hear))
        except NotFound:
            return None
        greeter = node.greeter
        blob = storage.find(greeter.storage_dir, self.uri.hash) if greeter.owns_storage else None
        if blob is None and greeter.owns_storage:
            detail = "it came, and had to make room for something else before it was read"
            raise NotFound(what=f"sha1://{self.uri.hash}", detail=detail)
        if blob is None:
            raise BadPath(
                path=str(greeter.storage_dir),
                reason="the node stored the file there, but this process cannot see it; is the node's "
                "own folder, and no other one of that name, mounted and readable here?",
            )
        return Here(greeter.storage_dir, blob)

    async def _fetched_range(self, start: int, end: int | None) -> bytes | None:
        self.moving.begin()
        node = await connection()
        params = self.to_fetch() | {"ranges": [(start, end)]}
        try:
            result, data = await node.call_for_bytes(
                "load_bytes", params, on_progress=self.moving.hear
            )
        except NotFound:
            return None
        self.moving.gave(result.get("sources", []))
        return data

    def to_fetch(self) -> dict[str, object]:
        """What names it in a call of the node."""
        within = only_within(self.channel)
        named = without_nones(
            sha1=self.uri.hash,
            manifest=self.uri.manifest,
            channel=within or self.channel,
            label=self.uri.label or None,
        )
        return named | {"only": within is not None}

    async def without_node(self) -> Path | None:
        """The storage folder to read in without any node: that of offline mode; or, of what is to be
        had on this computer alone, that of a node that is not running, or not here. None: ask the
        node."""
        folder = places.offline_dir()
        if folder is not None or not self.local_only or places.target() is not None:
            return folder
        try:
            await connection()
        except DaemonNotRunning:
            notice = read_notice(places.default_state_dir())
            here = places.default_storage_dir() if notice is None else Path(notice.storage_dir)
            if scope() is None and here.is_dir():
                return here
            raise
        return None

    def _is_whole(self) -> bool:
        """Whether the URI names no other content that it could be made of."""
        return self.uri.manifest is None and self.uri.chunk_of is None


async def _read_small(here: Here) -> bytes | None:
    """All of a small blob; None if it is not right."""
    if here.blob.size > LOCAL_PIECE:
        return await asyncio.to_thread(storage.read_checked, here.root, here.blob)
    return storage.read_checked(here.root, here.blob)


def _reading(start: int, end: int | None) -> Callable[[Here], Awaitable[bytes | None]]:
    """Takes bytes [start, end) of a blob."""

    async def take(here: Here) -> bytes | None:
        if here.blob.size > VERIFY_ON_READ:
            return await asyncio.to_thread(storage.read_range, here.root, here.blob, start, end)
        data = await _read_small(here)
        return data if data is None or (start, end) == (0, None) else data[start:end]

    return take
