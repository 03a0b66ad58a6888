"""How channel documents spread: the highest valid version reaches every member within seconds.

Linked nodes tell each other the versions they have (in the hello, and in a ``channels`` note when
something changes); whoever has the older one pulls the newer. A document is served to nodes that are
members by it, and to nobody else: one who has been removed learns only that it has been.

Invariants: nothing enters the book unverified. What enters counts at once, whatever the disk says:
those who are out by it are cut, and peers hear of it (:mod:`.consequences`). Then it is written, and
until that works it is tried again; a call that changes a channel is answered well only when its change
is on disk (:meth:`Documents.kept`). See docs/decisions/015-a-removal-always-happens.md.
"""

from __future__ import annotations

import asyncio
import logging

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.node.supervision import Job
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.membership import Update
from kachery_p2p.protocol.channels.messages import CHANNEL_DOCUMENT, ChannelQuery
from kachery_p2p.protocol.channels.signed_document import SignedDocument, parse, peek
from kachery_p2p.protocol.errors import (
    BadChannelDocument,
    Busy,
    ChangeNotKept,
    KacheryError,
    NotAMember,
    ProtocolViolation,
    StorageFull,
    TransportError,
)
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import (
    KEEP_SECONDS,
    MAX_BODY,
    MAX_CHANNEL_DOCUMENT,
    REQUEST_SECONDS,
)

from .consequences import Consequence, Consequences
from .histories import Histories
from .ledger import Ledger

log = logging.getLogger(__name__)


class Documents:
    """Keeps the book, the disk and the peers in step."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._book = network.book
        self._state = network.context.state
        self._pulling: dict[tuple[Link, bytes], asyncio.Task[None]] = {}
        self.on_change: list[Consequence] = []
        """Called with the channel id after the book changed (None: joined, left, expired, or done
        again)."""
        self.ledger = Ledger(network.context.workers)
        self._histories = Histories(network, self._write_soon)
        self._consequences = Consequences(network, self.on_change)
        self._keeping: dict[bytes, Job] = {}
        self._unkept: set[bytes] = set()
        """The channels of which the disk does not say what the book says."""
        self._expired: set[bytes] = set()
        """The channels whose end was noticed. The book's time may be ahead of this."""
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
        self._histories.load()

    def join(
        self,
        signed: SignedDocument,
        wanted: frozenset[str],
        secret: bytes | None = None,
        owner_key: NodeKey | None = None,
    ) -> bytes:
        """The user joins, or changes what they want on a channel. See :meth:`kept`, and
        :meth:`adopt`."""
        self._book.expired(self._network.context.clock())
        if signed.document.channel_id in self._book:
            self._hear(signed)
            signed = self._book.signed(signed.document.channel_id)
        channel = self._book.join(signed, wanted, secret, owner_key=owner_key)
        self._histories.begin(channel)
        self._changed(channel, None)
        return channel

    async def adopt(
        self,
        signed: SignedDocument,
        wanted: frozenset[str],
        secret: bytes | None = None,
        owner_key: NodeKey | None = None,
    ) -> bytes:
        """As :meth:`join`, and on disk. A new channel that cannot be written is left again.

        Raises:
            StorageFull, StorageDamaged: this node is not on the channel.
            ChangeNotKept: it was on it before; what changed counts.
        """
        new = signed.document.channel_id not in self._book
        channel = self.join(signed, wanted, secret, owner_key)
        try:
            await self.kept(channel)
        except ChangeNotKept as error:
            if not new or not isinstance(error.__cause__, KacheryError):
                raise
            if channel in self._book:
                self.leave(channel)
            raise error.__cause__ from None
        return channel

    def leave(self, channel: bytes) -> None:
        """The user leaves. See :meth:`kept`."""
        self._book.leave(channel)
        self._histories.forget(channel)
        self._changed(channel, None)

    async def kept(self, channel: bytes) -> None:
        """Until what the book says of a channel now is on disk.

        Raises:
            ChangeNotKept: it could not be written; it counts, and is tried again by itself.
        """
        name = self._network.name_of(channel)
        try:
            async with asyncio.timeout(KEEP_SECONDS):
                await self._keeper(channel).done()
        except (KacheryError, TimeoutError) as error:
            raise ChangeNotKept(
                what=f"The change of channel {name!r}",
                path=str(self._state.path),
                reason=_why_not_kept(error),
            ) from error

    async def close(self) -> None:
        """Until all that was being written is, and what is not yet was tried once more. The network is
        closed by now."""
        for channel in sorted(self._unkept):
            try:
                await self._keep(channel)
            except KacheryError as error:
                log.warning("channel %s is not on disk as it is: %s", channel.hex()[:8], error)
        await self.ledger.close()

    def offer(self, data: bytes, secret: bytes | None = None) -> Update:
        """A document from somewhere: a peer, or the owner's own command on this node, which made the
        secret that goes with it.

        Raises:
            BadChannelDocument
        """
        update = self._book.offer(data, self._network.context.clock(), secret)
        if update.signed is not None:
            self._histories.made(update.signed)
            self._changed(update.channel_id, update)
        return update

    def _hear(self, theirs: SignedDocument) -> None:
        """A document that others have, of a channel that this node is on."""
        signed, secret = self._histories.settle(theirs)
        self.offer(signed.to_bytes(), secret)

    def touch(self, channel: bytes) -> None:
        """Who is a member changed, although the document did not."""
        self._changed(channel, None)

    def check_expiry(self) -> None:
        """To be called every few seconds."""
        before, self._expired = self._expired, self._book.expired(self._network.context.clock())
        for channel in sorted(self._expired - before):
            self._network.context.warn(
                f"channel {self._network.name_of(channel)!r} expired; ask its owner for a new export"
            )
            self._consequences.follow(channel, None)

    def _changed(self, channel: bytes, update: Update | None) -> None:
        # Whoever is out is cut before anybody waits for a disk.
        self._consequences.follow(channel, update)
        self._write_soon(channel)

    def _write_soon(self, channel: bytes) -> None:
        self._unkept.add(channel)
        self._keeper(channel).ask()

    def _keeper(self, channel: bytes) -> Job:
        job = self._keeping.get(channel)
        if job is None:
            what = f"writing channel {self._network.name_of(channel)!r} to disk"
            job = Job(self._network.supervisor, what, lambda: self._keep(channel))
            self._keeping[channel] = job
        return job

    async def _keep(self, channel: bytes) -> None:
        """Bring the disk in line with the book, whatever happened since the last time."""
        self._unkept.discard(channel)  # what changes from here on is written after this
        try:
            await self._write(channel)
        except BaseException:
            self._unkept.add(channel)
            raise

    async def _write(self, channel: bytes) -> None:
        name, state = channel.hex(), self._state
        if channel not in self._book:
            await self.ledger.do(lambda: state.delete_channel(name))
            if channel not in self._book:
                self._keeping.pop(channel, None)
            return
        kept = self._book.snapshot(channel)
        records = {each.node_id: codec.encode(each) for each in self._book.admissions(channel)}
        history = self._histories.kept(channel)
        now = self._network.context.clock()

        def write() -> None:
            with state.transaction():
                state.put_channel(
                    name,
                    document=kept["document"],
                    wanted_roles=kept["wanted"],
                    secret=kept["secret"],
                    owner_seed=kept["owner_seed"],
                    joined_at=now,
                )
                state.keep_admissions(name, records)
                if history is not None:
                    state.put_agreed(name, *history)

        await self.ledger.do(write)

    # --- wire --------------------------------------------------------------------------------

    def _on_peer_version(self, link: Link, channel: bytes, version: int) -> None:
        if channel not in self._book or not self._is_news(channel, version):
            return
        key = (link, channel)
        if key not in self._pulling:
            work = self._pull(link, channel)
            self._pulling[key] = self._network.spawn(work, name="pull document")

    def _is_news(self, channel: bytes, version: int) -> bool:
        newer = version > self._network.version_of(channel)
        return newer or self._histories.is_doubtful(channel, version)

    async def _pull(self, link: Link, channel: bytes) -> None:
        """Pull until the peer has nothing newer: it may say so while the pull is under way."""
        backoff = self._network.supervisor.backoff()
        try:
            while channel in self._book and link.closed_by is None:
                before = self._network.version_of(channel)
                if not self._is_news(channel, self._network.sayings.version(link, channel)):
                    return
                answered = await self._pull_once(link, channel)
                if channel not in self._book or self._network.version_of(channel) != before:
                    continue
                if answered:
                    return  # it does not give what it claims to have
                # It may remove somebody, and this may be the only one who has it.
                await asyncio.sleep(backoff.next())
        finally:
            self._pulling.pop((link, channel), None)

    async def _pull_once(self, link: Link, channel: bytes) -> bool:
        """Whether the peer answered, be it with nothing of use."""
        data = bytearray()
        stream: Stream | None = None
        try:
            stream = link.open(CHANNEL_DOCUMENT, {"channel": channel})
            async with asyncio.timeout(REQUEST_SECONDS):
                while (item := await stream.receive()) is not None:
                    _, body, cost = item
                    data += await stream.open_body(body)
                    stream.done(cost)
                    if len(data) > MAX_CHANNEL_DOCUMENT:
                        raise ProtocolViolation(reason="a channel document over the limit")
            if channel in self._book and peek(bytes(data))[0] == channel:
                now = self._network.context.clock()
                self._hear(parse(bytes(data), now=now, check_expiry=False))
        except (KacheryError, TimeoutError) as error:
            log.info("no document of %s from %s: %s", channel.hex()[:8], link, error)
            return not isinstance(error, TransportError | TimeoutError | Busy)
        finally:
            if stream is not None:
                stream.end()
        return True

    async def _serve(self, link: Link, stream: Stream, query: ChannelQuery) -> None:
        if not self._network.is_member(query.channel, link.peer):
            raise NotAMember(node=link.peer, peer=self._network.context.node_id[:8])
        pulling = self._pulling.get((link, query.channel))
        if pulling is not None and self._book.owner_key(query.channel) is not None:
            # What it has may be the other half of what it is to have from us.
            await asyncio.wait([pulling], timeout=REQUEST_SECONDS)
            self._network.require_shared(link, query.channel)
        async with stream.reserved(MAX_BODY):
            signed = self._book.signed(query.channel)
            data = signed.to_bytes()
            for start in range(0, len(data), MAX_BODY):
                await stream.send(None, data[start : start + MAX_BODY])
            self._histories.agree(signed)


def _why_not_kept(error: BaseException) -> str:
    if isinstance(error, StorageFull):
        return "no space is left there, free some"
    if isinstance(error, TimeoutError):
        return f"the disk has not answered for {KEEP_SECONDS:g} s"
    return str(error).rstrip(".")
