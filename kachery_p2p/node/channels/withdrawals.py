"""Which invitations are void, since somebody who came by them has lost what they give.

Who was removed, or has lost a role, could paste the line that it came by once more, with a new key. So
a node that made an invitation revokes it as soon as it hears of that, whoever the owner is and wherever
the owner's node is; it asks again whenever it lets somebody in, so that it needs no luck with the disk.
The owner may also end all invitations at once, wherever they were made: the document says so.

Invariant: what is found out here counts at once; that it is written down as well is for the next start.

Non-goals: invitations that a removed node never used (the owner is told which are open).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kachery_p2p.node.links.network import Network
from kachery_p2p.node.supervision import Job
from kachery_p2p.protocol.channels.membership import Update
from kachery_p2p.protocol.errors import KacheryError

from .documents import Documents


@dataclass
class _Found:
    """What one look showed: invitations that are void, uses that made members, nodes that are out."""

    void: set[bytes] = field(default_factory=set)
    joined: list[tuple[bytes, str]] = field(default_factory=list)
    removed: frozenset[str] = frozenset()


class Withdrawals:
    def __init__(self, network: Network, documents: Documents) -> None:
        self._network = network
        self._context = network.context
        self._book = network.book
        self._state = network.context.state
        self._ledger = documents.ledger
        self._jobs: dict[bytes, Job] = {}
        self._removed: dict[bytes, set[str]] = {}
        """By channel: nodes that a document does not list any more, until that was looked at."""
        documents.on_change.append(self._on_change)

    def _on_change(self, channel: bytes, update: Update | None) -> None:
        if update is not None and update.removed:
            self._removed.setdefault(channel, set()).update(update.removed)
        self._job(channel).ask()

    def _job(self, channel: bytes) -> Job:
        job = self._jobs.get(channel)
        if job is None:
            what = f"revoking invitations of {self._network.name_of(channel)!r}"
            job = Job(self._network.supervisor, what, lambda: self._look(channel))
            self._jobs[channel] = job
        return job

    async def done(self, channel: bytes) -> None:
        """Until what followed from the last change is written down. Raises StorageFull, StorageDamaged:
        it counts, and is tried again."""
        await self._job(channel).done()

    async def check(self, channel: bytes) -> set[bytes]:
        """The ids of invitations that were not revoked and are void now; they are revoked."""
        found = await self._find(channel)
        try:
            await self._write(channel, found)
        except KacheryError as error:  # it counts all the same, see the module
            self._context.warn(f"invitations of {self._network.name_of(channel)!r}: {error}")
        return found.void

    async def _look(self, channel: bytes) -> None:
        await self._write(channel, await self._find(channel))
        if channel not in self._book:
            self._jobs.pop(channel, None)

    async def _find(self, channel: bytes) -> _Found:
        """What is to be revoked now, and what else is to be written down."""
        found = _Found()
        if channel not in self._book:
            return found
        found.removed = frozenset(self._removed.get(channel, ()))
        name, state = channel.hex(), self._state
        since = self._book.signed(channel).document.invitations_from
        void, uses = await self._ledger.do(
            lambda: (state.invitations_before(name, since), list(state.uses(name)))
        )
        found.void |= set(void)
        for use in uses if channel in self._book else ():
            if use.roles <= self._book.granted(channel, use.node):
                if not use.joined:
                    found.joined.append((use.invitation, use.node))
            elif use.joined or use.node in found.removed:
                if use.invitation not in found.void:
                    self._tell(channel, use.invitation, use.node)
                found.void.add(use.invitation)
        return found

    async def _write(self, channel: bytes, found: _Found) -> None:
        name, state = channel.hex(), self._state

        def write() -> None:
            for id in found.void:
                state.revoke_invitation(id)
            for id, node in found.joined:
                state.confirm_use(id, node)
            for node in found.removed:
                if state.arrival(name, node) is not None:
                    state.forget_arrival(name, node)

        if found.void or found.joined or found.removed:
            await self._ledger.do(write)
        left = self._removed.get(channel, set()) - found.removed
        if left:
            self._removed[channel] = left
        else:
            self._removed.pop(channel, None)

    def _tell(self, channel: bytes, id: bytes, node: str) -> None:
        name = self._network.name_of(channel)
        self._context.warn(
            f"invitation {id.hex()[:12]} to {name!r} is revoked: node {node[:8]}, which came by it, "
            "was removed or has lost a role that it gives"
        )

    # --- what the owner is told ------------------------------------------------------------------

    async def came_by(self, channel: bytes, node: str) -> dict[str, Any]:
        """How a member came: the ids of invitations, the node that admitted it if another did, who came
        by the same, and whom it let in itself."""
        return await self._ledger.do(lambda: self._came_by(channel, node))

    def _came_by(self, channel: bytes, node: str) -> dict[str, Any]:
        mine = [use.invitation for use in self._state.uses(channel.hex()) if use.node == node]
        arrival = self._state.arrival(channel.hex(), node)
        others = [] if arrival is None or arrival.invitation in mine else [arrival.invitation]
        return {
            "invitations": [id.hex() for id in (*mine, *others)],
            "admitted_by": None if arrival is None else arrival.admitter,
            "companions": self._named(
                channel, self._companions(channel, {*mine, *others}) - {node}
            ),
            "let_in": self._named(channel, set(self._state.let_in_by(channel.hex(), node))),
        }

    def _companions(self, channel: bytes, ids: set[bytes]) -> set[str]:
        """Who came by these invitations."""
        found = {use.node for use in self._state.uses(channel.hex()) if use.invitation in ids}
        for id in ids:
            found |= set(self._state.arrivals_by(channel.hex(), id))
        return found

    def _named(self, channel: bytes, nodes: set[str]) -> list[dict[str, str]]:
        """Those of some nodes that are members."""
        members = self._book.signed(channel).document.members
        return [
            {"node": member.node_id, "label": member.label}
            for member in members
            if member.node_id in nodes
        ]

    def admitters(self, channel: bytes) -> list[dict[str, str]]:
        """Members that may have made invitations of their own."""
        document = self._book.signed(channel).document
        return [
            {"node": member.node_id, "label": member.label}
            for member in document.members
            if document.may_admit(member.node_id)
        ]
