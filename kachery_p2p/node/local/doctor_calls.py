"""The calls of the local API behind ``kachery-p2p doctor``: they look, and say what they saw.

=====================  ==================================================  ===========================
method                 parameters                                          result
=====================  ==================================================  ===========================
``doctor.node``                                                            ``info``, and folders, clock,
                                                                           and of channels more
``doctor.file``        sha1, manifest?, channel?                           title, local, channels, trial
``doctor.feed``        feed, subfeed?, channel?                            the same
=====================  ==================================================  ===========================

What it means, and what to do about it, is said by the command. An error is ``[code, fields]``.

Looking costs what a small load costs: each holder is asked for the file's first block, which it
checks before it sends it, and then the file is fetched for some seconds. What came is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from kachery_p2p.node.feeds.reader import Wanted
from kachery_p2p.node.files.sources import NodeSource
from kachery_p2p.node.gossip.lookup import Found
from kachery_p2p.protocol.errors import DeadlineExceeded, KacheryError, to_wire
from kachery_p2p.protocol.feeds.feed import FeedId, SubfeedHash
from kachery_p2p.protocol.feeds.keys import feed_owner_key, subfeed_key
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.gossip.holders import Holder
from kachery_p2p.protocol.gossip.keys import ContentKey, provide_role
from kachery_p2p.protocol.limits import (
    BLOCK,
    DIAL_SECONDS,
    DOCTOR_HASH_BYTES,
    DOCTOR_PROBE_BYTES,
    DOCTOR_TRIAL_SECONDS,
    REQUEST_SECONDS,
)
from kachery_p2p.storage.disk import create, disk_errors, remove, temporary_path, write_all
from kachery_p2p.storage.files.blobs import Blob

from .call_table import CallTable, Nothing
from .file_calls import FileCalls
from .live_call import LiveCall
from .node_calls import NodeCalls
from .services import Services

_POLL_SECONDS = 0.05


class _File(msgspec.Struct, frozen=True):
    sha1: str
    manifest: str | None = None
    channel: str | None = None

    def __post_init__(self) -> None:
        for text in (self.sha1, self.manifest):
            if text is not None and (len(text) != 40 or set(text) - set("0123456789abcdef")):
                raise ValueError("not 40 lower-case hex digits")


class _Feed(msgspec.Struct, frozen=True):
    feed: FeedId
    subfeed: SubfeedHash | None = None
    channel: str | None = None


class DoctorCalls:
    """A method per call, for :class:`~.calls.Calls`."""

    def __init__(self, services: Services, node: NodeCalls, files: FileCalls) -> None:
        self._services = services
        self._node = node
        self._files = files

    def calls(self) -> CallTable:
        return {
            "doctor.node": (Nothing, self._examine_node),
            "doctor.file": (_File, self._examine_file),
            "doctor.feed": (_Feed, self._examine_feed),
        }

    # --- the node ----------------------------------------------------------------------------

    async def _examine_node(self, params: Nothing, live: LiveCall) -> Any:
        services = self._services
        await self._dial()
        disk = services.context.workers.disk
        seen = self._node.info()
        expired = services.context.book.expired(services.context.clock())
        for channel in seen["channels"]:
            channel_id = bytes.fromhex(channel["id"])
            channel["expired"] = channel_id in expired
            channel["secret"] = services.context.book.secret(channel_id) is not None
            channel["proxies"] = len(services.network.proxies_on(channel_id))
            channel["is_proxy"] = services.network.is_proxy(channel_id)
        skews = {link.peer: link.skew for link in services.network.links}
        for link in seen["links"]:
            link["skew"] = skews.get(link["node"])
        seen["origins"] = await services.backing.status()
        seen["clock"] = services.context.clock()
        seen["folders"] = [
            await disk(_examine_folder, "storage", services.store.root),
            await disk(_examine_folder, "state", services.config.state_dir),
        ]
        return seen

    async def _dial(self) -> None:
        """Try every bootstrap node that is not connected, now; returns when it is clear."""
        bootstraps = self._services.bootstraps
        bootstraps.hurry()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DIAL_SECONDS):
                while any(status.trying for status in bootstraps.status.values()):  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_SECONDS)

    # --- files -------------------------------------------------------------------------------

    async def _examine_file(self, params: _File, live: LiveCall) -> Any:
        content = file_key(params.sha1)
        seen: dict[str, Any] = {
            "title": content.title,
            "local": None,
            "channels": [],
            "trial": None,
        }
        seen["local"] = local = await self._local(params.sha1)
        if local is not None and not local["damaged"]:
            return seen

        async def probe(holder: Holder) -> dict[str, Any]:
            return await self._probe(holder, params.sha1)

        seen["channels"] = await self._on_channels([content], params.channel, probe)
        if _somebody_gives(seen["channels"]):
            seen["trial"] = await self._try(self._load(params))
        return seen

    async def _local(self, sha1: str) -> dict[str, Any] | None:
        """What is here; a copy that is damaged is put aside, as on any read."""
        services = self._services
        blob: Blob | None = await services.context.workers.disk(services.store.find, sha1)
        if blob is None:
            return None
        local: dict[str, Any] = {"path": _shown(blob.path), "size": blob.size, "damaged": None}
        if blob.size <= DOCTOR_HASH_BYTES:
            local["damaged"] = await self._files.put_aside_if_damaged(sha1)
        return local

    async def _probe(self, holder: Holder, sha1: str) -> dict[str, Any]:
        """Ask a holder for the file and its first block."""
        source = await self._connect(holder)
        info = await source.open(sha1)
        if info.inline is not None:
            source.check(info.inline, sha1, f"sha1://{sha1}")
        elif not info.partial:
            with source.reading(sha1, [(0, min(info.size, BLOCK))], proofs=False) as pieces:
                while (item := await pieces.next()) is not None:
                    pieces.done(item[2])
        return {"size": info.size, "partial": info.partial, "via": source.link.via}

    async def _connect(self, holder: Holder) -> NodeSource:
        services = self._services
        relays = services.lookup.relays.get((holder.node, holder.channel), set())
        link = await services.reach.to(holder.node, holder.channel, urls=holder.urls, relays=relays)
        return NodeSource(holder, link, services.network)

    async def _load(self, params: _File) -> dict[str, Any]:
        channel = self._channel(params.channel)
        return await self._services.downloader.load(params.sha1, params.manifest, channel=channel)

    # --- feeds -------------------------------------------------------------------------------

    async def _examine_feed(self, params: _Feed, live: LiveCall) -> Any:
        services = self._services
        wanted = [feed_owner_key(params.feed)]
        if params.subfeed is not None:
            wanted.insert(0, subfeed_key(params.feed, params.subfeed))
        seen: dict[str, Any] = {
            "title": wanted[0].title, "local": None, "channels": [], "trial": None,
        }  # fmt: skip
        if await services.feeds.is_own(params.feed):
            seen["local"] = {"path": "", "size": None, "damaged": False}
            return seen

        async def probe(holder: Holder) -> dict[str, Any]:
            return {"size": None, "partial": False, "via": (await self._connect(holder)).link.via}

        seen["channels"] = await self._on_channels(wanted, params.channel, probe)
        if params.subfeed is not None and _somebody_gives(seen["channels"]):
            seen["trial"] = await self._try(self._read(params.feed, params.subfeed, params.channel))
        return seen

    async def _read(self, feed: bytes, subfeed: bytes, channel: str | None) -> dict[str, Any]:
        where = (feed, subfeed)
        found = await self._services.feed_reader.read(
            [Wanted(where, 0)],
            most=1,
            wait=0.0,
            timeout=DOCTOR_TRIAL_SECONDS,
            channel=self._channel(channel),
        )
        return {"size": self._services.feed_reader.size_elsewhere(where), "sources": len(found)}

    # --- both --------------------------------------------------------------------------------

    def _channel(self, name: str | None) -> bytes | None:
        return None if name is None else self._services.context.book.resolve(name)

    async def _on_channels(
        self,
        wanted: list[ContentKey],
        name: str | None,
        probe: Callable[[Holder], Awaitable[dict[str, Any]]],
    ) -> list[dict[str, Any]]:
        one = self._channel(name)
        channels = list(self._services.context.book) if one is None else [one]
        return list(
            await asyncio.gather(*(self._on_channel(each, wanted, probe) for each in channels))
        )

    async def _on_channel(
        self,
        channel: bytes,
        wanted: list[ContentKey],
        probe: Callable[[Holder], Awaitable[dict[str, Any]]],
    ) -> dict[str, Any]:
        lookup = self._services.lookup
        founds = await asyncio.gather(
            *(lookup.find(content, channel, patience=0) for content in wanted)
        )
        holders = {holder.node: holder for found in founds for holder in found.holders}
        error = None
        if not holders:
            error = lookup.not_found(wanted[0], _together(founds))
        return {
            "name": self._services.network.name_of(channel),
            "kind": wanted[0].kind,
            "asked": sorted({each for found in founds for each in found.asked}),
            "silent": sorted({each for found in founds for each in found.silent}),
            "offline": sorted({each for found in founds for each in found.offline}),
            "providers": self._providers(channel, provide_role(wanted[0].kind)),
            "error": None if error is None else list(to_wire(error)),
            "holders": list(
                await asyncio.gather(*(self._ask(each, probe) for each in holders.values()))
            ),
        }

    def _providers(self, channel: bytes, role: str) -> int:
        """How many others the owner lets provide such content."""
        book = self._services.context.book
        members = [member.node_id for member in book.signed(channel).document.members]
        me = self._services.context.node_id
        return sum(role in book.effective(channel, each) for each in members if each != me)

    async def _ask(
        self, holder: Holder, probe: Callable[[Holder], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        seen: dict[str, Any] = {"node": holder.node, "label": holder.label, "error": None}
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return seen | await probe(holder)
        except KacheryError as error:
            failure: KacheryError = error
        except TimeoutError:
            failure = DeadlineExceeded(what=f"Asking {holder.node[:8]}", seconds=REQUEST_SECONDS)
        return seen | {"error": list(to_wire(failure))}

    async def _try(self, work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        """Do what a user would do, for some seconds."""
        try:
            async with asyncio.timeout(DOCTOR_TRIAL_SECONDS):
                return {"state": "done", "error": None, **await work}
        except TimeoutError:
            return {"state": "going", "error": None}
        except KacheryError as error:
            return {"state": "failed", "error": list(to_wire(error))}


def _together(founds: list[Found]) -> Found:
    """What several look-ups on one channel came to, as one."""
    return Found(
        offline=[each for found in founds for each in found.offline],
        asked=founds[0].asked,
        silent=founds[0].silent,
        errors=[error for found in founds for error in found.errors],
    )


def _somebody_gives(channels: list[dict[str, Any]]) -> bool:
    return any(h["error"] is None for channel in channels for h in channel["holders"])


def _examine_folder(what: str, folder: Path) -> dict[str, Any]:
    """Free space, and whether a small file can be written now. Blocks on the disk."""
    seen: dict[str, Any] = {"what": what, "path": str(folder), "free": None, "error": None}
    try:
        with disk_errors(f"the node's {what}", folder):
            status = os.statvfs(folder)
            seen["free"] = status.f_bavail * status.f_frsize
            _write_and_remove(folder)
    except KacheryError as error:
        seen["error"] = list(to_wire(error))
    return seen


def _write_and_remove(folder: Path) -> None:
    path = temporary_path(folder)
    fd = create(path)
    try:
        write_all(fd, bytes(DOCTOR_PROBE_BYTES))
        os.fsync(fd)
    finally:
        os.close(fd)
        remove(path)


def _shown(path: Path) -> str:
    """A path as text that can be sent, whatever bytes are in it."""
    return os.fsencode(path).decode("utf-8", "replace")
