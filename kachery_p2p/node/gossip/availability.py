"""What a proxy knows of everybody's announcements, and its answers to ``who-has``.

Only a proxy of a channel keeps its index; the others send what they announce
(:mod:`~kachery_p2p.node.gossip.announcer`) and ask. How logs travel is the business of
:mod:`~kachery_p2p.node.gossip.exchange`, who has told everything that of
:mod:`~kachery_p2p.node.gossip.census`.

Invariant: an answer that names nobody for a key names everybody who is linked to us and might yet turn
out to have it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.gossip.index import Index
from kachery_p2p.protocol.gossip.keys import ContentKind, provide_role, request_role
from kachery_p2p.protocol.gossip.messages import WHO_HAS, NodeInfo, WhoHas
from kachery_p2p.protocol.limits import MAX_ANSWER_NODES, MAX_HOLDERS, MAX_PASS_SCOPE

from .announcer import Announcer
from .census import Census
from .exchange import Exchange
from .held_lookups import HeldLookups
from .watches import WatchList

_ANSWER_TEXT = 16 * 1024
"""Bytes of labels and addresses in one answer, so that it fits a header whatever the nodes said."""
_LOOKED_AT_ONCE = 64
"""Keys that are looked up in one turn of the loop."""


class Availability:
    def __init__(self, network: Network, announcer: Announcer) -> None:
        self.index = Index()
        self._network = network
        self._context = network.context
        self._book = network.book
        self.exchange = Exchange(network, announcer, self.index)
        self._census = Census(network, announcer, self.exchange, self.index)
        self._held = HeldLookups(self._unknown)
        self.watch_list = WatchList(network, self.index)
        self.on_fresh: list[Callable[[bytes, list[bytes]], None]] = []
        """Called with (channel, keys) that some origin has come to provide."""
        self.exchange.on_fresh.append(self._on_fresh)
        self.exchange.on_progress.append(self._held.progressed)
        network.on_shared.append(lambda link, channel: self._held.progressed(channel))
        network.on_request_of(WHO_HAS, WhoHas, self._who_has)

    def begin(self) -> None:
        """The node starts, and its channels are loaded."""
        self._census.begin()

    def _on_fresh(self, channel: bytes, origin: bytes, keys: list[bytes]) -> None:
        self._held.appeared(channel, keys)
        self.watch_list.appeared(channel, keys, origin)
        for callback in self.on_fresh:
            callback(channel, keys)

    def on_change(self, channel: bytes) -> None:
        """The channel's document, or what we want on it, changed."""
        if channel not in self._book:
            self.index.forget_channel(channel)
        for origin in self.index.digest(channel):
            if not self.exchange.provides(channel, origin):
                self.index.forget_origin(channel, origin)
        self.exchange.on_change(channel)
        self._held.changed(channel)

    # --- answering ---------------------------------------------------------------------------

    async def _who_has(self, link: Link, query: WhoHas) -> Any:
        role, visitors = request_role(query.kind), self._network.visitors
        visiting = link in visitors

        def may() -> None:
            if visiting:
                # What it asks for the proxy cannot tell; a key that it was not given it cannot guess.
                visitors.require_any(link, query.channel, role)
            else:
                self._network.require_role(link, query.channel, theirs=role, ours=None)
            self._network.require_proxy(query.channel)

        if visiting and len(query.keys) > MAX_PASS_SCOPE:
            raise BadInput(what="keys", reason=f"a visitor asks for {MAX_PASS_SCOPE} at most")
        answer = await self.answer(query, asker=link.peer, who=link, may=may)
        return _for_visitor(answer) if visiting else answer

    async def answer(
        self,
        query: WhoHas,
        *,
        asker: str,
        who: object = None,
        may: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        """The answer to ``who-has`` from our own index, as plain values; held back as the query says.
        ``may`` is asked before each look, and raises if the asker may not know."""
        loop = asyncio.get_running_loop()
        until = loop.time() + query.hold / 1000
        while True:
            may()
            answer, definite = await self._look(query, asker)
            left = until - loop.time()
            if definite or left <= 0:
                return answer
            if not await self._held.wait(who, bytes.fromhex(asker), query, left):
                return answer

    def _unknown(self, channel: bytes, kind: ContentKind, secret_version: int) -> list[bytes]:
        return self._census.incomplete(channel, kind, secret_version)[0]

    async def _look(self, query: WhoHas, asker: str) -> tuple[dict[str, Any], bool]:
        """An answer, and whether there is no point in waiting for a better one."""
        channel, kind = query.channel, query.kind
        owing: tuple[list[bytes], list[bytes]] | None = None
        if len(query.keys) > _LOOKED_AT_ONCE:
            # Looking takes several turns: who tells in between what it owed is in one of the two.
            owing = self._census.incomplete(channel, kind, query.secret_version)
        nodes, answers = await self._holders(channel, query.keys, asker)
        online = [any(nodes[place].online for place in places) for places in answers]
        unwilling: list[bytes] = []
        unknown: list[bytes] = []
        silent: list[bytes] = []
        if not all(online):
            me = bytes.fromhex(asker)
            unknown, silent = owing or self._census.incomplete(channel, kind, query.secret_version)
            unknown = [node for node in unknown if node != me]
            silent = [node for node in silent if node != me]
            unwilling = [
                bytes.fromhex(link.peer)
                for link in self._network.links_on(channel)
                if link.via is None
                and link.peer != asker
                and self._network.sayings.switched_off(link, channel, provide_role(kind))
            ]
        answer = {
            "nodes": [codec.plain(node) for node in nodes],
            "holders": answers,
            "unwilling": unwilling[:MAX_HOLDERS],
            "unknown": unknown[:MAX_HOLDERS],
            "silent": silent[:MAX_HOLDERS],
        }
        return answer, any(online) or not unknown

    async def _holders(
        self, channel: bytes, keys: list[bytes], asker: str
    ) -> tuple[list[NodeInfo], list[list[int]]]:
        """The nodes that are named, and for each key which of them."""
        naming = _Naming(asker, partial(self._describe, channel))
        answers: list[list[int]] = []
        for start in range(0, len(keys), _LOOKED_AT_ONCE):
            if start:  # others have something to ask, too
                await self._context.turns.pause()
            for key in keys[start : start + _LOOKED_AT_ONCE]:
                answers.append(naming.places(self.index.holders(channel, key)))
        return naming.nodes, answers

    def _describe(self, channel: bytes, origin: bytes) -> NodeInfo:
        node = origin.hex()
        if node == self._context.node_id:
            urls, signature = self._context.signed_urls()
            return NodeInfo(origin, self._context.label, urls, True, signature)
        for link in self._network.links_to(node, channel):
            if link.via is None and link.hello is not None:
                said = link.hello
                return NodeInfo(origin, said.label, said.urls, True, said.signature)
        member = self._book.signed(channel).document.member(node)
        return NodeInfo(origin, member.label if member else "", [], False, b"")


def _for_visitor(answer: dict[str, Any]) -> dict[str, Any]:
    """Who has it, and nothing of where they are, or of anybody else."""
    nodes = [node | {"urls": [], "signature": b""} for node in answer["nodes"]]
    return answer | {"nodes": nodes, "unwilling": [], "unknown": [], "silent": []}


class _Naming:
    """The nodes that one answer names: few, and with little text."""

    def __init__(self, asker: str, describe: Callable[[bytes], NodeInfo]) -> None:
        self.nodes: list[NodeInfo] = []
        self._asker = bytes.fromhex(asker)
        self._describe = describe
        self._places: dict[bytes, int] = {}
        self._room = _ANSWER_TEXT

    def places(self, origins: list[bytes]) -> list[int]:
        """Where in ``nodes`` these are, those that are online first."""
        found = [self._place(origin) for origin in origins if origin != self._asker]
        places = [place for place in found if place is not None]
        places.sort(key=lambda place: not self.nodes[place].online)
        return places[:MAX_HOLDERS]

    def _place(self, origin: bytes) -> int | None:
        place = self._places.get(origin)
        if place is None and len(self.nodes) < MAX_ANSWER_NODES:
            node = self._describe(origin)
            self._room -= len(node.label.encode()) + len(node.signature)
            self._room -= sum(len(url.encode()) for url in node.urls)
            if self._room < 0:  # it can still be reached, through us
                node = NodeInfo(origin, "", [], node.online, b"")
            place = self._places[origin] = len(self.nodes)
            self.nodes.append(node)
        return place
