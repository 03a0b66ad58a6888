"""The composition root: makes the parts of a node, starts and stops them in order.

``start`` returns when everything listens; ``stop`` leaves nothing open, and nothing half-written
that was acknowledged. Order: storage (with its lock), state, channels, links, announcements, local
API; and back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from kachery_p2p.node.archives.archiving import Archiving
from kachery_p2p.node.backing.backing import Backing
from kachery_p2p.node.batches.asker import Asker
from kachery_p2p.node.batches.loader import BatchLoader
from kachery_p2p.node.batches.provider import BatchProvider
from kachery_p2p.node.channels.admissions import Admissions
from kachery_p2p.node.channels.bootstraps import Bootstraps
from kachery_p2p.node.channels.documents import Documents
from kachery_p2p.node.channels.invitations import Invitations
from kachery_p2p.node.channels.joining import Joining
from kachery_p2p.node.channels.presence import Presence
from kachery_p2p.node.channels.visits import Visits
from kachery_p2p.node.doors.server import LocalServer
from kachery_p2p.node.feeds.feeds import Feeds
from kachery_p2p.node.feeds.offers import FeedOffers
from kachery_p2p.node.feeds.own_feeds import OwnFeeds
from kachery_p2p.node.feeds.reader import FeedReader
from kachery_p2p.node.feeds.server import FeedServer
from kachery_p2p.node.feeds.submitter import FeedSubmitter
from kachery_p2p.node.files.downloader import Downloader
from kachery_p2p.node.files.keeping import CopyLocks, Keeping
from kachery_p2p.node.files.offers import BlobOffers, PartOffers
from kachery_p2p.node.files.provider import Provider
from kachery_p2p.node.files.readers import FetchThrough
from kachery_p2p.node.files.scrubbing import Scrubbing
from kachery_p2p.node.gossip.announcer import Announcer
from kachery_p2p.node.gossip.availability import Availability
from kachery_p2p.node.gossip.discovery import Discovery
from kachery_p2p.node.gossip.lookup import Lookup
from kachery_p2p.node.gossip.watches import Watches
from kachery_p2p.node.keepers.keepers import Keepers
from kachery_p2p.node.keepers.offering import KeepOffers
from kachery_p2p.node.links.circuit import Relay
from kachery_p2p.node.links.dialling import Dialling, WebSocketDialer
from kachery_p2p.node.links.gate import Gate
from kachery_p2p.node.links.listener import Doors, Listener
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.local.calls import Calls
from kachery_p2p.node.local.services import Services
from kachery_p2p.node.routes.routes import Routes
from kachery_p2p.node.tasks.backends import TaskBackends, TaskFunctionOffers
from kachery_p2p.node.tasks.queue import TaskQueue
from kachery_p2p.node.tasks.requests import TaskRequests
from kachery_p2p.node.tasks.results import ResultOffers, TaskResults
from kachery_p2p.node.tasks.server import TaskServer
from kachery_p2p.node.web.page import Page, own_names
from kachery_p2p.protocol import limits
from kachery_p2p.protocol.channels.membership import ChannelBook
from kachery_p2p.protocol.errors import KacheryError, LinkClosed
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.links.knock import Knocks

from .config import Config
from .context import Context
from .key_file import load_key
from .links import transport
from .stores import Stores
from .upkeep import Upkeep
from .workers import Workers

log = logging.getLogger(__name__)
_RARE = "deleting what expired", "verifying what is stored"


class Node:
    """One node. ``dialer`` and ``context`` are replaced by the simulator, nobody else."""

    def __init__(
        self,
        config: Config,
        *,
        dialer: Any = None,
        workers: Workers | None = None,
        adjust: Callable[[Context], Context] = lambda context: context,
    ) -> None:
        config.check()
        self.config = config
        self._dialer = dialer or WebSocketDialer()
        self._workers = workers
        self._adjust = adjust
        self._stores = Stores()
        self.listening: str | None = None
        """Where other nodes reach this one, if it listens."""
        self._listeners: list[Listener] = []
        self.stopping = asyncio.Event()
        """Set by whoever wants the node to stop: a signal, or the local API."""

    async def start(self) -> None:
        """Open everything, or undo it and raise the KacheryError that says why not."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        config = self.config
        loop = asyncio.get_running_loop()
        stores = self._stores
        stores.open(
            config,
            clock=lambda: self.context.clock(),
            gone=lambda sha1: self._went(loop, sha1),
        )
        self.state, self.store, self.inventory = stores.state, stores.store, stores.inventory
        self.quota, self.origin_index = stores.quota, stores.origin_index
        self.feed_store, self.task_store = stores.feed_store, stores.task_store
        self.marker = stores.marker
        context = Context(
            key=None,  # type: ignore[arg-type]  # set below, with the adjusted randomness
            book=None,  # type: ignore[arg-type]
            state=self.state,
            store=self.store,
            inventory=self.inventory,
            quota=self.quota,
            workers=self._workers or Workers(),
            elsewhere=self.origin_index,
            label=config.label,
        )
        if self.store.read_only:
            context.warn(
                f"the storage folder {self.store.root} can only be read: nothing is stored or fetched"
            )
        context = self._adjust(context)
        context.rates.set(*stores.rates)
        key = load_key(config.state_dir / "node.key", context.random_bytes)
        self.context = replace(context, key=key, book=ChannelBook(key))
        self.network = Network(self.context)
        self.dialling = Dialling(self.context, config.private())
        self.routes = Routes(self.network, self._dialer, self.dialling)
        self.reach = self.routes.reach
        self.relay = Relay(self.network)
        self.documents = Documents(self.network)
        self.admissions = Admissions(self.network, self.documents)
        self.invitations = Invitations(self.network, self.documents, self.admissions)
        self.joining = Joining(self.network, self.reach, self.documents, self.admissions)
        self.visits = Visits(self.network, self.documents)
        self.bootstraps = Bootstraps(self.network, self.reach)
        self.task_offers = TaskFunctionOffers()
        self.part_offers = PartOffers(self.context)
        self.keep_offers = KeepOffers(self.context)
        self.announcer = Announcer(
            self.network,
            [
                BlobOffers(self.context), self.part_offers, FeedOffers(self.feed_store),
                self.keep_offers, ResultOffers(self.task_store), self.task_offers,
            ],
        )  # fmt: skip
        self.availability = Availability(self.network, self.announcer)
        self.lookup = Lookup(self.network, self.availability, self.bootstraps)
        self.watches = Watches(self.network)
        self.availability.on_fresh.append(self.watches.appeared)
        self.backing = Backing(
            self.context,
            self.origin_index,
            provide=self._provide_file,
            withdraw=self._withdraw_file,
            compare=self.announcer.refresh,
        )
        self.downloader = Downloader(
            self.network, self.reach, self.lookup, self.watches, self.backing,
            provide=self._provide_file,
            offer=lambda sha1, where: self.part_offers.offer(self.announcer, sha1, where),
        )  # fmt: skip
        self.provider = Provider(
            self.network,
            part=self.downloader.part,
            through=FetchThrough(
                self.context, self.backing, self.downloader, spawn=self.network.spawn
            ),
            withdrawn=self._withdraw_file,
        )
        self.copy_locks = CopyLocks(self.store.readers)
        self.keeping = Keeping(
            self.context,
            self.downloader,
            self.provider,
            self.copy_locks,
            provide=self._provide_file,
            withdraw=self._withdraw_file,
        )
        self.archiving = Archiving(
            self.context, self.backing, self.downloader, self.keeping, provide=self._provide_file
        )
        self.batch_provider = BatchProvider(self.network, self.provider)
        self.batch_loader = BatchLoader(
            self.network, self.reach, self.lookup, self.downloader, provide=self._provide_file
        )
        self.asker = Asker(self.network, self.batch_loader)
        self.downloader.on_gave = self.asker.gave
        self.presence = Presence(self.network)
        discovery = Discovery(self.network, self.reach, self.lookup, self.watches)
        self._make_feeds(discovery)
        self._make_tasks(discovery)
        self.keepers = Keepers(
            discovery, self.keep_offers, self.keeping, self.copy_locks, self.downloader,
            self.batch_loader, self.feeds, self.feed_reader, self.backing,
        )  # fmt: skip
        self.upkeep = Upkeep(
            self.context,
            self.availability.index,
            served=lambda: self.network.budgets.exchanges.shares.total,
            provide=self._provide_file,
            withdraw=self._withdraw_file,
        )
        self.scrubbing = Scrubbing(
            self.context,
            self.downloader,
            withdraw=self._withdraw_file,
            compare=self.upkeep.compare,
        )
        self.documents.load()
        self.keep_offers.load()
        self.admissions.load()
        self.visits.load()
        self.availability.begin()
        self._follow_channels()
        await self.backing.load(config.backing)
        await self._listen()
        self.announcer.start()
        await self.routes.start(config, self.listening)
        self._keep_house()
        self.network.spawn(self.upkeep.index(self.announcer.scanned), name="index storage")
        self.bootstraps.refresh()
        services = self._services()
        self.calls = Calls(services)
        if config.local_api:
            self.api = LocalServer(services, self.calls)
            await self.api.start()
            work = self.network.supervisor.every(
                limits.NOTICE_SECONDS, "keeping the local socket", self.api.look_after_socket
            )
            self.network.spawn(work, name="keeping the local socket")
        log.info("node %s is up", self.context.node_id)

    def _make_feeds(self, discovery: Discovery) -> None:
        self.feeds = Feeds(
            self.context,
            self.feed_store,
            provide=self.announcer.provide,
            withdraw=self.announcer.withdraw,
        )
        self.own_feeds = OwnFeeds(self.feeds, discovery)
        self.feed_server = FeedServer(self.network, self.feeds, self.own_feeds)
        self.feed_reader = FeedReader(self.feeds, discovery)
        self.feed_submitter = FeedSubmitter(discovery)

    def _make_tasks(self, discovery: Discovery) -> None:
        allowed = self.config.allow_tasks
        self.task_results = TaskResults(
            self.context,
            self.task_store,
            provide=self.announcer.provide,
            withdraw=self.announcer.withdraw,
            supervisor=self.network.supervisor,
        )
        self.task_queue = TaskQueue(
            self.context,
            self.task_store,
            self.task_results,
            allowed=lambda function: allowed is None or function in allowed,
            changed=self._on_task_offers,
            do=lambda work: self.network.supervisor.do("ending an action", work),
        )
        self.task_server = TaskServer(discovery, self.task_queue, self.task_results)
        self.task_backends = TaskBackends(discovery, self.task_queue)
        self.task_requests = TaskRequests(
            discovery, self.task_store, self.task_results, self.task_backends, self.task_queue
        )

    def _on_task_offers(self) -> None:
        fresh, gone = self.task_offers.update(self.task_queue)
        for content in fresh:
            self.announcer.provide(content)
        for content in gone:
            self.announcer.withdraw(content)

    def _services(self) -> Services:
        return Services(
            config=self.config, context=self.context, stopping=self.stopping, listening=self.listening,
            marker=self.marker, state=self.state, store=self.store, feed_store=self.feed_store,
            network=self.network, reach=self.reach, relay=self.relay, documents=self.documents,
            invitations=self.invitations, joining=self.joining, visits=self.visits,
            bootstraps=self.bootstraps, presence=self.presence, announcer=self.announcer,
            availability=self.availability, lookup=self.lookup, downloader=self.downloader,
            batch_loader=self.batch_loader, asker=self.asker, provider=self.provider, feeds=self.feeds,
            own_feeds=self.own_feeds, feed_reader=self.feed_reader, feed_server=self.feed_server,
            feed_submitter=self.feed_submitter, task_queue=self.task_queue,
            task_requests=self.task_requests, task_backends=self.task_backends,
            task_results=self.task_results, keeping=self.keeping, scrubbing=self.scrubbing,
            keepers=self.keepers, backing=self.backing, archiving=self.archiving,
        )  # fmt: skip

    async def _listen(self) -> None:
        address = self.config.address()
        if address is None:
            return
        host, port = address
        self.gate = Gate()
        listener = await transport.listen(
            host,
            port,
            self._accept,
            self.gate,
            tls=transport.tls_of(self.config.tls_cert, self.config.tls_key),
            doors=self._doors(),
        )
        self._listeners.append(listener)
        self.listening = listener.at()
        self.dialling.listening = str(listener.sockets[0].getsockname()[0])
        scheme = "wss" if self.config.tls_cert else "ws"
        if self.config.public_url:
            self.context.urls.append(self.config.public_url)
        elif host not in ("0.0.0.0", "::", ""):  # compared with, not bound to
            self.context.urls.append(f"{scheme}://{listener.at(host)}")

    def _doors(self) -> Doors:
        context, knocks = self.context, Knocks(self.context.key.public)
        shown = self.config.proxy and self.config.web
        return Doors(
            page=Page(lambda: own_names(context, self.listening or "")) if shown else None,
            origins=frozenset(self.config.origins),
            trusted=self.config.trusted(),
            knows=lambda knock: knocks.opens(knock, context.book, context.clock()),
            warn=context.warn,
            turns=context.turns,
        )

    async def accept(self, connection: transport.Transport, proved: Callable[[], None]) -> None:
        """Somebody connected: serve the link until it ends."""
        try:
            link = await self.network.attend(connection, initiator=False, proved=proved)
        except KacheryError as error:
            log.info("refused %s: %s", connection.name, error)
            return
        await link.closed.wait()

    async def _accept(
        self, connection: transport.WebSocketTransport, proved: Callable[[], None]
    ) -> None:
        await self.accept(connection, proved)

    def _went(self, loop: asyncio.AbstractEventLoop, sha1: str) -> None:
        """In any thread: it went to make room."""
        loop.call_soon_threadsafe(self._withdraw_file, sha1)

    def _provide_file(self, *sha1s: str) -> None:
        self.announcer.provide_many([file_key(sha1) for sha1 in sha1s])

    def _withdraw_file(self, sha1: str) -> None:
        """It is not here any more, unless it is in an origin, too."""
        if self.origin_index.known:
            self.network.spawn(self._announce_anew(sha1), name="announce anew")
        else:
            self.announcer.withdraw(file_key(sha1))

    async def _announce_anew(self, sha1: str) -> None:
        def is_here() -> bool:
            return self.store.find(sha1) is not None or self.origin_index.has(sha1)

        if await self.context.workers.disk(is_here):
            self._provide_file(sha1)
        else:
            self.announcer.withdraw(file_key(sha1))

    def _follow_channels(self) -> None:
        """What follows from a change of a channel. Those that cut come first."""
        self.documents.on_change += [
            lambda channel, update: self.network.visitors.cut(),
            lambda channel, update: self.relay.cut(),
            lambda channel, update: self.provider.cut(),
            lambda channel, update: self.batch_provider.cut(),
            lambda channel, update: self.feed_server.cut(),
            lambda channel, update: self.task_server.cut(),
            lambda channel, update: self.keepers.on_change(channel),
            lambda channel, update: self.bootstraps.refresh(),
            lambda channel, update: self.task_results.on_change(channel),
            lambda channel, update: self.watches.on_change(channel),
            lambda channel, update: self.announcer.on_change(channel),
            lambda channel, update: self.availability.on_change(channel),
            lambda channel, update: self.lookup.questions.on_change(channel),
        ]

    def _keep_house(self) -> None:
        steps: dict[str, Callable[[], Awaitable[object] | object]] = {
            "noticing that it slept": lambda: self.context.naps.beat(
                asyncio.get_running_loop().time()
            ),
            "looking for channels that expired": self.documents.check_expiry,
            "ending visits": self.network.visitors.sweep,
            "closing idle links": self.reach.sweep,
            "closing idle feeds": self.feed_reader.sweep,
            "forgetting tasks": self.task_queue.sweep,
            "tidying": self.upkeep.step,
            "keeping for others": self.keepers.keeper.sweep,
            "pushing new subfeeds": self.keepers.pusher.push_new_subfeeds,
            "listing origins": self.backing.refresh_if_due,
            "deleting what expired": self.keeping.let_expired_go,
            "verifying what is stored": self.scrubbing.run_if_due,
            "giving memory back": self.upkeep.give_memory_back,
        }
        for what, step in steps.items():
            pause = (
                limits.RARE_HOUSEKEEPING_SECONDS if what in _RARE else limits.HOUSEKEEPING_SECONDS
            )
            work = self.network.supervisor.every(pause, what, step)
            self.network.spawn(work, name=f"housekeeping: {what}")

    async def stop(self) -> None:
        """Close everything that :meth:`start` opened, however far it came. Bounded in time."""
        try:
            async with asyncio.timeout(limits.SHUTDOWN_SECONDS):
                if hasattr(self, "api"):
                    await self.api.close()
                if hasattr(self, "downloader"):
                    await self.downloader.close()
                if hasattr(self, "announcer"):
                    self.announcer.close()
                if hasattr(self, "feeds"):
                    await self.feeds.close()
                for listener in self._listeners:
                    listener.close()
                if hasattr(self, "network"):
                    await self.network.close(LinkClosed(peer="the node", reason="it is stopping"))
                if hasattr(self, "documents"):
                    await self.documents.close()
        except TimeoutError:
            log.warning("some links did not close in time")
        finally:
            if hasattr(self, "backing"):
                self.backing.close()
            if hasattr(self, "context"):
                self.context.workers.close()
            self._stores.close()
