"""Who has it: asks the proxies, and says exactly what their silence means.

Look-ups of one loop turn that go to the same channel travel in one question. An answer is definite
only if every proxy that is connected answered; whatever else happened is an error of its own, and
"not found" is never said in its place.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from kachery_p2p.node.channels.bootstraps import Bootstrap, Bootstraps
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import (
    AccessDenied,
    KacheryError,
    NotFound,
    ProtocolViolation,
    Unreachable,
)
from kachery_p2p.protocol.gossip.holders import Holder, rank
from kachery_p2p.protocol.gossip.keys import ContentKey, ContentKind, provide_role, request_role
from kachery_p2p.protocol.gossip.messages import WHO_HAS, Holders, NodeInfo
from kachery_p2p.protocol.limits import (
    LINK_GRACE_SECONDS,
    LOOKUP_SECONDS,
    MAX_QUERY_KEYS,
)

from .availability import Availability

_Where = tuple[bytes, ContentKind]
"""A question goes to one channel and is about things of one kind."""


@dataclass
class Found:
    """The outcome of a look-up, on all channels that were asked."""

    holders: list[Holder] = field(default_factory=list)
    offline: list[str] = field(default_factory=list)
    """Labels or ids of nodes that have it but are not connected."""
    asked: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    errors: list[KacheryError] = field(default_factory=list)

    def detail(self) -> str:
        """For people: who was asked, and what they said."""
        if not (self.asked or self.silent or self.errors):
            return "this node is on no channel"
        parts = [f"asked {', '.join(self.asked)}" if self.asked else "nobody to ask"]
        if self.offline:
            parts.append(f"offline: {', '.join(sorted(set(self.offline)))} has it")
        if self.silent:
            parts.append(f"silent: {', '.join(self.silent)}")
        return "; ".join(parts)


@dataclass
class _Answer:
    """What one channel says about one key."""

    nodes: dict[bytes, NodeInfo] = field(default_factory=dict)
    relays: dict[bytes, set[str]] = field(default_factory=lambda: defaultdict(set))
    unwilling: set[bytes] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    silent: list[tuple[str, KacheryError]] = field(default_factory=list)


class Lookup:
    def __init__(
        self, network: Network, availability: Availability, bootstraps: Bootstraps
    ) -> None:
        self._network = network
        self._book = network.book
        self._availability = availability
        self._bootstraps = bootstraps
        self._waiting: dict[_Where, list[tuple[bytes, asyncio.Future[_Answer]]]] = {}
        self.relays: dict[tuple[str, bytes], set[str]] = {}

    async def find(self, content: ContentKey, channel: bytes | None = None) -> Found:
        """Ask every channel (or one) where we may request such content.

        What went wrong on one of them is in the result's ``errors``, see :meth:`not_found`.
        """
        channels = [channel] if channel is not None else list(self._book)
        found = Found()
        allowed = []
        for each in channels:
            try:
                self._book.require(
                    each,
                    node_id=self._network.context.node_id,
                    role=request_role(content.kind),
                    side="requester",
                )
                allowed.append(each)
            except AccessDenied as error:
                found.errors.append(error)
        results = await asyncio.gather(
            *(self._on_channel(each, content, found) for each in allowed), return_exceptions=True
        )
        for result in results:
            if isinstance(result, KacheryError):
                found.errors.append(result)
            elif isinstance(result, BaseException):
                raise result
        found.holders = rank(found.holders)
        return found

    def not_found(self, content: ContentKey, found: Found) -> KacheryError:
        """The right error for a look-up without holders."""
        denied = [error for error in found.errors if isinstance(error, AccessDenied)]
        others = [error for error in found.errors if not isinstance(error, AccessDenied)]
        if others:
            return others[0]
        if denied and not found.asked:
            return denied[0]
        if denied and not found.offline:
            return denied[0]
        return NotFound(what=content.title, detail=found.detail())

    async def _on_channel(self, channel: bytes, content: ContentKey, found: Found) -> None:
        secret = self._book.secret(channel)
        name = self._network.name_of(channel)
        if secret is None:
            raise AccessDenied(
                channel=name,
                who=f"requester {self._network.context.node_id[:8]}",
                role=request_role(content.kind),
                cause="this node has not been given the channel's secret",
            )
        answer = await self._ask((channel, content.kind), content.blinded(secret[1]))
        found.asked += [f"{peer} on {name!r}" for peer in answer.asked]
        found.silent += [f"{peer} on {name!r}" for peer, _ in answer.silent]
        for origin, node in answer.nodes.items():
            self._add(channel, origin, node, answer, found)
        if not any(holder.channel == channel for holder in found.holders):
            if answer.silent:
                raise answer.silent[0][1]
            if not answer.nodes:
                self._check_providers(channel, answer, provide_role(content.kind))

    def _add(
        self, channel: bytes, origin: bytes, node: NodeInfo, answer: _Answer, found: Found
    ) -> None:
        node_id = origin.hex()
        urls = node.checked_urls()
        links = self._network.links_to(node_id, channel)
        if not links and not node.online and not urls:
            found.offline.append(node.label or node_id[:8])
            return
        self.relays[node_id, channel] = set(answer.relays[origin])
        found.holders.append(
            Holder(
                node_id,
                channel,
                linked=bool(links),
                direct=bool(links) and links[0].via is None,
                label=node.label,
                urls=urls,
                rtt=links[0].rtt if links else None,
            )
        )

    def _check_providers(self, channel: bytes, answer: _Answer, role: str) -> None:
        """Nobody has it: is that because nobody may give anything?"""
        document = self._book.signed(channel).document
        me = self._network.context.node_id
        members = [member for member in document.members if member.node_id != me]
        able = [
            member for member in members if role in self._book.effective(channel, member.node_id)
        ]
        willing = [m for m in able if bytes.fromhex(m.node_id) not in answer.unwilling]
        if document.open or willing or not any(m for m in members if "proxy" not in m.roles):
            return
        if able:
            who, cause = (
                able[0].label or able[0].node_id[:8],
                "granted, but switched off by its user",
            )
        else:
            who, cause = "every other member", "not granted by the channel's owner"
        raise AccessDenied(
            channel=self._network.name_of(channel),
            who=f"provider {who}",
            role=role,
            cause=cause,
        )

    # --- the question ------------------------------------------------------------------------

    async def _ask(self, where: _Where, key: bytes) -> _Answer:
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.get(where)
        if waiting is None:
            waiting = self._waiting[where] = []
            asyncio.get_running_loop().call_soon(self._ask_soon, where)
        waiting.append((key, future))
        return await future

    def _ask_soon(self, where: _Where) -> None:
        waiting = self._waiting.pop(where)
        for start in range(0, len(waiting), MAX_QUERY_KEYS):
            part = waiting[start : start + MAX_QUERY_KEYS]
            self._network.spawn(self._ask_all(where, part), name="who has")

    async def _ask_all(
        self, where: _Where, waiting: list[tuple[bytes, asyncio.Future[_Answer]]]
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

    async def _question(self, where: _Where, keys: list[bytes]) -> list[_Answer]:
        channel, kind = where
        proxies = await self._proxies(channel)
        answers = [_Answer() for _ in keys]
        me = self._network.context.node_id
        if self._network.is_proxy(channel):
            holders = self._availability.holders(channel, keys, kind, asker=me)
            self._merge(answers, me, holders)
        elif not proxies:
            raise Unreachable(
                what=f"channel {self._network.name_of(channel)!r}", reason=self._why(channel)
            )
        replies = await asyncio.gather(*(self._ask_one(proxy, where, keys) for proxy in proxies))
        for proxy, reply in zip(proxies, replies, strict=True):
            label = (proxy.hello.label if proxy.hello else "") or proxy.peer[:8]
            if isinstance(reply, KacheryError):
                for answer in answers:
                    answer.silent.append((label, reply))
                continue
            try:
                self._merge(answers, proxy.peer, reply, label)
            except ProtocolViolation as error:
                # What one proxy talks must not hide what another says.
                for answer in answers:
                    answer.silent.append((label, error))
        return answers

    async def _ask_one(self, proxy: Link, where: _Where, keys: list[bytes]) -> Any:
        channel, kind = where
        try:
            return await proxy.request(
                WHO_HAS, {"channel": channel, "kind": kind, "keys": keys}, seconds=LOOKUP_SECONDS
            )
        except KacheryError as error:
            return error

    def _merge(self, answers: list[_Answer], proxy: str, reply: Any, label: str = "") -> None:
        holders = codec.convert(Holders, reply)
        for index, answer in enumerate(answers):
            answer.asked.append(label or "this node")
            answer.unwilling.update(holders.unwilling)
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
