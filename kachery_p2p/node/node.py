"""The composition root: makes the parts of a node, starts and stops them in order.

``start`` returns when everything listens; ``stop`` leaves nothing open, and nothing half-written
that was acknowledged. Order: storage (with its lock), state, channels, links, announcements, local
API; and back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from kachery_p2p.node.channels.admissions import Admissions
from kachery_p2p.node.channels.bootstraps import Bootstraps
from kachery_p2p.node.channels.documents import Documents
from kachery_p2p.node.channels.invitations import Invitations
from kachery_p2p.node.channels.joining import Joining
from kachery_p2p.node.channels.presence import Presence
from kachery_p2p.node.channels.visits import Visits
from kachery_p2p.node.feeds.feeds import Feeds
from kachery_p2p.node.feeds.offers import FeedOffers
from kachery_p2p.node.feeds.own_feeds import OwnFeeds
from kachery_p2p.node.feeds.reader import FeedReader
from kachery_p2p.node.feeds.server import FeedServer
from kachery_p2p.node.feeds.submitter import FeedSubmitter
from kachery_p2p.node.files.downloader import Downloader
from kachery_p2p.node.files.offers import BlobOffers
from kachery_p2p.node.files.provider import Provider
from kachery_p2p.node.gossip.announcer import Announcer
from kachery_p2p.node.gossip.availability import Availability
from kachery_p2p.node.gossip.discovery import Discovery
from kachery_p2p.node.gossip.lookup import Lookup
from kachery_p2p.node.gossip.watches import Watches
from kachery_p2p.node.links.circuit import Relay
from kachery_p2p.node.links.dialling import Dialling, Rules, dial_member
from kachery_p2p.node.links.gate import Gate
from kachery_p2p.node.links.listener import Doors, Listener
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.links.reach import Reach
from kachery_p2p.node.local.calls import Calls
from kachery_p2p.node.local.server import LocalServer
from kachery_p2p.node.local.services import Services
from kachery_p2p.node.tasks.backends import TaskBackends, TaskFunctionOffers
from kachery_p2p.node.tasks.queue import TaskQueue
from kachery_p2p.node.tasks.requests import TaskRequests
from kachery_p2p.node.tasks.results import ResultOffers, TaskResults
from kachery_p2p.node.tasks.server import TaskServer
from kachery_p2p.node.web.page import Page, own_names
from kachery_p2p.protocol.channels.membership import ChannelBook
from kachery_p2p.protocol.errors import BadInput, KacheryError, LinkClosed, StorageDamaged
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import NOTICE_SECONDS, SHUTDOWN_SECONDS
from kachery_p2p.protocol.links.knock import Knocks
from kachery_p2p.storage import older_values
from kachery_p2p.storage.disk import disk_errors, sync_folder, write_all
from kachery_p2p.storage.feeds.store import FeedStore
from kachery_p2p.storage.files.blobs import BlobStore
from kachery_p2p.storage.files.marker import marker_of, place_of
from kachery_p2p.storage.sharing import is_open_to, open_to
from kachery_p2p.storage.state import StateDB
from kachery_p2p.storage.tasks.store import TaskStore

from .config import Config
from .context import Context
from .links import transport
from .upkeep import Upkeep
from .workers import Workers

log = logging.getLogger(__name__)

_HOUSEKEEPING_SECONDS = 5.0


class WebSocketDialer:
    """Dials over real WebSockets."""

    async def dial(self, url: str, *, knock: str = "") -> transport.Transport:
        return await transport.dial(url, knock=knock)

    async def dial_member(self, url: str, rules: Rules, *, knock: str = "") -> transport.Transport:
        return await dial_member(url, rules, knock=knock)


def _make_folder(path: Path) -> None:
    """The folder of the node's state, there after a power cut as well."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    for folder in missing:
        sync_folder(folder.parent)


def load_key(path: Path, random_bytes: Callable[[int], bytes]) -> NodeKey:
    """The node's key, made at the first start. Mode 0600, and refused if others can read it."""
    with disk_errors("the node's key", path):
        try:
            seed = path.read_bytes()
        except FileNotFoundError:
            return _make_key(path, random_bytes)
        mode = path.stat().st_mode
    if mode & 0o077:
        raise StorageDamaged(
            path=str(path), reason="others can read the node's key; run 'chmod 600' on it"
        )
    try:
        return NodeKey(bytes.fromhex(seed.decode("ascii").strip()))
    except ValueError as error:
        raise StorageDamaged(path=str(path), reason=f"it is not a node key: {error}") from error


def _make_key(path: Path, random_bytes: Callable[[int], bytes]) -> NodeKey:
    key = NodeKey.generate(random_bytes)
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write_all(fd, key.seed.hex().encode() + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    # By rename, so that a crash or a full disk never leaves half a key.
    temporary.rename(path)
    # Whoever adds this node to a channel adds this key: its name must be there after a power cut.
    sync_folder(path.parent)
    return key


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
        with disk_errors("the node's state", config.state_dir):
            _make_folder(config.state_dir)
        self.state = StateDB(config.state_dir / "state.sqlite", durable=config.durable)
        self.store = BlobStore(
            config.storage_dir, durable=config.durable, on_manifest=self.state.set_manifest
        )
        self.store.open()
        self._let_in()
        older_values.take_over(self.store.root, self.state)
        with disk_errors("the marker of the storage folder", config.storage_dir):
            root, read_only = self.store.root, self.store.read_only
            self.marker = place_of(root) if read_only else marker_of(root, os.urandom)
        self.feed_store = FeedStore(config.state_dir / "feeds.sqlite", durable=config.durable)
        self.task_store = TaskStore(
            config.state_dir / "tasks.sqlite",
            durable=config.durable,
            clock=lambda: self.context.clock(),
        )
        context = Context(
            key=None,  # type: ignore[arg-type]  # set below, with the adjusted randomness
            book=None,  # type: ignore[arg-type]
            state=self.state,
            store=self.store,
            workers=self._workers or Workers(),
            label=config.label,
        )
        if self.store.read_only:
            context.warn(
                f"the storage folder {root} can only be read: nothing is stored or fetched"
            )
        context = self._adjust(context)
        key = load_key(config.state_dir / "node.key", context.random_bytes)
        self.context = replace(context, key=key, book=ChannelBook(key))
        self.network = Network(self.context)
        self.dialling = Dialling(self.context, config.private())
        self.reach = Reach(self.network, self._dialer, self.dialling)
        self.relay = Relay(self.network)
        self.documents = Documents(self.network)
        self.admissions = Admissions(self.network, self.documents)
        self.invitations = Invitations(self.network, self.documents, self.admissions)
        self.joining = Joining(self.network, self.reach, self.documents, self.admissions)
        self.visits = Visits(self.network, self.documents)
        self.bootstraps = Bootstraps(self.network, self.reach)
        self.task_offers = TaskFunctionOffers()
        self.announcer = Announcer(
            self.network,
            [
                BlobOffers(self.context),
                FeedOffers(self.feed_store),
                ResultOffers(self.task_store),
                self.task_offers,
            ],
        )
        self.availability = Availability(self.network, self.announcer)
        self.lookup = Lookup(self.network, self.availability, self.bootstraps)
        self.downloader = Downloader(
            self.network, self.reach, self.lookup, provide=self._provide_file
        )
        self.provider = Provider(
            self.network,
            partial=self.downloader.partial,
            withdrawn=lambda sha1: self.announcer.withdraw(file_key(sha1)),
        )
        self.presence = Presence(self.network)
        self.watches = Watches(self.network)
        self.availability.on_fresh.append(self.watches.appeared)
        discovery = Discovery(self.network, self.reach, self.lookup, self.watches)
        self._make_feeds(discovery)
        self._make_tasks(discovery)
        self.upkeep = Upkeep(
            self.context,
            self.availability.index,
            served=lambda: self.network.budgets.exchanges.shares.total,
        )
        self.documents.load()
        self.admissions.load()
        self.visits.load()
        self.availability.begin()
        self._follow_channels()
        await self._listen()
        self.announcer.start()
        self._keep_house()
        self.bootstraps.refresh()
        services = self._services()
        self.calls = Calls(services)
        if config.local_api:
            self.api = LocalServer(services, self.calls)
            await self.api.start()
            work = self.network.supervisor.every(
                NOTICE_SECONDS, "keeping the local socket", self.api.look_after_socket
            )
            self.network.spawn(work, name="keeping the local socket")
        log.info("node %s is up", self.context.node_id)

    def _let_in(self) -> None:
        """Clients of other users read blobs where they lie."""
        config, root = self.config, self.store.root
        if not config.is_shared or self.store.read_only:
            return
        group, others = config.group_id(), config.others_may_read
        with disk_errors("the storage folder", root):
            if not is_open_to(root, group, others=others):
                open_to(root, group, others=others)

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
        self.task_server = TaskServer(self.network, self.task_queue, self.task_results)
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
            config=self.config, context=self.context, stopping=self.stopping,
            listening=self.listening, marker=self.marker, state=self.state, store=self.store,
            feed_store=self.feed_store, network=self.network, reach=self.reach, relay=self.relay,
            documents=self.documents, invitations=self.invitations, joining=self.joining,
            visits=self.visits, bootstraps=self.bootstraps, presence=self.presence,
            announcer=self.announcer,
            availability=self.availability, lookup=self.lookup, downloader=self.downloader,
            provider=self.provider, feeds=self.feeds, own_feeds=self.own_feeds,
            feed_reader=self.feed_reader, feed_server=self.feed_server,
            feed_submitter=self.feed_submitter, task_queue=self.task_queue,
            task_requests=self.task_requests, task_backends=self.task_backends,
            task_results=self.task_results,
        )  # fmt: skip

    async def _listen(self) -> None:
        address = self.config.address()
        if address is None:
            return
        host, port = address
        self.gate = Gate()
        listener = await transport.listen(
            host, port, self._accept, self.gate, tls=self._tls(), doors=self._doors()
        )
        self._listeners.append(listener)
        bound = listener.sockets[0].getsockname()
        self.listening = f"{bound[0]}:{bound[1]}"
        self.dialling.listening = str(bound[0])
        scheme = "wss" if self.config.tls_cert else "ws"
        if self.config.public_url:
            self.context.urls.append(self.config.public_url)
        elif host not in ("0.0.0.0", "::", ""):  # compared with, not bound to
            self.context.urls.append(f"{scheme}://{host}:{bound[1]}")

    def _doors(self) -> Doors:
        book, clock = self.context.book, self.context.clock
        knocks = Knocks(self.context.key.public)
        shown = self.config.proxy and self.config.web
        return Doors(
            page=Page(lambda: own_names(self.context, self.listening or "")) if shown else None,
            origins=frozenset(self.config.origins),
            trusted=self.config.trusted(),
            knows=lambda knock: knocks.opens(knock, book, clock()),
            warn=self.context.warn,
        )

    def _tls(self) -> ssl.SSLContext | None:
        if self.config.tls_cert is None:
            return None
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            tls.load_cert_chain(self.config.tls_cert, self.config.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise BadInput(what=f"--tls-cert {self.config.tls_cert}", reason=str(error)) from error
        return tls

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

    def _provide_file(self, sha1: str) -> None:
        self.announcer.provide(file_key(sha1))

    def _follow_channels(self) -> None:
        """What follows from a change of a channel. Those that cut come first."""
        self.documents.on_change += [
            lambda channel, update: self.network.visitors.cut(),
            lambda channel, update: self.relay.cut(),
            lambda channel, update: self.provider.cut(),
            lambda channel, update: self.feed_server.cut(),
            lambda channel, update: self.task_server.cut(),
            lambda channel, update: self.bootstraps.refresh(),
            lambda channel, update: self.task_results.on_change(channel),
            lambda channel, update: self.watches.on_change(channel),
            lambda channel, update: self.announcer.on_change(channel),
            lambda channel, update: self.availability.on_change(channel),
            lambda channel, update: self.lookup.questions.on_change(channel),
        ]

    def _keep_house(self) -> None:
        steps: dict[str, Callable[[], Awaitable[object] | object]] = {
            "looking for channels that expired": self.documents.check_expiry,
            "ending visits": self.network.visitors.sweep,
            "closing idle links": self.reach.sweep,
            "closing idle feeds": self.feed_reader.sweep,
            "forgetting tasks": self.task_queue.sweep,
            "tidying": self.upkeep.step,
            "giving memory back": self.upkeep.give_memory_back,
        }
        for what, step in steps.items():
            work = self.network.supervisor.every(_HOUSEKEEPING_SECONDS, what, step)
            self.network.spawn(work, name=f"housekeeping: {what}")

    async def stop(self) -> None:
        """Close everything that :meth:`start` opened, however far it came. Bounded in time."""
        try:
            async with asyncio.timeout(SHUTDOWN_SECONDS):
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
            if hasattr(self, "context"):
                self.context.workers.close()
            if hasattr(self, "store"):
                self.store.close()
            if hasattr(self, "feed_store"):
                self.feed_store.close()
            if hasattr(self, "task_store"):
                self.task_store.close()
            if hasattr(self, "state"):
                self.state.close()
