"""Requests of local callers: from a result that somebody holds, or from a backend that runs it.

A pure calculation is looked for here, then on the channel, and computed last. A query is asked afresh;
if nobody can be asked, the last answer that is kept serves, marked as such. An action is given to one
node: which one is on disk before it hears that it may begin (:mod:`.queue`), and from then on only
that node is asked what became of it, until it answers or the caller's time is up.

A node that is lost before the function began is replaced by another. One that is lost while it ran is
asked again for ``_RETURN_SECONDS``; then the run has failed, and is repeated as often as the caller
allowed.

A request that was taken goes on when its caller has gone, be it a script that ended right after it:
only being cancelled ends it. A caller that comes again with its id hears the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from kachery_p2p.node.gossip.discovery import Discovery
from kachery_p2p.node.gossip.lookup import Found
from kachery_p2p.protocol.backoff import Backoff
from kachery_p2p.protocol.errors import (
    AccessDenied,
    BadInput,
    Busy,
    DeadlineExceeded,
    ForgedResult,
    KacheryError,
    NoBackend,
    RemoteError,
    TaskNotAllowed,
    TransportError,
    Unreachable,
)
from kachery_p2p.protocol.gossip.holders import Holder
from kachery_p2p.protocol.limits import (
    MAX_TASKS_REQUESTED,
    RECONNECT_FIRST,
    RECONNECT_MOST,
    TASK_BYTES,
)
from kachery_p2p.protocol.tasks.keys import task_function_key, task_result_key
from kachery_p2p.protocol.tasks.messages import ENDS, TaskOffer, TaskRun, TaskUpdate
from kachery_p2p.protocol.tasks.result import TaskResult
from kachery_p2p.protocol.tasks.task import TaskType
from kachery_p2p.storage.tasks.store import TaskStore

from .backends import Choice, TaskBackends, in_order
from .queue import TaskQueue
from .request import CANCELLED, Outcome, Request, outcome_of
from .results import TaskResults
from .run import OwnRun, RemoteRun, Run

_AGAIN_SECONDS: Final = 1.0
"""How often a node that has an action and is not there is looked for."""
_LOOK_AGAIN_SECONDS: Final = 5.0
"""How often a backend is looked for that no proxy has told of."""
_END_SECONDS: Final = 5.0
"""How long an action that is cancelled because time is up may take to say how it ended."""
_RETURN_SECONDS: Final = 10.0
"""How long a node that was lost while it ran something may take to be back."""


class _Lost(Exception):
    """The node that had the task has it no longer, or cannot be heard.

    ``began``: the function may have begun. ``returns``: the node may be back and know of it.
    ``refused``: it will not have it, so there is no use in asking it again.
    """

    def __init__(
        self, error: KacheryError, *, began: bool, returns: bool = False, refused: bool = False
    ) -> None:
        self.error = error
        self.began = began
        self.returns = returns
        self.refused = refused


class TaskRequests:
    def __init__(
        self,
        discovery: Discovery,
        store: TaskStore,
        results: TaskResults,
        backends: TaskBackends,
        queue: TaskQueue,
    ) -> None:
        self.live: dict[bytes, Request] = {}
        self._discovery = discovery
        self._store = store
        self._results = results
        self._backends = backends
        self._queue = queue
        self._context = discovery.network.context
        self._disk = self._context.workers.disk

    async def run(self, request: Request) -> Outcome:
        """See a request through, or the one of the same id that goes on already.

        Raises:
            Busy: too many go on.
            BadInput: its id is that of another task.
            NoBackend: nobody offered the function in all the time that was allowed for that.
            AccessDenied, TaskNotAllowed: it was refused.
            ForgedResult: what came back is not a result that counts.
            DeadlineExceeded: the caller's time was up; what can be cancelled was.
        """
        known = self.live.get(request.task)
        if known is not None:
            if (known.type, known.key) != (request.type, request.key):
                raise BadInput(what="task", reason="its id is that of another one that goes on")
            known.tell = request.tell
            request = known
            request.repeat()
        elif len(self.live) >= MAX_TASKS_REQUESTED:
            raise Busy(limit=f"{MAX_TASKS_REQUESTED} tasks that it asked for")
        else:
            self.live[request.task] = request
            work = self._see_to_its_end(request)
            request.work = self._discovery.network.spawn(work, name=f"task {request.function}")
            request.tell("looking", TaskUpdate("queued"), "", "")
        assert request.work is not None
        mine = request.tell
        try:
            return await asyncio.shield(request.work)
        finally:
            if request.tell is mine:
                request.tell = _nobody_listens

    async def _see_to_its_end(self, request: Request) -> Outcome:
        try:
            return await self._see_through(request)
        finally:
            del self.live[request.task]

    async def _see_through(self, request: Request) -> Outcome:
        """A cancel, or the end of the caller's time, ends what only looks or waits; what runs is told
        to end, and after a cancel it is waited for."""
        loop = asyncio.get_running_loop()
        work = asyncio.ensure_future(self._run(request))
        cancel = asyncio.ensure_future(request.cancelled.wait())
        try:
            left = None if request.deadline is None else request.deadline - loop.time()
            await asyncio.wait([work, cancel], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            late = not work.done() and not cancel.done()
            if not work.done() and request.run is not None:
                with contextlib.suppress(KacheryError):
                    await request.run.cancel()
                if not late or request.type == "action":
                    await asyncio.wait([work], timeout=_END_SECONDS if late else None)
            if work.done() and not (late and work.result().state == "cancelled"):
                return work.result()
            return await self._out_of_time(request) if late else CANCELLED
        finally:
            for task in (work, cancel):
                task.cancel()
            await asyncio.gather(work, cancel, return_exceptions=True)

    async def _out_of_time(self, request: Request) -> Outcome:
        if request.type == "action":
            known = await self._disk(self._store.outcome, request.task)
            sent = await self._disk(self._store.sent, request.task)
            if sent is not None and known is None:
                reason = f"node {sent.hex()[:8]} did not say in time how it ended"
                return Outcome("unknown", reason=reason, node=sent.hex())
        seconds = round((request.deadline or 0.0) - request.since, 1)
        what = f"Task {request.function} ({request.state})"
        raise DeadlineExceeded(what=what, seconds=seconds)

    async def _run(self, request: Request) -> Outcome:
        # A backend that is known looks for a result itself, which saves going there and back first.
        look = not self._backends.remembers(request.function, request.channel)
        known = await self._known(request, look=look)
        if known is not None:
            return known
        backoff = Backoff(RECONNECT_FIRST, RECONNECT_MOST, self._context.random)
        retries = request.retries
        avoid: set[str] = set()
        while True:
            try:
                outcome = await self._once(request, avoid)
                if outcome.state != "failed" or not retries or request.type == "action":
                    return outcome
            except _Lost as lost:
                request.run = None
                if request.cancelled.is_set() and request.type != "action":
                    return CANCELLED
                if not lost.began:
                    avoid.add(request.node)
                    request.refusal = lost.error if lost.refused else request.refusal
                    await asyncio.sleep(backoff.next())
                    continue
                if request.type == "action":
                    await asyncio.sleep(_AGAIN_SECONDS)
                    continue
                if lost.returns and request.returning is None:
                    until = asyncio.get_running_loop().time() + _RETURN_SECONDS
                    request.returning = (request.node, until)
                    continue
                if not retries:
                    reason = f"its node was lost while it ran: {lost.error}"
                    return Outcome("failed", reason=reason, node=request.node)
            except (NoBackend, TransportError):
                kept = await self._kept_answer(request)
                if kept is None:
                    raise
                return kept
            retries -= 1
            request.run = request.returning = None
            request.attempt = self._context.random_bytes(TASK_BYTES)
            await asyncio.sleep(backoff.next())

    async def cached(
        self, key: bytes, kind: TaskType, channel: bytes | None, *, look: bool
    ) -> TaskResult | None:
        """A result that is kept here or, with ``look``, by a node of the channel."""
        result = await self._results.here(key, kind, channel)
        if result is None and look:
            result = await self._results.look(self._discovery, key, kind, channel)
        return result

    async def _known(self, request: Request, *, look: bool = True) -> Outcome | None:
        """A calculation that somebody has done already."""
        if not request.may_be_known:
            return None
        request.looked |= look
        result = await self.cached(request.key, request.type, request.channel, look=look)
        return None if result is None else outcome_of(result, cached=True)

    async def _kept_answer(self, request: Request) -> Outcome | None:
        """A query that nobody answers: the last answer."""
        if request.type != "query" or not request.cached:
            return None
        result = await self.cached(request.key, request.type, request.channel, look=True)
        return None if result is None else outcome_of(result, cached=True)

    # --- one node ----------------------------------------------------------------------------

    async def _once(self, request: Request, avoid: set[str]) -> Outcome:
        """Have it run by one node."""
        sent = None
        if request.type == "action":
            sent = await self._disk(self._store.sent, request.task)
            known = await self._disk(self._store.outcome, request.task)
            if known is not None:
                end = (known.state, known.payload, known.reason, known.traceback)
                return Outcome(*end, node=known.node.hex())
        again = sent is not None or request.returning is not None
        if sent is not None:
            choice = await self._same(request, sent.hex(), None)
        elif request.returning is not None:
            choice = await self._same(request, *request.returning)
        else:
            chosen = await self._choose(request, avoid)
            if isinstance(chosen, Outcome):
                return chosen
            choice = chosen
        if not request.looked and not self._backends.may_look(choice):
            known_by_others = await self._known(request)
            if known_by_others is not None:
                return known_by_others
        request.where = choice.channel
        request.node = self._context.node_id if choice.holder is None else choice.holder.node
        request.label = self._context.label if choice.holder is None else choice.holder.label
        if request.cancelled.is_set() and not again:
            return CANCELLED
        began = again
        try:
            with contextlib.closing(self._converse(request, choice)) as run:
                request.run = run
                await run.begin(request.kwargs, again=again)
                while (update := await run.next()) is not None:
                    request.say(update)
                    if update.state == "ready":
                        node = bytes.fromhex(request.node)
                        if not await self._disk(
                            self._store.action_sent,
                            request.task,
                            node,
                            request.function,
                        ):
                            raise _Lost(_gone("another node was given it"), began=False)
                        began = True
                        await run.go()
                    elif update.state == "running":
                        began = True
                    elif update.state == "absent":
                        if sent is None:
                            raise _Lost(_gone("it was restarted meanwhile"), began=True)
                        # It never began there: the journal of that node would know.
                        await self._disk(self._store.forget_sent, request.task)
                        raise _Lost(_gone("it is not known there"), began=False)
                    elif update.state in ENDS:
                        return await self._end(request, choice, update)
            raise _Lost(_gone("its stream ended"), began=began, returns=True)
        except (TransportError, Busy) as error:
            raise _Lost(error, began=began, returns=True) from error
        except (AccessDenied, TaskNotAllowed) as error:
            raise _Lost(error, began=began, refused=True) from error
        except NoBackend as error:  # it was withdrawn a moment ago
            raise _Lost(error, began=began) from error
        except RemoteError:
            if not began and choice.holder is not None:
                await self._backends.check_type(request.function, request.type, choice.holder)
            raise

    def _converse(self, request: Request, choice: Choice) -> Run:
        look = request.may_be_known and not request.looked
        ask = TaskRun(choice.channel, request.attempt, request.function, request.type, False, look)
        if choice.holder is None:
            return OwnRun(self._queue, ask, self._context.node_id, request.within)
        return RemoteRun(self._discovery, choice.holder, ask)

    async def _end(self, request: Request, choice: Choice, update: TaskUpdate) -> Outcome:
        node = request.node
        if update.state != "finished":
            outcome = Outcome(update.state, None, update.reason, update.traceback, node=node)
        else:
            source = "this node" if choice.holder is None else choice.holder.name
            theirs = update.found and request.may_be_known
            if update.result is None or (update.result.node.hex() != node and not theirs):
                what = f"The result of task function {request.function!r}"
                raise ForgedResult(
                    what=what, source=source, reason="it is not signed by who ran it"
                )
            self._results.check(update.result, request.key, choice.channel, source)
            outcome = outcome_of(update.result, cached=theirs)
            if request.type != "action" and choice.holder is not None:
                # The answer to a query is told of by the node that gave it, and that is enough.
                tell = request.type == "pure-calculation"
                self._results.keep_soon(update.result, choice.channel, tell=tell)
        if request.type == "action" and update.state in (
            "finished",
            "failed",
            "cancelled",
            "unknown",
        ):
            await self._disk(
                self._store.action_known,
                request.task,
                update.state,
                outcome.payload,
                outcome.reason,
                outcome.traceback,
            )
        return outcome

    async def _choose(self, request: Request, avoid: set[str]) -> Choice | Outcome:
        """A node for it, waiting for one as long as the caller allows; or the result, if that comes to
        be known meanwhile."""
        loop = asyncio.get_running_loop()
        appeared = asyncio.Event()
        awaited = [task_function_key(request.function)]
        if request.may_be_known:
            awaited.append(task_result_key(request.key))
        ends = [self._discovery.watches.add(content, appeared.set) for content in awaited]
        try:
            while True:
                appeared.clear()
                choices, found = await self._backends.find(
                    request.function, request.type, request.channel, avoid
                )
                if choices:
                    shared = request.type == "pure-calculation"
                    own = self._context.node_id
                    return in_order(choices, request.key, shared=shared, own=own)[0]
                reason = self._backends.missing(request.function, found)
                refusal = request.refusal or reason
                if isinstance(refusal, RemoteError):
                    raise refusal
                avoid.clear()
                left = request.backend_deadline - loop.time()
                if left > 0:
                    request.wait()
                if left > 0 or not request.looked:
                    # Now that it is watched for: somebody may have had it since it was looked for.
                    known = await self._known(request)
                    if known is not None:
                        return known
                if left <= 0:
                    raise await self._nobody(request, found)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, _LOOK_AGAIN_SECONDS)):
                        await appeared.wait()
        finally:
            for end in ends:
                end()

    async def _nobody(self, request: Request, found: Found) -> KacheryError:
        reason = self._backends.missing(request.function, found)
        if reason is not None:
            return reason
        detail = found.detail()
        with contextlib.suppress(KacheryError):
            offers, _ = await self._backends.all(request.channel, patience=0)
            names = sorted({offer.function for _, _, offer in offers})
            if names:
                detail += f"; on offer are {', '.join(names[:20])}"
        return NoBackend(function=request.function, detail=detail)

    async def _same(self, request: Request, node: str, until: float | None) -> Choice:
        """The node that has the action: nobody else is asked any more."""
        book = self._context.book
        channels = [request.channel] if request.channel is not None else list(book)
        offer = TaskOffer(request.function, request.type, 1, 0, 0, True)
        while True:
            for where in channels:
                if node == self._context.node_id:
                    return Choice(None, where, offer)
                if self._discovery.network.is_member(where, node):
                    holder = Holder(node, where, linked=False, direct=False)
                    with contextlib.suppress(KacheryError):
                        await self._discovery.link_to(holder)
                        return Choice(holder, where, offer)
            if until is not None and asyncio.get_running_loop().time() > until:
                raise _Lost(_gone(f"node {node[:8]} is gone"), began=True)
            request.node = node
            request.say(TaskUpdate("running", message=f"waiting for node {node[:8]} to be back"))
            await asyncio.sleep(_AGAIN_SECONDS)


def _nobody_listens(*_: object) -> None:
    """The caller has gone."""


def _gone(reason: str) -> KacheryError:
    return Unreachable(what="the task", reason=reason)
