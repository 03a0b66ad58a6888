"""Asking all proxies of a channel who has something: one question, all their answers.

Questions of one loop turn that go to the same channel travel together. One that is held
(:class:`~kachery_p2p.protocol.methods.WhoHas`) ends with the first answer that names somebody, or when
the channel's secret changes.

Non-goals: what the answers amount to, see :mod:`~kachery_p2p.node.gossip.lookup`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kachery_p2p.node.channels.bootstraps import Bootstrap, Bootstraps
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import KacheryError, ProtocolViolation, Unreachable
from kachery_p2p.protocol.gossip.keys import ContentKind
from kachery_p2p.protocol.gossip.messages import WHO_HAS, Holders, NodeInfo, WhoHas
from kachery_p2p.protocol.limits import LINK_GRACE_SECONDS, LOOKUP_SECONDS, MAX_QUERY_KEYS

from .availability import Availability


class Where(NamedTuple):
    """A question goes to one channel, is about content of one kind, and its keys are of one secret.
    ``hold``: for so many seconds the proxies may hold it back."""

    channel: bytes
    kind: ContentKind
    secret_version: int
    hold: float


@dataclass
class Answer:
    """What one channel says about one key."""

    nodes: dict[bytes, NodeInfo] = field(default_factory=dict)
    relays: dict[bytes, set[str]] = field(default_factory=lambda: defaultdict(set))
    unwilling: set[bytes] = field(default_factory=set)
    unknown: dict[bytes, None] = field(default_factory=dict)
    """Members that are still telling what they have."""
    mute: dict[bytes, None] = field(default_factory=dict)
    """Members that should be, and do not."""
    asked: list[str] = field(default_factory=list)
    silent: list[tuple[str, KacheryError]] = field(default_factory=list)
    cut: bool = False
    """Not all answers were waited for."""


class Questions:
    def __init__(
        self, network: Network, availability: Availability, bootstraps: Bootstraps
    ) -> None:
        self._network = network
        self._book = network.book
        self._availability = availability
        self._bootstraps = bootstraps
        self._waiting: dict[Where, list[tuple[bytes, asyncio.Future[Answer]]]] = {}
        self._changed: dict[bytes, asyncio.Event] = {}
        """Set when the keys of questions that are held may be of an old secret."""

    def on_change(self, channel: bytes) -> None:
        """The channel's document or its secret changed: what is held is to be asked anew."""
        event = self._changed.pop(channel, None)
        if event is not None:
            event.set()

    async def ask(self, where: Where, key: bytes) -> Answer:
        """What the proxies say about one key.

        Raises:
            Unreachable: there is no proxy to ask.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.get(where)
        if waiting is None:
            waiting = self._waiting[where] = []
            asyncio.get_running_loop().call_soon(self._ask_soon, where)
        waiting.append((key, future))
        return await future

    async def ask_many(self, where: Where, keys: list[bytes]) -> list[Answer]:
        """:meth:`ask` of many keys, ``MAX_QUERY_KEYS`` to a question."""
        answers: list[Answer] = []
        for start in range(0, len(keys), MAX_QUERY_KEYS):
            answers += await self._question(where, keys[start : start + MAX_QUERY_KEYS])
        return answers

    def _ask_soon(self, where: Where) -> None:
        waiting = self._waiting.pop(where)
        for start in range(0, len(waiting), MAX_QUERY_KEYS):
            part = waiting[start : start + MAX_QUERY_KEYS]
            self._network.spawn(self._ask_all(where, part), name="who has")

    async def _ask_all(
        self, where: Where, waiting: list[tuple[bytes, asyncio.Future[Answer]]]
    ) -> None:
        try:
            answers = await self._question(where, [key for key, _ in waiting])
        except BaseException as error:
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
                    future.exception()
            if not isinstance(error, KacheryError):
                raise
            return
        for (_, future), answer in zip(waiting, answers, strict=True):
            if not future.done():
                future.set_result(answer)

    async def _question(self, where: Where, keys: list[bytes]) -> list[Answer]:
        channel = where.channel
        proxies = await self._proxies(channel)
        query = WhoHas(channel, where.kind, keys, where.secret_version, round(where.hold * 1000))
        asks: list[tuple[str, str, Awaitable[Any]]] = []
        me = self._network.context.node_id
        if self._network.is_proxy(channel):
            asks.append((me, "this node", self._availability.answer(query, asker=me, who=self)))
        elif not proxies:
            raise Unreachable(
                what=f"channel {self._network.name_of(channel)!r}", reason=self._why(channel)
            )
        for proxy in proxies:
            label = (proxy.hello.label if proxy.hello else "") or proxy.peer[:8]
            asks.append((proxy.peer, label, self._ask_one(proxy, query)))
        answers = [Answer() for _ in keys]
        replies = (
            await asyncio.gather(*(ask for _, _, ask in asks))
            if where.hold <= 0
            else await self._first_news(channel, [ask for _, _, ask in asks])
        )
        for (proxy_id, label, _), reply in zip(asks, replies, strict=True):
            if reply is None:
                for answer in answers:
                    answer.cut = True
                continue
            if isinstance(reply, KacheryError):
                for answer in answers:
                    answer.silent.append((label, reply))
                continue
            try:
                self._merge(answers, proxy_id, reply, label)
            except ProtocolViolation as error:
                # What one proxy talks must not hide what another says.
                for answer in answers:
                    answer.silent.append((label, error))
        return answers

    async def _first_news(self, channel: bytes, asks: list[Awaitable[Any]]) -> list[Any]:
        """Answers to a question that is held; None where one was not waited for, because somebody
        named a holder before, or the question itself is out of date."""
        changed = self._changed.setdefault(channel, asyncio.Event())
        tasks = [asyncio.ensure_future(ask) for ask in asks]
        change = asyncio.create_task(changed.wait(), name="wait for a new secret")
        try:
            waiting = set(tasks)
            while waiting and not change.done():
                done, _ = await asyncio.wait(
                    {*waiting, change}, return_when=asyncio.FIRST_COMPLETED
                )
                waiting -= done
                if any(_names_somebody(task.result()) for task in done if task is not change):
                    break
        finally:
            for task in (*tasks, change):
                if not task.done():
                    task.cancel()
        return [task.result() if task.done() and not task.cancelled() else None for task in tasks]

    async def _ask_one(self, proxy: Link, query: WhoHas) -> Any:
        try:
            return await proxy.request(
                WHO_HAS, codec.plain(query), seconds=LOOKUP_SECONDS + query.hold / 1000
            )
        except KacheryError as error:
            return error

    def _merge(self, answers: list[Answer], proxy: str, reply: Any, label: str) -> None:
        holders = codec.convert(Holders, reply)
        for index, answer in enumerate(answers):
            answer.asked.append(label)
            answer.unwilling.update(holders.unwilling)
            answer.unknown.update(dict.fromkeys(holders.unknown))
            answer.mute.update(dict.fromkeys(holders.silent))
            for node in holders.of(index):
                known = answer.nodes.get(node.node)
                if known is None or node.online:
                    answer.nodes[node.node] = node
                if node.online:
                    answer.relays[node.node].add(proxy)

    async def _proxies(self, channel: bytes) -> list[Link]:
        """The proxies that are connected; waits a little for those that are just being dialled."""
        proxies = self._network.proxies_on(channel)
        if proxies or self._network.is_proxy(channel):
            return proxies
        deadline = asyncio.get_running_loop().time() + LINK_GRACE_SECONDS
        self._bootstraps.hurry()
        while not proxies and asyncio.get_running_loop().time() < deadline:
            # A proxy that has just refused, or that serves other channels only, is not waited for.
            if not any(status.trying for status in self._wants(channel)):
                break
            await asyncio.sleep(0.02)
            proxies = self._network.proxies_on(channel)
        return proxies

    def dialling(self, channel: bytes) -> bool:
        """Whether a proxy is being dialled for the first time: it may know more in a moment."""
        return any(
            status.trying and status.state == "connecting" for status in self._wants(channel)
        )

    def _wants(self, channel: bytes) -> list[Bootstrap]:
        return [
            status
            for status in self._bootstraps.status.values()
            if any(
                status.url == bootstrap.url
                for bootstrap in self._book.signed(channel).document.bootstraps
            )
        ]

    def _why(self, channel: bytes) -> str:
        for status in self._wants(channel):
            if status.error:
                return status.error
        return "none of its bootstrap nodes is connected"


def _names_somebody(reply: Any) -> bool:
    """Whether an answer, from whoever, names a node that is online."""
    with contextlib.suppress(ProtocolViolation):
        if not isinstance(reply, KacheryError):
            return any(node.online for node in codec.convert(Holders, reply).nodes)
    return False
