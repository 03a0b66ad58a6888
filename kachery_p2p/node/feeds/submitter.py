"""Submitting messages to a feed whose key lies on another node, exactly once.

The submission has a random number of its own; the owner's node keeps it with the messages. So whenever
the answer is lost, the same submission is sent again until the caller's time is up.
"""

from __future__ import annotations

import asyncio

from kachery_p2p.node.gossip.discovery import Discovery
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import (
    DeadlineExceeded,
    KacheryError,
    NotFound,
    ProtocolViolation,
    TransportError,
)
from kachery_p2p.protocol.feeds.feed import feed_uri, pack_texts
from kachery_p2p.protocol.feeds.keys import feed_owner_key
from kachery_p2p.protocol.feeds.messages import FEED_SUBMIT, FeedNumbers, FeedSubmit, FeedTexts
from kachery_p2p.protocol.gossip.holders import Holder
from kachery_p2p.storage.feeds.log import Log

_RETRY_SECONDS = 0.3


class FeedSubmitter:
    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery

    async def submit(
        self,
        where: Log,
        name: str,
        texts: list[bytes],
        *,
        submission: bytes,
        channel: bytes | None,
        seconds: float,
    ) -> FeedNumbers:
        """Where the messages stand in the log, once the owner has appended them.

        Raises:
            NotAWriter, AccessDenied, FeedForked, ...: the owner refused.
            NotFound, Unreachable, ...: the owner was not there in all that time.
            DeadlineExceeded: it may or may not have been appended.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        last: KacheryError | None = None
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    try:
                        return await self._once(where, name, texts, submission, channel)
                    except (TransportError, NotFound) as error:
                        last = error
                    await asyncio.sleep(_RETRY_SECONDS)
        except TimeoutError as error:
            if last is not None:
                raise last from error
            what = f"Submitting to {feed_uri(where[0], name)}"
            raise DeadlineExceeded(what=what, seconds=seconds) from error

    async def _once(
        self, where: Log, name: str, texts: list[bytes], submission: bytes, channel: bytes | None
    ) -> FeedNumbers:
        holder = await self._owner(where, channel)
        link = await self._discovery.link_to(holder)
        params = FeedSubmit(holder.channel, *where, name, submission)
        stream = link.open(FEED_SUBMIT, codec.plain(params))
        try:
            await stream.send(codec.plain(FeedTexts(len(texts))), pack_texts(texts))
            item = await stream.receive()
            if item is None:
                raise ProtocolViolation(reason="a submission was not answered")
            numbers = codec.convert(FeedNumbers, item[0])
            if numbers.count != len(texts):
                raise ProtocolViolation(reason="an answer to another submission")
            return numbers
        finally:
            stream.end()

    async def _owner(self, where: Log, channel: bytes | None) -> Holder:
        content = feed_owner_key(where[0])
        found = await self._discovery.lookup.find(content, channel)
        if not found.holders:
            raise self._discovery.lookup.not_found(content, found)
        return found.holders[0]
