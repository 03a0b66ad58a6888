"""One conversation about one task: with another node over a stream, or with this node's own queue."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from kachery_p2p.node.gossip.discovery import Discovery
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.gossip.holders import Holder
from kachery_p2p.protocol.limits import SHORT_TASK_KWARGS
from kachery_p2p.protocol.tasks.messages import (
    ENDS,
    TASK_RUN,
    TaskKwargs,
    TaskRun,
    TaskUpdate,
    TaskWord,
)

from .jobs import Watcher
from .queue import TaskQueue


class Run(Protocol):
    """Whoever closes it leaves the task alone: see :meth:`.queue.TaskQueue.leave`."""

    def close(self) -> None:
        """Wait no longer."""

    async def begin(self, kwargs: bytes, *, again: bool) -> None:
        """Ask. ``again``: only for update of what was asked before."""

    async def next(self) -> TaskUpdate | None:
        """What is new; None if the other side has no more to say."""

    async def go(self) -> None:
        """An action may begin."""

    async def cancel(self) -> None:
        """The requester wants it no longer."""


class RemoteRun:
    def __init__(self, discovery: Discovery, holder: Holder, ask: TaskRun) -> None:
        self._discovery = discovery
        self._holder = holder
        self._ask = ask
        self._stream: Stream | None = None

    def close(self) -> None:
        if self._stream is not None:
            self._stream.end()

    async def begin(self, kwargs: bytes, *, again: bool) -> None:
        link = await self._discovery.link_to(self._holder)
        short = kwargs if len(kwargs) <= SHORT_TASK_KWARGS else None
        ask = msgspec.structs.replace(self._ask, again=again, kwargs=short)
        self._stream = link.open(TASK_RUN, codec.plain(ask))
        if short is None:
            await self._stream.send(codec.plain(TaskKwargs(len(kwargs))), kwargs)

    async def next(self) -> TaskUpdate | None:
        assert self._stream is not None
        item = await self._stream.receive()
        if item is None:
            return None
        meta, _, cost = item
        self._stream.done(cost)
        return codec.convert(TaskUpdate, meta)

    async def _say(self, word: Literal["go", "cancel"]) -> None:
        if self._stream is not None:
            await self._stream.send(codec.plain(TaskWord(word)))

    async def go(self) -> None:
        await self._say("go")

    async def cancel(self) -> None:
        await self._say("cancel")


class OwnRun:
    """``node``: our own id. ``within``: the run whose function asks."""

    def __init__(
        self, queue: TaskQueue, ask: TaskRun, node: str, within: bytes | None = None
    ) -> None:
        self._within = within
        self._queue = queue
        self._ask = ask
        self._node = node
        self._watcher: Watcher | None = None
        self._over = False

    def close(self) -> None:
        if self._watcher is not None:
            self._queue.leave(self._watcher)

    async def begin(self, kwargs: bytes, *, again: bool) -> None:
        ask = self._ask
        self._watcher = await self._queue.submit(
            ask.task,
            ask.function,
            ask.type,
            kwargs,
            channel=ask.channel,
            requester=self._node,
            again=again,
            within=self._within,
        )

    async def next(self) -> TaskUpdate | None:
        if self._over or self._watcher is None:
            return None
        update = await self._watcher.next()
        self._over = update.state in ENDS
        return update

    async def go(self) -> None:
        if self._watcher is not None:
            await self._queue.go(self._watcher.job)

    async def cancel(self) -> None:
        if self._watcher is not None:
            self._queue.cancel_for(self._watcher)
