"""A stream: one exchange of many frames over a link, from either side.

Backpressure: a sender waits in :meth:`Stream.send` for credit and for the link; a receiver grants
credit with :meth:`Stream.done` only for what it has dealt with. What is large is not even made before
it can go: :meth:`Stream.reserve` waits until there is credit for it, and room in the peer's budget. If
a receiver takes nothing for ``STREAM_STALL_SECONDS`` while something waits for it, the stream ends.
Cancelling any method is safe.

A stream knows its link as a :class:`Carrier`, and the link tells it what came with
:meth:`Stream.on_data`, :meth:`Stream.on_room` and :meth:`Stream.on_end`, which nobody else calls.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Protocol

from kachery_p2p.node.signal import Signal
from kachery_p2p.protocol.codec import Buffer
from kachery_p2p.protocol.errors import KacheryError, LinkClosed, ProtocolViolation
from kachery_p2p.protocol.limits import STREAM_CREDIT, STREAM_STALL_SECONDS
from kachery_p2p.protocol.links.frames import TAG_BYTES, cost_of
from kachery_p2p.protocol.links.session import Body, SealedBody

from .budget import Budget


class Carrier(Protocol):
    """What a stream needs of its link. ``number`` is the stream's."""

    @property
    def peer(self) -> str: ...

    def send_on(self, number: int, meta: Any, body: Buffer | None, *, opaque: bool) -> bool:
        """Queue a frame, unless credit or room is lacking: False then; ``on_room`` follows."""

    def credit(self, number: int) -> int:
        """Bytes that may be sent now."""

    def await_credit(self, number: int) -> None:
        """Call ``on_room`` when more credit comes, although there is some."""

    def grant(self, number: int, credit: int) -> None:
        """Let the peer send ``credit`` bytes more."""

    def set_group(self, number: int, group: str) -> None:
        """On whose behalf the stream flows."""

    @property
    def budget(self) -> Budget:
        """What the peer may make this node hold."""

    def doubt(self) -> None:
        """What is waited for does not come: find out whether anybody is there."""

    def end(self, number: int, error: BaseException | None) -> None:
        """Tell the peer that the stream is over, and forget it."""

    async def unseal(self, body: SealedBody) -> bytes:
        """Decrypt; a forged body ends the link."""


class Stream:
    """See the module."""

    def __init__(self, link: Carrier, number: int) -> None:
        self.number = number
        self.ended = False
        self.error: KacheryError | None = None
        self.credit_batch = STREAM_CREDIT // 8
        """Bytes dealt with for which credit goes back at once: not a frame for each frame."""
        self._link = link
        self._inbox: deque[tuple[Any, Body, int]] | None = None
        """What came and was not taken; most streams that are served never have any."""
        self._ready = Signal()
        self._room = Signal()
        self._owed = 0

    @property
    def peer(self) -> str:
        return self._link.peer

    def doubt(self) -> None:
        """What is waited for does not come."""
        if not self.ended:
            self._link.doubt()

    async def send(self, meta: Any, body: Buffer | None = None, *, opaque: bool = False) -> None:
        """Send one frame, waiting for credit and for the link.

        Raises:
            LinkClosed: the stream ended; or the error with which the peer ended it.
        """
        while not self.ended:
            if self.offer(meta, body, opaque=opaque):
                return
            await self._more_room()
        raise self._over()

    async def _more_room(self) -> None:
        self._room.clear()
        try:
            async with asyncio.timeout(STREAM_STALL_SECONDS):
                await self._room.wait()
        except TimeoutError as error:
            reason = f"nothing was taken for {STREAM_STALL_SECONDS:g} s"
            raise LinkClosed(peer=self.peer[:8], reason=reason) from error

    def _over(self) -> KacheryError:
        if self.error is not None:
            return self.error.again()
        return LinkClosed(peer=self.peer[:8], reason="the stream has ended")

    # --- what is made only when it can go ----------------------------------------------------

    def try_reserve(self, size: int) -> bool:
        """Have a place for a body of so many bytes, if that takes no waiting; whether there is one.
        Give it back with :meth:`unreserve` when the body was sent."""
        return not self.ended and self._may_send(size) and self._link.budget.bytes.take(size)

    async def reserve(self, size: int) -> None:
        """As :meth:`try_reserve`, and wait for it. To be called while nothing else is reserved.

        Raises:
            LinkClosed: the stream ended, or its receiver takes nothing; others: why it ended.
        """
        while not self.ended:
            if not self._may_send(size):
                self._link.await_credit(self.number)
                await self._more_room()
                continue
            await self._link.budget.bytes.acquire(size)
            if self._may_send(size) and not self.ended:
                return
            self.unreserve(size)
        raise self._over()

    def unreserve(self, size: int) -> None:
        """What was reserved has been sent, or will not be made."""
        self._link.budget.bytes.give(size)

    @contextlib.asynccontextmanager
    async def reserved(self, size: int) -> AsyncIterator[None]:
        """:meth:`reserve` it for as long as the block lasts."""
        await self.reserve(size)
        try:
            yield
        finally:
            self.unreserve(size)

    def _may_send(self, size: int) -> bool:
        return self._link.credit(self.number) >= cost_of(size + TAG_BYTES)

    def offer(self, meta: Any, body: Buffer | None = None, *, opaque: bool = False) -> bool:
        """Send one frame, if that takes no waiting; whether it was sent."""
        return not self.ended and self._link.send_on(self.number, meta, body, opaque=opaque)

    @property
    def credit(self) -> int:
        """Bytes that may be sent now."""
        return self._link.credit(self.number)

    async def more_credit(self) -> None:
        """Wait until credit comes, or the stream ends."""
        if not self.ended:
            self._room.clear()
            self._link.await_credit(self.number)
            await self._room.wait()

    async def receive(self) -> tuple[Any, Body, int] | None:
        """The next (meta, body, cost), or None at a good end.

        Call :meth:`done` with the cost once the body is dealt with.

        Raises:
            KacheryError: what the peer, or the loss of the link, ended the stream with.
        """
        while not self._inbox:
            if self.ended:
                if self.error is not None:
                    raise self.error.again()
                return None
            self._ready.clear()
            await self._ready.wait()
        return self._inbox.popleft()

    async def receive_soon(self) -> tuple[Any, Body, int] | None:
        """As :meth:`receive`, of what the peer must not keep us waiting for.

        Raises:
            LinkClosed: nothing came for ``STREAM_STALL_SECONDS``.
        """
        try:
            async with asyncio.timeout(STREAM_STALL_SECONDS):
                return await self.receive()
        except TimeoutError as error:
            reason = f"nothing came for {STREAM_STALL_SECONDS:g} s"
            raise LinkClosed(peer=self.peer[:8], reason=reason) from error

    def done(self, cost: int) -> None:
        """Give credit back, in batches of ``credit_batch``."""
        self._owed += cost
        if self._owed >= self.credit_batch and not self.ended:
            self._link.grant(self.number, self._owed)
            self._owed = 0

    def grant(self, credit: int) -> None:
        """Let the opener of this stream send (an acceptor starts with none granted)."""
        self._link.grant(self.number, credit)

    def set_group(self, group: str) -> None:
        """On whose behalf this stream flows; the link is shared fairly between groups."""
        self._link.set_group(self.number, group)

    def end(self, error: BaseException | None = None) -> None:
        """End both directions; idempotent."""
        if not self.ended:
            self._link.end(self.number, error)
            self.on_end(None)

    async def open_body(self, body: Body) -> bytes:
        """Decrypt a received body, in a worker if it is big. A forged one ends the link."""
        if not isinstance(body, SealedBody):
            raise ProtocolViolation(reason="data without a body")
        return await self._link.unseal(body)

    # --- for the link ------------------------------------------------------------------------

    def on_data(self, meta: Any, body: Body, cost: int) -> None:
        if self._inbox is None:
            self._inbox = deque()
        self._inbox.append((meta, body, cost))
        self._ready.set()

    def on_room(self) -> None:
        self._room.set()

    def on_end(self, error: KacheryError | None) -> None:
        if not self.ended:
            self.ended = True
            self.error = error
        self._ready.set()
        self._room.set()
