"""How far a load or a store is: the numbers, and who gets to see them.

What every function that loads or stores takes as ``progress``:

* None: a progress bar, if it takes longer than half a second and somebody is looking: in a notebook,
  and where standard error is a terminal. Elsewhere nothing. All that goes on at once shares one
  display (:mod:`.progress_display`), which is gone again when the last of it has ended.
* False: never a bar.
* A function: it is called with a :class:`ProgressInfo` instead, at most ten times a second while
  bytes come or go, and once at the end of what succeeded. It is called on the event loop that does
  the work, so it should be quick; with the sync functions that is mostly in another thread. It cannot
  break the load: if it raises, that is logged with its traceback, and it is not called again.

Invariant: what is done within half a second imports nothing, starts no thread and draws nothing.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self, TypedDict

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.json_values import one

from .progress_display import display

SHOW_SECONDS: Final = 0.5
"""What is done sooner needs no progress bar."""
_WAKE_SECONDS: Final = 0.5
"""A loop that waits for a transfer wakes up so often: that of an IPython kernel notices an interrupt
only when it does."""
_TELL_SECONDS: Final = 0.1
"""At least so long between two calls of somebody's function."""
_RATE_SECONDS: Final = 5.0
"""The rate is that of the last so many seconds; if nothing came in them, it is idle."""

_log = logging.getLogger("kachery_p2p.progress")


class ProgressInfo(TypedDict):
    """How far a load or a store is: the dict that a ``progress`` function gets."""

    what: str
    """``loading``, ``storing``, ``linking``, or ``copying``: what follows a load with ``dest``."""
    name: str
    """The label of the file."""
    done: int
    """Bytes that are verified, or stored."""
    total: int | None
    """Bytes of all of it; None as long as that is not known."""
    fetched: int
    """Bytes that came from the network so far; fewer than ``done`` if a part was here already."""
    rate: float
    """Bytes per second, lately."""
    seconds: float
    """Since the beginning."""
    left: float | None
    """Seconds that it will take at this rate; None if that is not known."""
    sources: list[dict[str, Any]]
    """Who gives: for each a dict with ``node``, ``label``, ``via`` and ``bytes``."""
    waiting: str
    """Why nothing comes and what is done about it, in words; empty while something does."""
    ended: bool
    """Whether this is the last call."""


ProgressFunction = Callable[[ProgressInfo], object]
Progress = ProgressFunction | bool | None


class Transfer:
    """One load or store, from ``with`` to its end.

    :meth:`begin` is called when it turns out that there is something to wait for. It may be told by
    one thread at a time, and read by any.
    """

    __slots__ = (
        "_began",
        "_broken",
        "_complete",
        "_fetches",
        "_function",
        "_last",
        "_samples",
        "_shows",
        "_timer",
        "_told",
        "done",
        "fetched",
        "name",
        "over",
        "sources",
        "total",
        "waiting",
        "what",
    )

    def __init__(
        self, what: str, name: str, progress: Progress = None, *, total: int | None = None
    ) -> None:
        """Raises BadInput if ``progress`` is none."""
        _check(progress)
        self.what = what
        self.name = name
        self.done = 0
        self.total = total
        self.fetched = 0
        self.over = False
        self.sources: list[dict[str, Any]] = []
        self.waiting = ""
        self._function = progress if callable(progress) else None
        self._shows = progress is None or progress is True
        self._began = time.monotonic()
        self._last = self._began
        self._fetches = False
        self._samples: deque[tuple[float, int]] = deque(((self._began, 0),))
        self._told = 0.0
        self._timer: asyncio.TimerHandle | threading.Timer | None = None
        self._complete = False
        self._broken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
            display.remove(self)
        if self._complete and error is None:
            self._tell(ended=True)

    def begin(self) -> None:
        """From here on a person may wait."""
        if self._timer is not None:
            return
        try:
            self._timer = asyncio.get_running_loop().call_later(SHOW_SECONDS, self._tick)
        except RuntimeError:
            if self._shows:
                self._timer = threading.Timer(SHOW_SECONDS, display.add, [self])
                self._timer.daemon = True
                self._timer.start()

    def _tick(self) -> None:
        if self._shows:
            display.add(self)
        self._timer = asyncio.get_running_loop().call_later(_WAKE_SECONDS, self._tick)

    def turn_to(self, what: str, total: int) -> None:
        """Begin with the next step, of so many bytes."""
        self.what, self.total, self.done = what, total, 0
        self._last = time.monotonic()
        self._fetches = False
        self._samples = deque(((self._last, 0),))
        self.begin()

    def tell(self, done: int, total: int | None = None) -> None:
        """So many bytes are done."""
        now = time.monotonic()
        if done != self.done:
            self._last = now
        self.done = done
        self.total = self.total if total is None else total
        samples = self._samples
        samples.append((now, self._moved))
        while len(samples) > 2 and now - samples[1][0] > _RATE_SECONDS:
            samples.popleft()
        if self._function is not None and now - self._told >= _TELL_SECONDS:
            self._told = now
            self._tell(ended=False)

    def hear(self, info: dict[str, Any]) -> None:
        """What the node says while it works."""
        self.fetched = info.get("fetched", self.fetched)
        self._fetches = self._fetches or "fetched" in info
        self.sources = info.get("sources") or self.sources
        self.waiting = info.get("waiting") or ""
        self.tell(info.get("done", info.get("verified", self.done)), info.get("size") or None)

    def gave(self, sources: list[dict[str, Any]]) -> None:
        """Who gave it, also of what came too quickly to be told of meanwhile."""
        self.sources = sources or self.sources

    def complete(self, size: int) -> None:
        """All is done; the caller's function hears of it at the end of ``with``."""
        self.done = self.total = size
        self._complete = True

    @property
    def _moved(self) -> int:
        """Bytes that took time: not what was here already, of a load that goes on where it stopped."""
        return min(self.done, self.fetched) if self._fetches else self.done

    @property
    def rate(self) -> float:
        """Bytes per second, of the last seconds."""
        now = time.monotonic()
        since, before = self._samples[0]
        for at, moved in tuple(self._samples):
            if at > now - _RATE_SECONDS:
                break
            since, before = at, moved
        since = max(since, now - _RATE_SECONDS)
        return max(0.0, (self._moved - before) / max(now - since, 1e-6))

    @property
    def idle(self) -> float | None:
        """Seconds since something came; None if that is a short while ago."""
        seconds = time.monotonic() - self._last
        return seconds if seconds > _RATE_SECONDS and not self.over else None

    @property
    def failed(self) -> bool:
        """Whether it has ended, and not all was done."""
        return self.over and not self._complete

    @property
    def left(self) -> float | None:
        """Seconds, at this rate."""
        rate = self.rate
        return max(0, self.total - self.done) / rate if self.total is not None and rate else None

    def info(self, *, ended: bool = False) -> ProgressInfo:
        """The numbers, for a caller's function."""
        return {
            "what": self.what,
            "name": self.name,
            "done": self.done,
            "total": self.total,
            "fetched": self.fetched,
            "rate": self.rate,
            "seconds": time.monotonic() - self._began,
            "left": 0.0 if ended else self.left,
            "sources": self.sources,
            "waiting": "" if ended else self.waiting,
            "ended": ended,
        }

    def _tell(self, *, ended: bool) -> None:
        if self._function is None or self._broken:
            return
        try:
            self._function(self.info(ended=ended))
        except Exception:  # somebody else's code: what is loaded does not depend on it
            self._broken = True
            _log.warning(
                "the progress function of %s %s raised; it is not called again, and the %s goes on",
                self.what,
                self.name,
                "load" if self.what in ("loading", "copying") else "store",
                exc_info=True,
            )


def _check(progress: object) -> None:
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        reason = f"{one(progress)}; give None, False or a function"
        raise BadInput(what="progress", reason=reason)


def relay(transfer: Transfer) -> Callable[[int], None]:
    """A function for a thread that works for this loop: ``(bytes done)``, as often as it likes."""
    loop = asyncio.get_running_loop()
    told = 0.0

    def advanced(done: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= _TELL_SECONDS:
            told = now
            loop.call_soon_threadsafe(transfer.tell, done)

    return advanced
