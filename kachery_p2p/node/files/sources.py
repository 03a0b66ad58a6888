"""The nodes that a download reads from: opening them, asking them, and remembering who failed.

A :class:`Source` is one holder that can be asked, mostly a node over a live link
(:class:`NodeSource`); the pieces that it hands out have the right form and place, but are *not*
verified. :class:`Sources` is the memory of one download: whom to try first, who failed how often, and
who is banned for a lie or a refusal."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

from kachery_p2p.node.gossip.lookup import Lookup
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.node.rates import Throttle
from kachery_p2p.node.routes.reach import Reach, via_label
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
    StorageDamaged,
    StorageFull,
    Unreachable,
)
from kachery_p2p.protocol.files.messages import (
    FILE_DOUBT,
    FILE_OPEN,
    FILE_READ,
    FileDoubt,
    FileInfo,
    Piece,
)
from kachery_p2p.protocol.files.ranges import Range
from kachery_p2p.protocol.gossip.holders import Holder, rank
from kachery_p2p.protocol.limits import (
    INLINE_FILE,
    MAX_FILE,
    MAX_MANIFEST,
    RATE_CREDIT,
    RATE_WINDOW,
    STALL_SECONDS,
    STREAM_CREDIT,
)
from kachery_p2p.protocol.links.session import SealedBody
from kachery_p2p.storage.direct import Page
from kachery_p2p.storage.files.origins import FREE


class Body(Protocol):
    """Bytes that came: ``open`` gives them, and raises ProtocolViolation if they were forged on the
    way."""

    def __len__(self) -> int: ...
    def open(self) -> bytes: ...


@contextlib.contextmanager
def opened(body: Body) -> Iterator[bytes | Page]:
    """Plain bytes, for as long as the block lasts: in a page if they were sealed. Raises as
    :meth:`Body.open`."""
    if not isinstance(body, SealedBody):
        yield body.open()
        return
    page = Page.take()
    try:
        page.view = body.open_into(page.memory)
        yield page
    finally:
        page.drop()


def plain(data: bytes | Page) -> bytes:
    """What was opened, to be kept."""
    return bytes(data.view) if isinstance(data, Page) else data


class Pieces(Protocol):
    """What comes of some ranges, in their order and nothing else. It is *not* verified."""

    position: int
    """Up to where it has come."""

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
        self.position, self._stop = next(self._ranges)
        """Up to where it has come."""

    async def next(self) -> tuple[Piece, SealedBody, int] | None:
        """The next piece, its sealed bytes and its cost; None after the last.

        Raises:
            ProtocolViolation: it is not what was asked for.
            LinkClosed: nothing came for ``STALL_SECONDS``; KacheryError: what the source said.
        """
        if self.position >= self._stop:
            following = next(self._ranges, None)
            if following is None:
                return None
            self.position, self._stop = following
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
        if piece.offset != self.position or not 0 < len(body) <= self._stop - self.position:
            raise ProtocolViolation(reason="bytes that were not asked for")
        self.position += len(body)
        return piece, body, cost

    async def unseal(self, body: SealedBody) -> bytes:
        """A piece's bytes; a forged one ends the link."""
        return await self._stream.open_body(body)

    def done(self, cost: int) -> None:
        """A piece has been dealt with: the source may send more."""
        self._stream.done(cost)


class Source(ABC):
    """A holder that can be asked."""

    def __init__(self, holder: Holder) -> None:
        self.holder = holder

    @property
    def via(self) -> str | None:
        """The label of the proxy that it is reached through; None: directly."""
        return None

    @property
    def name(self) -> str:
        return self.holder.name

    @property
    def rate(self) -> Throttle | None:
        """What its bytes must wait for, if they do."""
        return None

    async def afford(self, size: int) -> None:
        """Wait until so many bytes that came from it may be taken."""
        if self.rate is not None:
            await self.rate.acquire(self.holder.node, size)

    @property
    def rtt(self) -> float:
        """Seconds of a round trip, as far as is known."""
        return 0.0

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

    def doubt_link(self) -> None:  # noqa: B027
        """It has given nothing of late, perhaps: find out whether it is there at all."""

    async def proves(self, sha1: str) -> bool:
        """Whether it can send pieces of a file with proofs. Raises KacheryError: it has not got it."""
        return True

    @abstractmethod
    def accuse(self, error: KacheryError) -> None:
        """What it sent was forged on the way."""

    def doubt(self, sha1: str, start: int, stop: int) -> None:  # noqa: B027
        """What it sent of these blocks does not fit its proof: it may want to compare them itself."""

    def check(self, data: bytes, sha1: str, what: str) -> None:
        """Raise CorruptContent, with this source to blame, unless the bytes fit their name."""
        if hashlib.sha1(data).hexdigest() != sha1:
            raise CorruptContent(what=what, source=self.name)


class NodeSource(Source):
    """A node over a live link: what is asked next goes over the best that there is by then."""

    def __init__(
        self, holder: Holder, link: Link, network: Network, rate: Throttle | None = None
    ) -> None:
        super().__init__(holder)
        self._link = link
        self._network = network
        self._rate = rate

    @property
    def link(self) -> Link:
        for better in self._network.links_to(self.holder.node, self.holder.channel):
            self._link = better
            break
        return self._link

    @property
    def via(self) -> str | None:
        return via_label(self._network, self.link)

    @property
    def rate(self) -> Throttle | None:
        return self._rate

    @property
    def rtt(self) -> float:
        return self.link.rtt or 0.0

    def accuse(self, error: KacheryError) -> None:
        self.link.close(error)

    def doubt_link(self) -> None:
        for link in self._network.links_to(self.holder.node, self.holder.channel):
            link.doubt()

    def doubt(self, sha1: str, start: int, stop: int) -> None:
        doubt = FileDoubt(self.holder.channel, bytes.fromhex(sha1), start, stop)
        self.link.note(FILE_DOUBT, codec.plain(doubt))

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
        slow = self._rate is not None and self._rate.rate is not None
        stream = self.link.open(FILE_READ, params, credit=RATE_WINDOW if slow else STREAM_CREDIT)
        if slow:
            stream.credit_batch = RATE_CREDIT
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
        self._sha1 = sha1
        self._failures: dict[str, int] = {}
        self._reasons: dict[str, str] = {}
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

    def of_one_channel(self, holders: Iterable[Holder], channel: bytes | None) -> list[Holder]:
        """The usable ones, best first: all of ``channel``, where the bytes that are here come from,
        unless others have failed less. What comes from several can be passed on to none; what is free
        goes with any."""
        ranked = self.ranked(self.usable(holders))
        there = [holder for holder in ranked if holder.channel == channel]
        if ranked and (not there or there[0].failures > ranked[0].failures):
            channel = ranked[0].channel
        return [holder for holder in ranked if holder.channel in (channel, bytes.fromhex(FREE))]

    def said(self, holders: Iterable[Holder]) -> str:
        """Their names, each with why it gave nothing when it was last asked."""
        texts = {
            holder.name: self._reasons.get(holder.node)
            for holder in sorted(holders, key=lambda holder: holder.name)
        }
        return ", ".join(name if why is None else f"{name} ({why})" for name, why in texts.items())

    def waiting_for(self, holders: Iterable[Holder]) -> str:
        """What happens when none of these gives anything, for people."""
        said = self.said(holders) or "nobody who has it is there"
        return f"{said}; waiting for whoever has the file"

    def gave(self, node: str) -> None:
        """It is there (again)."""
        self._reasons.pop(node, None)

    def failed(self, node: str) -> None:
        """Try it later than the others."""
        self._failures[node] = self._failures.get(node, 0) + 1

    def ban(self, node: str, error: KacheryError) -> None:
        """Ask it no more."""
        self._banned[node] = error
        self._network.spawn(self._near.blame(node, error), name="blame a source")

    def blame(self, holder: Holder, error: KacheryError) -> None:
        """It failed; a lie, or a refusal, is the last that is heard of it."""
        self.failed(holder.node)
        self._reasons[holder.node] = why_not(error)
        if isinstance(error, CorruptContent | ProtocolViolation | AccessDenied | OriginError):
            self.ban(holder.node, error)

    # --- asking ------------------------------------------------------------------------------

    async def connect(self, holder: Holder) -> Source:
        """What a holder is asked through, such as a link to it. Raises KacheryError."""
        near = self._near.source(holder)
        if near is not None:
            return near
        relays = self._lookup.relays.get((holder.node, holder.channel), set())
        link = await self._reach.to(holder.node, holder.channel, urls=holder.urls, relays=relays)
        rate = self._network.context.rates.download
        return NodeSource(holder, link, self._network, rate)

    async def first(
        self,
        holders: Iterable[Holder],
        work: Callable[[Source], Awaitable[None]],
        *,
        unsure: bool = False,
    ) -> None:
        """Do ``work`` with the best source with which it can be done. ``unsure``: whether how much it
        takes is only what the source says.

        Raises:
            LocalError: at once; it is nobody's fault.
            KacheryError: no source would do; what says most about the cause.
        """
        errors: list[KacheryError] = []
        for holder in self.ranked(holders):
            try:
                await work(await self.connect(holder))
                return
            except LocalError as error:
                if not unsure or not isinstance(error, StorageFull | StorageDamaged):
                    raise
                errors.append(error)
                self.failed(holder.node)
            except KacheryError as error:
                errors.append(error)
                self.blame(holder, error)
        # No room says most, then a refusal, then bad data, then a broken route.
        for kind in (
            StorageFull,
            StorageDamaged,
            AccessDenied,
            CorruptContent,
            NotFound,
            KacheryError,
        ):
            for failure in errors:
                if isinstance(failure, kind):
                    raise failure


def why_not(error: KacheryError) -> str:
    """What was the matter with a source, in a few words that fit into another sentence."""
    if isinstance(error, LinkClosed):
        return f"it went away: {error.fields['reason']}"
    if isinstance(error, Unreachable):
        return "it cannot be reached"  # by each of the routes, whose reasons 'doctor' tells
    return str(error)
