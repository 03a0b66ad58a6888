"""The local API's call about what goes on now: ``status``, for dashboards that ask every second.

The result is plain values: ids are hex digits, sizes and totals bytes, and each moment is Unix time in
seconds. ``now``, and with it ``opened_at``, goes on evenly from ``started_at``, whoever sets the clock
of the computer meanwhile: rates are differences by it.

=============  ======================================================================================
``now``        when this was said
``node``       id, label, version, protocol, pid, started_at, uptime, listening, urls
``storage``    dir, used, limit, blobs, links, free, size; None where it is not known yet, and
               if there is no limit
``channels``   name, id, version, owner, open, member, granted, wanted, effective, proxy, members (how
               many are listed), linked (how many are linked to this node), names (of some of those)
``links``      node, label, via (a proxy's id, or None), via_label, rtt (s), sent, received (totals),
               opened_at, channels
``bootstraps`` url, node, state, error, code
``downloads``  sha1, name (what the file is called here, or ""), size (0: not known yet), verified,
               fetched, seconds, sources
``uploads``    sha1, name, node, label, via_label, channel, size (0: not known yet), sent (a total),
               ranges (parts that are being sent)
``feeds``      feed, subfeed, name, size, own, forked, followed (from others), readers (other nodes),
               local (reads on this computer that go on)
``tasks``      function, type, state, node, label, channel, since, fraction (done, 0 to 1, or None),
               message, side: "requested" or "here"
``backends``   label, functions (names of some), offered (how many), slots, busy
``warnings``   at, text; the newest first
``totals``     how long each list would be: those of many rows are cut
``relay``      circuits, bytes
``served``     bytes of files
``rates``      upload, download: the limits, in bytes a second, or None
=============  ======================================================================================

Bounds: ``MAX_STATUS_ROWS`` rows of a list, ``MAX_STATUS_NAMES`` names in a row. Of links those are
shown over which most went; of feeds those that are read, then the newest. What it takes grows with the
links, the streams and the tasks of this node, not with what lies on its disk.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeVar

from kachery_p2p._version import __version__
from kachery_p2p.node.files.download import Download
from kachery_p2p.node.files.readers import Upload
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.tasks.jobs import Backend, Job, Step
from kachery_p2p.node.tasks.request import Request
from kachery_p2p.protocol.channels.roles import PROXY
from kachery_p2p.protocol.limits import (
    MAX_STATUS_LABEL,
    MAX_STATUS_NAMES,
    MAX_STATUS_ROWS,
    MAX_STATUS_TEXT,
    PROTOCOL_VERSION,
)
from kachery_p2p.storage.feeds.log import Log

from .call_table import CallTable, Nothing
from .live_call import LiveCall
from .services import Services

T = TypeVar("T")
Row = dict[str, Any]


class StatusCalls:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._started_at = services.context.clock()
        self._started = asyncio.get_running_loop().time()

    def calls(self) -> CallTable:
        return {"status": (Nothing, self._status)}

    async def _status(self, params: Nothing, live: LiveCall) -> Any:
        services = self._services
        storage = await self._storage()
        await services.presence.refresh()
        feeds_total, feeds = await self._feeds()
        now = asyncio.get_running_loop().time()
        links = list(services.network.links)
        labels = {link.peer: self._label(link) for link in links}
        bootstraps = services.bootstraps.status.values()
        uploads_total, uploads = self._uploads(labels)
        active = services.downloader.active()
        downloads = [
            self._describe_download(sha1, download, now)
            for sha1, download in _first(active.items())
        ]
        await self._name_files([*downloads, *uploads])
        requests, jobs = self._tasks()
        warnings = services.context.warnings
        backends = services.task_queue.backends.values()
        return {
            "now": self._unix(now),
            "node": self._describe_node(now),
            "storage": storage,
            "channels": [
                self._describe_channel(channel) for channel in _first(services.context.book)
            ],
            "links": [self._describe_link(link, labels) for link in _busiest(links)],
            "bootstraps": [
                {
                    "url": b.url,
                    "node": b.node,
                    "state": b.state,
                    "error": _cut(b.error),
                    "code": b.code,
                }
                for b in _first(bootstraps)
            ],
            "downloads": downloads,
            "uploads": uploads,
            "feeds": feeds,
            "tasks": [
                *map(self._describe_request, requests[:MAX_STATUS_ROWS]),
                *map(self._describe_job, jobs[: max(0, MAX_STATUS_ROWS - len(requests))]),
            ],
            "backends": [_describe_backend(backend) for backend in _first(backends)],
            "warnings": [
                {"at": at, "text": _cut(text)}
                for at, text in itertools.islice(reversed(warnings), MAX_STATUS_ROWS)
            ],
            "totals": {
                "channels": len(services.context.book),
                "links": len(links),
                "bootstraps": len(bootstraps),
                "downloads": len(active),
                "uploads": uploads_total,
                "feeds": feeds_total,
                "tasks": len(requests) + len(jobs),
                "backends": len(backends),
                "warnings": len(warnings),
            },
            "relay": {"circuits": len(services.relay), "bytes": services.relay.relayed_bytes},
            "served": services.provider.served_bytes,
            "rates": services.context.rates.plain(),
        }

    def _unix(self, at: float) -> float:
        """A moment of the loop's clock."""
        return self._started_at + (at - self._started)

    # --- the node ----------------------------------------------------------------------------

    def _describe_node(self, now: float) -> Row:
        context = self._services.context
        return {
            "id": context.node_id,
            "label": context.label[:MAX_STATUS_LABEL],
            "version": __version__,
            "protocol": PROTOCOL_VERSION,
            "pid": os.getpid(),
            "started_at": self._started_at,
            "uptime": now - self._started,
            "listening": self._services.listening,
            "urls": _first(context.urls),
        }

    async def _storage(self) -> Row:
        context = self._services.context
        used: int | None = None
        blobs: int | None = None
        links: int | None = None
        if context.inventory.complete:
            used, blobs, links = await context.workers.disk(context.inventory.counts)
        disk = await context.workers.disk(os.statvfs, context.store.root)
        return {
            "dir": str(context.store.root),
            "used": used,
            "limit": context.quota.limit,
            "blobs": blobs,
            "links": links,
            "free": disk.f_bavail * disk.f_frsize,
            "size": disk.f_blocks * disk.f_frsize,
        }

    def _name(self, channel: bytes | None) -> str:
        return "" if channel is None else self._services.network.name_of(channel)[:MAX_STATUS_LABEL]

    def _describe_channel(self, channel: bytes) -> Row:
        book = self._services.context.book
        document = book.signed(channel).document
        me = self._services.context.node_id
        effective = book.effective(channel, me)
        online = self._services.presence.online(channel)
        labels = {each.node_id: each.label for each in book.admissions(channel)}
        labels |= {member.node_id: member.label for member in document.members}
        links = self._services.network.links_on(channel)
        labels |= {x.peer: self._label(x) for x in links}
        return {
            "name": self._name(channel),
            "id": channel.hex(),
            "version": document.version,
            "owner": book.owner_key(channel) is not None,
            "open": document.open,
            "member": book.is_member(channel, me),
            "granted": sorted(book.granted(channel, me)),
            "wanted": sorted(book.wanted(channel)),
            "effective": sorted(effective),
            "proxy": PROXY in effective,
            "members": len(document.members) + len(book.admissions(channel)),
            "online": len(online),
            "names": _some(
                sorted(labels.get(peer, "")[:MAX_STATUS_LABEL] or peer[:8] for peer in online)
            ),
        }

    def _label(self, link: Link) -> str:
        """What the channel calls a node, which is what commands take; else what it calls itself."""
        book = self._services.context.book
        for channel in sorted(self._services.network.shared(link)):
            member = book.signed(channel).document.member(link.peer)
            # A proxy that was named by its URL has no other label there.
            if member is not None and member.label and "://" not in member.label:
                return member.label[:MAX_STATUS_LABEL]
        return link.hello.label[:MAX_STATUS_LABEL] if link.hello is not None else ""

    def _describe_link(self, link: Link, labels: dict[str, str]) -> Row:
        shared = sorted(self._services.network.shared(link))
        return {
            "node": link.peer,
            "label": self._label(link),
            "via": link.via,
            "via_label": labels.get(link.via or "", ""),
            "rtt": link.rtt,
            "sent": link.sent,
            "received": link.received,
            "opened_at": self._unix(link.opened_at),
            "channels": [self._name(channel) for channel in _some(shared)],
        }

    # --- files -------------------------------------------------------------------------------

    async def _name_files(self, rows: Sequence[Row]) -> None:
        """Give each row that has no name the one under which its file is listed here."""
        nameless = {row["sha1"] for row in rows if not row["name"]}
        if not nameless:
            return
        thing = self._services.context.inventory.thing

        def work() -> dict[str, str]:
            found = ((sha1, thing(sha1)) for sha1 in nameless)
            return {sha1: each.label for sha1, each in found if each is not None}

        names = await self._services.context.workers.disk(work)
        for row in rows:
            row["name"] = (row["name"] or names.get(row["sha1"], ""))[:MAX_STATUS_LABEL]

    def _describe_download(self, sha1: str, download: Download, now: float) -> Row:
        progress = download.progress.plain(now)
        sources = [
            {
                **source,
                "label": source["label"][:MAX_STATUS_LABEL],
                "via": (source["via"] or "")[:MAX_STATUS_LABEL] or None,
            }
            for source in _some(progress["sources"])
        ]
        name = download.progress.name[:MAX_STATUS_LABEL]
        return {"sha1": sha1, "name": name, **progress, "sources": sources}

    def _uploads(self, labels: dict[str, str]) -> tuple[int, list[Row]]:
        """How many there are, and the first."""
        provider = self._services.provider
        sending: dict[tuple[Link, bytes, bytes], list[Upload]] = {}
        for upload in provider.reading():
            key = upload.link, upload.params.channel, upload.params.sha1
            sending.setdefault(key, []).append(upload)
        return len(sending), [
            {
                "sha1": sha1.hex(),
                "name": "",
                "node": link.peer,
                "label": self._label(link),
                "via_label": "" if link.via is None else labels.get(link.via) or link.via[:8],
                "channel": self._name(channel),
                "size": max(upload.size for upload in parts),
                "sent": provider.sent(parts[0]),
                "ranges": len(parts),
            }
            for (link, channel, sha1), parts in _first(sending.items())
        ]

    # --- feeds -------------------------------------------------------------------------------

    async def _feeds(self) -> tuple[int, list[Row]]:
        """How many there are, and those that are read, then the newest."""
        services = self._services
        readers = Counter((p.feed, p.subfeed) for _, p in services.feed_server.following.values())
        followed = services.feed_reader.followed()
        most_read = [log for log, _ in readers.most_common(MAX_STATUS_ROWS)]
        read = dict.fromkeys([*most_read, *reversed(followed)])

        def work() -> tuple[int, list[Row]]:
            total, newest = services.feed_store.newest(MAX_STATUS_ROWS)
            shown = list(itertools.islice(dict.fromkeys([*read, *newest]), MAX_STATUS_ROWS))
            rows = [self._describe_feed(log, readers[log], followed.get(log)) for log in shown]
            return max(total, len(shown)), rows

        return await services.context.workers.disk(work)

    def _describe_feed(self, log: Log, readers: int, local: int | None) -> Row:
        """Reads the disk: for a worker thread."""
        feed, subfeed = log
        info = self._services.feed_store.info(*log)
        name = info.name if info is not None else None
        return {
            "feed": feed.hex(),
            "feed_name": (self._services.feed_store.name(feed) or "")[:MAX_STATUS_LABEL],
            "subfeed": subfeed.hex(),
            "name": None if name is None else name[:MAX_STATUS_LABEL],
            "size": info.size if info is not None else 0,
            "own": self._services.feed_store.key(feed) is not None,
            "forked": info is not None and info.fork is not None,
            "followed": local is not None,
            "readers": readers,
            "local": local or 0,
        }

    # --- tasks -------------------------------------------------------------------------------

    def _tasks(self) -> tuple[list[Request], list[Job]]:
        """What was asked for here and is not run here; and what is run here, for whomever. What runs
        comes before what waits."""
        me = self._services.context.node_id
        requests = [each for each in self._services.task_requests.live.values() if each.node != me]
        jobs = list(dict.fromkeys(self._services.task_queue.jobs.values()))
        return (
            sorted(requests, key=lambda request: request.state != "running"),
            sorted(jobs, key=lambda job: job.state != "running"),
        )

    def _describe_request(self, request: Request) -> Row:
        return {
            "function": request.function,
            "type": request.type,
            "state": request.state,
            "node": request.node,
            "label": request.label[:MAX_STATUS_LABEL],
            "channel": self._name(request.where or request.channel),
            "since": request.at,
            **_step(request.step),
            "side": "requested",
        }

    def _describe_job(self, job: Job) -> Row:
        return {
            "function": job.function,
            "type": job.type,
            "state": job.state,
            "node": job.requester,
            "label": "" if job.backend is None else job.backend.label[:MAX_STATUS_LABEL],
            "channel": self._name(job.channel),
            "since": job.since,
            **_step(job.step),
            "side": "here",
        }


def _step(step: Step) -> Row:
    return {"fraction": step.fraction, "message": step.message[:MAX_STATUS_LABEL]}


def _describe_backend(backend: Backend) -> Row:
    return {
        "label": backend.label[:MAX_STATUS_LABEL],
        "functions": [name[:MAX_STATUS_LABEL] for name in _some(backend.functions)],
        "offered": len(backend.functions),
        "slots": backend.slots,
        "busy": backend.load,
    }


def _busiest(links: list[Link]) -> list[Link]:
    """As many as are shown, in the order in which they came about: that does not change."""
    if len(links) <= MAX_STATUS_ROWS:
        return links
    busiest = set(
        heapq.nlargest(MAX_STATUS_ROWS, links, key=lambda link: link.sent + link.received)
    )
    return [link for link in links if link in busiest]


def _cut(text: str) -> str:
    """The end says what to do next, so it is the middle that is left out."""
    if len(text) <= MAX_STATUS_TEXT:
        return text
    half = MAX_STATUS_TEXT // 2
    return f"{text[: half - 3]} ... {text[-half + 2 :]}"


def _first(items: Iterable[T]) -> list[T]:
    return list(itertools.islice(items, MAX_STATUS_ROWS))


def _some(items: Collection[T] | Sequence[T]) -> list[T]:
    return list(itertools.islice(items, MAX_STATUS_NAMES))
