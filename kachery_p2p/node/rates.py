"""How fast files may go out of this node, and come in: what its user allows.

Only the bytes of files are held back, those that this node gives and those that it fetches from other
nodes. Messages of feeds, tasks, whatever nodes say to each other, and what a proxy passes on between
others, are not.

Invariants: nodes are served in turn, byte by byte; cancelling is safe, and what was cancelled does not
count. A node's bytes wait here before room for them is taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kachery_p2p.protocol.links.rate_limit import FairTurns, TokenBucket, piece_bytes


class Throttle:
    """One direction. ``clock``: seconds; by default the event loop's."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._bucket = TokenBucket(None, 0.0)
        self._turns = FairTurns[asyncio.Future[None]]()
        self._timer: asyncio.TimerHandle | None = None
        self.passed = 0
        """Bytes that were let through since the node started."""

    @property
    def rate(self) -> int | None:
        """Bytes a second; None: there is no limit."""
        return self._bucket.rate

    def set_rate(self, rate: int | None) -> None:
        """From now on, for those that wait, too."""
        self._bucket.set_rate(rate, self._clock())
        self._wake()

    def piece(self, most: int) -> int:
        """Bytes that should go at a time, at most, so that others have their turn soon."""
        return piece_bytes(self.rate, most)

    @property
    def is_behind(self) -> bool:
        """Whether whoever comes now has to wait."""
        return bool(self._turns) or self._bucket.wait(self._clock()) > 0

    def take(self, size: int) -> None:
        """Count bytes that go without waiting; those that wait do so the longer."""
        self._bucket.take(size, self._clock())
        self.passed += size

    async def acquire(self, node: str, size: int) -> None:
        """Wait until so many bytes may go to, or come from, a node."""
        if not self.is_behind:
            self.take(size)
            return
        future = asyncio.get_running_loop().create_future()
        self._turns.add(node, size, future)
        self._wake()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give(node, size)
            raise

    def give(self, node: str, size: int) -> None:
        """So many bytes that were acquired did not go."""
        self._bucket.give(size)
        self._turns.skip(node, size)
        self.passed -= size
        self._wake()

    def _wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._turns:
            wait = self._bucket.wait(self._clock())
            if wait > 0:
                self._timer = asyncio.get_running_loop().call_later(wait, self._wake)
                return
            size, future = self._turns.next()
            if not future.done():  # else who waited has gone
                self.take(size)
                future.set_result(None)


class Rates:
    """Both directions."""

    def __init__(self) -> None:
        self.upload = Throttle()
        self.download = Throttle()

    def set(self, upload: int | None, download: int | None) -> None:
        """Bytes a second; None: without a limit."""
        self.upload.set_rate(upload)
        self.download.set_rate(download)

    def plain(self) -> dict[str, int | None]:
        return {"upload": self.upload.rate, "download": self.download.rate}
