"""The calls of the local API about feeds.

A feed is 32 bytes, a subfeed 20 (:func:`~kachery_p2p.protocol.feeds.feed.subfeed_hash`). Messages
travel as ``data``: their JSON texts with a newline between them, ``count`` of them.

=====================  ==================================================  ===========================
method                 parameters                                          result
=====================  ==================================================  ===========================
``feed.create``        name | None, replace?                               feed
``feed.named``         name                                                feed | None
``feed.list``                                                              feeds
``feed.info``          feed                                                what is held of it here
``feed.delete``        feed                                                deleted
``feed.append``        feed, subfeed, name, data, count                    first, count
``feed.submit``        the same, submission (16 bytes), timeout, channel?  first, count
``feed.read``          feed, subfeed, position, most, wait, timeout,       start, runs, data, size,
                       channel?, proofs, name?                             heads | None,
                                                                           proofs: [[place of
                                                                           its head, hashes]]
``feed.stream``        feed, subfeed, position, wait, timeout, channel?,   items: [start, count], data
                       name?
``feed.watch``         watches: [[feed, subfeed, position]], most, wait,   ready: [[place, start,
                       timeout, channel?                                   runs, data]]
``feed.get_rules``     feed, subfeed                                       rules
``feed.set_rules``     feed, subfeed, rules
``feed.show``          feed, subfeed?, timeout, channel?                   info, holders, fork, ...
``feed.resolve``       feed, subfeed                                       resolved
=====================  ==================================================  ===========================

``most`` is 0 for as many as fit one answer; ``wait`` and ``timeout`` are seconds. ``feed.stream`` sends
messages as they come, and ends when none came for ``wait`` seconds.
"""

from __future__ import annotations

import json
from collections.abc import Coroutine
from typing import Any

from kachery_p2p.node.feeds.proofs import Proofs, held_proofs
from kachery_p2p.node.feeds.reader import Wanted
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput, FeedReadOnly, ProtocolViolation, UnknownFeed
from kachery_p2p.protocol.feeds.feed import (
    Head,
    Slice,
    pack_texts,
    unpack_texts,
)
from kachery_p2p.protocol.feeds.messages import FeedNumbers
from kachery_p2p.protocol.limits import (
    LOOKUP_SECONDS,
    MAX_FEED_MESSAGES,
    MAX_SLICE,
    MOST_ASKED_PROOFS,
)
from kachery_p2p.protocol.local import messages as local
from kachery_p2p.storage.feeds.log import Log, LogInfo
from kachery_p2p.storage.feeds.store import FeedRow

from .call_table import CallTable, Nothing
from .feed_params import Append, Create, Feed, OneLog, Read, Rules, Show, Stream, Submit, Watch
from .live_call import DeferredResult, LiveCall
from .services import Services

_LARGE = MAX_SLICE // 16
"""Bytes of messages that are not checked on the loop."""


class FeedCalls:
    """A method per call, for :class:`~.calls.Calls`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._feeds = services.feeds
        self._store = services.feeds.store
        self._disk = services.context.workers.disk
        self._last_packed: tuple[Slice, local.PackedItem] | None = None

    def calls(self) -> CallTable:
        return {
            "feed.create": (Create, self._create),
            "feed.named": (Create, self._named),
            "feed.list": (Nothing, self._list),
            "feed.info": (Feed, self._info),
            "feed.delete": (Feed, self._delete),
            "feed.append": (Append, self._append),
            "feed.submit": (Submit, self._submit),
            "feed.read": (Read, self._read),
            "feed.stream": (Stream, self._stream),
            "feed.watch": (Watch, self._watch),
            "feed.get_rules": (OneLog, self._get_rules),
            "feed.set_rules": (Rules, self._set_rules),
            "feed.show": (Show, self._show),
            "feed.resolve": (OneLog, self._resolve),
        }

    def _channel(self, name: str | None) -> bytes | None:
        return None if name is None else self._services.context.book.resolve(name)

    # --- feeds -------------------------------------------------------------------------------

    async def _create(self, params: Create, live: LiveCall) -> Any:
        live.caller.require_write()
        return {"feed": await self._services.own_feeds.create(params.name, replace=params.replace)}

    async def _named(self, params: Create, live: LiveCall) -> Any:
        return {"feed": await self._disk(self._store.feed_named, params.name or "")}

    async def _list(self, params: Nothing, live: LiveCall) -> Any:
        await self._feeds.settle()

        def work() -> list[dict[str, Any]]:
            return [self._describe_feed(row.feed, row) for row in self._store.feeds()]

        return {"feeds": await self._disk(work)}

    async def _info(self, params: Feed, live: LiveCall) -> Any:
        await self._feeds.settle(params.feed)
        return await self._disk(self._describe, params.feed)

    def _describe(self, feed: bytes) -> dict[str, Any]:
        row = next((row for row in self._store.feeds() if row.feed == feed), None)
        return self._describe_feed(feed, row)

    def _describe_feed(self, feed: bytes, row: FeedRow | None) -> dict[str, Any]:
        return {
            "feed": feed,
            "name": None if row is None else row.name,
            "writable": row is not None and row.writable,
            "created": None if row is None else row.created,
            "subfeeds": [
                self._describe_log(subfeed, info) for _, subfeed, info in self._store.logs(feed)
            ],
        }

    def _describe_log(self, subfeed: bytes, info: LogInfo) -> dict[str, Any]:
        network = self._services.network
        return {
            "subfeed": subfeed,
            "name": info.name,
            "base": info.base,
            "size": info.size,
            "timestamp": info.head.timestamp if info.head is not None else None,
            "forked": info.fork is not None,
            "channels": sorted(network.name_of(bytes.fromhex(c)) for c in info.channels),
        }

    async def _delete(self, params: Feed, live: LiveCall) -> Any:
        await self._feeds.settle()
        live.caller.require_write()
        await self._services.keepers.keeper.deleted(params.feed)
        await self._services.feed_reader.forget(params.feed)
        return {"deleted": await self._feeds.delete(params.feed)}

    # --- writing -----------------------------------------------------------------------------

    def _texts(self, params: Append) -> list[bytes]:
        try:
            return unpack_texts(params.data, params.count)
        except ProtocolViolation as error:
            raise BadInput(what="feed messages", reason=error.fields["reason"]) from error

    def _append(self, params: Append, live: LiveCall) -> Coroutine[Any, Any, Any] | DeferredResult:
        live.caller.require_write()
        where = (params.feed, params.subfeed)
        if len(params.data) > _LARGE:
            return self._append_large(where, params)
        texts = self._texts(params)
        promised = self._services.own_feeds.promise(where, params.name, texts)
        if promised is not None:
            return DeferredResult(promised, _numbers)
        return self._append_texts(where, params, texts)

    async def _append_large(self, where: Log, params: Append) -> Any:
        return await self._append_texts(where, params, await self._disk(self._texts, params))

    async def _append_texts(self, where: Log, params: Append, texts: list[bytes]) -> Any:
        return _numbers(await self._services.own_feeds.append(where, params.name, texts))

    async def _submit(self, params: Submit, live: LiveCall) -> Any:
        live.caller.require_write()
        if len(params.data) > MAX_SLICE:
            raise BadInput(
                what="submission", reason=f"more than {MAX_SLICE} bytes; send it in parts"
            )
        where = (params.feed, params.subfeed)
        texts = await self._disk(self._texts, params)
        channel = self._channel(params.channel)
        if await self._feeds.is_own(params.feed):
            return _numbers(
                await self._services.own_feeds.append(
                    where, params.name, texts, submission=params.submission
                )
            )
        numbers = await self._services.feed_submitter.submit(
            where,
            params.name,
            texts,
            submission=params.submission,
            channel=channel,
            seconds=params.timeout,
        )
        return _numbers(numbers)

    # --- reading -----------------------------------------------------------------------------

    def _source(self, params: Stream) -> tuple[Log, bytes | None]:
        """The log to read, and the channel; its reader's name for it is noted."""
        where = (params.feed, params.subfeed)
        if params.name is not None:
            self._feeds.note_name(where, params.name)
        return where, self._channel(params.channel)

    def _packed(self, slice: Slice) -> local.PackedItem:
        """As an item; new messages go to all who wait for them, so it is kept until the next."""
        if self._last_packed is None or self._last_packed[0] is not slice:
            item = local.pack_item([slice.start, len(slice.texts)], pack_texts(slice.texts))
            self._last_packed = (slice, item)
        return self._last_packed[1]

    async def _stream(self, params: Stream, live: LiveCall) -> Any:
        where, channel = self._source(params)

        def offer(slice: Slice) -> bool:
            return live.offer(self._packed(slice))

        await self._services.feed_reader.stream(
            Wanted(where, params.position),
            offer,
            live.room,
            live.flush,
            wait=params.wait,
            timeout=params.timeout,
            channel=channel,
        )
        return {}

    async def _read(self, params: Read, live: LiveCall) -> Any:
        where, channel = self._source(params)
        most = params.most or MAX_FEED_MESSAGES
        if params.proofs and not await self._held(where, params.position):
            most = min(most, MOST_ASKED_PROOFS)
        found = await self._services.feed_reader.read(
            [Wanted(where, params.position)],
            most=most,
            wait=params.wait,
            timeout=params.timeout,
            channel=channel,
        )
        slice = found.get(0) or Slice(params.position, [], [])
        info = await self._feeds.info(where) if params.proofs or not slice.texts else None
        answer = {
            "start": slice.start,
            "runs": codec.plain(slice.runs),
            "data": pack_texts(slice.texts),
            "size": max(
                info.size if info is not None else 0,
                slice.stop if slice.texts else 0,
                self._services.feed_reader.size_elsewhere(where),
            ),
            "heads": None,
            "proofs": None,
        }
        if params.proofs and slice.texts:
            proofs = await self._prove(where, slice, channel)
            heads = list(dict.fromkeys(head for head, _ in proofs))
            places = {head: place for place, head in enumerate(heads)}
            answer["heads"] = codec.plain(heads)
            answer["proofs"] = [[places[head], path] for head, path in proofs]
        return answer

    async def _held(self, where: Log, position: int) -> bool:
        info = await self._feeds.info(where)
        return info is None or info.base <= position

    async def _prove(self, where: Log, slice: Slice, channel: bytes | None) -> Proofs:
        if await self._held(where, slice.start):
            return await self._disk(held_proofs, self._store, where, slice)
        return await self._services.feed_reader.prove(where, slice, channel=channel)

    async def _watch(self, params: Watch, live: LiveCall) -> Any:
        wanted = [Wanted((feed, subfeed), at) for feed, subfeed, at in params.watches]
        found = await self._services.feed_reader.read(
            wanted,
            most=params.most or MAX_FEED_MESSAGES,
            wait=params.wait,
            timeout=params.timeout,
            channel=self._channel(params.channel),
        )
        ready: list[list[Any]] = []
        room = 2 * MAX_SLICE
        for place, slice in found.items():
            data = pack_texts(slice.texts)
            room -= len(data)
            if room < 0 and ready:
                break  # the others are there still when the caller asks again
            ready.append([place, slice.start, codec.plain(slice.runs), data])
        return {"ready": ready}

    # --- access ------------------------------------------------------------------------------

    async def _get_rules(self, params: OneLog, live: LiveCall) -> Any:
        await self._require_own(params.feed)
        text = await self._disk(self._store.get_rules, params.feed, params.subfeed)
        return {"rules": {"rules": []} if text is None else json.loads(text)}

    async def _set_rules(self, params: Rules, live: LiveCall) -> Any:
        live.caller.require_write()
        await self._require_own(params.feed)
        text = json.dumps(codec.plain(params.rules))
        await self._disk(self._store.set_rules, params.feed, params.subfeed, text)
        return {}

    async def _require_own(self, feed: bytes) -> None:
        if not await self._feeds.is_own(feed):
            raise FeedReadOnly(feed=feed.hex())

    # --- looking -----------------------------------------------------------------------------

    async def _show(self, params: Show, live: LiveCall) -> Any:
        if params.subfeed is not None and await self._feeds.is_own(params.feed):
            # Nobody follows his own feeds: whether others know of a fork he must ask.
            where = (params.feed, params.subfeed)
            await self._services.own_feeds.look(where, min(params.timeout, LOOKUP_SECONDS))
        await self._feeds.settle()
        shown = await self._disk(self._describe, params.feed)
        shown |= {"holders": [], "followers": 0, "fork": None, "decision": None, "detail": ""}
        if params.subfeed is None:
            return shown
        where = (params.feed, params.subfeed)
        shown["followers"] = self._services.feed_server.followers(where)
        info = await self._feeds.info(where)
        if info is not None and info.fork is not None:
            shown["fork"] = {
                "first": _plain_head(info.fork.first),
                "second": _plain_head(info.fork.second),
            }
        if info is not None and info.decision is not None:
            shown["decision"] = _plain_head(info.decision.head)
        await self._services.feed_reader.contact(
            Wanted(where, info.size if info is not None else 0),
            channel=self._channel(params.channel),
            timeout=params.timeout,
            shown=shown,
        )
        return shown

    async def _resolve(self, params: OneLog, live: LiveCall) -> Any:
        live.caller.require_write()
        known = await self._feeds.info((params.feed, params.subfeed))
        if known is None:
            raise UnknownFeed(feed=params.feed.hex())
        await self._require_own(params.feed)
        # Others may know of a fork of which nobody has told us.
        await self._services.own_feeds.look((params.feed, params.subfeed), LOOKUP_SECONDS)
        return {"resolved": await self._feeds.decide((params.feed, params.subfeed))}


def _numbers(numbers: FeedNumbers) -> dict[str, Any]:
    return {"first": numbers.first, "count": numbers.count}


def _plain_head(head: Head) -> dict[str, Any]:
    return {"size": head.size, "root": head.root.hex(), "timestamp": head.timestamp}
