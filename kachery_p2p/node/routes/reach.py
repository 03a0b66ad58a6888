"""How a link to somebody comes about: the routes to a member, tried from the best to the last.

Over an existing link; directly, if the member has an address; else through a proxy, as a circuit. A
direct attempt has a head start; then both go on, and the first link is used. When the direct one comes
later it is the better of two (:meth:`Network.links_to`), and what is asked next goes over it. And
the other end of that: a circuit that a proxy brings is accepted here. Links that were made on demand
are closed again when nobody has used them for a while.

A route that failed is remembered for a minute: a bad address is not tried again, a bad proxy is tried
last. That is only an order of trying, so a lie about a route costs time and nothing else.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Protocol

from kachery_p2p.node.links.circuit import CircuitTransport, circuit_to
from kachery_p2p.node.links.dialling import Dialling, Rules
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.node.links.transport import Transport
from kachery_p2p.protocol.errors import KacheryError, NotAMember, Unreachable
from kachery_p2p.protocol.limits import (
    CIRCUIT_CREDIT,
    HEAD_START_SECONDS,
    IDLE_CIRCUIT_SECONDS,
    MAX_BAD_ROUTES,
)
from kachery_p2p.protocol.links.messages import CIRCUIT, CIRCUIT_IN, CircuitTo

_RETRY_SECONDS = 60.0
"""How long a route that failed is remembered as bad."""
_DIRECT_SECONDS = 3.0
"""How long one address may take."""


class Dialer(Protocol):
    """How transports are made: real sockets, or the simulator's. ``dial_member``: to a URL that another
    node named, so within rules."""

    async def dial(self, url: str, *, knock: str = "") -> Transport: ...

    async def dial_member(self, url: str, rules: Rules, *, knock: str = "") -> Transport: ...


class BadRoutes:
    """What failed lately. ``now`` is in seconds of any clock that never goes back."""

    def __init__(self) -> None:
        self._until: OrderedDict[Hashable, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def add(self, route: Hashable, now: float) -> None:
        """Remember it; of more than ``MAX_BAD_ROUTES``, the oldest are forgotten."""
        self._until[route] = now + _RETRY_SECONDS
        self._until.move_to_end(route)
        while len(self._until) > MAX_BAD_ROUTES:
            self._until.popitem(last=False)

    def forgive(self, route: Hashable) -> None:
        """It has been seen to work."""
        self._until.pop(route, None)

    def is_bad(self, route: Hashable, now: float) -> bool:
        return self._until.get(route, now) > now


class Reach:
    def __init__(self, network: Network, dialer: Dialer, dialling: Dialling | None = None) -> None:
        self.dialer = dialer
        self._dialling = dialling
        self._network = network
        self._kept: set[Link] = set()
        self.neighbours: Callable[[str], list[str]] = lambda node: []
        """Where a member is reached in the local network, as far as is known."""
        self._reaching: dict[tuple[str, bytes], asyncio.Task[Link]] = {}
        self._dials: dict[tuple[str, bytes], asyncio.Task[tuple[Link | None, list[str]]]] = {}
        self._early: dict[tuple[str, bytes], Link] = {}
        """Links on which the peer's hello has not come yet. They may be used already."""
        self._bad_urls = BadRoutes()
        self._bad_proxies = BadRoutes()
        network.on_lost.append(self._kept.discard)
        network.on_stream_of(CIRCUIT_IN, CircuitTo, self._on_circuit)

    async def connect(
        self, url: str, expected: str | None, *, guest_of: bytes | None = None
    ) -> Link:
        """Dial an address that a channel's owner or this node's user named, and make a link; with
        ``expected``, to that node or nobody. ``guest_of``: as for :meth:`Network.attend`."""
        knock = self._dialling.knock(expected, guest_of) if self._dialling else ""
        transport = await self.dialer.dial(url, knock=knock)
        return await self._network.attend(
            transport, initiator=True, expected=expected, guest_of=guest_of
        )

    async def _connect_member(self, url: str, node: str, channel: bytes) -> Link:
        """The same for an address that another node named."""
        rules, knock = Rules(), ""
        if self._dialling is not None:
            rules, knock = self._dialling.rules(channel), self._dialling.knock(node, channel)
        transport = await self.dialer.dial_member(url, rules, knock=knock)
        return await self._attend(transport, node, channel, partial(self._bad_urls.add, url))

    async def _attend(
        self,
        transport: Transport,
        node: str,
        channel: bytes,
        failed: Callable[[float], None],
        *,
        via: str | None = None,
    ) -> Link:
        """A link on which a member may be asked at once. The handshake has proven that it is the
        member, and what is asked comes behind our hello, so its own need not be waited for.
        ``failed`` is called with the time if it never comes: the route is bad."""
        network = self._network
        link = await network.begin(transport, initiator=True, expected=node, via=via)
        if not network.is_member(channel, node):
            await network.greeted(link)
        else:
            self._early[node, channel] = link
            network.spawn(self._greet(link, (node, channel), failed), name="greet")
        return link

    async def _greet(
        self, link: Link, key: tuple[str, bytes], failed: Callable[[float], None]
    ) -> None:
        try:
            await self._network.greeted(link)
        except KacheryError:
            if link.hello is None:
                failed(asyncio.get_running_loop().time())
            raise
        finally:
            if self._early.get(key) is link:
                del self._early[key]

    def keep(self, link: Link) -> None:
        """A link to a bootstrap node stays although nobody uses it."""
        if link.closed_by is None:
            self._kept.add(link)

    def is_kept(self, link: Link) -> bool:
        return link in self._kept

    async def to(
        self, node: str, channel: bytes, *, urls: Iterable[str] = (), relays: Iterable[str] = ()
    ) -> Link:
        """A live link to a member: an existing one, a direct one, or one through a proxy.

        ``relays`` are the proxies that say it is connected to them; without any, all are tried.

        Raises:
            Unreachable: with what was tried.
        """
        existing = self._network.links_to(node, channel)
        if existing and not existing[0].heart.is_doubtful:
            return existing[0]
        early = self._early.get((node, channel))
        if early is not None and early.closed_by is None and self._network.is_member(channel, node):
            return early
        try:
            return await self.anew(node, channel, urls=urls, relays=relays)
        except Unreachable:
            if existing and existing[0].closed_by is None:
                return existing[0]  # it may yet go on
            raise

    async def anew(
        self, node: str, channel: bytes, *, urls: Iterable[str] = (), relays: Iterable[str] = ()
    ) -> Link:
        """The same, whatever links there are."""
        key = (node, channel)
        task = self._reaching.get(key)
        if task is None:
            task = self._network.spawn(
                self._make(node, channel, tuple(urls), frozenset(relays)), name="reach"
            )
            self._reaching[key] = task
            task.add_done_callback(lambda _: self._reaching.pop(key, None))
        return await asyncio.shield(task)

    async def _make(
        self, node: str, channel: bytes, urls: tuple[str, ...], relays: frozenset[str]
    ) -> Link:
        tried: list[str] = []
        direct: asyncio.Task[Link | None] = self._network.spawn(
            self.direct(node, channel, urls, tried), name="dial"
        )
        await asyncio.wait({direct}, timeout=HEAD_START_SECONDS)
        link = direct.result() if direct.done() else None
        if link is not None:
            return link
        relayed: asyncio.Task[Link | None] = self._network.spawn(
            self._relayed(node, channel, relays, tried), name="relay"
        )
        waiting = {direct, relayed}
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            # The direct attempt goes on if the circuit was faster: what comes of it is better.
            for task in (direct, relayed):
                if task in done and (link := task.result()) is not None:
                    return link
        raise Unreachable(
            what=f"node {node[:8]}", reason="; ".join(tried) or "no proxy is connected"
        )

    async def direct(
        self,
        node: str,
        channel: bytes,
        urls: Iterable[str],
        tried: list[str] | None = None,
    ) -> Link | None:
        """A link to one of the addresses of a member that has not failed of late; None, and in
        ``tried`` why not. Whoever asks while somebody is at it has the same answer."""
        dialling = self._dials.get((node, channel))
        if dialling is None:
            urls = tuple(dict.fromkeys([*self.neighbours(node), *urls]))
            dialling = self._network.spawn(self._dial(node, channel, urls), name="dial")
            self._dials[node, channel] = dialling
            dialling.add_done_callback(lambda _: self._dials.pop((node, channel), None))
        link, reasons = await asyncio.shield(dialling)
        if tried is not None:
            tried += reasons
        return link

    async def _dial(
        self, node: str, channel: bytes, urls: tuple[str, ...]
    ) -> tuple[Link | None, list[str]]:
        tried: list[str] = []
        loop = asyncio.get_running_loop()
        for url in urls:
            if self._bad_urls.is_bad(url, loop.time()):
                continue
            try:
                async with asyncio.timeout(_DIRECT_SECONDS):
                    return await self._connect_member(url, node, channel), tried
            except (KacheryError, TimeoutError) as error:
                self._bad_urls.add(url, loop.time())
                tried.append(f"directly at {url}: {error or 'no answer'}")
        return None, tried

    async def _relayed(
        self, node: str, channel: bytes, relays: frozenset[str], tried: list[str]
    ) -> Link | None:
        loop = asyncio.get_running_loop()
        for proxy in self._ordered(self._network.proxies_on(channel), relays):
            try:
                link = await self._through(proxy, node, channel)
            except KacheryError as error:
                tried.append(f"through {proxy.peer[:8]}: {error}")
                if not isinstance(error, Unreachable):  # that one only says where the member is not
                    self._bad_proxies.add(proxy.peer, loop.time())
            else:
                self._bad_proxies.forgive(proxy.peer)
                return link
        return None

    def _ordered(self, proxies: list[Link], relays: frozenset[str]) -> list[Link]:
        now = asyncio.get_running_loop().time()
        return sorted(
            proxies,
            key=lambda link: (
                link.heart.is_doubtful,
                self._bad_proxies.is_bad(link.peer, now),
                link.peer not in relays,
                link.rtt or 1.0,
            ),
        )

    async def _through(self, proxy: Link, node: str, channel: bytes) -> Link:
        transport = circuit_to(proxy, CIRCUIT, channel, node)
        failed = partial(self._bad_proxies.add, proxy.peer)
        return await self._attend(transport, node, channel, failed, via=proxy.peer)

    async def _on_circuit(self, link: Link, stream: Stream, params: CircuitTo) -> None:
        """A proxy says that a member wants to talk to us."""
        network = self._network
        network.require_shared(link, params.channel)
        network.book.require(params.channel, node_id=link.peer, role="proxy", side="provider")
        source = params.node.hex()
        if not network.is_member(params.channel, source):
            raise NotAMember(node=source, peer=network.context.node_id[:8])
        stream.grant(CIRCUIT_CREDIT)
        name = f"{source[:8]} via {link.peer[:8]}"
        transport = CircuitTransport(stream, name, first=params.first)
        inner = await network.attend(transport, initiator=False, expected=source, via=link.peer)
        await inner.closed.wait()

    def sweep(self) -> None:
        """Close on-demand links that nobody has used for a while."""
        for link in list(self._network.links):
            if (
                link.initiator
                and link not in self._kept
                and link.idle_seconds > IDLE_CIRCUIT_SECONDS
            ):
                link.close(Unreachable(what=link.peer[:8], reason="the link was idle"))


def via_label(network: Network, link: Link) -> str | None:
    """The label of the proxy that a link goes through; None if it is direct."""
    if link.via is None:
        return None
    for other in network.links:
        if other.peer == link.via and other.hello is not None and other.hello.label:
            return other.hello.label
    return link.via[:8]
