"""Serves tasks to other nodes: runs of functions that are on offer here, and results that are kept.

Every request is checked: the requester's role, ours, and (:mod:`.queue`) the user's allow list. A
requester whose role is taken from it while its tasks wait is cut off like one that has gone. A visitor
runs the functions that its pass names, few at once, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib

from kachery_p2p.node.gossip.discovery import Discovery
from kachery_p2p.node.links.endings import cut
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import Busy, KacheryError, ProtocolViolation
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.limits import (
    MAX_SLICE,
    MAX_TASK_KWARGS,
    MAX_VISITOR_TASKS,
    MAX_VISITOR_TASKS_EACH,
    SHORT_TASK_KWARGS,
)
from kachery_p2p.protocol.tasks.keys import task_function_key
from kachery_p2p.protocol.tasks.messages import (
    ENDS,
    TASK_OFFERS,
    TASK_RESULT,
    TASK_RUN,
    TaskKwargs,
    TaskOffers,
    TaskResultQuery,
    TaskResultReply,
    TaskRun,
    TaskUpdate,
    TaskWord,
    make_page,
)
from kachery_p2p.protocol.tasks.result import TaskResult
from kachery_p2p.protocol.tasks.task import parse_kwargs, task_key
from kachery_p2p.protocol.uri import parse_uri

from .jobs import Watcher
from .queue import TaskQueue
from .results import TaskResults


class TaskServer:
    def __init__(self, discovery: Discovery, queue: TaskQueue, results: TaskResults) -> None:
        self._discovery = discovery
        network = self._network = discovery.network
        self._queue = queue
        self._results = results
        self._running: dict[Stream, tuple[Link, bytes, str]] = {}
        network.on_stream_of(TASK_RUN, TaskRun, self._run)
        network.on_request_of(TASK_OFFERS, TaskOffers, self._offers)
        network.on_request_of(TASK_RESULT, TaskResultQuery, self._result)

    def _require(self, link: Link, channel: bytes, function: str | None = None) -> None:
        mark = None if function is None else task_function_key(function).blinded
        self._network.require_role(
            link, channel, theirs="request-tasks", ours="provide-tasks", mark=mark
        )

    def cut(self) -> None:
        """A channel changed: end the requests of those who may no longer make any."""
        cut(self._running, lambda each: self._require(*each))

    async def _offers(self, link: Link, params: TaskOffers) -> object:
        self._require(link, params.channel)
        return codec.plain(make_page(params, self._queue.offers(params.channel)))

    async def _result(self, link: Link, params: TaskResultQuery) -> object:
        self._network.require_role(
            link, params.channel, theirs="request-files", ours="provide-files"
        )
        held = await self._results.held(params.key, params.channel)
        self._network.require_role(
            link, params.channel, theirs="request-files", ours="provide-files"
        )
        return codec.plain(TaskResultReply(held))

    async def _run(self, link: Link, stream: Stream, params: TaskRun) -> None:
        asked = (link, params.channel, params.function)
        self._require(*asked)
        self._require_few(link)
        stream.set_group(link.peer)
        # Before anything is waited for: who is removed meanwhile is cut off.
        self._running[stream] = asked
        held = 0
        try:
            # For as long as the task may be in the queue its arguments are on the requester's account.
            kwargs = params.kwargs
            most = MAX_TASK_KWARGS if kwargs is None else len(kwargs)
            await link.budget.bytes.acquire(most + MAX_SLICE)
            held = most + MAX_SLICE
            stream.grant(held)
            if kwargs is None:
                kwargs = await self._kwargs(stream)
            else:
                parse_kwargs(kwargs)
            link.budget.bytes.give(held - len(kwargs))
            held = len(kwargs)
            self._require(*asked)
            found = await self._find(params, kwargs)
            if found is not None:
                self._require(*asked)
                self._give(link, found)
                await stream.send(codec.plain(TaskUpdate("finished", result=found, found=True)))
                return
            watcher = await self._queue.submit(
                params.task,
                params.function,
                params.type,
                kwargs,
                channel=params.channel,
                requester=link.peer,
                again=params.again,
            )
            try:
                await self._converse(link, stream, watcher)
            finally:
                self._queue.leave(watcher)
        finally:
            del self._running[stream]
            if held:
                link.budget.bytes.give(held)

    def _require_few(self, link: Link) -> None:
        """Raise Busy if visitors have asked for enough: they have what members leave over."""
        visitors = self._network.visitors
        if link not in visitors:
            return
        theirs = [each for each, _, _ in self._running.values() if each in visitors]
        if theirs.count(link) >= MAX_VISITOR_TASKS_EACH or len(theirs) >= MAX_VISITOR_TASKS:
            raise Busy(limit=f"{MAX_VISITOR_TASKS} tasks of visitors at once")

    async def _find(self, params: TaskRun, kwargs: bytes) -> TaskResult | None:
        """A result that is there already, if one will do and it does not run now."""
        channel, key = params.channel, task_key(params.function, kwargs)
        queue = self._queue
        asked = params.look and params.type == "pure-calculation" and not params.again
        offered = channel in queue.channels_of(params.function) and queue.allowed(params.function)
        if not (asked and offered) or (channel, key) in queue.pure:
            return None
        found = await self._results.here(key, params.type, channel)
        if found is None:
            found = await self._results.look(self._discovery, key, params.type, channel)
        return found

    async def _kwargs(self, stream: Stream) -> bytes:
        item = await stream.receive_soon()
        if item is None:
            raise ProtocolViolation(reason="a task without arguments")
        meta, body, cost = item
        size = codec.convert(TaskKwargs, meta).size
        text = bytes(await stream.open_body(body))
        if len(text) != size:
            raise ProtocolViolation(reason="a task's arguments are not as long as was said")
        if size > SHORT_TASK_KWARGS:
            await self._network.context.workers.disk(parse_kwargs, text)
        else:
            parse_kwargs(text)
        stream.done(cost)
        return text

    def _give(self, link: Link, result: TaskResult | None) -> None:
        """A result that is a file: a visitor may have that, too."""
        if result is None or result.payload.uri is None:
            return
        uri = parse_uri(result.payload.uri)
        for sha1 in (uri.hash, uri.manifest):
            if sha1 is not None:
                self._network.visitors.give(link, file_key(sha1).blinded)

    async def _converse(self, link: Link, stream: Stream, watcher: Watcher) -> None:
        """Tell what becomes of the job, and do what its requester says, until it ends."""
        listening = asyncio.create_task(self._listen(stream, watcher), name="task words")
        try:
            while True:
                update = await watcher.next()
                self._give(link, update.result)
                await stream.send(codec.plain(update))
                if update.state in ENDS:
                    return
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError, KacheryError):
                await listening

    async def _listen(self, stream: Stream, watcher: Watcher) -> None:
        """The requester's words. When it goes, it waits no longer."""
        try:
            while (item := await stream.receive()) is not None:
                meta, _, cost = item
                word = codec.convert(TaskWord, meta).word
                if word == "go":
                    await self._queue.go(watcher.job)
                else:
                    self._queue.cancel_for(watcher)
                stream.done(cost)
        finally:
            self._queue.leave(watcher)
