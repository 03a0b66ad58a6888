"""Which nodes could run a task: looked up, asked for their load, put in an order.

This node's own backends count like any other's. Of several nodes with a free slot, a pure calculation
goes to the one that its key picks, so that the same calculation asked for by many at once goes to one;
if none is free, to the least loaded.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from kachery_p2p.node.gossip.discovery import Discovery
from kachery_p2p.node.gossip.lookup import Found
from kachery_p2p.node.gossip.ordered_scan import Remake
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import AccessDenied, KacheryError, NotKnownYet
from kachery_p2p.protocol.gossip.holders import Holder
from kachery_p2p.protocol.gossip.keys import ContentKey, ContentKind
from kachery_p2p.protocol.limits import LOOKUP_PATIENCE, MAX_TASK_OFFERS_ASKED, TASK_LOOK_SECONDS
from kachery_p2p.protocol.tasks.keys import (
    TASK_BACKEND_CONTEXT,
    TASK_CONTEXT,
    task_backends_key,
    task_function_key,
)
from kachery_p2p.protocol.tasks.messages import TASK_OFFERS, TaskOffer, TaskOfferPage, TaskOffers
from kachery_p2p.protocol.tasks.task import TaskType

from .jobs import wrong_type
from .queue import TaskQueue

_RECENT_SECONDS: Final = 2.0
"""For so long who was found to offer a function is not looked up again."""
_KNOWN_SECONDS: Final = 60.0
"""For so long it is what a request goes by, while it is looked up again for the next one."""
_MAX_RECENT: Final = 1_000


class TaskFunctionOffers:
    """As :class:`~kachery_p2p.node.gossip.comparison.Offers`: the functions that are on offer here
    now."""

    kind: ContentKind = "tasks"
    contexts = frozenset({TASK_CONTEXT, TASK_BACKEND_CONTEXT})
    many: Mapping[bytes, Remake] = {}

    def __init__(self) -> None:
        self._offered: dict[ContentKey, frozenset[bytes]] = {}
        """With the channels where it is on offer. Replaced as a whole: worker threads read it."""

    def update(self, queue: TaskQueue) -> tuple[set[ContentKey], set[ContentKey]]:
        """Backends came or went: what is on offer now and was not, and the other way round."""
        offered: dict[ContentKey, frozenset[bytes]] = {}
        for function in queue.functions():
            offered[task_function_key(function)] = frozenset(queue.channels_of(function))
        if offered:
            offered[task_backends_key()] = frozenset().union(*offered.values())
        old, self._offered = self._offered, offered
        fresh = {
            content for content, channels in offered.items() if channels - old.get(content, set())
        }
        return fresh, old.keys() - offered.keys()

    def scan(self) -> Iterator[ContentKey]:
        yield from list(self._offered)

    def leaving(self, contents: Sequence[ContentKey], channel: bytes) -> Iterable[ContentKey]:
        return [each for each in contents if channel in self._offered.get(each, ())]


class Choice(NamedTuple):
    """A node that could run a task. ``holder`` is None for this node."""

    holder: Holder | None
    channel: bytes
    offer: TaskOffer

    @property
    def free(self) -> bool:
        return self.offer.running + self.offer.queued < self.offer.slots


def in_order(choices: Iterable[Choice], key: bytes, *, shared: bool, own: str) -> list[Choice]:
    """The best first. ``shared``: the same task may be asked for by others at the same moment."""

    def rank(choice: Choice) -> tuple[object, ...]:
        node = own if choice.holder is None else choice.holder.node
        offer = choice.offer
        load = (offer.running + offer.queued) / max(1, offer.slots)
        lot = sha256(key + bytes.fromhex(node)).digest()
        if shared and choice.free:
            return (False, 0.0, lot)
        return (not choice.free, load, lot)

    return sorted(choices, key=rank)


class TaskBackends:
    def __init__(self, discovery: Discovery, queue: TaskQueue) -> None:
        self._discovery = discovery
        self._queue = queue
        self._network = discovery.network
        self._book = discovery.network.book
        self._recent: OrderedDict[tuple[str, bytes | None], tuple[float, Found]] = OrderedDict()
        self._looking: dict[tuple[str, bytes | None], asyncio.Task[Found]] = {}

    async def find(
        self,
        function: str,
        kind: TaskType,
        channel: bytes | None,
        avoid: Iterable[str] = (),
    ) -> tuple[list[Choice], Found]:
        """Who offers a function now, and what the look-up met.

        Raises:
            BadInput: it is on offer, but of another type.
        """
        found = await self._look(function, channel, fresh=bool(avoid))
        holders = [holder for holder in found.holders if holder.node not in set(avoid)]
        choices = self._own(function, channel)
        if len(holders) == 1 and not choices:
            # Nobody to compare it with.
            offer = TaskOffer(function, kind, 1, 0, 0, True)
            return [Choice(holders[0], holders[0].channel, offer)], found
        answers = await asyncio.gather(*(self._ask(holder, function) for holder in holders))
        for holder, answer in zip(holders, answers, strict=True):
            choices += [Choice(holder, holder.channel, offer) for offer in answer]
        fitting = [choice for choice in choices if choice.offer.type == kind]
        if choices and not fitting and not set(avoid):
            raise wrong_type(function, kind, (choice.offer.type for choice in choices))
        return fitting, found

    async def _look(self, function: str, channel: bytes | None, *, fresh: bool) -> Found:
        """Who has the function; what was found a moment ago will do, unless it failed."""
        loop = asyncio.get_running_loop()
        where = (function, channel)
        known = None if fresh else self._recent.get(where)
        if known is not None and (age := loop.time() - known[0]) < _KNOWN_SECONDS:
            if age >= _RECENT_SECONDS and where not in self._looking:
                looking = self._network.spawn(self._look_now(function, channel), name="look again")
                self._looking[where] = looking
                looking.add_done_callback(lambda _: self._looking.pop(where, None))
            return known[1]
        return await self._look_now(function, channel)

    async def _look_now(self, function: str, channel: bytes | None) -> Found:
        where = (function, channel)
        content = task_function_key(function)
        # Who waits for a backend watches for it: waiting here as well would only hide others.
        found = await self._discovery.lookup.find(content, channel, patience=0)
        self._recent.pop(where, None)
        if found.holders:
            self._recent[where] = (asyncio.get_running_loop().time(), found)
            while len(self._recent) > _MAX_RECENT:
                self._recent.popitem(last=False)
        return found

    def remembers(self, function: str, channel: bytes | None) -> bool:
        """Whether it is known who offers a function, so that a request need not be preceded by a
        look-up."""
        known = self._recent.get((function, channel))
        now = asyncio.get_running_loop().time()
        return known is not None and now - known[0] < _KNOWN_SECONDS

    def may_look(self, choice: Choice) -> bool:
        """Whether a node can look for a result itself. This one does so before it asks its own
        backend."""
        if choice.holder is None:
            return False
        return "request-files" in self._book.effective(choice.channel, choice.holder.node)

    def _own(self, function: str, channel: bytes | None) -> list[Choice]:
        choices = []
        for where in self._queue.channels_of(function):
            if channel in (None, where) and where in self._book:
                choices += [
                    Choice(None, where, offer)
                    for offer in self._queue.offers(where)
                    if offer.function == function and self._may(where)
                ]
        return choices

    def _may(self, channel: bytes) -> bool:
        roles = self._book.effective(channel, self._network.context.node_id)
        return {"provide-tasks", "request-tasks"} <= roles

    async def _ask(self, holder: Holder, function: str) -> list[TaskOffer]:
        """How a node offers a function; nothing if it does not answer."""
        try:
            return await self.ask(holder, function)
        except KacheryError:
            return []

    async def check_type(self, function: str, kind: TaskType, holder: Holder) -> None:
        """Raise BadInput if a node that refused a function offers it as another type only."""
        offered = {each.type for each in await self._ask(holder, function)}
        if offered and kind not in offered:
            raise wrong_type(function, kind, offered)

    async def ask(self, holder: Holder, function: str | None = None) -> list[TaskOffer]:
        """What a node offers on a channel. Raises what the link or the node says."""
        link = await self._discovery.link_to(holder)
        offers: list[TaskOffer] = []
        query = TaskOffers(holder.channel, function)
        while True:
            answer = await link.request(TASK_OFFERS, codec.plain(query), seconds=TASK_LOOK_SECONDS)
            page = codec.convert(TaskOfferPage, answer)
            offers += page.offers
            if not (page.more and page.offers) or len(offers) >= MAX_TASK_OFFERS_ASKED:
                return offers
            query = TaskOffers(holder.channel, function, page.offers[-1].function)

    async def all(
        self, channel: bytes | None, *, patience: float = LOOKUP_PATIENCE
    ) -> tuple[list[Choice], list[str]]:
        """Everything on offer, by node; and who did not answer. ``patience``: see
        :meth:`~kachery_p2p.node.gossip.lookup.Lookup.find`."""
        offers: list[Choice] = []
        silent: list[str] = []
        for where in list(self._book):
            if channel in (None, where):
                offers += [Choice(None, where, offer) for offer in self._queue.offers(where)]
        found = await self._discovery.lookup.find(task_backends_key(), channel, patience=patience)
        if not offers and not found.holders and found.errors:
            raise found.errors[0]

        async def ask(holder: Holder) -> None:
            try:
                offers.extend(
                    Choice(holder, holder.channel, offer) for offer in await self.ask(holder)
                )
            except KacheryError as error:
                silent.append(f"{holder.name}: {error}")

        await asyncio.gather(*(ask(holder) for holder in found.holders))
        return offers, silent + [f"{label}: offline" for label in found.offline]

    def missing(self, function: str, found: Found) -> KacheryError | None:
        """A reason, besides that nobody is there, why nobody runs it."""
        others = [error for error in found.errors if not isinstance(error, AccessDenied)]
        denied = [error for error in found.errors if isinstance(error, AccessDenied)]
        untold = [error for error in others if isinstance(error, NotKnownYet)]
        if untold:
            return untold[0]
        if denied and not found.asked:
            return denied[0]
        if others and not found.asked:
            return others[0]
        return denied[0] if denied and not found.offline else None
