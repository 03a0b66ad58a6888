"""What the calls of the local API need of a node: its services, and nothing of how it is put together.

:mod:`kachery_p2p.node.node` fills it in when everything is there. A call reaches what it needs by name;
a new service that a call needs is one more field here.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from kachery_p2p.node.archives.archiving import Archiving
from kachery_p2p.node.backing.backing import Backing
from kachery_p2p.node.batches.asker import Asker
from kachery_p2p.node.batches.loader import BatchLoader
from kachery_p2p.node.channels.bootstraps import Bootstraps
from kachery_p2p.node.channels.documents import Documents
from kachery_p2p.node.channels.invitations import Invitations
from kachery_p2p.node.channels.joining import Joining
from kachery_p2p.node.channels.presence import Presence
from kachery_p2p.node.channels.visits import Visits
from kachery_p2p.node.config import Config
from kachery_p2p.node.context import Context
from kachery_p2p.node.feeds.feeds import Feeds
from kachery_p2p.node.feeds.own_feeds import OwnFeeds
from kachery_p2p.node.feeds.reader import FeedReader
from kachery_p2p.node.feeds.server import FeedServer
from kachery_p2p.node.feeds.submitter import FeedSubmitter
from kachery_p2p.node.files.downloader import Downloader
from kachery_p2p.node.files.keeping import Keeping
from kachery_p2p.node.files.provider import Provider
from kachery_p2p.node.files.scrubbing import Scrubbing
from kachery_p2p.node.gossip.announcer import Announcer
from kachery_p2p.node.gossip.availability import Availability
from kachery_p2p.node.gossip.lookup import Lookup
from kachery_p2p.node.keepers.keepers import Keepers
from kachery_p2p.node.links.circuit import Relay
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.routes.reach import Reach
from kachery_p2p.node.tasks.backends import TaskBackends
from kachery_p2p.node.tasks.queue import TaskQueue
from kachery_p2p.node.tasks.requests import TaskRequests
from kachery_p2p.node.tasks.results import TaskResults
from kachery_p2p.storage.feeds.store import FeedStore
from kachery_p2p.storage.files.blobs import BlobStore
from kachery_p2p.storage.state import StateDB


@dataclass(frozen=True)
class Services:
    """``stopping``: set by a call to stop the node. ``listening``: the address for other nodes, if
    there is one."""

    config: Config
    context: Context
    stopping: asyncio.Event
    listening: str | None
    marker: str
    """Of the storage folder: by it clients know that it is this node's."""
    state: StateDB
    store: BlobStore
    feed_store: FeedStore
    network: Network
    reach: Reach
    relay: Relay
    documents: Documents
    invitations: Invitations
    joining: Joining
    visits: Visits
    bootstraps: Bootstraps
    presence: Presence
    announcer: Announcer
    availability: Availability
    lookup: Lookup
    downloader: Downloader
    batch_loader: BatchLoader
    asker: Asker
    provider: Provider
    feeds: Feeds
    own_feeds: OwnFeeds
    feed_reader: FeedReader
    feed_server: FeedServer
    feed_submitter: FeedSubmitter
    task_queue: TaskQueue
    task_requests: TaskRequests
    task_backends: TaskBackends
    task_results: TaskResults
    keeping: Keeping
    scrubbing: Scrubbing
    keepers: Keepers
    backing: Backing
    archiving: Archiving
