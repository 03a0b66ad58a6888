"""The node's links: who is linked, on which channels, and what they may.

:class:`Network` owns every link. It greets, finds the channels two nodes share, closes links that
share none, and answers requests through the handlers that other parts of the node register
(:mod:`.handlers`). How a link to somebody comes about is the business of
:mod:`~kachery_p2p.node.routes.reach`.

Invariants: what a handler is called with has been decoded and type-checked, and its link shares at
least one channel; *which* channel and role a call needs is the handler's to check, with
:meth:`Network.require_shared` and :meth:`Network.require_role`. Each link, and each part of the node
that listens to what becomes of links, is on its own: none that fails keeps another from hearing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from kachery_p2p.node.context import Context
from kachery_p2p.node.supervision import Supervisor
from kachery_p2p.protocol.channels.membership import GUEST_VERSION, channel_tag
from kachery_p2p.protocol.channels.messages import CHANNEL_DOCUMENT, CHANNELS, VISIT, VISIT_USE
from kachery_p2p.protocol.channels.visitor_pass import Mark, Visiting
from kachery_p2p.protocol.errors import (
    AccessDenied,
    ClockSkew,
    InternalError,
    KacheryError,
    NotAMember,
    ProtocolViolation,
)
from kachery_p2p.protocol.limits import (
    GUEST_SECONDS,
    HANDSHAKE_SECONDS,
    MAX_CHANNELS,
)
from kachery_p2p.protocol.links.frames import Hello

from .budget import Budgets
from .endings import end_fullest, end_surplus
from .guests import Guests, Visitors
from .handlers import Handlers
from .hellos import Channels, Sayings, flaw, own_hello, settled
from .link import Link
from .opening import handshake
from .stream import Stream
from .transport import Transport

log = logging.getLogger(__name__)


class Network:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.book = context.book
        self.links: dict[Link, None] = {}
        """An ordered set, so that every run is the same."""
        self.on_shared: list[Callable[[Link, bytes], None]] = []
        """Called when a link comes to share a channel."""
        self.on_lost: list[Callable[[Link], None]] = []
        self.on_peer_version: list[Callable[[Link, bytes, int], None]] = []
        """Called when a peer says which version of a channel's document it has."""
        self.budgets = Budgets()
        self._shared: dict[Link, set[bytes]] = {}
        self.sayings = Sayings(self.book)
        self.handlers = Handlers()
        self.on_request_of = self.handlers.on_request_of
        self.on_stream_of = self.handlers.on_stream_of
        self.on_note_of = self.handlers.on_note_of
        self._tasks: set[asyncio.Task[Any]] = set()
        self._greeting: dict[Transport, None] = {}
        """Transports that are not links yet."""
        self._said: dict[Link, Channels] = {}
        """What our hello said, until the peer's has come."""
        self._guest_of: dict[Link, bytes] = {}
        """Links that this node opened to join a channel, and nothing else."""
        self._guests = Guests()
        """Links of others who hold an invitation, until they are members."""
        self.visitors = Visitors(context)
        self._closed_by: KacheryError | None = None
        self.supervisor = Supervisor(self.spawn, context.warn, context.random)
        self.on_note_of(CHANNELS, Channels, self.set_peer_channels)

    # --- Handler of each link ----------------------------------------------------------------

    async def on_request(self, link: Link, method: str, params: Any) -> Any:
        if method in self.handlers.requests and method not in (VISIT, VISIT_USE):
            await self._may_share_soon(link)
            self._check_shares(link)
        return await self.handlers.request(link, method, params)

    async def on_stream(self, link: Link, stream: Stream, method: str, params: Any) -> None:
        if method != CHANNEL_DOCUMENT:
            await self._may_share_soon(link)
        await self.handlers.stream(link, stream, method, params)

    def on_note(self, link: Link, topic: str, params: Any) -> None:
        self.handlers.note(link, topic, params)

    def on_congested(self, link: Link) -> None:
        end_fullest([each for each in self.links if each.closed_by is None])

    async def _may_share_soon(self, link: Link) -> None:
        """What was asked right behind a hello waits for the document that decides about it."""
        if not self._shared.get(link) and link not in self._guests:
            await self._until_settled(link, HANDSHAKE_SECONDS / 2)

    def _check_shares(self, link: Link) -> None:
        if not self._shared.get(link) and link not in self.visitors:
            raise NotAMember(node=link.peer, peer=self.context.node_id[:8])

    # --- permission --------------------------------------------------------------------------

    def name_of(self, channel: bytes) -> str:
        """The channel's name for people, or the start of its id."""
        if channel in self.book:
            return self.book.signed(channel).document.name
        return channel.hex()[:8]

    def version_of(self, channel: bytes) -> int:
        return self.book.signed(channel).document.version

    def own_roles(self, channel: bytes) -> frozenset[str]:
        return self.book.effective(channel, self.context.node_id)

    def is_proxy(self, channel: bytes) -> bool:
        """Whether this node relays and answers look-ups on a channel."""
        return "proxy" in self.own_roles(channel)

    def require_proxy(self, channel: bytes, *, does: str = "answer look-ups") -> None:
        """Raise AccessDenied unless this node is a proxy of the channel; ``does``: what is asked."""
        if not self.is_proxy(channel):
            raise AccessDenied(
                channel=self.name_of(channel),
                who=f"node {self.context.node_id[:8]}",
                role="proxy",
                cause=f"it does not {does} on this channel",
            )

    def is_member(self, channel: bytes, node: str) -> bool:
        return self.book.is_member(channel, node)

    def require_shared(self, link: Link, channel: bytes) -> None:
        """Raise NotAMember unless both ends of ``link`` are members of ``channel`` now."""
        if channel not in self._shared.get(link, ()):
            raise NotAMember(node=link.peer, peer=self.context.node_id[:8])

    def require_guest(self, link: Link, channel: bytes) -> None:
        """Raise NotAMember unless the peer said that it holds an invitation to ``channel``, or is a
        member by now."""
        if channel in self._shared.get(link, ()):
            return
        if link not in self._guests or not self.sayings.is_guest(link, channel):
            raise NotAMember(node=link.peer, peer=self.context.node_id[:8])

    def visit(self, link: Link, visiting: Visiting) -> None:
        """A guest has shown a pass: from now on its link is that of a visitor."""
        self._guests.discard(link)
        self.visitors.add(link, visiting)

    def require_role(
        self, link: Link, channel: bytes, *, theirs: str, ours: str | None, mark: Mark | None = None
    ) -> None:
        """Raise AccessDenied unless the peer has the role ``theirs`` and we have ``ours``. A visitor
        has it for the content whose ``mark`` is in its pass, and for nothing else."""
        if mark is not None and link in self.visitors:
            self.visitors.require(link, channel, theirs, mark)
        else:
            self.require_shared(link, channel)
            self.book.require(channel, node_id=link.peer, role=theirs, side="requester")
        if ours is not None:
            self.book.require(channel, node_id=self.context.node_id, role=ours, side="provider")

    # --- links -------------------------------------------------------------------------------

    def shared(self, link: Link) -> frozenset[bytes]:
        return frozenset(self._shared.get(link, ()))

    def links_on(self, channel: bytes) -> list[Link]:
        return [link for link in self.links if channel in self._shared.get(link, ())]

    def links_to(self, node: str, channel: bytes) -> list[Link]:
        """Live links to a node that share a channel, the best first."""
        found = [
            link
            for link in self.links
            if link.peer == node
            and link.closed_by is None
            and channel in self._shared.get(link, ())
        ]
        return sorted(found, key=Link.preference)

    def proxies_on(self, channel: bytes) -> list[Link]:
        """Direct links to nodes that may relay on a channel, one per node."""
        seen: dict[str, Link] = {}
        for link in self.links_on(channel):
            if (
                link.via is None
                and link.closed_by is None
                and "proxy" in self.book.effective(channel, link.peer)
            ):
                seen.setdefault(link.peer, link)
        return [seen[peer] for peer in sorted(seen)]

    def _my_channels(self, link: Link) -> Channels:
        handshake_hash = link.session.handshake_hash
        if link in self._guest_of:
            tag = channel_tag(self._guest_of[link], self.context.key.public, handshake_hash)
            return {tag: (GUEST_VERSION, [])}
        return {
            tag: (self.version_of(channel), sorted(self.book.wanted(channel)))
            for tag, channel in self.book.tags(handshake_hash).items()
        }

    async def attend(
        self,
        transport: Transport,
        *,
        initiator: bool,
        expected: str | None = None,
        via: str | None = None,
        proved: Callable[[], None] = lambda: None,
        guest_of: bytes | None = None,
    ) -> Link:
        """Handshake, greet, and find common channels. Returns the live link.

        ``proved`` is called when the peer is somebody with whom this node has a channel in common, or a
        guest. With ``guest_of`` the link is for joining that channel and for nothing else; the caller
        closes it.

        Raises:
            KacheryError: why there is no link; the transport is closed then.
        """
        link = await self.begin(
            transport, initiator=initiator, expected=expected, via=via, guest_of=guest_of
        )
        await self.greeted(link, proved)
        return link

    async def begin(
        self,
        transport: Transport,
        *,
        initiator: bool,
        expected: str | None = None,
        via: str | None = None,
        guest_of: bytes | None = None,
    ) -> Link:
        """The first half of :meth:`attend`: who is there is proven, and our hello is on its way. What
        the initiator of a link asks now goes right behind that. Raises as :meth:`attend`."""
        self._greeting[transport] = None
        try:
            greet = partial(
                handshake,
                transport,
                initiator=initiator,
                key=self.context.key,
                random_bytes=self.context.random_bytes,
                expected_peer=bytes.fromhex(expected) if expected else None,
            )
            if initiator:
                session = await greet()
            else:
                session = await self.context.turns.metered(lambda: transport.party, greet)
            if self._closed_by is not None:
                raise self._closed_by
        except BaseException:
            with contextlib.suppress(KacheryError):
                await transport.close()
            raise
        finally:
            del self._greeting[transport]
        link = Link(
            transport,
            session,
            initiator=initiator,
            handler=self,
            workers=self.context.workers,
            budget=self.budgets.of(session.peer.hex()),
            turns=self.context.turns,
            via=via,
        )
        if guest_of is not None:
            self._guest_of[link] = guest_of
        hello = own_hello(self.context, self._my_channels(link))
        self._said[link] = hello.channels
        self.spawn(self._life(link, hello), name=f"link {link.peer[:8]}")
        return link

    async def greeted(self, link: Link, proved: Callable[[], None] = lambda: None) -> None:
        """The second half: wait until it is clear what the link shares. Raises as :meth:`attend`."""
        await link.greeted.wait()
        if link in self._guests:
            proved()
        if link not in self._guest_of:
            await self._settled(link)
        if link.closed_by is not None:
            await link.closed.wait()  # who accepted it lets the connection go then, and not before
            raise link.closed_by.again()
        proved()

    async def _life(self, link: Link, hello: Hello) -> None:
        try:
            await link.run(hello)
        finally:
            self.links.pop(link, None)
            self._said.pop(link, None)
            self._shared.pop(link, None)
            self.sayings.forget(link)
            self._guest_of.pop(link, None)
            self._guests.discard(link)
            self.visitors.discard(link)
            self.supervisor.each("forgetting a link", self.on_lost, link)

    def on_hello(self, link: Link) -> None:
        assert link.hello is not None
        if link.peer == self.context.node_id:
            link.close(ProtocolViolation(reason="this node reached itself"))
            return
        now = self.context.clock()
        link.skew = link.hello.now - now
        if (error := flaw(link.hello, link.peer, now)) is not None:
            if isinstance(error, ClockSkew):
                self.context.warn(str(error))
            link.close(error)
            return
        self.links[link] = None
        end_surplus([x for x in self.links if x.peer == link.peer and x.closed_by is None])
        self._shared[link] = set()
        current = self._my_channels(link)
        if current != self._said.pop(link, current):
            # A document changed while the hellos were under way, and this link was not told.
            link.note(CHANNELS, current)
        self.set_peer_channels(link, link.hello.channels)
        if not self._shared[link] and self.sayings.is_guest(link):
            self._guests.add(link)

    async def _settled(self, link: Link) -> None:
        """Wait until the link shares a channel, or it is clear that it will not."""
        seconds = GUEST_SECONDS if link in self._guests else HANDSHAKE_SECONDS / 2
        if not await self._until_settled(link, seconds):
            link.close(NotAMember(node=link.peer, peer=self.context.node_id[:8]))
            # The peer may know better: its word is more use than ours.
            await link.closed.wait()

    async def _until_settled(self, link: Link, seconds: float) -> bool:
        return await settled(
            link,
            shares=lambda: bool(self._shared.get(link)) or link in self.visitors,
            hope=lambda: link in self._guests or self._may_come_to_share(link),
            seconds=seconds,
        )

    def _may_come_to_share(self, link: Link) -> bool:
        """One side will have a newer document soon, which may make both members."""
        return any(
            version > self.version_of(channel)
            or (version < self.version_of(channel) and self.is_member(channel, link.peer))
            for channel, version, _ in self.sayings.of(link)
        )

    def set_peer_channels(self, link: Link, channels: Channels) -> None:
        """The peer said which channels it is on (as tags), with versions and wanted roles."""
        if len(channels) > MAX_CHANNELS:
            raise ProtocolViolation(reason=f"more than {MAX_CHANNELS} channels")
        if link not in self.links:
            return
        self.sayings.hear(link, channels)
        self.supervisor.attempt("looking what a link shares", self._reconsider_firmly, link)
        for channel, version, _ in self.sayings.of(link):
            self.supervisor.each(
                "looking at a peer's version", self.on_peer_version, link, channel, version
            )

    def reconsider(self, link: Link) -> None:
        """Find anew what a link shares; tell the rest of the node; cut it if that is nothing."""
        before = self._shared.get(link)
        if before is None or link in self._guest_of:
            return
        now = self.book.common(self.sayings.tags(link), link.session.handshake_hash, link.peer)
        self._shared[link] = set(now)
        if now:
            link.is_member()
            self._guests.discard(link)
        if before and not now:
            link.close(NotAMember(node=link.peer, peer=self.context.node_id[:8]), at_once=True)
        for channel in sorted(now - before):
            self.supervisor.each("greeting a member", self.on_shared, link, channel)

    def reconsider_all(self) -> bool:
        """After the book changed: what links share, and what we tell our peers about it. Whether all
        of it succeeded; it may be done again."""
        attempt, links = self.supervisor.attempt, list(self.links)
        good = [
            attempt("looking what a link shares", self._reconsider_firmly, link) for link in links
        ]
        # Who is out must not wait for what the others are told.
        good += [attempt("telling of a change", self._tell_channels, link) for link in links]
        return all(good)

    def _reconsider_firmly(self, link: Link) -> None:
        """What cannot be decided is not shared."""
        try:
            self.reconsider(link)
        except BaseException as error:
            self._shared[link] = set()
            link.close(InternalError(reason=f"rights that cannot be told: {error}"), at_once=True)
            raise

    def _tell_channels(self, link: Link) -> None:
        link.note(CHANNELS, self._my_channels(link))

    # --- tasks -------------------------------------------------------------------------------

    def spawn(self, work: Any, *, name: str) -> asyncio.Task[Any]:
        """A task that is cancelled and awaited when the network closes."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if not isinstance(error, KacheryError):
                log.error("%s failed", task.get_name(), exc_info=error)
            else:
                log.debug("%s: %s", task.get_name(), error)

    async def close(self, error: KacheryError) -> None:
        """Say goodbye on every link, then stop everything."""
        self._closed_by = error
        for transport in list(self._greeting):
            with contextlib.suppress(KacheryError):
                await transport.close()
        links = list(self.links)
        for link in links:
            link.close(error)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await asyncio.gather(*(link.closed.wait() for link in links))
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
