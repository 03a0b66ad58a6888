"""The newcomer's side of invitations: from the line to being a member.

The invitation names bootstrap nodes and the admitter. The newcomer dials a bootstrap as a *guest*; if
that is not the admitter itself, it asks it for a circuit to the admitter. End to end with the admitter
it then proves that it holds the invitation, and is sent the channel's document. A proxy on the way
learns that somebody joins, and whom they ask.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from kachery_p2p.node.links.circuit import circuit_to
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.routes.reach import Reach
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.document import Bootstrap
from kachery_p2p.protocol.channels.invitation import Invitation, parse_line, prove
from kachery_p2p.protocol.channels.messages import JOIN, JOIN_CIRCUIT, Join, Joined
from kachery_p2p.protocol.channels.signed_document import parse
from kachery_p2p.protocol.errors import (
    BadChannelDocument,
    BadInvitation,
    InvitationRefused,
    KacheryError,
    LinkClosed,
    LocalError,
    NotAMember,
    ProtocolViolation,
    Unreachable,
    reason_of,
)
from kachery_p2p.protocol.limits import (
    GUEST_SECONDS,
    JOIN_SECONDS,
    MAX_CHANNEL_DOCUMENT,
)

from .admissions import Admissions
from .documents import Documents

_AGAIN_SECONDS = 1.0


class Joining:
    def __init__(
        self, network: Network, reach: Reach, documents: Documents, admissions: Admissions
    ) -> None:
        self._network = network
        self._context = network.context
        self._book = network.book
        self._reach = reach
        self._documents = documents
        self._admissions = admissions

    async def join(self, line: str, wanted: frozenset[str]) -> bytes:
        """Become a member by an invitation; the channel id.

        Who is a member already only changes what it wants. Whether it is, is not for its own document
        to say while nobody on the channel talks to it: it may have been removed. Then the admitter is
        asked, who lets a member have its answer without using the invitation.

        Raises:
            BadInvitation: it is damaged, or over by this node's clock.
            InvitationRefused: the admitter does not accept it.
            Unreachable: the admitter could not be reached, with what was tried.
        """
        invitation = parse_line(line)
        channel = invitation.channel
        if self._is_surely_member(invitation):
            return await self._documents.adopt(self._book.signed(channel), wanted)
        if self._context.clock() >= invitation.expires_at:
            date = datetime.fromtimestamp(invitation.expires_at, UTC)
            raise BadInvitation(reason=f"it was good until {date:%Y-%m-%d %H:%M} UTC")
        deadline = asyncio.get_running_loop().time() + JOIN_SECONDS
        while True:
            try:
                return await self._once(invitation, wanted)
            except Unreachable:
                # The admitter, or a proxy, may have been started a moment ago.
                me = self._context.node_id
                if all(each.node_id == me for each in invitation.bootstraps):
                    raise
                if asyncio.get_running_loop().time() >= deadline:
                    raise
            await asyncio.sleep(_AGAIN_SECONDS)

    def _is_surely_member(self, invitation: Invitation) -> bool:
        channel, me = invitation.channel, self._context.node_id
        if not self._book.is_member(channel, me):
            return False
        mine = self._book.owner_key(channel) is not None or invitation.admitter.hex() == me
        return mine or bool(self._network.links_on(channel))

    async def _once(self, invitation: Invitation, wanted: frozenset[str]) -> bytes:
        tried: list[str] = []
        for bootstrap in invitation.bootstraps:
            try:
                async with asyncio.timeout(GUEST_SECONDS):
                    data, admission = await self._over(bootstrap, invitation)
            except (InvitationRefused, LocalError):
                raise
            except KacheryError as error:
                tried.append(f"through {bootstrap.url}: {reason_of(error)}")
            except TimeoutError:
                tried.append(f"through {bootstrap.url}: no answer within {GUEST_SECONDS:g} s")
            else:
                return await self._take(invitation, data, admission, wanted)
        raise Unreachable(
            what=f"the node that admits to channel {invitation.name!r}", reason="; ".join(tried)
        )

    async def _take(
        self, invitation: Invitation, data: bytes, admission: bytes | None, wanted: frozenset[str]
    ) -> bytes:
        signed = parse(data, now=self._context.clock())
        if signed.document.channel_id != invitation.channel:
            raise BadChannelDocument(reason="it is that of another channel")
        channel = await self._documents.adopt(signed, wanted)
        if admission is not None:
            self._admissions.add(channel, admission)
            await self._documents.kept(channel)
        return channel

    async def _over(
        self, bootstrap: Bootstrap, invitation: Invitation
    ) -> tuple[bytes, bytes | None]:
        channel, admitter = invitation.channel, invitation.admitter.hex()
        if bootstrap.node_id == self._context.node_id:
            raise Unreachable(
                what=bootstrap.url,
                reason="that is this very node; a channel's proxy joins with the channel's document "
                "('channel export')",
            )
        link = await self._reach.connect(bootstrap.url, bootstrap.node_id, guest_of=channel)
        links = [link]
        try:
            if bootstrap.node_id != admitter:
                transport = circuit_to(link, JOIN_CIRCUIT, channel, admitter)
                link = await self._network.attend(
                    transport, initiator=True, expected=admitter, via=link.peer, guest_of=channel
                )
                links.append(link)
            return await self._ask(link, invitation)
        except LinkClosed as error:
            cause = next((each.closed_by for each in links if each.closed_by), None)
            if isinstance(cause, NotAMember):
                # It lets no guest in: it has left the channel, or is overrun.
                raise Unreachable(
                    what=bootstrap.url, reason="it does not let anybody in on that channel now"
                ) from error
            raise
        finally:
            for each in reversed(links):
                each.close(LinkClosed(peer=each.peer[:8], reason="the guest is done"))

    async def _ask(self, link: Link, invitation: Invitation) -> tuple[bytes, bytes | None]:
        """Prove that we hold it; the channel's document, and the admission if it took one."""
        key = invitation.key
        proof = prove(
            key,
            channel=invitation.channel,
            admitter=bytes.fromhex(link.peer),
            newcomer=self._context.key.public,
            handshake_hash=link.session.handshake_hash,
        )
        params = Join(invitation.channel, key.public, proof, self._context.label)
        stream = link.open(JOIN, codec.plain(params))
        data = bytearray()
        joined: Joined | None = None
        try:
            while (item := await stream.receive()) is not None:
                meta, body, cost = item
                joined = joined or codec.convert(Joined, meta)
                data += await stream.open_body(body)
                stream.done(cost)
                if len(data) > MAX_CHANNEL_DOCUMENT:
                    raise ProtocolViolation(reason="a channel document over the limit")
        finally:
            stream.end()
        if joined is None:
            raise ProtocolViolation(reason="an answer to an invitation without a document")
        return bytes(data), joined.admission
