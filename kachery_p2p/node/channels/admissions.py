"""How admissions spread: whoever has a new one tells every member that it is linked to.

An admission makes a node a member next to the channel's document, see
:mod:`kachery_p2p.protocol.channels.admission`. Linked members send each other all that count when
they come to share a channel and whenever one of them has another document, and each new one when it
comes. The owner's own node takes them into the document; then they are void, and forgotten by
everybody who has that document.

They are written together with the document (:mod:`.documents`). One that a crash takes from a node
comes back from those it was sent to, the newcomer among them.
"""

from __future__ import annotations

import logging

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.messages import CHANNEL_ADMISSIONS
from kachery_p2p.protocol.channels.messages import Admissions as Note
from kachery_p2p.protocol.channels.signed_document import sign
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.limits import ADMISSIONS_PER_NOTE
from kachery_p2p.storage.channels.invitations import Arrival

from .documents import Documents

log = logging.getLogger(__name__)


class Admissions:
    def __init__(self, network: Network, documents: Documents) -> None:
        self._network = network
        self._book = network.book
        self._documents = documents
        self._versions: dict[Link, dict[bytes, int]] = {}
        """Which document each peer had when it was last sent all admissions."""
        network.on_shared.append(self._on_shared)
        network.on_peer_version.append(self._on_peer_version)
        network.on_lost.append(self._on_lost)
        network.on_note_of(CHANNEL_ADMISSIONS, Note, self._on_note)

    def load(self) -> None:
        """Take back what was kept; to be called when the channels are loaded."""
        for channel in self._book:
            for record in self._network.context.state.admissions(channel.hex()).values():
                self._book.admit(channel, record)

    def add(self, channel: bytes, record: bytes, source: Link | None = None) -> bool:
        """An admission came, or was made here. Whether it is news.

        Raises:
            ProtocolViolation: it is forged.
            UnknownChannel: this node is not on that channel.
        """
        admission = self._book.admit(channel, record)
        if admission is None:
            return False
        name = self._network.name_of(channel)
        log.info("%s was admitted to %r by %s", admission.node_id, name, admission.admitter.hex())
        for link in self._network.links_on(channel):
            if link is not source:
                self._send(link, channel, [record])
        self._documents.touch(channel)
        self._take_into_document(channel)
        return True

    def _take_into_document(self, channel: bytes) -> None:
        """On the owner's node: list those who were admitted."""
        key, secret = self._book.owner_key(channel), self._book.secret(channel)
        admissions = self._book.admissions(channel)
        if key is None or secret is None or not admissions:
            return
        document = self._book.signed(channel).document
        now = self._network.context.clock()
        try:
            for each in admissions:
                document = document.with_member(
                    each.node_id, each.label, each.roles, secret[1], now
                )
            signed = sign(document, key)
        except BadInput as error:  # too many members: they count as they are
            self._network.context.warn(f"channel {document.name!r}: {error}")
            return
        arrivals = {
            each.node_id: Arrival(each.invitation, each.admitter.hex()) for each in admissions
        }
        ledger, state = self._documents.ledger, self._network.context.state
        # The ledger is in order: how they came is on disk before the document that lists them is.
        self._network.supervisor.do(
            f"noting who came to {document.name!r} by which invitation",
            lambda: ledger.do(lambda: state.note_arrivals(channel.hex(), arrivals)),
        )
        self._documents.offer(signed.to_bytes())

    # --- wire --------------------------------------------------------------------------------

    def _on_shared(self, link: Link, channel: bytes) -> None:
        self._send_all(link, channel, self._network.sayings.version(link, channel))

    def _on_peer_version(self, link: Link, channel: bytes, version: int) -> None:
        """It has another document: what did not count under its old one may do so now."""
        known = self._versions.get(link, {}).get(channel)
        if known != version and channel in self._network.shared(link):
            self._send_all(link, channel, version)

    def _on_lost(self, link: Link) -> None:
        self._versions.pop(link, None)

    def _send_all(self, link: Link, channel: bytes, version: int) -> None:
        self._versions.setdefault(link, {})[channel] = version
        records = [codec.encode(each) for each in self._book.admissions(channel)]
        for start in range(0, len(records), ADMISSIONS_PER_NOTE):
            self._send(link, channel, records[start : start + ADMISSIONS_PER_NOTE])

    def _send(self, link: Link, channel: bytes, records: list[bytes]) -> None:
        link.note(CHANNEL_ADMISSIONS, codec.plain(Note(channel, records)))

    def _on_note(self, link: Link, note: Note) -> None:
        if note.channel not in self._network.shared(link):
            return
        for record in note.admissions:
            if note.channel in self._book:
                self.add(note.channel, record, link)
