"""The admitter's side of invitations: makes them, and lets in who proves to hold one.

Who may invite: the node of the channel's owner, with any roles, and nodes that the owner authorised,
with the reading roles that the document gives them. Each node admits by the invitations that it made
itself and keeps count of them; so an invitation is used no oftener than it says, and revoking one
takes effect at once.

A guest says in its proof which invitation it holds. What is wrong with that invitation is told only
to who has proved it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from kachery_p2p.node.links.circuit import CircuitTransport
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.admission import admit
from kachery_p2p.protocol.channels.document import check_label
from kachery_p2p.protocol.channels.invitation import Invitation, is_proven, make_invitation
from kachery_p2p.protocol.channels.messages import JOIN, JOIN_IN, Join, Joined
from kachery_p2p.protocol.channels.roles import PROXY, ROLES
from kachery_p2p.protocol.channels.signed_document import sign
from kachery_p2p.protocol.errors import (
    AccessDenied,
    BadInput,
    InvitationRefused,
    KacheryError,
    NotAMember,
)
from kachery_p2p.protocol.limits import (
    CIRCUIT_CREDIT,
    MAX_BODY,
    MAX_INVITATION_USES,
    MAX_INVITATIONS,
    MAX_LABEL,
)
from kachery_p2p.protocol.links.messages import CircuitTo
from kachery_p2p.storage.channels.invitations import InvitationRow

from .admissions import Admissions
from .documents import Documents
from .withdrawals import Withdrawals

_REASONS = {
    "used up": "it was used as often as it may be",
    "revoked": "it was revoked",
    "over": "its time is over",
    "repeated": "this node used it before, and was removed from the channel since",
    "unknown": "the node that should have made it does not know it",
}


class Invitations:
    def __init__(self, network: Network, documents: Documents, admissions: Admissions) -> None:
        self.withdrawals = Withdrawals(network, documents)
        self._network = network
        self._context = network.context
        self._book = network.book
        self._state = network.context.state
        self._documents = documents
        self._admissions = admissions
        self._write = documents.ledger.do
        self._entrance = asyncio.Lock()
        """One newcomer at a time, so that one who asks twice at once takes one use."""
        network.on_stream_of(JOIN, Join, self._on_join)
        network.on_stream_of(JOIN_IN, CircuitTo, self._on_guest)

    # --- making ------------------------------------------------------------------------------

    def may_give(self, channel: bytes) -> frozenset[str]:
        """The roles that this node may give to newcomers; empty: it may not invite."""
        if self._book.owner_key(channel) is not None:
            return frozenset(ROLES)
        return self._book.signed(channel).document.may_admit(self._context.node_id)

    async def make(
        self,
        channel: bytes,
        *,
        roles: frozenset[str] | None,
        label: str,
        uses: int,
        seconds: float,
    ) -> tuple[Invitation, InvitationRow]:
        """A new invitation.

        Args:
            roles: what the newcomer will be granted; None for all that this node may give.
            label: the newcomer's name for people; empty for the one that it gives itself.
            uses: by how many nodes, 1 to ``MAX_INVITATION_USES``.
            seconds: from now until it is over.

        Raises:
            AccessDenied: this node may not give those roles.
            BadInput: the channel is open, or a value is out of range.
        """
        document = self._book.signed(channel).document
        if document.open:
            raise BadInput(
                what=f"channel {document.name!r}",
                reason="it is open, so nobody needs an invitation; send its 'channel export'",
            )
        if not 1 <= uses <= MAX_INVITATION_USES:
            raise BadInput(what="uses", reason=f"1 to {MAX_INVITATION_USES}")
        if not document.bootstraps:
            raise BadInput(what=f"channel {document.name!r}", reason="it has no bootstrap node")
        given = self.may_give(channel) - {PROXY} if roles is None else roles
        self._require(channel, given)
        if self._book.secret(channel) is None:
            raise BadInput(
                what=f"channel {document.name!r}",
                reason="this node has not got its secret, so it cannot hand it on; ask its owner",
            )
        now = self._context.clock()
        if document.expired(now):
            raise BadInput(
                what=f"channel {document.name!r}", reason="it has expired, so nobody can come in"
            )
        until = now + seconds
        if document.expires_at is not None:
            until = min(until, document.expires_at)
        invitation = make_invitation(
            channel=channel,
            name=document.name,
            admitter=self._context.key.public,
            seed=self._context.random_bytes(32),
            expires_at=until,
            bootstraps=document.bootstraps,
        )
        row = InvitationRow(
            invitation.key.public,
            channel.hex(),
            label,
            given,
            uses,
            now,
            until,
            False,
            (),
            document.version,
        )
        await self._write(lambda: self._keep(row))
        return invitation, row

    def _keep(self, row: InvitationRow) -> None:
        """In a worker thread."""
        self._make_room(row.channel_id)
        self._state.put_invitation(row)

    def _require(self, channel: bytes, roles: frozenset[str]) -> None:
        missing = sorted(roles - self.may_give(channel))
        if missing or not roles:
            raise AccessDenied(
                channel=self._network.name_of(channel),
                who="this node",
                role="owner" if not missing else missing[0],
                cause="it is neither the owner's node nor authorised by it ('kachery-p2p channel "
                "authorise') to give that role to newcomers",
            )

    def _make_room(self, channel: str) -> None:
        rows = self._state.invitations(channel)
        dead = [row for row in rows if not self._is_live(row)]
        if len(rows) < MAX_INVITATIONS:
            return
        if not dead:
            raise BadInput(
                what="invitations", reason=f"{MAX_INVITATIONS} of them are open; revoke some first"
            )
        self._state.forget_invitation(dead[0].id)

    def _is_live(self, row: InvitationRow) -> bool:
        left = len(row.nodes) < row.uses
        return left and not row.revoked and self._context.clock() < row.expires_at

    def state_of(self, row: InvitationRow) -> str:
        """``open``, ``used up``, ``revoked`` or ``over``."""
        if row.revoked:
            return "revoked"
        if len(row.nodes) >= row.uses:
            return "used up"
        return "over" if self._context.clock() >= row.expires_at else "open"

    def describe(self, row: InvitationRow) -> dict[str, Any]:
        """An invitation as the calls answer with it: plain values."""
        return {
            "id": row.id.hex(),
            "label": row.label,
            "roles": [role for role in ROLES if role in row.roles],
            "uses": row.uses,
            "nodes": list(row.nodes),
            "created_at": row.created_at,
            "expires_at": row.expires_at,
            "state": self.state_of(row),
        }

    async def described(self, channel: bytes) -> list[dict[str, Any]]:
        """All to a channel that this node keeps."""
        rows = await self._write(lambda: self._state.invitations(channel.hex()))
        return [self.describe(row) for row in rows]

    # --- letting in --------------------------------------------------------------------------

    async def _on_guest(self, link: Link, stream: Stream, params: CircuitTo) -> None:
        """A proxy says that somebody who holds an invitation wants to talk to us."""
        network = self._network
        network.require_shared(link, params.channel)
        network.book.require(params.channel, node_id=link.peer, role=PROXY, side="provider")
        source = params.node.hex()
        name = params.channel.hex()
        if not await self._write(lambda: self._state.invitations(name)):
            raise InvitationRefused(channel=params.channel.hex()[:8], reason=_REASONS["unknown"])
        stream.grant(CIRCUIT_CREDIT)
        asker = f"{source[:8]} via {link.peer[:8]}"
        transport = CircuitTransport(stream, asker, first=params.first)
        inner = await network.attend(transport, initiator=False, expected=source, via=link.peer)
        await inner.closed.wait()

    async def _on_join(self, link: Link, stream: Stream, params: Join) -> None:
        self._network.require_guest(link, params.channel)
        async with self._entrance:
            admission = await self._let_in(link, params)
        # Acknowledged means on disk; until then the newcomer asks again.
        await self._documents.kept(params.channel)
        meta = codec.plain(Joined(admission))
        async with stream.reserved(MAX_BODY):
            data = self._book.signed(params.channel).to_bytes()
            for start in range(0, len(data), MAX_BODY):
                await stream.send(None if start else meta, data[start : start + MAX_BODY])

    async def _let_in(self, link: Link, params: Join) -> bytes | None:
        """Make the peer a member; the admission, if it took one."""
        channel, newcomer = params.channel, link.peer
        row = await self._write(lambda: self._state.invitation(params.invitation))
        proven = is_proven(
            params.invitation,
            params.proof,
            channel=channel,
            admitter=self._context.key.public,
            newcomer=bytes.fromhex(newcomer),
            handshake_hash=link.session.handshake_hash,
        )
        if row is None or row.channel_id != channel.hex() or not proven:
            raise InvitationRefused(channel=channel.hex()[:8], reason=_REASONS["unknown"])
        if self._book.is_member(channel, newcomer):
            # It asks again, for our answer was lost.
            admissions = self._book.admissions(channel)
            return next((codec.encode(a) for a in admissions if a.node_id == newcomer), None)
        name = self._network.name_of(channel)
        self._check_roles(channel, row)
        if newcomer not in row.nodes and row.id in await self.withdrawals.check(channel):
            raise InvitationRefused(channel=name, reason=_REASONS["revoked"])
        now = self._context.clock()
        used = await self._write(lambda: self._state.use_invitation(row.id, newcomer, now))
        if used != "taken":
            raise InvitationRefused(channel=name, reason=_REASONS[used])
        try:
            # The channel may have changed meanwhile.
            self._check_roles(channel, row)
            admission = self._make_member(channel, newcomer, row, params.label)
        except KacheryError:
            with contextlib.suppress(KacheryError):  # a use is lost, which harms nobody
                await self._write(lambda: self._state.return_use(row.id, newcomer))
            raise
        await self._write(lambda: self._state.confirm_use(row.id, newcomer))
        return admission

    def _check_roles(self, channel: bytes, row: InvitationRow) -> None:
        if not row.roles <= self.may_give(channel):
            reason = "the node that made it may not admit with its roles any more"
            raise InvitationRefused(channel=self._network.name_of(channel), reason=reason)

    def _make_member(
        self, channel: bytes, newcomer: str, row: InvitationRow, own_label: str
    ) -> bytes | None:
        document = self._book.signed(channel).document
        secret, key = self._book.secret(channel), self._book.owner_key(channel)
        if secret is None:
            raise NotAMember(node=newcomer, peer=self._context.node_id[:8])
        label = row.label or _tidy(own_label)
        now = self._context.clock()
        if key is not None:
            changed = document.with_member(newcomer, label, row.roles, secret[1], now)
            self._documents.offer(sign(changed, key).to_bytes())
            return None
        made = admit(
            self._context.key,
            document,
            bytes.fromhex(newcomer),
            label,
            row.roles,
            secret[1],
            now,
            row.id,
        )
        record = codec.encode(made)
        if not self._admissions.add(channel, record):
            raise InvitationRefused(
                channel=document.name, reason="too many were admitted while its owner is away"
            )
        return record


def _tidy(label: str) -> str:
    """What a stranger calls itself, as a label that may stand in a document; none if it may not."""
    text = "".join(letter for letter in label if letter.isprintable()).strip()[:MAX_LABEL].strip()
    try:
        check_label(text)
    except BadInput:
        return ""
    return text
