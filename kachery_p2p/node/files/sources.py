"""The nodes that a download reads from: opening them, asking them, and remembering who failed.

A :class:`Source` is one holder that can be asked, mostly a node over a live link
(:class:`NodeSource`); the pieces that it hands out have the right form and place, but are *not*
verified. :class:`Sources` is the memory of one download: whom to try first, who failed how often, and
who is banned for a lie or a refusal."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

from kachery_p2p.node.gossip.lookup import Found, Lookup
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.links.reach import Reach
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import (
    AccessDenied,
    CorruptContent,
    KacheryError,
    LinkClosed,
    LocalError,
    NotFound,
    OriginError,
    ProtocolViolation,
    TransportError,
)
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.files.messages import FILE_OPEN, FILE_READ, FileInfo, Piece
from kachery_p2p.protocol.files.plan import Range
from kachery_p2p.protocol.gossip.holders import Holder, rank
from kachery_p2p.protocol.limits import INLINE_FILE, MAX_FILE, MAX_MANIFEST, STALL_SECONDS
from kachery_p2p.protocol.links.session import SealedBody

log = logging.getLogger(__name__)


class Body(Protocol):
    """Bytes that came: ``open`` gives them, and raises ProtocolViolation if they were forged on the
    way."""

    def __len__(self) -> int: ...
    def open(self) -> bytes: ...


class Pieces(Protocol):
    """What comes of some ranges, in their order and nothing else. It is *not* verified."""

    async def next(self) -> tuple[Piece, Body, int] | None:
        """The next piece, its bytes and its cost; None after the last. Raises KacheryError: it does not
        come."""

    def done(self, cost: int) -> None:
        """A piece has been dealt with: the source may send more."""


class NodePieces:
    """What comes on one ``file.read``."""

    def __init__(self, stream: Stream, ranges: Sequence[Range]) -> None:
        self._stream = stream
        self._ranges = iter(ranges)
        self._position, self._stop = next(self._ranges)

    async def next(self) -> tuple[Piece, SealedBody, int] | None:
        """The next piece, its sealed bytes and its cost; None after the last.

        Raises:
            ProtocolViolation: it is not what was asked for.
            LinkClosed: nothing came for ``STALL_SECONDS``; KacheryError: what the source said.
        """
        if self._position >= self._stop:
            following = next(self._ranges, None)
            if following is None:
                return None
            self._position, self._stop = following
        try:
            async with asyncio.timeout(STALL_SECONDS):
                item = await self._stream.receive()
        except TimeoutError as error:
            raise LinkClosed(peer=self._stream.peer[:8], reason="it sent nothing") from error
        if item is None:
            raise ProtocolViolation(reason="fewer bytes than asked for")
        meta, body, cost = item
        piece = codec.convert(Piece, meta)
        if not isinstance(body, SealedBody):
            raise ProtocolViolation(reason="a piece without a body")
        if piece.offset != self._position or not 0 < len(body) <= self._stop - self._position:
            raise ProtocolViolation(reason="bytes that were not asked for")
        self._position += len(body)
        return piece, body, cost

    async def unseal(self, body: SealedBody) -> bytes:
        """A piece's bytes; a forged one ends the link."""
        return await self._stream.open_body(body)

    def done(self, cost: int) -> None:
        """A piece has been dealt with: the source may send more."""
        self._stream.done(cost)


class Source(ABC):
    """A holder that can be asked. ``via`` is the proxy's label, or None if the way is direct."""

    def __init__(self, holder: Holder, via: str | None) -> None:
        self.holder = holder
        self.via = via

    @property
    def name(self) -> str:
        return self.holder.name

    @abstractmethod
    async def open(self, sha1: str) -> FileInfo:
        """Ask for a file's size, and for its bytes if they are few."""

    @abstractmethod
    def reading(
        self, sha1: str, ranges: Sequence[Range], *, proofs: bool
    ) -> AbstractContextManager[Pieces]:
        """Read these ranges, as ``file.read`` takes them; no more is read after the context."""

    @abstractmethod
    async def manifest(self, sha1: str) -> bytes:
        """A manifest's bytes, its hash checked."""

    def proves(self, sha1: str) -> bool:
        """Whether it can send pieces of a file with proofs; known once that was opened."""
        return True

    @abstractmethod
    def accuse(self, error: KacheryError) -> None:
        """What it sent was forged on the way."""

    def check(self, data: bytes, sha1: str, what: str) -> None:
        """Raise CorruptContent, with this source to blame, unless the bytes fit their name."""
        if hashlib.sha1(data).hexdigest() != sha1:
            raise CorruptContent(what=what, source=self.name)


class NodeSource(Source):
    """A node over a live link."""

    def __init__(self, holder: Holder, link: Link, via: str | None) -> None:
        super().__init__(holder, via)
        self.link = link

    def accuse(self, error: KacheryError) -> None:
        self.link.close(error)

    async def open(self, sha1: str) -> FileInfo:
        """Ask for a file's size, and for its bytes if they are few."""
        answer = await self.link.request(
            FILE_OPEN, {"channel": self.holder.channel, "sha1": bytes.fromhex(sha1)}
        )
        info = codec.convert(FileInfo, answer)
        too_long = info.inline is not None and len(info.inline) > INLINE_FILE
        if not 0 <= info.size <= MAX_FILE or too_long:
            raise ProtocolViolation(reason=f"a file of {info.size} bytes")
        return info

    @contextlib.contextmanager
    def reading(self, sha1: str, ranges: Sequence[Range], *, proofs: bool) -> Iterator[NodePieces]:
        """The stream is open as long as the context."""
        params = {
            "channel": self.holder.channel,
            "sha1": bytes.fromhex(sha1),
            "ranges": ranges,
            "proofs": proofs,
        }
        stream = self.link.open(FILE_READ, params)
        try:
            yield NodePieces(stream, ranges)
        finally:
            stream.end()

    async def manifest(self, sha1: str) -> bytes:
        """A manifest's bytes, its hash checked."""
        info = await self.open(sha1)
        data = info.inline
        if data is None:
            if info.size > MAX_MANIFEST:
                raise ProtocolViolation(reason=f"a manifest of {info.size} bytes")
            data = await self._whole(sha1, info.size)
        self.check(data, sha1, f"The manifest sha1://{sha1}")
        return data

    async def _whole(self, sha1: str, size: int) -> bytes:
        data = bytearray()
        with self.reading(sha1, [(0, size)], proofs=False) as pieces:
            while (item := await pieces.next()) is not None:
                _, body, cost = item
                data += await pieces.unseal(body)
                pieces.done(cost)
        return bytes(data)


class Near(Protocol):
    """Storage of this node's own, elsewhere, that has a file: sources without a link."""

    unasked: KacheryError | None
    """Why one that has it is left alone at this moment."""

    async def holders(self) -> list[Holder]: ...
    def source(self, holder: Holder) -> Source | None: ...
    async def blame(self, node: str, error: KacheryError) -> None: ...


class Sources:
    def __init__(
        self, network: Network, reach: Reach, lookup: Lookup, near: Near, sha1: str
    ) -> None:
        self._network = network
        self._reach = reach
        self._lookup = lookup
        self._near = near
        self._further = False
        """Other nodes were looked for, and not the node's own origins alone."""
        self.near_only = False
        """Only these are asked: so two nodes that stand for one origin do not wait for one another."""
        self._sha1 = sha1
        self._failures: dict[str, int] = {}
        self._banned: dict[str, KacheryError] = {}

    # --- memory ------------------------------------------------------------------------------

    @property
    def refusal(self) -> KacheryError | None:
        """Why the first who was banned was."""
        return next(iter(self._banned.values()), None)

    def usable(self, holders: Iterable[Holder]) -> list[Holder]:
        return [holder for holder in holders if holder.node not in self._banned]

    def ranked(self, holders: Iterable[Holder]) -> list[Holder]:
        """Best first, by how often each has failed here and by the route to it."""
        return rank(
            replace(holder, failures=self._failures.get(holder.node, 0)) for holder in holders
        )

    def failed(self, node: str) -> None:
        """Try it later than the others."""
        self._failures[node] = self._failures.get(node, 0) + 1

    def ban(self, node: str, error: KacheryError) -> None:
        """Ask it no more."""
        self._banned[node] = error
        self._network.spawn(self._near.blame(node, error), name="blame a source")

    def _blame(self, holder: Holder, error: KacheryError) -> None:
        self.failed(holder.node)
        if isinstance(error, CorruptContent | ProtocolViolation | AccessDenied | OriginError):
            self.ban(holder.node, error)

    # --- who there is ------------------------------------------------------------------------

    async def nearest(self, look: Callable[[], Awaitable[Found]]) -> Found:
        """The node's own origins that have it; else as :meth:`further`."""
        found = Found(holders=await self._near.holders())
        return found if found.holders else await self.further(look)

    async def further(self, look: Callable[[], Awaitable[Found]]) -> Found:
        """The nodes that have it, as ``look`` finds them, the first time. Raises the refusal, or what
        else is the matter, if there are none."""
        reason = self.refusal or self._near.unasked
        if self.near_only or self._further:
            raise reason or NotFound(what=f"sha1://{self._sha1}", detail="it is in no origin now")
        self._further = True
        found = await look()
        if not found.holders:
            raise reason or self._lookup.not_found(file_key(self._sha1), found)
        return found

    async def again(self, before: Found, channel: bytes | None) -> Found:
        """Who has it now, without patience; those from before if that cannot be said."""
        if self.near_only:
            return before
        try:
            found = await self._lookup.find(file_key(self._sha1), channel, patience=0)
        except KacheryError:
            return before
        self._further = True
        found.holders += await self._near.holders()
        return found if found.holders else before

    # --- asking ------------------------------------------------------------------------------

    async def _connect(self, holder: Holder) -> Source:
        near = self._near.source(holder)
        if near is not None:
            return near
        relays = self._lookup.relays.get((holder.node, holder.channel), set())
        link = await self._reach.to(holder.node, holder.channel, urls=holder.urls, relays=relays)
        return NodeSource(holder, link, via(self._network, link))

    async def first(
        self, holders: Iterable[Holder], work: Callable[[Source], Awaitable[None]]
    ) -> None:
        """Do ``work`` with the best source with which it can be done.

        Raises:
            LocalError: at once; it is nobody's fault.
            KacheryError: no source would do; what says most about the cause.
        """
        errors: list[KacheryError] = []
        for holder in self.ranked(holders):
            try:
                await work(await self._connect(holder))
                return
            except LocalError:
                raise
            except KacheryError as error:
                errors.append(error)
                self._blame(holder, error)
        # A refusal says most, then bad data, then a broken route.
        for kind in (AccessDenied, CorruptContent, NotFound, KacheryError):
            for failure in errors:
                if isinstance(failure, kind):
                    raise failure

    async def each(
        self,
        holders: Iterable[Holder],
        work: Callable[[Source], Awaitable[None]],
        *,
        until: asyncio.Event,
    ) -> list[tuple[Holder, KacheryError]]:
        """Do ``work`` with all of them at once, until there is no more of it or all have failed.
        Returns those that failed and were blamed.

        Raises:
            LocalError: it is nobody's fault, and the others are stopped.
        """
        failures: list[tuple[Holder, KacheryError]] = []

        async def one(holder: Holder) -> None:
            try:
                await work(await self._connect(holder))
            except LocalError:
                raise
            except NotFound:
                # It is itself still downloading: others go on, it may have more later.
                self.failed(holder.node)
            except KacheryError as error:
                failures.append((holder, error))
                self._blame(holder, error)
                log.info("source %s of %s failed: %s", holder.name, self._sha1[:8], error)
                if not isinstance(error, TransportError):
                    self._network.context.warn(f"{holder.name}: {error}")

        working: set[asyncio.Task[Any]] = {asyncio.create_task(one(each)) for each in holders}
        over: asyncio.Task[Any] = asyncio.create_task(until.wait())
        try:
            while working and not until.is_set():
                done, _ = await asyncio.wait({*working, over}, return_when=asyncio.FIRST_COMPLETED)
                if over.done() and not until.is_set():  # somebody wants more already
                    over = asyncio.create_task(until.wait())
                for task in working & done:
                    working.discard(task)
                    task.result()
        finally:
            for task in {*working, over}:
                task.cancel()
            await asyncio.gather(*working, over, return_exceptions=True)
        return failures


def via(network: Network, link: Link) -> str | None:
    """The label of the proxy that a link goes through; None if it is direct."""
    if link.via is None:
        return None
    for other in network.links:
        if other.peer == link.via and other.hello is not None and other.hello.label:
            return other.hello.label
    return link.via[:8]
