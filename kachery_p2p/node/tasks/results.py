"""Results of tasks: kept here, shared with the channel they came on, found there by others.

A result is signed by the node that computed it, so whoever has it may hand it on. What counts is
whether that node may provide tasks on the channel now: a result of a node that has lost the role, or
never had it, is no result (:class:`~kachery_p2p.protocol.errors.ForgedResult`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from kachery_p2p.node.context import Context
from kachery_p2p.node.gossip.discovery import Discovery
from kachery_p2p.node.gossip.ordered_scan import Remake
from kachery_p2p.node.supervision import Supervisor
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import ForgedResult, KacheryError
from kachery_p2p.protocol.gossip.holders import Holder
from kachery_p2p.protocol.gossip.keys import ContentKey, ContentKind
from kachery_p2p.protocol.limits import TASK_LOOK_SECONDS
from kachery_p2p.protocol.tasks.keys import TASK_RESULT_CONTEXT, task_result_key
from kachery_p2p.protocol.tasks.messages import TASK_RESULT, TaskResultQuery, TaskResultReply
from kachery_p2p.protocol.tasks.result import TaskResult, check_result, sign_result
from kachery_p2p.protocol.tasks.task import Payload, TaskType
from kachery_p2p.storage.tasks.store import TaskStore

from .jobs import Job

log = logging.getLogger(__name__)


class ResultOffers:
    """As :class:`~kachery_p2p.node.gossip.comparison.Offers`: results go as files do."""

    kind: ContentKind = "files"
    contexts = frozenset({TASK_RESULT_CONTEXT})
    many: Mapping[bytes, Remake] = {TASK_RESULT_CONTEXT: task_result_key}

    def __init__(self, store: TaskStore) -> None:
        self._store = store

    def scan(self) -> Iterator[ContentKey]:
        for key in self._store.results():
            yield task_result_key(key)

    def leaving(self, contents: Sequence[ContentKey], channel: bytes) -> Iterable[ContentKey]:
        on = channel.hex()
        return [each for each in contents if self._store.may_give(each.identifier, on)]


class TaskResults:
    def __init__(
        self,
        context: Context,
        store: TaskStore,
        *,
        provide: Callable[[ContentKey], None],
        withdraw: Callable[[ContentKey], None],
        supervisor: Supervisor,
    ) -> None:
        self._context = context
        self._store = store
        self._provide = provide
        self._withdraw = withdraw
        self._supervisor = supervisor
        self._keeping = asyncio.Lock()
        self._codes: set[tuple[str, str]] = set()
        self._disk = context.workers.disk

    def sign(self, job: Job, payload: Payload) -> TaskResult:
        """The result of a job that ran here."""
        return sign_result(
            self._context.key,
            key=job.key,
            function=job.function,
            type=job.type,
            timestamp=round(self._context.clock() * 1000),
            payload=payload,
        )

    async def note_code(self, job: Job) -> None:
        """Remember by which code a result that ran here was computed, each once."""
        code = None if job.backend is None else job.backend.codes.get(job.function)
        if code is not None and (job.function, code) not in self._codes:
            await self._disk(self._store.note_code, job.function, code)
            self._codes.add((job.function, code))

    async def computed_otherwise(self, codes: dict[str, str]) -> list[str]:
        """Of these functions with their code's fingerprints, those of which results may be kept that
        other code computed. What another version of Python says tells nothing."""
        changed = []
        for function, code in codes.items():
            version = code.partition(":")[0]
            known = await self._disk(self._store.codes, function)
            if any(each != code and each.partition(":")[0] == version for each in known):
                changed.append(function)
        return changed

    async def keep(self, result: TaskResult, channel: bytes, *, tell: bool = True) -> None:
        """Keep a result that was checked, and tell the channel, unless that is not worth it."""
        # In order: the last answer to a query is the one that is kept.
        async with self._keeping:
            now = self._context.clock()
            forgotten = await self._disk(self._store.keep_result, result, channel.hex(), now)
        for key in forgotten:
            self._withdraw(task_result_key(key))
        if tell:
            self._provide(task_result_key(result.key))

    def keep_soon(self, result: TaskResult, channel: bytes, *, tell: bool = True) -> None:
        """As :meth:`keep`, for one that nobody relies on being found at once."""
        self._supervisor.spawn(self.keep(result, channel, tell=tell), name="keep a result")

    def on_change(self, channel: bytes) -> None:
        """A channel changed. If the node is no longer on it, what came on it counts no longer."""
        if channel not in self._context.book:
            self._supervisor.do("forgetting results of a channel", lambda: self.leave(channel))

    async def leave(self, channel: bytes) -> None:
        if channel not in self._context.book:  # it may have been joined again
            await self._disk(self._store.forget_results_of, channel.hex())

    def check(self, result: TaskResult, key: bytes, channel: bytes, source: str) -> None:
        """Whether it is a result of this task that counts on the channel.

        Raises:
            ForgedResult: it is not; names ``source``, who sent it.
        """
        check_result(result, source, key=key)
        node = result.node.hex()
        if "provide-tasks" not in self._context.book.effective(channel, node):
            reason = f"node {node[:8]}, which signed it, may not provide tasks on this channel"
            what = f"A result of task function {result.function!r}"
            raise ForgedResult(what=what, source=source, reason=reason)

    async def here(self, key: bytes, kind: TaskType, channel: bytes | None) -> TaskResult | None:
        """One that is kept here and counts on the channel (None: on any)."""
        found = await self._disk(self._store.result, key)
        if found is None or found[0].type != kind:
            return None
        result, channels = found
        for name in channels:
            where = bytes.fromhex(name)
            if channel in (None, where) and where in self._context.book:
                try:
                    self.check(result, key, where, "this node's cache")
                except ForgedResult:
                    continue
                return result
        return None

    async def held(self, key: bytes, channel: bytes) -> TaskResult | None:
        """What is kept here and may go out on a channel."""
        found = await self._disk(self._store.result, key)
        return None if found is None or channel.hex() not in found[1] else found[0]

    async def look(
        self, discovery: Discovery, key: bytes, kind: TaskType, channel: bytes | None
    ) -> TaskResult | None:
        """As :meth:`elsewhere`; None too if that takes long, or cannot be known."""
        with contextlib.suppress(KacheryError, TimeoutError):
            async with asyncio.timeout(TASK_LOOK_SECONDS):
                return await self.elsewhere(discovery, key, kind, channel)
        return None

    async def elsewhere(
        self, discovery: Discovery, key: bytes, kind: TaskType, channel: bytes | None
    ) -> TaskResult | None:
        """One that another node of the channel holds; it is kept here from now on."""
        content = task_result_key(key)
        # Who would have to be waited for is not worth waiting for: it can be computed.
        found = await discovery.lookup.find(content, channel, patience=0)
        for holder in found.holders:
            try:
                result = await self._ask(discovery, holder, key)
                if result is None or result.type != kind:
                    continue
                self.check(result, key, holder.channel, holder.name)
            except ForgedResult as error:
                self._context.warn(str(error))
            except KacheryError as error:
                log.info("result of a task from %s: %s", holder.name, error)
            else:
                await self.keep(result, holder.channel)
                return result
        return None

    async def _ask(self, discovery: Discovery, holder: Holder, key: bytes) -> TaskResult | None:
        link = await discovery.link_to(holder)
        params = codec.plain(TaskResultQuery(holder.channel, key))
        answer = await link.request(TASK_RESULT, params, seconds=TASK_LOOK_SECONDS)
        return codec.convert(TaskResultReply, answer).result
