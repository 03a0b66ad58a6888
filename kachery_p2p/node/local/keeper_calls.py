"""The calls of the local API about keepers: what this node offers to keep, and what is kept where.

==================  ==================================================  ===============================
method              parameters                                          result
==================  ==================================================  ===============================
``keep.offer``      channel, nodes? (ids; None: all), limit?            keep_for, keep_limit, used
``keep.keepers``    channel?                                            keepers
``keep.push``       sha1 | feed, manifest?, label?, channel?, to?,      kept, missing, size, count
                    copies?, seconds?; sends progress
``keep.list``                                                           here, elsewhere
``keep.drop``       sha1 | feed, at?                                    dropped
``keep.release``    sha1 | feed, node?                                  dropped
==================  ==================================================  ===============================

``keep.push`` pushes nothing if ``missing`` names contents that are not here. ``keep.drop`` is for what
others keep, ``keep.release`` for what is kept here. Sizes are in bytes, times Unix times.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kachery_p2p.node.keepers.pusher import Wish
from kachery_p2p.protocol.errors import BadInput, NotFound
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.identity import check_node_id
from kachery_p2p.protocol.keepers.offer import KeepOffer
from kachery_p2p.protocol.limits import MAX_COPIES, MAX_FILE_LABEL, MAX_KEEP_SECONDS

from .call_table import CallTable, Nothing
from .live_call import LiveCall
from .services import Services


class _Offer(msgspec.Struct, frozen=True):
    channel: str
    nodes: list[str] | None = None
    limit: int | None = None


class _Keepers(msgspec.Struct, frozen=True):
    channel: str | None = None


class _Content(msgspec.Struct, frozen=True):
    """A file or a feed. ``at``: a keeper; ``node``: who had it kept here."""

    sha1: str | None = None
    feed: str | None = None
    at: str | None = None
    node: str | None = None

    def __post_init__(self) -> None:
        _check_content(self.sha1, self.feed)
        for each in (self.at, self.node):
            if each is not None:
                check_node_id(each)

    @property
    def content(self) -> bytes:
        return bytes.fromhex(self.sha1 or self.feed or "")


class _Push(msgspec.Struct, frozen=True):
    sha1: str | None = None
    feed: str | None = None
    manifest: str | None = None
    label: str = ""
    channel: str | None = None
    to: str | None = None
    copies: int = 1
    seconds: float | None = None

    def __post_init__(self) -> None:
        _check_content(self.sha1, self.feed)
        if self.manifest is not None:
            file_key(self.manifest)
        if self.to is not None:
            check_node_id(self.to)
        if not 1 <= self.copies <= MAX_COPIES:
            raise ValueError(f"copies are 1 to {MAX_COPIES}")
        if self.seconds is not None and not 0 < self.seconds <= MAX_KEEP_SECONDS:
            raise ValueError(f"nothing can be kept for {self.seconds} s")
        if len(self.label) > MAX_FILE_LABEL:
            raise ValueError("the label is too long")


def _check_content(sha1: str | None, feed: str | None) -> None:
    if (sha1 is None) is (feed is None):
        raise ValueError("either a file or a feed")
    if sha1 is not None:
        file_key(sha1)
    if feed is not None:
        check_node_id(feed)  # a feed's id is a public key as well


class KeeperCalls:
    """A method per call, for :class:`~.calls.Calls`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def calls(self) -> CallTable:
        return {
            "keep.offer": (_Offer, self._offer),
            "keep.keepers": (_Keepers, self._keepers),
            "keep.push": (_Push, self._push),
            "keep.list": (Nothing, self._list),
            "keep.drop": (_Content, self._drop),
            "keep.release": (_Content, self._release),
        }

    def _channel(self, name: str | None) -> bytes | None:
        return None if name is None else self._services.context.book.resolve(name)

    async def _offer(self, params: _Offer, live: LiveCall) -> Any:
        live.caller.require_write()
        services, context = self._services, self._services.context
        if context.store.read_only:
            raise BadInput(what="keep-for", reason="the storage folder can only be read")
        channel = context.book.resolve(params.channel)
        offer = KeepOffer.made(params.nodes, params.limit)
        announcer = services.announcer
        await services.keepers.offers.set(
            channel, offer, provide=announcer.provide, withdraw=announcer.withdraw
        )
        return await services.keepers.told(channel)

    async def _keepers(self, params: _Keepers, live: LiveCall) -> Any:
        found = await self._services.keepers.pusher.keepers(self._channel(params.channel))
        name_of = self._services.network.name_of
        return {
            "keepers": [
                {"node": each.node, "label": each.label, "channel": name_of(each.channel)}
                for each in found
            ]
        }

    async def _push(self, params: _Push, live: LiveCall) -> Any:
        live.caller.require_write()
        pusher = self._services.keepers.pusher
        missing: list[str] = []
        if params.feed is not None:
            await self._services.feeds.settle(bytes.fromhex(params.feed))
            thing = await pusher.feed(bytes.fromhex(params.feed), params.label)
        else:
            assert params.sha1 is not None
            found, missing = await pusher.file(params.sha1, params.manifest, params.label)
            if found is None:
                return {"kept": [], "missing": missing, "size": 0, "count": 0}
            thing = found
        wish = Wish(self._channel(params.channel), params.to, params.copies, params.seconds)

        def tell(done: int, size: int) -> None:
            live.progress({"size": size, "done": done})

        kept = await pusher.push(thing, wish, tell)
        return {
            "kept": [self._told(each.keeper, each.channel, each.until) for each in kept],
            "missing": [],
            "size": thing.size,
            "count": thing.count,
        }

    def _told(self, keeper: str, channel: str, until: float | None) -> dict[str, Any]:
        name = self._services.network.name_of(bytes.fromhex(channel))
        return {"node": keeper, "label": self._label(keeper), "channel": name, "until": until}

    def _label(self, node: str) -> str:
        """What some channel calls a node, or it itself."""
        book = self._services.context.book
        for channel in book:
            member = book.signed(channel).document.member(node)
            if member is not None and member.label:
                return member.label
            for admission in book.admissions(channel):
                if admission.node_id == node and admission.label:
                    return admission.label
        return ""

    async def _list(self, params: Nothing, live: LiveCall) -> Any:
        here = await self._services.context.workers.disk(self._services.keepers.keeper.records)
        elsewhere = await self._services.keepers.pusher.records()
        for record in here:
            record["node_label"] = self._label(record["node"])
        for record in elsewhere:
            record["keeper_label"] = self._label(record["keeper"])
        return {"here": here, "elsewhere": elsewhere}

    async def _drop(self, params: _Content, live: LiveCall) -> Any:
        live.caller.require_write()
        return {"dropped": await self._services.keepers.pusher.drop(params.content, params.at)}

    async def _release(self, params: _Content, live: LiveCall) -> Any:
        """The keeper's own user lets something go."""
        live.caller.require_write()
        state, disk = self._services.state, self._services.context.workers.disk
        rows = [
            each
            for each in await disk(state.all_kept)
            if each.content == params.content and params.node in (None, each.node)
        ]
        if not rows:
            raise NotFound(what=params.content.hex(), detail="it is kept for nobody here")
        for each in rows:
            await self._services.keepers.keeper.let_go(each)
        await self._services.keepers.keeper.sweep()
        return {"dropped": len(rows)}
