"""What a backend tells its node about one job: in order, one report at a time, none too large."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import KacheryError
from kachery_p2p.protocol.limits import MAX_TASK_LOG, MAX_TASK_REASON, MAX_TASK_TRACEBACK
from kachery_p2p.protocol.tasks.messages import sendable
from kachery_p2p.protocol.tasks.task import Payload

_MOST_WAITING: Final = 32 * MAX_TASK_LOG
"""Bytes of what was printed that wait for the node to take them; of more, the newest."""


class JobReports:
    """``send(fields)`` sends one report and says whether the node knows the job."""

    def __init__(
        self,
        send: Callable[[dict[str, Any]], Awaitable[bool]],
        on_unknown: Callable[[], object],
    ) -> None:
        self.muted = False
        """Whether nobody wants to hear of it any more."""
        self._send_report = send
        self._on_unknown = on_unknown
        self._fraction: float | None = None
        self._message = ""
        self._log = bytearray()
        self._dirty = False
        self._sending: asyncio.Task[None] | None = None

    def tell(self, fraction: float | None, message: str, log: bytes) -> None:
        """The function runs, is so far, and printed this."""
        self._fraction, self._message = fraction, message
        self._add(log)
        self._dirty = True
        if self._sending is None and not self.muted:
            self._sending = asyncio.get_running_loop().create_task(self._send())

    def _add(self, log: bytes) -> None:
        self._log += log
        if len(self._log) > _MOST_WAITING:
            del self._log[: len(self._log) - _MOST_WAITING]

    async def _send(self) -> None:
        try:
            while self._dirty and not self.muted:
                log = bytes(self._log[:MAX_TASK_LOG])
                del self._log[: len(log)]
                self._dirty = bool(self._log)
                try:
                    known = await self._running(log)
                except KacheryError:
                    return  # the next one tells more, and the last one is tried in any case
                if not known:
                    self.muted = True
                    self._on_unknown()
        finally:
            self._sending = None

    async def _running(self, log: bytes) -> bool:
        return await self._send_report(
            {
                "state": "running",
                "fraction": self._fraction,
                "message": self._message,
                "log": log,
            }
        )

    async def end(
        self, state: str, payload: Payload | None, reason: str, traceback: str, log: bytes
    ) -> None:
        """The last report, after all that was printed. Raises what ``send`` raises."""
        if self._sending is not None:
            await asyncio.wait([self._sending])
        if self.muted:
            return
        self._add(log)
        while len(self._log) > MAX_TASK_LOG:
            part = bytes(self._log[:MAX_TASK_LOG])
            del self._log[: len(part)]
            await self._running(part)
        last, self._log = bytes(self._log), bytearray()
        await self._send_report(
            {
                "state": state,
                "fraction": self._fraction,
                "message": self._message,
                "log": last,
                "payload": None if payload is None else codec.plain(payload),
                "reason": sendable(reason)[:MAX_TASK_REASON],
                "traceback": sendable(traceback)[-MAX_TASK_TRACEBACK:],
            }
        )
