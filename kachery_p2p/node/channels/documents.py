"""How channel documents spread: the highest valid version reaches every member within seconds.

Linked nodes tell each other the versions they have (in the hello, and in a ``channels`` note when
something changes); whoever has the older one pulls the newer. A document is served to nodes that are
members by it, and to nobody else: one who has been removed learns only that it has been.

Invariants: nothing enters the book unverified; what enters is on disk before anything is cut or
announced on its account.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol.channels.membership import Update
from kachery_p2p.protocol.channels.messages import CHANNEL_DOCUMENT, ChannelQuery
from kachery_p2p.protocol.channels.signed_document import SignedDocument, parse
from kachery_p2p.protocol.errors import (
    BadChannelDocument,
    KacheryError,
    NotAMember,
    ProtocolViolation,
)
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import MAX_BODY, MAX_CHANNEL_DOCUMENT, REQUEST_SECONDS

log = logging.getLogger(__name__)


class Documents:
    """Keeps the book, the disk and the peers in step."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._book = network.book
        self._state = network.context.state
        self._pulling: set[tuple[Link, bytes]] = set()
        self.on_change: list[Callable[[bytes, Update | None], None]] = []
        """Called with the channel id after the book changed (None: joined, left or expired)."""
        network.on_peer_version.append(self._on_peer_version)
        network.on_stream_of(CHANNEL_DOCUMENT, ChannelQuery, self._serve)

    def load(self) -> None:
        """Take back what :class:`~kachery_p2p.storage.state.StateDB` kept."""
        now = self._network.context.clock()
        for row in self._state.channels():
            try:
                signed = parse(row.document, now=now, check_expiry=False)
            except BadChannelDocument as error:
                self._network.context.warn(f"channel {row.channel_id[:8]}: {error}")
                continue
            self._book.join(
                signed,
                row.wanted_roles,
                row.secret,
                owner_key=NodeKey(row.owner_seed) if row.owner_seed else None,
            )
        self._book.expired(now)

    def join(
        self,
        signed: SignedDocument,
        wanted: frozenset[str],
        secret: bytes | None = None,
        owner_key: NodeKey | None = None,
    ) -> bytes:
        """The user joins, or changes what they want on a channel."""
        self._book.expired(self._network.context.clock())
        channel = self._book.join(signed, wanted, secret, owner_key=owner_key)
        self._changed(channel, None)
        return channel

    def leave(self, channel: bytes) -> None:
        self._book.leave(channel)
        self._state.delete_channel(channel.hex())
        self._tell(channel, None)

    def offer(self, data: bytes) -> Update:
        """A document from somewhere: a peer, or the owner's own command on this node.

        Raises:
            BadChannelDocument
        """
        update = self._book.offer(data, self._network.context.clock())
        if update.signed is not None:
            self._changed(update.channel_id, update)
        return update

    def touch(self, channel: bytes) -> None:
        """Who is a member changed, although the document did not."""
        self._tell(channel, None)

    def check_expiry(self) -> None:
        """To be called every few seconds."""
        before = {channel for channel in self._book if self._alive(channel)}
        expired = self._book.expired(self._network.context.clock())
        for channel in before & expired:
            self._network.context.warn(
                f"channel {self._network.name_of(channel)!r} expired; ask its owner for a new export"
            )
            self._tell(channel, None)

    def _alive(self, channel: bytes) -> bool:
        return bool(self._book.effective(channel, self._network.context.node_id))

    def _changed(self, channel: bytes, update: Update | None) -> None:
        kept = self._book.snapshot(channel)
        self._state.put_channel(
            channel.hex(),
            document=kept["document"],
            wanted_roles=kept["wanted"],
            secret=kept["secret"],
            owner_seed=kept["owner_seed"],
            joined_at=self._network.context.clock(),
        )
        self._tell(channel, update)

    def _tell(self, channel: bytes, update: Update | None) -> None:
        self._network.reconsider_all()
        for callback in self.on_change:
            callback(channel, update)

    # --- wire --------------------------------------------------------------------------------

    def _on_peer_version(self, link: Link, channel: bytes, version: int) -> None:
        if channel not in self._book or version <= self._network.version_of(channel):
            return
        key = (link, channel)
        if key not in self._pulling:
            self._pulling.add(key)
            self._network.spawn(self._pull(link, channel), name="pull document")

    async def _pull(self, link: Link, channel: bytes) -> None:
        """Pull until the peer has nothing newer: it may say so while the pull is under way."""
        try:
            while channel in self._book and link.closed_by is None:
                before = self._network.version_of(channel)
                if self._network.peer_version(link, channel) <= before:
                    return
                await self._pull_once(link, channel)
                if channel not in self._book or self._network.version_of(channel) == before:
                    return  # it does not give what it claims to have
        finally:
            self._pulling.discard((link, channel))

    async def _pull_once(self, link: Link, channel: bytes) -> None:
        stream = link.open(CHANNEL_DOCUMENT, {"channel": channel})
        data = bytearray()
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                while (item := await stream.receive()) is not None:
                    _, body, cost = item
                    data += await stream.open_body(body)
                    stream.done(cost)
                    if len(data) > MAX_CHANNEL_DOCUMENT:
                        raise ProtocolViolation(reason="a channel document over the limit")
            if channel in self._book:
                self.offer(bytes(data))
        except (KacheryError, TimeoutError) as error:
            log.info("no document of %s from %s: %s", channel.hex()[:8], link, error)
        finally:
            stream.end()

    async def _serve(self, link: Link, stream: Stream, query: ChannelQuery) -> None:
        if not self._network.is_member(query.channel, link.peer):
            raise NotAMember(node=link.peer, peer=self._network.context.node_id[:8])
        data = self._book.signed(query.channel).to_bytes()
        for start in range(0, len(data), MAX_BODY):
            await stream.send(None, data[start : start + MAX_BODY])
