"""What a proxy knows of everybody's announcements, and its answers to ``who-has``.

The rules are in :mod:`kachery_p2p.protocol.gossip.index`; this is the shell that exchanges digests and
batches with other nodes. Only a proxy of a channel keeps its index; the others send what they
announce (:mod:`~kachery_p2p.node.gossip.announcer`) and ask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import ProtocolViolation
from kachery_p2p.protocol.gossip.announcements import Batch
from kachery_p2p.protocol.gossip.index import Gap, Index
from kachery_p2p.protocol.gossip.keys import KINDS, ContentKind, provide_role, request_role
from kachery_p2p.protocol.gossip.messages import (
    GOSSIP_BATCH,
    GOSSIP_DIGEST,
    WHO_HAS,
    Digest,
    NodeInfo,
    OriginState,
    WhoHas,
)
from kachery_p2p.protocol.limits import MAX_ANSWER_NODES, MAX_DIGEST_ORIGINS, MAX_HOLDERS

from .announcer import Announcer, send_batches
from .watches import WatchList

_LOWEST, _HIGHEST = bytes(32), b"\xff" * 32
_ANSWER_TEXT = 16 * 1024
"""Bytes of labels and addresses in one answer, so that it fits a header whatever the nodes said."""


class Availability:
    def __init__(self, network: Network, announcer: Announcer) -> None:
        self.index = Index()
        self._network = network
        self._context = network.context
        self._book = network.book
        self._announcer = announcer
        announcer.on_batch.append(lambda batch: self._take(batch, None))
        network.on_shared.append(self._on_shared)
        network.on_peer_version.append(self._on_peer_version)
        network.on_lost.append(self._on_lost)
        self._versions: dict[Link, dict[bytes, int]] = {}
        """Which document each peer had when it was last sent a digest."""
        self.watch_list = WatchList(network, self.index.holders)
        self.on_fresh: list[Callable[[bytes, list[bytes]], None]] = []
        """Called with (channel, keys) that some origin has come to provide."""
        network.on_note_of(GOSSIP_DIGEST, Digest, self._on_digest)
        network.on_note_of(GOSSIP_BATCH, Batch, self._on_batch)
        network.on_request_of(WHO_HAS, WhoHas, self._who_has)

    # --- gossip ------------------------------------------------------------------------------

    def _on_shared(self, link: Link, channel: bytes) -> None:
        if link.via is None and self._network.is_proxy(channel):
            self._send_digest(link, channel)

    def _on_peer_version(self, link: Link, channel: bytes, version: int) -> None:
        """It has another document: under its old one it may not have known us as a proxy, and have
        kept its announcements to itself."""
        known = self._versions.setdefault(link, {}).get(channel)
        self._versions[link][channel] = version
        if known not in (None, version) and channel in self._network.shared(link):
            self._on_shared(link, channel)

    def _on_lost(self, link: Link) -> None:
        self._versions.pop(link, None)

    def _send_digest(self, link: Link, channel: bytes) -> None:
        known = sorted(self.index.digest(channel).items())
        peer = bytes.fromhex(link.peer)
        if "proxy" not in self._book.effective(channel, link.peer):
            own = [item for item in known if item[0] == peer]
            self._send_digest_part(link, channel, peer, peer, own)
            return
        low = _LOWEST
        for start in range(0, max(1, len(known)), MAX_DIGEST_ORIGINS):
            part = known[start : start + MAX_DIGEST_ORIGINS]
            last = start + MAX_DIGEST_ORIGINS >= len(known)
            high = _HIGHEST if last else part[-1][0]
            self._send_digest_part(link, channel, low, high, part)
            low = (int.from_bytes(high, "big") + 1).to_bytes(33, "big")[1:]

    def _send_digest_part(
        self,
        link: Link,
        channel: bytes,
        low: bytes,
        high: bytes,
        part: list[tuple[bytes, tuple[int, int]]],
    ) -> None:
        origins = [OriginState(origin, epoch, seq) for origin, (epoch, seq) in part]
        link.note(GOSSIP_DIGEST, codec.plain(Digest(channel, low, high, origins)))

    def _on_digest(self, link: Link, digest: Digest) -> None:
        """A proxy says what it knows; send it what it lacks."""
        channel = digest.channel
        if channel not in self._network.shared(link):
            return
        if "proxy" not in self._book.effective(channel, link.peer):
            return
        theirs = {state.origin: (state.epoch, state.seq) for state in digest.origins}
        me = self._context.key.public
        if digest.low <= me <= digest.high:
            self._announcer.catch_up(link, channel, theirs.get(me))
        if self._network.is_proxy(channel):
            for origin, epoch, seq in self.index.missing(channel, theirs):
                if digest.low <= origin <= digest.high and origin != me:
                    send_batches(link, self.index.batches(channel, origin, epoch, seq))

    def _on_batch(self, link: Link, batch: Batch) -> None:
        if self._network.is_proxy(batch.channel) and batch.channel in self._network.shared(link):
            self._take(batch, link)

    def _take(self, batch: Batch, link: Link | None) -> None:
        """A proxy takes in a batch and passes on what was news."""
        channel = batch.channel
        if not self._provides(channel, batch.origin):
            return
        try:
            result = self.index.apply(batch)
        except ProtocolViolation as error:
            # The culprit is the origin, which need not be who passed it on: drop it, keep the link.
            self._context.warn(str(error))
            return
        if isinstance(result, Gap):
            if link is not None:
                self._send_digest(link, channel)
        elif result.extended:
            if result.fresh:
                self.watch_list.appeared(channel, result.fresh, batch.origin)
                for callback in self.on_fresh:
                    callback(channel, result.fresh)
            for proxy in self._network.proxies_on(channel):
                if link is None or proxy.peer != link.peer:
                    send_batches(proxy, [batch])

    def _provides(self, channel: bytes, origin: bytes) -> bool:
        """Whether a member may provide anything: keys do not say of what kind they are."""
        roles = self._book.effective(channel, origin.hex())
        return any(provide_role(kind) in roles for kind in KINDS)

    def on_change(self, channel: bytes) -> None:
        """The channel's document, or what we want on it, changed."""
        if channel not in self._book:
            self.index.forget_channel(channel)
        for origin in self.index.digest(channel):
            if not self._provides(channel, origin):
                self.index.forget_origin(channel, origin)
        for link in self._network.links_on(channel):
            self._on_shared(link, channel)

    # --- answering ---------------------------------------------------------------------------

    async def _who_has(self, link: Link, query: WhoHas) -> Any:
        role = request_role(query.kind)
        self._network.require_role(link, query.channel, theirs=role, ours=None)
        self._network.require_proxy(query.channel)
        return self.holders(query.channel, query.keys, query.kind, asker=link.peer)

    def holders(
        self, channel: bytes, keys: list[bytes], kind: ContentKind, *, asker: str
    ) -> dict[str, Any]:
        """The answer to ``who-has`` from our own index, as plain values."""
        places: dict[bytes, int] = {}
        room = _ANSWER_TEXT
        nodes: list[NodeInfo] = []
        answers: list[list[int]] = []
        for key in keys:
            answer = []
            for origin in self.index.holders(channel, key):
                if origin.hex() == asker:
                    continue
                if origin not in places:
                    if len(nodes) >= MAX_ANSWER_NODES:
                        continue
                    places[origin] = len(nodes)
                    node = self._describe(channel, origin)
                    room -= len(node.label.encode()) + len(node.signature)
                    room -= sum(len(url.encode()) for url in node.urls)
                    if room < 0:  # it can still be reached, through us
                        node = NodeInfo(origin, "", [], node.online, b"")
                    nodes.append(node)
                answer.append(places[origin])
            answer.sort(key=lambda place: not nodes[place].online)
            answers.append(answer[:MAX_HOLDERS])
        unwilling = [
            bytes.fromhex(link.peer)
            for link in self._network.links_on(channel)
            if link.via is None
            and link.peer != asker
            and self._network.switched_off(link, channel, provide_role(kind))
        ][:MAX_HOLDERS]
        return {
            "nodes": [codec.plain(node) for node in nodes],
            "holders": answers,
            "unwilling": unwilling,
        }

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
