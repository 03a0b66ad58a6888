"""Who has it: asks the proxies, and says exactly what their silence means.

How the proxies are asked is the business of :mod:`~kachery_p2p.node.gossip.questions`. An answer is
definite only if every proxy that is connected answered, and none of them waits for a member to tell
the rest of what it has. That is waited for, by having the proxies hold the question, for as long as
the caller has patience; whatever else happened is an error of its own, and "not found" is never
said in its place.

A member may say itself that it has something (:meth:`Lookup.told`): the proxies hear of what was stored
a moment later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from kachery_p2p.node.channels.bootstraps import Bootstraps
from kachery_p2p.node.links.network import Network
from kachery_p2p.protocol.errors import (
    AccessDenied,
    KacheryError,
    LinkClosed,
    NotFound,
    NotKnownYet,
    Unreachable,
)
from kachery_p2p.protocol.gossip.holders import Holder, rank
from kachery_p2p.protocol.gossip.keys import ContentKey, provide_role, request_role
from kachery_p2p.protocol.gossip.messages import NodeInfo
from kachery_p2p.protocol.limits import (
    LINK_GRACE_SECONDS,
    LOOKUP_HOLD_SECONDS,
    LOOKUP_PATIENCE,
)

from .availability import Availability
from .questions import Answer, Questions, Where

_PAUSE = 0.1
"""A proxy that answers at once that it does not know yet is not asked again within this."""


@dataclass
class Found:
    """The outcome of a look-up, on all channels that were asked."""

    holders: list[Holder] = field(default_factory=list)
    offline: list[str] = field(default_factory=list)
    """Labels or ids of nodes that have it but are not connected."""
    asked: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    errors: list[KacheryError] = field(default_factory=list)
    open: bool = False
    """It is worth waiting: somebody is about to say more."""

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

    def add(self, other: Found) -> None:
        """What another channel came to."""
        self.holders += other.holders
        self.offline += other.offline
        self.asked += other.asked
        self.silent += other.silent
        self.errors += other.errors
        self.open |= other.open


class Lookup:
    def __init__(
        self, network: Network, availability: Availability, bootstraps: Bootstraps
    ) -> None:
        self._network = network
        self._book = network.book
        self.questions = Questions(network, availability, bootstraps)
        self.relays: dict[tuple[str, bytes], set[str]] = {}
        self._told: list[tuple[str, bytes, Collection[ContentKey]]] = []

    @contextlib.contextmanager
    def told(self, node: str, channel: bytes, contents: Collection[ContentKey]) -> Iterator[None]:
        """As long as this lasts, a member counts as a holder that has said so itself, while it is
        linked. It must be one that may provide that."""
        said = (node, channel, contents)
        self._told.append(said)
        try:
            yield
        finally:
            self._told.remove(said)

    def _add_told(self, channel: bytes, content: ContentKey, holders: list[Holder]) -> None:
        known = {holder.node for holder in holders}
        for node, where, contents in self._told:
            if where == channel and node not in known and content in contents:
                holders += [
                    Holder(
                        node,
                        channel,
                        linked=True,
                        direct=link.via is None,
                        label=self._label(channel, bytes.fromhex(node)),
                        rtt=link.rtt,
                    )
                    for link in self._network.links_to(node, channel)[:1]
                ]

    async def find(
        self,
        content: ContentKey,
        channel: bytes | None = None,
        *,
        patience: float = LOOKUP_PATIENCE,
    ) -> Found:
        """Ask every channel (or one) where we may request such content.

        If nobody is known to have it, and not everybody has told yet what it has, that is waited for,
        ``patience`` seconds at most. What went wrong on one of the channels is in the result's
        ``errors``, see :meth:`not_found`.
        """
        channels = [channel] if channel is not None else list(self._book)
        denied = Found()
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
                denied.errors.append(error)
        founds = await asyncio.gather(*(self._once(each, content, 0) for each in allowed))
        by_channel = dict(zip(allowed, founds, strict=True))
        waits = [each for each, found in by_channel.items() if found.open]
        if waits and patience > 0 and not any(found.holders for found in founds):
            by_channel |= await self._wait(waits, content, patience)
        for found in by_channel.values():
            denied.add(found)
        denied.holders = rank(denied.holders)
        return denied

    async def find_many(
        self, contents: Sequence[ContentKey], channel: bytes | None
    ) -> list[list[Holder]]:
        """Who has each of many contents of one kind, as the proxies know it now, best first. Nobody is
        waited for, and nothing is said of why there is none: :meth:`find` does both, for one."""
        found: list[list[Holder]] = [[] for _ in contents]
        for each in [channel] if channel is not None else list(self._book):
            with contextlib.suppress(KacheryError):
                for place, holders in enumerate(await self._many_on(each, contents)):
                    found[place] += holders
        return [rank(holders) if len(holders) > 1 else holders for holders in found]

    async def _many_on(self, channel: bytes, contents: Sequence[ContentKey]) -> list[list[Holder]]:
        kind = contents[0].kind
        role, me = request_role(kind), self._network.context.node_id
        self._book.require(channel, node_id=me, role=role, side="requester")
        secret = self._book.secret(channel)
        if secret is None:
            return []
        where = Where(channel, kind, secret[0], 0)
        answers = await self.questions.ask_many(
            where, [content.blinded(secret[1]) for content in contents]
        )
        known: dict[bytes, list[Holder]] = {}
        holders: list[list[Holder]] = []
        for content, answer in zip(contents, answers, strict=True):
            for origin, node in answer.nodes.items():
                if origin not in known:
                    found = Found()
                    self._add(channel, origin, node, answer, found)
                    known[origin] = found.holders
            holders.append([each for origin in answer.nodes for each in known[origin]])
            self._add_told(channel, content, holders[-1])
        return holders

    async def find_any(
        self, contents: Sequence[ContentKey], channel: bytes | None, *, patience: float
    ) -> list[Found]:
        """As :meth:`find`, for several contents of which one suffices: nobody is waited for once it is
        found."""
        founds = await asyncio.gather(*(self.find(each, channel, patience=0) for each in contents))
        if patience <= 0 or any(f.holders for f in founds) or not any(f.open for f in founds):
            return founds
        tasks = {
            asyncio.create_task(self.find(each, channel, patience=patience)): place
            for place, each in enumerate(contents)
        }
        pending = set(tasks)
        try:
            while pending and not any(found.holders for found in founds):
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    founds[tasks[task]] = task.result()
        finally:
            for task in pending:
                task.cancel()
        return founds

    async def _wait(
        self, channels: list[bytes], content: ContentKey, patience: float
    ) -> dict[bytes, Found]:
        """Until it is found on one of these channels, or known of all that it is not there."""
        deadline = asyncio.get_running_loop().time() + patience
        tasks = {
            asyncio.create_task(
                self._until_known(each, content, deadline), name="wait for holders"
            ): each
            for each in channels
        }
        known: dict[bytes, Found] = {}
        pending = set(tasks)
        try:
            while pending and not any(found.holders for found in known.values()):
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                known |= {tasks[task]: task.result() for task in done}
        finally:
            for task in pending:
                task.cancel()
        return known

    async def _until_known(self, channel: bytes, content: ContentKey, deadline: float) -> Found:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            left = max(0.0, deadline - began)
            found = await self._once(channel, content, min(LOOKUP_HOLD_SECONDS, left))
            # A proxy that held the question has gone: it, or another one, may be back in a moment.
            lost = any(isinstance(error, LinkClosed | Unreachable) for error in found.errors)
            if lost and not found.open:
                deadline = min(deadline, began + LINK_GRACE_SECONDS)
            if found.holders or left <= 0:
                return found
            if not (found.open or lost):
                # While one proxy held the question, what another said before may have changed.
                found = await self._once(channel, content, 0)
                if not found.open:
                    return found
            await asyncio.sleep(max(0.0, min(_PAUSE, left) - (loop.time() - began)))

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

    async def _once(self, channel: bytes, content: ContentKey, hold: float) -> Found:
        found = Found()
        try:
            await self._on_channel(channel, content, found, hold)
        except KacheryError as error:
            found.errors.append(error)
        return found

    async def _on_channel(
        self, channel: bytes, content: ContentKey, found: Found, hold: float
    ) -> None:
        if channel not in self._book:
            raise Unreachable(what=content.title, reason="this node has left the channel")
        secret = self._book.secret(channel)
        name = self._network.name_of(channel)
        if secret is None:
            raise AccessDenied(
                channel=name,
                who=f"requester {self._network.context.node_id[:8]}",
                role=request_role(content.kind),
                cause="this node has not been given the channel's secret",
            )
        where = Where(channel, content.kind, secret[0], hold)
        answer = await self.questions.ask(where, content.blinded(secret[1]))
        found.asked += [f"{peer} on {name!r}" for peer in answer.asked]
        found.silent += [f"{peer} on {name!r}" for peer, _ in answer.silent]
        if channel not in self._book:
            raise Unreachable(what=content.title, reason="this node has left the channel")
        for origin, node in answer.nodes.items():
            self._add(channel, origin, node, answer, found)
        self._add_told(channel, content, found.holders)
        if found.holders:
            return
        found.open = bool(answer.unknown or answer.cut or self.questions.dialling(channel))
        found.silent += [f"{self._label(channel, node)} on {name!r}" for node in answer.mute]
        if answer.silent:
            raise answer.silent[0][1]
        if answer.unknown or answer.cut:
            names = [self._label(channel, node) for node in answer.unknown]
            who = f"{', '.join(names) or 'the other members'} on {name!r}"
            raise NotKnownYet(what=content.title, who=who)
        if not answer.nodes:
            self._check_providers(channel, answer, provide_role(content.kind))

    def _label(self, channel: bytes, node: bytes) -> str:
        if node.hex() == self._network.context.node_id:
            return "this node"
        member = self._book.signed(channel).document.member(node.hex())
        return (member.label if member else "") or node.hex()[:8]

    def _add(
        self, channel: bytes, origin: bytes, node: NodeInfo, answer: Answer, found: Found
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

    def _check_providers(self, channel: bytes, answer: Answer, role: str) -> None:
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
