"""How announcement logs travel between this node and those it is linked to.

The rules are in :mod:`kachery_p2p.protocol.gossip.index`. Every node pushes what is new in its own
log to the proxies, and lets them pull it (:mod:`.log_server`). A proxy of a channel keeps an index
of everybody's logs; for it this pulls what it lacks (:mod:`.pulls`), and pushes on what it took in.

Invariants. At most ``GOSSIP_PUSHES`` batches are under way to a peer as notes, whatever there is to
tell it; the rest it pulls. Nobody is believed about a log that is not its own, except that there may
be more of it.

Non-goals: what the index is good for, see :mod:`~kachery_p2p.node.gossip.availability`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import ProtocolViolation
from kachery_p2p.protocol.gossip.announcements import Batch
from kachery_p2p.protocol.gossip.index import Applied, Gap, Index
from kachery_p2p.protocol.gossip.keys import KINDS, provide_role
from kachery_p2p.protocol.gossip.messages import (
    GOSSIP_BATCH,
    GOSSIP_DIGEST,
    GOSSIP_HEARD,
    Digest,
    Heard,
    OriginState,
)
from kachery_p2p.protocol.limits import GOSSIP_HEARD_AFTER, GOSSIP_PUSHES, MAX_DIGEST_ORIGINS

from .announcer import Announcer
from .log_server import LogServer
from .peer import UNKNOWN, Peer, Position
from .pulls import Pulls

_LOWEST, _HIGHEST = bytes(32), b"\xff" * 32
_ANSWER_SECONDS = 0.2
"""A peer that asks for our digest again and again gets one so often."""


class Exchange:
    def __init__(self, network: Network, announcer: Announcer, index: Index) -> None:
        self.on_fresh: list[Callable[[bytes, bytes, list[bytes]], None]] = []
        """Called with (channel, origin, keys) that the origin has come to provide."""
        self.on_progress: list[Callable[[bytes], None]] = []
        """Called with a channel on which somebody may have told everything now."""
        self._network = network
        self._context = network.context
        self._book = network.book
        self._announcer = announcer
        self._index = index
        self._peers: dict[Link, dict[bytes, Peer]] = {}
        self._direct: dict[tuple[bytes, str], Peer] = {}
        """The newest of a node's, by channel and node id."""
        self._versions: dict[Link, dict[bytes, int]] = {}
        """Which document each peer had when it was last sent a digest."""
        self.pulls = Pulls(
            network, index, take=self._take, provides=self.provides, peers=self._peers_on
        )
        LogServer(network, announcer, index, peer=self.peer, served=self._tell)
        self._own: dict[bytes, asyncio.Task[None]] = {}
        announcer.on_news.append(self._on_news)
        announcer.on_state.append(self._on_state)
        network.on_shared.append(self._on_shared)
        network.on_peer_version.append(self._on_peer_version)
        network.on_lost.append(self._on_lost)
        network.on_note_of(GOSSIP_DIGEST, Digest, self._on_digest)
        network.on_note_of(GOSSIP_BATCH, Batch, self._on_batch)
        network.on_note_of(GOSSIP_HEARD, Heard, self._on_heard)

    # --- who is there ------------------------------------------------------------------------

    def peer(self, link: Link, channel: bytes) -> Peer:
        """What is known of a link on a channel that it shares."""
        peers = self._peers.setdefault(link, {})
        peer = peers.get(channel)
        if peer is None:
            peer = peers[channel] = Peer(link, channel, asyncio.get_running_loop().time())
            self._direct[channel, link.peer] = peer
        return peer

    def _peers_on(self, channel: bytes) -> Iterator[Peer]:
        for peers in list(self._peers.values()):
            if channel in peers:
                yield peers[channel]

    def _on_shared(self, link: Link, channel: bytes) -> None:
        if link.via is not None:
            return
        old = self._peers.get(link, {}).pop(channel, None)
        if old is not None and old.pulling is not None:
            old.pulling.cancel()
        self._greet(link, channel)

    def _greet(self, link: Link, channel: bytes) -> None:
        if link.via is None and self._network.is_proxy(channel):
            self._send_digest(link, channel, ask=True)

    def _on_peer_version(self, link: Link, channel: bytes, version: int) -> None:
        """It has another document: under its old one it may not have known us as a proxy, and have
        kept its announcements to itself."""
        known = self._versions.setdefault(link, {}).get(channel)
        self._versions[link][channel] = version
        if known not in (None, version) and channel in self._network.shared(link):
            self._greet(link, channel)

    def _on_lost(self, link: Link) -> None:
        self._versions.pop(link, None)
        for peer in self._peers.pop(link, {}).values():
            if self._direct.get((peer.channel, link.peer)) is peer:
                del self._direct[peer.channel, link.peer]
            if peer.pulling is not None:
                peer.pulling.cancel()
            self._progressed(peer.channel)

    def on_change(self, channel: bytes) -> None:
        """The channel's document, or what we want on it, changed."""
        for link in self._network.links_on(channel):
            self._greet(link, channel)
        if self._network.is_proxy(channel):
            self._take_own(channel)

    def provides(self, channel: bytes, origin: bytes) -> bool:
        """Whether a member may provide anything: keys do not say of what kind they are."""
        roles = self._book.effective(channel, origin.hex())
        return any(provide_role(kind) in roles for kind in KINDS)

    # --- telling -----------------------------------------------------------------------------

    def _send_digest(self, link: Link, channel: bytes, *, ask: bool) -> None:
        """To a proxy all that we know, to others what we know of them."""
        me, peer = self._context.key.public, bytes.fromhex(link.peer)
        own = self._announcer.log(channel)
        mine = [] if own is None else [(me, (own.epoch, own.head))]
        if not self._network.is_proxy(channel):
            self._send_part(link, channel, me, me, mine, ask=ask)
            return
        if "proxy" not in self._book.effective(channel, link.peer):
            position = self._index.position(channel, peer)
            theirs = [] if position is None else [(peer, position)]
            self._send_part(link, channel, peer, peer, theirs, ask=ask)
            return
        self._send_states(link, channel, self._index.digest(channel) | dict(mine), ask=ask)

    def _send_states(
        self, link: Link, channel: bytes, states: dict[bytes, Position], *, ask: bool = False
    ) -> None:
        """In as many notes as it takes; the last one asks."""
        known = sorted(states.items())
        low = _LOWEST
        for start in range(0, max(1, len(known)), MAX_DIGEST_ORIGINS):
            part = known[start : start + MAX_DIGEST_ORIGINS]
            last = start + MAX_DIGEST_ORIGINS >= len(known)
            high = _HIGHEST if last else part[-1][0]
            self._send_part(link, channel, low, high, part, ask=ask and last)
            low = (int.from_bytes(high, "big") + 1).to_bytes(33, "big")[1:]

    def _send_part(
        self,
        link: Link,
        channel: bytes,
        low: bytes,
        high: bytes,
        part: list[tuple[bytes, Position]],
        *,
        ask: bool,
    ) -> None:
        origins = [OriginState(origin, epoch, seq) for origin, (epoch, seq) in part]
        link.note(GOSSIP_DIGEST, codec.plain(Digest(channel, low, high, origins, ask)))

    def _on_state(self, channel: bytes) -> None:
        """Our own log is there, or is still being added to."""
        if self._network.is_proxy(channel):
            self._take_own(channel)
        own, me = self._announcer.log(channel), self._context.key.public
        if own is None:
            return
        for proxy in self._network.proxies_on(channel):
            self._send_part(proxy, channel, me, me, [(me, (own.epoch, own.head))], ask=False)

    def _on_news(self, channel: bytes, since: int) -> None:
        own = self._announcer.log(channel)
        if self._network.is_proxy(channel):
            self._take_own(channel)
            return
        proxies = self._network.proxies_on(channel)
        if own is None or not proxies:
            return
        batches: list[Batch] = []
        known = (own.epoch, since) if since else None
        while len(batches) <= GOSSIP_PUSHES:
            batch = own.batch_after(channel, self._context.key, known)
            if batch is None:
                break
            batches.append(batch)
            known = (batch.epoch, batch.end)
        for proxy in proxies:
            self._push(self.peer(proxy, channel), batches)

    def _push(self, peer: Peer, batches: list[Batch]) -> None:
        if peer.untold or peer.serving or peer.pushed + len(batches) > GOSSIP_PUSHES:
            peer.untold.update(dict.fromkeys(batch.origin for batch in batches))
            self._tell(peer)
            return
        peer.pushed += len(batches)
        for batch in batches:
            peer.link.note(GOSSIP_BATCH, codec.plain(batch))

    def _tell(self, peer: Peer) -> None:
        """What else there is, once the peer has what was pushed, as far as it says so."""
        if not peer.untold or peer.serving or peer.pushed >= GOSSIP_HEARD_AFTER:
            return
        own, me = self._announcer.log(peer.channel), self._context.key.public
        known = {origin: self._index.position(peer.channel, origin) for origin in peer.untold}
        if me in known and own is not None:
            known[me] = (own.epoch, own.head)
        self._send_states(peer.link, peer.channel, {o: p for o, p in known.items() if p})
        peer.untold.clear()

    def _on_heard(self, link: Link, note: Heard) -> None:
        if note.channel in self._network.shared(link):
            peer = self.peer(link, note.channel)
            peer.pushed = max(0, peer.pushed - max(0, note.count))
            self._tell(peer)

    # --- hearing -----------------------------------------------------------------------------

    def _on_digest(self, link: Link, digest: Digest) -> None:
        channel = digest.channel
        if channel not in self._network.shared(link) or link.via is not None:
            return
        me, peer = self._context.key.public, self.peer(link, channel)
        from_proxy = "proxy" in self._book.effective(channel, link.peer)
        proxy = self._network.is_proxy(channel)
        for state in digest.origins:
            position = (state.epoch, state.seq)
            if state.origin == me:
                if from_proxy:
                    self._announcer.overtake(channel, position)
            elif proxy and (from_proxy or state.origin.hex() == link.peer):
                self._hear_of(peer, state.origin, position)
        if digest.ask and from_proxy:
            peer.pushed = 0
            peer.untold.clear()
            self._answer(peer)
        self.pulls.begin(peer)

    def _answer(self, peer: Peer) -> None:
        """Say how far we are to who asks: at once, but not as often as somebody may ask."""
        loop = asyncio.get_running_loop()
        wait = peer.answered_at + _ANSWER_SECONDS - loop.time()
        if wait > 0:
            if not peer.answering:
                peer.answering = True
                loop.call_later(wait, self._answer_late, peer)
            return
        peer.answered_at = loop.time()
        proxy = self._network.is_proxy(peer.channel)
        if proxy or self._announcer.log(peer.channel) is not None:
            self._send_digest(peer.link, peer.channel, ask=False)

    def _answer_late(self, peer: Peer) -> None:
        peer.answering = False
        if peer.channel in self._network.shared(peer.link):
            self._answer(peer)

    def _hear_of(self, peer: Peer, origin: bytes, position: Position) -> None:
        if not self.provides(peer.channel, origin):
            return
        known = self._index.position(peer.channel, origin) or UNKNOWN
        if origin.hex() == peer.link.peer:
            peer.own, peer.restored = position, position < known
            peer.heard_at = asyncio.get_running_loop().time()
            if peer.restored:  # it may not have had its log yet when we greeted it
                self._send_part(
                    peer.link, peer.channel, origin, origin, [(origin, known)], ask=False
                )
            self._progressed(peer.channel)
        if known < position:
            peer.lacking[origin] = position

    def _on_batch(self, link: Link, batch: Batch) -> None:
        channel = batch.channel
        if channel not in self._network.shared(link) or link.via is not None:
            return
        peer = self.peer(link, channel)
        peer.taken += 1
        if peer.taken >= GOSSIP_HEARD_AFTER:
            link.note(GOSSIP_HEARD, codec.plain(Heard(channel, peer.taken)))
            peer.taken = 0
        if self._network.is_proxy(channel):
            self._take(batch, peer)
            self.pulls.begin(peer)

    def _take(self, batch: Batch, peer: Peer | None, *, checked: bool = False) -> bool:
        """A proxy takes in a batch and passes on what was news; whether it was."""
        channel = batch.channel
        if not self.provides(channel, batch.origin):
            return False
        try:
            result = self._index.apply(batch, checked=checked)
        except ProtocolViolation as error:
            # The culprit is the origin, which need not be who passed it on: drop it, keep the link.
            self._context.warn(str(error))
            return False
        its_own = peer is not None and batch.origin.hex() == peer.link.peer
        if peer is not None and its_own and peer.own and (batch.epoch, batch.end) >= peer.own:
            peer.own, peer.restored = (batch.epoch, batch.end), False
        known = self._index.position(channel, batch.origin) or UNKNOWN
        if peer is not None and its_own and batch.epoch < known[0] and not peer.restored:
            # Its state is older than what it once said, or another node has its key.
            peer.restored = True
            self._send_part(
                peer.link, channel, batch.origin, batch.origin, [(batch.origin, known)], ask=False
            )
        if isinstance(result, Gap):
            if peer is not None:
                there = (batch.epoch, batch.end)
                peer.lacking[batch.origin] = max(there, peer.lacking.get(batch.origin, UNKNOWN))
            return False
        if result.marked or its_own:
            self._progressed(channel)
        if result.extended:
            origin = self._direct.get((channel, batch.origin.hex()))
            if origin is not None:
                origin.heard_at = asyncio.get_running_loop().time()
            self._pass_on(batch, result, peer)
        return result.extended

    def _pass_on(self, batch: Batch, result: Applied, peer: Peer | None) -> None:
        if result.fresh:
            for callback in self.on_fresh:
                callback(batch.channel, batch.origin, result.fresh)
        for proxy in self._network.proxies_on(batch.channel):
            if proxy.peer != (peer.link.peer if peer else "") and proxy.peer != batch.origin.hex():
                self._push(self.peer(proxy, batch.channel), [batch])

    def _progressed(self, channel: bytes) -> None:
        for callback in self.on_progress:
            callback(channel)

    def _take_own(self, channel: bytes) -> None:
        """What we announce goes into our index too, which lies in memory only."""
        if channel not in self._own:
            task = self._network.spawn(self._catch_up(channel), name="index own announcements")
            self._own[channel] = task

    async def _catch_up(self, channel: bytes) -> None:
        try:
            while self._network.is_proxy(channel):
                own = self._announcer.log(channel)
                known = self._index.position(channel, self._context.key.public)
                batch = own and own.batch_after(channel, self._context.key, known)
                if not batch or not self._take(batch, None, checked=True):
                    return
                await asyncio.sleep(0)  # a large log takes a while
        finally:
            del self._own[channel]
