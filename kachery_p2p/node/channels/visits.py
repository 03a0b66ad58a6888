"""Share links: makes the passes that are in them, lets in who shows one, and takes them back.

Every node that a visitor turns to checks the pass itself: the proxy by which it comes, and each holder
of the content, end to end. Nobody need be asked for that, so a link works while the computer on which
it was made is off; only uses that are counted are counted there. A revocation is signed by the node
that made the pass and passed on by every member until the pass is over by itself.

Invariants: what a visitor shows is worth nothing on another link; a pass counts only with the document
of now. Revocations of other nodes are kept in memory: who restarts is told again by whom it links to,
and the node that made the pass keeps its own on disk.
"""

from __future__ import annotations

from typing import Any

from kachery_p2p.node.links.circuit import CircuitTransport
from kachery_p2p.node.links.guests import NOT_COUNTED, REVOKED
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.messages import (
    CHANNEL_REVOCATIONS,
    VISIT,
    VISIT_IN,
    VISIT_USE,
    Revocations,
    Visit,
    VisitUse,
)
from kachery_p2p.protocol.channels.roles import PROXY, REQUEST_ROLES
from kachery_p2p.protocol.channels.visitor_pass import (
    Mark,
    Revocation,
    Visiting,
    VisitorPass,
    check_pass,
    check_revocation,
    is_pass_proven,
    is_stamped,
    make_pass,
    revoke,
    stamp,
)
from kachery_p2p.protocol.errors import AccessDenied, BadInput, ProtocolViolation, ShareRefused
from kachery_p2p.protocol.limits import (
    CIRCUIT_CREDIT,
    MAX_PASS_SECONDS,
    MAX_PASS_USES,
    MAX_PASSES,
    REVOCATIONS_PER_NOTE,
)
from kachery_p2p.protocol.links.messages import CircuitTo
from kachery_p2p.storage.channels.passes import PassRow

from .documents import Documents

_UNKNOWN = "nobody here knows it"


class Visits:
    def __init__(self, network: Network, documents: Documents) -> None:
        self._network = network
        self._context = network.context
        self._book = network.book
        self._state = network.context.state
        self._write = documents.ledger.do
        network.on_request_of(VISIT, Visit, self._on_visit)
        network.on_request_of(VISIT_USE, VisitUse, self._on_use)
        network.on_stream_of(VISIT_IN, CircuitTo, self._on_visitor)
        network.on_note_of(CHANNEL_REVOCATIONS, Revocations, self._on_revocations)
        network.on_shared.append(self._on_shared)

    def load(self) -> None:
        """Take back what this node revoked; to be called when the channels are loaded."""
        for row in self._state.passes():
            if row.revoked:
                self._network.visitors.revoke(self._revocation(row))

    # --- making ------------------------------------------------------------------------------

    def may_share(self, channel: bytes) -> frozenset[str]:
        """The request roles that passes of this node may give; empty: it may make none."""
        if self._book.owner_key(channel) is not None:
            return REQUEST_ROLES
        return self._book.signed(channel).document.may_admit(self._context.node_id)

    async def make(
        self,
        channel: bytes,
        *,
        uri: str,
        roles: frozenset[str],
        contents: list[Mark],
        uses: int,
        seconds: float,
    ) -> tuple[VisitorPass, bytes]:
        """A new pass, and the seed of its key, which is kept nowhere.

        Args:
            uri: what it is to, for the list of this node's user.
            roles: the request roles that it gives for ``contents``.
            uses: 0 for any number.
            seconds: from now until it is over.

        Raises:
            AccessDenied: this node may not give one of the roles.
            BadInput: a value is out of range, or there are too many passes.
        """
        document = self._book.signed(channel).document
        for role in sorted(roles - self.may_share(channel)):
            raise AccessDenied(
                channel=document.name,
                who="this node",
                role=role,
                cause="sharing with people who are no members takes the owner's node, or one that the "
                "owner authorised ('kachery-p2p channel authorise')",
            )
        if not 0 <= uses <= MAX_PASS_USES:
            raise BadInput(what="uses", reason=f"0 to {MAX_PASS_USES}")
        if not 0 < seconds <= MAX_PASS_SECONDS:
            days = round(MAX_PASS_SECONDS / 86_400)
            raise BadInput(what="expires", reason=f"a link is good for {days} days at most")
        now = self._context.clock()
        until = now + seconds
        if document.expires_at is not None:
            until = min(until, document.expires_at)
        seed = self._context.random_bytes(32)
        made = make_pass(
            self._book.owner_key(channel) or self._context.key,
            document,
            home=self._context.key.public,
            seed=seed,
            contents=contents,
            roles=roles,
            uses=uses,
            now=now,
            expires_at=until,
        )
        row = PassRow(made.id, channel.hex(), uri, uses, now, float(made.expires_at))
        if not await self._write(lambda: self._state.put_pass(row, most=MAX_PASSES, now=now)):
            raise BadInput(
                what="share links",
                reason=f"{MAX_PASSES} on that channel are not over yet; let them expire sooner",
            )
        return made, seed

    async def made(self) -> list[PassRow]:
        """The passes that this node made and that are not over."""
        rows = await self._write(self._state.passes)
        return [row for row in rows if row.expires_at > self._context.clock()]

    def state_of(self, row: PassRow) -> str:
        """``open``, ``used up``, ``revoked`` or ``over``."""
        if row.revoked:
            return "revoked"
        if row.uses and row.used >= row.uses:
            return "used up"
        return "over" if self._context.clock() >= row.expires_at else "open"

    def _revocation(self, row: PassRow) -> Revocation:
        channel = bytes.fromhex(row.channel_id)
        return revoke(self._context.key, channel, row.id, row.expires_at)

    async def take_back(self, row: PassRow) -> None:
        """Revoke a pass: here at once, and with whom this node is linked."""
        made = self._revocation(row)
        # Who is visiting is out before anybody waits for a disk.
        self._take(made, None)
        await self._write(lambda: self._state.revoke_pass(row.id))

    # --- revocations -------------------------------------------------------------------------

    def _take(self, revocation: Revocation, source: Link | None) -> None:
        if not self._network.visitors.revoke(revocation):
            return
        self._network.visitors.cut()
        for link in self._network.links_on(revocation.channel):
            if link is not source:
                self._send(link, revocation.channel, [revocation])

    def _send(self, link: Link, channel: bytes, revocations: list[Revocation]) -> None:
        records = [codec.encode(each) for each in revocations]
        link.note(CHANNEL_REVOCATIONS, codec.plain(Revocations(channel, records)))

    def _on_shared(self, link: Link, channel: bytes) -> None:
        known = list(self._network.visitors.revoked.get(channel, {}).values())
        for start in range(0, len(known), REVOCATIONS_PER_NOTE):
            self._send(link, channel, known[start : start + REVOCATIONS_PER_NOTE])

    def _on_revocations(self, link: Link, note: Revocations) -> None:
        if note.channel not in self._network.shared(link):
            return
        for record in note.revocations:
            found = check_revocation(record)
            if found.channel != note.channel:
                raise ProtocolViolation(reason="a revocation of another channel")
            # A bound for each member: who is none has no passes.
            if self._network.is_member(found.channel, found.home.hex()):
                self._take(found, link)

    # --- letting in --------------------------------------------------------------------------

    async def _on_visitor(self, link: Link, stream: Stream, params: CircuitTo) -> None:
        """A proxy says that a visitor wants to talk to us; what it holds we see ourselves."""
        network = self._network
        network.require_shared(link, params.channel)
        network.book.require(params.channel, node_id=link.peer, role=PROXY, side="provider")
        source = params.node.hex()
        stream.grant(CIRCUIT_CREDIT)
        name = f"visitor {source[:8]} via {link.peer[:8]}"
        transport = CircuitTransport(stream, name, first=params.first)
        inner = await network.attend(transport, initiator=False, expected=source, via=link.peer)
        await inner.closed.wait()

    async def _on_visit(self, link: Link, params: Visit) -> Any:
        network, channel = self._network, params.channel
        if link not in network.visitors:
            network.require_guest(link, channel)
        document = self._book.signed(channel).document
        found = check_pass(params.visitor_pass, document, self._context.clock())
        self._require_proof(link, channel, found.id, params.proof)
        counted = is_stamped(found, bytes.fromhex(link.peer), params.stamp)
        if params.stamp and not counted:
            raise ShareRefused(reason=NOT_COUNTED)
        if network.visitors.is_revoked(found):
            raise ShareRefused(reason=REVOKED)
        network.visit(link, Visiting(found, params.secret, counted))
        return {"name": document.name}

    async def _on_use(self, link: Link, params: VisitUse) -> Any:
        channel = params.channel
        if link not in self._network.visitors:
            self._network.require_guest(link, channel)
        self._require_proof(link, channel, params.visitor_pass, params.proof)
        visitor = bytes.fromhex(link.peer)
        row = await self._write(lambda: self._state.visitor_pass(params.visitor_pass))
        if row is None or row.channel_id != channel.hex():
            raise ShareRefused(reason=_UNKNOWN)
        if row.revoked:
            raise ShareRefused(reason=REVOKED)
        if self._context.clock() >= row.expires_at:
            raise ShareRefused(reason="its time is over")
        if row.uses and not await self._write(lambda: self._state.use_pass(row.id, visitor)):
            raise ShareRefused(reason="it was opened as often as it may be")
        return {"stamp": stamp(self._context.key, channel, row.id, visitor)}

    def _require_proof(self, link: Link, channel: bytes, id: bytes, proof: bytes) -> None:
        proven = is_pass_proven(
            id,
            proof,
            channel=channel,
            verifier=self._context.key.public,
            visitor=bytes.fromhex(link.peer),
            handshake_hash=link.session.handshake_hash,
        )
        if not proven:
            raise ShareRefused(reason=_UNKNOWN)
