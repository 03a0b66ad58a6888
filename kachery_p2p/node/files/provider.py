"""Serves files to members: what a provider does.

Every request is checked: the requester's role, our own, that the file may go out on that channel at
all, and, before a byte leaves, that the bytes on this disk still are what their hash says, or, of a
large file, that nobody wrote to it since they were. A blob that is damaged is put aside (quarantined)
and withdrawn; the requester is told so and asks another. A requester that finds out what the disk did
to a large file unseen says so, and what it names is compared.

A download in progress is served from too, as far as it has been verified.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from kachery_p2p.node.links import endings
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.node.workers import open_on_disk
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput, CorruptContent, KacheryError, NotFound
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.files.messages import (
    FILE_DOUBT,
    FILE_OPEN,
    FILE_READ,
    FileDoubt,
    FileInfo,
    FileOpen,
    FileRead,
    check_ranges,
)
from kachery_p2p.protocol.files.ranges import cut, length
from kachery_p2p.protocol.limits import (
    BLOCK,
    FEW_BYTES,
    INLINE_FILE,
    MANIFEST_CHUNK,
    MAX_BODY,
    MAX_FILE,
    MAX_STATUS_ROWS,
    READ_ON_SECONDS,
    READ_OUT_SECONDS,
)
from kachery_p2p.storage.files.blobs import Blob
from kachery_p2p.storage.files.checking import TreeReader, check, size_fits
from kachery_p2p.storage.files.stamps import stamp_of
from kachery_p2p.storage.files.trees import ensure_tree

from .content import Content
from .readers import (
    FetchThrough,
    Reader,
    Upload,
    compare_range,
    of_part,
    on_disk,
    plain_reader,
    read_few,
    send_ranges,
    unproved,
)

log = logging.getLogger(__name__)

_MAX_CHECKED = 100_000
"""Small blobs whose hash was checked since they last changed; each entry is about 200 bytes."""

_MAX_LATELY = 1_000
"""Reads that are remembered before those are forgotten that are over."""


class Provider:
    def __init__(
        self,
        network: Network,
        *,
        part: Callable[[str, bytes], Content | None],
        through: FetchThrough,
        withdrawn: Callable[[str], None],
    ) -> None:
        self._network = network
        self._context = network.context
        self._store = network.context.store
        self._part = part
        self._through = through
        self._withdrawn = withdrawn
        self._checked: OrderedDict[str, bytes] = OrderedDict()
        self._reading: dict[Stream, Upload] = {}
        self._sent: OrderedDict[tuple[str, bytes, bytes], int] = OrderedDict()
        self._going: Counter[str] = Counter()
        """What is about to be deleted: who reads it may go on, nobody may begin."""
        self._lately: dict[tuple[str, str], float] = {}
        """Until when a peer that read a file counts as reading it: between two ranges, say."""
        self.served_bytes = 0
        self._doubting: set[str] = set()
        """For whom something is compared."""
        network.on_request_of(FILE_OPEN, FileOpen, self._open)
        network.on_stream_of(FILE_READ, FileRead, self._read)
        network.on_note_of(FILE_DOUBT, FileDoubt, self._on_doubt)

    def _require(self, link: Link, channel: bytes, sha1: bytes) -> str:
        self._network.require_role(
            link,
            channel,
            theirs="request-files",
            ours="provide-files",
            mark=lambda secret: file_key(sha1.hex()).blinded(secret),
        )
        if len(sha1) != 20:
            raise BadInput(what="file hash", reason="not 20 bytes")
        return sha1.hex()

    def reading(self) -> list[Upload]:
        """What is being sent now."""
        return list(self._reading.values())

    def sent(self, upload: Upload) -> int:
        """How many bytes of that file went to that node, with the parts that are over; it is forgotten
        when many others were sent since."""
        return self._sent.get(upload.whose, 0)

    def cut(self) -> None:
        """A channel changed: end what is being sent to those who may no longer have it."""
        endings.cut(self._reading, self._check_right)

    def _check_right(self, upload: Upload) -> None:
        self._require(upload.link, upload.params.channel, upload.params.sha1)

    @contextlib.asynccontextmanager
    async def let_finish(self, sha1: str) -> AsyncIterator[None]:
        """Wait until nobody reads a file any more, ``READ_OUT_SECONDS`` at most; nobody begins to
        meanwhile, nor in here."""
        loop = asyncio.get_running_loop()
        self._going[sha1] += 1
        try:
            last = loop.time() + READ_OUT_SECONDS
            while (until := min(last, self._read_until(sha1))) > loop.time():  # noqa: ASYNC110
                await asyncio.sleep(until - loop.time())
            yield
        finally:
            self._going[sha1] -= 1
            if not self._going[sha1]:
                del self._going[sha1]

    def _read_until(self, sha1: str) -> float:
        now = asyncio.get_running_loop().time()
        reading = any(each.params.sha1.hex() == sha1 for each in self._reading.values())
        lately = [until for (_, name), until in self._lately.items() if name == sha1]
        return max([*lately, now + READ_ON_SECONDS * reading])

    def is_going(self, sha1: str) -> bool:
        """Whether it is about to be deleted."""
        return sha1 in self._going

    def _may_begin(self, link: Link, sha1: str) -> bool:
        if sha1 not in self._going:
            return True
        return self._lately.get((link.peer, sha1), 0.0) > asyncio.get_running_loop().time()

    def _reads_on(self, link: Link, sha1: str) -> None:
        """It has read a range, and may ask for the next in a moment: until then it is in use."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if len(self._lately) > _MAX_LATELY:
            self._lately = {key: until for key, until in self._lately.items() if until > now}
        self._lately[link.peer, sha1] = now + READ_ON_SECONDS
        self._store.readers.begin(sha1)
        loop.call_later(READ_ON_SECONDS, self._store.readers.end, sha1)

    async def _find(self, sha1: str, channel: bytes) -> Blob | None:
        if not await self._context.workers.disk(self._context.may_leave, sha1, channel):
            return None
        return await self._context.workers.disk(self._store.find, sha1)

    async def _open(self, link: Link, params: FileOpen) -> Any:
        sha1 = self._require(link, params.channel, params.sha1)
        if not self._may_begin(link, sha1):
            raise NotFound(what=f"sha1://{sha1}", detail="the provider deletes it at this moment")
        try:
            info = await self._context.workers.disk(self._info, sha1, params.channel)
        except CorruptContent:
            await self._withdraw_damaged(sha1)
            raise
        if info is None:
            info = await self._info_elsewhere(sha1, params.channel)
        if info.inline is None:
            self._reads_on(link, sha1)
        else:
            await self._context.rates.upload.acquire(link.peer, len(info.inline))
        # That, or the disk, may have taken long, and the requester be out since.
        self._require(link, params.channel, params.sha1)
        if info.inline is not None:
            self.served_bytes += len(info.inline)
        return codec.plain(info)

    async def _info_elsewhere(self, sha1: str, channel: bytes) -> FileInfo:
        """Of what is not here whole: it lies in an origin, or is being fetched. Raises NotFound."""
        size = await self._through.size(sha1, channel)
        if size is not None and size > INLINE_FILE:
            return FileInfo(size, None, False)
        if size is not None:
            await self._through.load(sha1)
            info = await self._context.workers.disk(self._info, sha1, channel)
            if info is not None:
                return info
        part = self._part(sha1, channel)
        if part is None:
            raise await self._gone(sha1)
        return FileInfo(part.size, None, True, part.held())

    def _info(self, sha1: str, channel: bytes) -> FileInfo | None:
        # One trip to a worker thread: small files are many.
        if not self._context.may_leave(sha1, channel):
            return None
        blob = self._store.find(sha1)
        if blob is None:
            return None
        if blob.size > INLINE_FILE:
            self._check_size(blob)
            return FileInfo(blob.size, None, False)
        data = self._store.read(blob, 0, blob.size)
        self._context.inventory.touch(sha1)
        if hashlib.sha1(data).hexdigest() != sha1:
            raise self._damaged(blob)
        return FileInfo(blob.size, data, False)

    async def _read(self, link: Link, stream: Stream, params: FileRead) -> None:
        sha1 = self._require(link, params.channel, params.sha1)
        check_ranges(params.ranges, MAX_FILE, 1)
        upload = self._reading[stream] = Upload(link, params)
        try:
            await self._serve(upload, stream, sha1)
        finally:
            del self._reading[stream]
            self._reads_on(link, sha1)

    async def _serve(self, upload: Upload, stream: Stream, sha1: str) -> None:
        if await self._serve_few(upload, stream, sha1):
            return
        with contextlib.ExitStack() as stack:
            blob = await self._find(sha1, upload.params.channel)
            if blob is not None and not self._may_begin(upload.link, sha1):
                blob = None
            if blob is not None:
                try:
                    # What is sent is sent to its end, even if its name goes meanwhile.
                    blob = stack.enter_context(self._store.held(blob))
                except NotFound:
                    blob = None
            if blob is None and await self._through.size(sha1, upload.params.channel):
                await self._serve_elsewhere(upload, stream, sha1)
                return
            await self._serve_blob(upload, stream, sha1, blob)

    async def _serve_few(self, upload: Upload, stream: Stream, sha1: str) -> bool:
        """Serve a little of what lies here, with one visit to a worker; whether that could be done."""
        link, params, rate = upload.link, upload.params, self._context.rates.upload
        size = length(params.ranges)
        if not params.proofs or size > FEW_BYTES or rate.is_behind:
            return False
        pieces = list(cut(params.ranges, lambda: rate.piece(link.bulk_bytes)))
        if not self._may_begin(link, sha1) or not stream.try_reserve(size):
            return False
        stream.set_group(link.peer)
        try:
            read = self._context.workers.disk(
                partial(read_few, self._context, self._damaged, params, pieces)
            )
            found = await asyncio.shield(asyncio.ensure_future(read))
            if found is None:
                return False
            rate.take(size)
            upload.size, proved = found
            for (start, _), (data, proof) in zip(pieces, proved, strict=True):
                self.served_bytes += len(data)
                await stream.send([start, proof], data)
                self._count(upload, len(data))
            return True
        except CorruptContent:
            await self._withdraw_damaged(sha1)
            raise
        finally:
            stream.unreserve(size)

    async def _serve_elsewhere(self, upload: Upload, stream: Stream, sha1: str) -> None:
        """Serve what lies in an origin, as it is fetched from there."""
        params = upload.params
        manifest = await self._through.manifest(sha1)
        if manifest is None:
            await self._through.load(sha1)
            blob = await self._find(sha1, params.channel)
            if blob is None:
                raise await self._gone(sha1)
            with self._store.held(blob) as blob:
                await self._serve_blob(upload, stream, sha1, blob)
            return
        blocks = [(start // BLOCK * BLOCK, stop) for start, stop in params.ranges]
        async with self._through.hold(sha1, manifest, blocks) as download:
            size = download.progress.size
            check_ranges(params.ranges, size, BLOCK if params.proofs else 1)
            upload.size = size
            stream.set_group(upload.link.peer)

            read = self._through.reader(download, params.proofs)
            await self._send(upload, stream, read, waits=True)

    async def _serve_blob(
        self, upload: Upload, stream: Stream, sha1: str, blob: Blob | None
    ) -> None:
        link, params = upload.link, upload.params
        part = None if blob is not None else self._part(sha1, params.channel)
        size = blob.size if blob is not None else part.size if part is not None else 0
        if blob is None and part is None:
            raise await self._gone(sha1)
        if blob is not None and params.ranges[-1][1] > size:
            await self._context.workers.disk(self._check_size, blob)  # they may be right
        check_ranges(params.ranges, size, BLOCK if params.proofs else 1)
        upload.size = size
        stream.set_group(link.peer)
        blocks: TreeReader | None = None
        opened = 0
        reader: Reader
        try:
            if blob is None:
                assert part is not None
                reader = of_part(part, params.proofs)
            elif params.proofs or blob.size > MANIFEST_CHUNK:
                await link.budget.files.acquire()
                opened = 1
                tree = await open_on_disk(
                    self._context.workers,
                    lambda gone: ensure_tree(self._store, blob, cancelled=gone),
                )
                # Who has proofs finds out what a disk did to a file that nobody wrote to, and says so.
                blocks = TreeReader(self._store, blob, tree, self._damaged, believing=params.proofs)
                read = blocks.read_proved if params.proofs else unproved(blocks.read)
                reader = on_disk(self._context.workers, read)
            else:
                await self._context.workers.disk(self._check_small, blob)
                reader = on_disk(self._context.workers, plain_reader(self._store, blob))
            await self._send(upload, stream, reader)
            if blob is not None:
                await self._context.workers.disk(self._context.inventory.touch, sha1)
        except CorruptContent:
            await self._withdraw_damaged(sha1)
            raise
        finally:
            if blocks is not None:
                await asyncio.shield(self._context.workers.disk(blocks.close))
            if opened:
                link.budget.files.give()

    async def _withdraw_damaged(self, sha1: str) -> None:
        """What was put aside is not offered any more. That it is damaged may be only what the requester
        said when it ended the stream, and it may have been stored anew."""
        if await self._context.workers.disk(self._store.find, sha1) is None:
            self._withdrawn(sha1)

    def _on_doubt(self, link: Link, doubt: FileDoubt) -> None:
        """The disk may have changed what nobody wrote to. One such comparison at a time for a member,
        and for all visitors."""
        self._require(link, doubt.channel, doubt.sha1)
        check_ranges([(doubt.start, doubt.stop)], MAX_FILE, 1)
        if doubt.stop - doubt.start > MAX_BODY:
            raise BadInput(what="range", reason=f"{doubt.stop - doubt.start} bytes")
        party = link.party.name
        if party not in self._doubting:
            self._doubting.add(party)
            self._network.spawn(self._compare(party, doubt), name="compare what is doubted")

    async def _compare(self, party: str, doubt: FileDoubt) -> None:
        sha1 = doubt.sha1.hex()
        try:
            blob = await self._find(sha1, doubt.channel)
            if blob is not None and MANIFEST_CHUNK < blob.size >= doubt.stop:
                await self._context.workers.disk(
                    compare_range, self._store, blob, doubt.start, doubt.stop, self._damaged
                )
        except CorruptContent:
            await self._withdraw_damaged(sha1)
        except KacheryError as error:  # it went away, or cannot be read: whoever asks is told
            log.info("%s: %s", sha1, error)
        finally:
            self._doubting.discard(party)

    async def _send(
        self, upload: Upload, stream: Stream, read: Reader, *, waits: bool = False
    ) -> None:
        params, rate = upload.params, self._context.rates.upload

        def sent(size: int) -> None:
            self.served_bytes += size
            self._count(upload, size)

        await send_ranges(upload.link, stream, params.ranges, read, rate, sent, waits=waits)

    def _count(self, upload: Upload, size: int) -> None:
        self._sent[upload.whose] = self._sent.pop(upload.whose, 0) + size
        if len(self._sent) > MAX_STATUS_ROWS:
            self._sent.popitem(last=False)

    def _check_size(self, blob: Blob) -> None:
        """What is told to be so large must be."""
        if blob.size <= MANIFEST_CHUNK:
            self._check_small(blob)
        elif not size_fits(self._store, blob):
            self._check(blob)

    def _check(self, blob: Blob) -> None:
        """All of it, a large one unless that was done since it last changed."""
        try:
            check(self._store, blob)
        except CorruptContent as error:
            raise self._damaged(blob) from error

    def _check_small(self, blob: Blob) -> None:
        """Hash a blob without a tree, unless that was done since it last changed."""
        stamp = stamp_of(os.stat(blob.path if blob.fd is None else blob.fd))
        if self._checked.get(blob.sha1) == stamp:
            return
        self._check(blob)
        self._checked[blob.sha1] = stamp
        if len(self._checked) > _MAX_CHECKED:
            self._checked.popitem(last=False)

    async def _gone(self, sha1: str) -> NotFound:
        """The error that says so. What somebody deleted is not announced any longer."""
        if await self._context.workers.disk(self._store.find, sha1) is None:
            self._withdrawn(sha1)
        return NotFound(what=f"sha1://{sha1}", detail="the provider no longer has it")

    def _damaged(self, blob: Blob) -> CorruptContent:
        """Put a blob aside. Returns the error that says so."""
        sha1 = blob.sha1
        self._store.quarantine(sha1, blob)
        text = f"sha1://{sha1} was damaged on this disk; it was put aside. Store the file anew."
        log.error(text)
        self._context.warn(text)
        return CorruptContent(what=f"sha1://{sha1}", source=f"node {self._context.node_id[:8]}")
