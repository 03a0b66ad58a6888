"""Serves many small files to a member with one question; of one file, that is
:mod:`kachery_p2p.node.files.provider`.

The same is checked of each file: the roles, that it may go out on the channel, and that its bytes are
what its hash says. What is large, damaged or not here is left out: the requester asks for it by itself,
and that says what is the matter with it.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from kachery_p2p.node.files.provider import Provider
from kachery_p2p.node.links.endings import cut
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol.errors import BadInput, CorruptContent, NotFound, StorageDamaged
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.files.messages import FILE_ASK, FILE_BATCH, FileAsk, FileBatch
from kachery_p2p.protocol.limits import ASK_CANDIDATES, ASK_FILE, BATCH_BODY, INLINE_FILE


class _Read(NamedTuple):
    """What was read: of which places, how long each, and where to go on."""

    places: list[int]
    sizes: list[int]
    data: bytes
    position: int


class BatchProvider:
    """One instance per node, beside its :class:`~kachery_p2p.node.files.provider.Provider`."""

    def __init__(self, network: Network, provider: Provider) -> None:
        self._network = network
        self._provider = provider
        self._context = network.context
        self._store = network.context.store
        self._rate = network.context.rates.upload
        self._serving: dict[Stream, tuple[Link, bytes]] = {}
        network.on_stream_of(FILE_BATCH, FileBatch, self._serve)
        network.on_stream_of(FILE_ASK, FileAsk, self._serve_one)

    def cut(self) -> None:
        """A channel changed: end what is being sent to those who may no longer have it."""
        cut(self._serving, lambda each: self._require(*each))

    def _require(self, link: Link, channel: bytes) -> None:
        self._network.require_role(link, channel, theirs="request-files", ours="provide-files")

    async def _serve(self, link: Link, stream: Stream, params: FileBatch) -> None:
        self._require(link, params.channel)
        if any(len(sha1) != 20 for sha1 in params.sha1s):
            raise BadInput(what="file hash", reason="not 20 bytes")
        stream.set_group(link.peer)
        self._serving[stream] = (link, params.channel)
        sha1s = [sha1.hex() for sha1 in params.sha1s]
        position = 0
        try:
            while position < len(sha1s):
                size = self._rate.piece(BATCH_BODY)
                await self._rate.acquire(link.peer, size)
                async with stream.reserved(size):
                    read = await self._context.workers.disk(
                        self._read, sha1s, position, params.channel.hex(), INLINE_FILE, size
                    )
                    self._rate.give(link.peer, size - len(read.data))
                    position = read.position
                    if read.places:
                        self._provider.served_bytes += len(read.data)
                        await stream.send([read.places, read.sizes], read.data)
        finally:
            del self._serving[stream]

    async def _serve_one(self, link: Link, stream: Stream, params: FileAsk) -> None:
        self._require(link, params.channel)
        secret = self._context.book.secret(params.channel)
        if secret is None:
            return
        stream.set_group(link.peer)
        self._serving[stream] = (link, params.channel)
        try:
            await self._rate.acquire(link.peer, ASK_FILE)
            async with stream.reserved(ASK_FILE):
                read = await self._context.workers.disk(self._read_asked, params, secret[1])
                self._rate.give(link.peer, ASK_FILE - len(read.data))
                if read.places:
                    self._provider.served_bytes += len(read.data)
                    await stream.send([read.places, read.sizes], read.data)
        finally:
            del self._serving[stream]

    def _read_asked(self, params: FileAsk, secret: bytes) -> _Read:
        for sha1 in self._context.inventory.starting(params.start, ASK_CANDIDATES):
            if file_key(sha1).blinded(secret) == params.key:
                return self._read([sha1], 0, params.channel.hex(), ASK_FILE)
        return _Read([], [], b"", 0)

    def _read(
        self,
        sha1s: list[str],
        position: int,
        channel: str,
        most: int = INLINE_FILE,
        room: int = BATCH_BODY,
    ) -> _Read:
        """Read small files from ``position`` on, as many as fit into a body of ``room`` bytes."""
        leaving = self._context.bindings.leaving(sha1s[position:], channel)
        places: list[int] = []
        parts: list[bytes] = []
        while position < len(sha1s):
            sha1 = sha1s[position]
            if sha1 in leaving and not self._provider.is_going(sha1):
                data = self._small(sha1, most)
                if data is not None:
                    if len(data) > room:
                        break
                    room -= len(data)
                    places.append(position)
                    parts.append(data)
            position += 1
        return _Read(places, [len(part) for part in parts], b"".join(parts), position)

    def _small(self, sha1: str, most: int) -> bytes | None:
        try:
            blob = self._store.find(sha1)
            if blob is None or blob.size > most:
                return None
            data = self._store.read(blob, 0, blob.size)
        except (NotFound, CorruptContent, StorageDamaged):
            return None
        return data if hashlib.sha1(data).hexdigest() == sha1 else None
