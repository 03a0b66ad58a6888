"""On the owner's node: whether what others know of its channel goes back to what is known here.

Documents are made here alone, each from the one before. Unless the state was restored from a backup or
copied to a second computer: then others have documents of this owner that this node has never seen. It
keeps, for each channel that it owns, the last document that others are known to have too, and the
digests of those that it made, and so knows such a one: it is newer than the former and none of the
latter. What both say is put together (:mod:`kachery_p2p.protocol.channels.merging`), and the user is
told.

Non-goals: pulling documents, and putting them in force, see :mod:`.documents`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from kachery_p2p.node.links.network import Network
from kachery_p2p.protocol.channels.document import SECRET_BYTES, ChannelDocument
from kachery_p2p.protocol.channels.merging import merged, same_rights
from kachery_p2p.protocol.channels.signed_document import SignedDocument, parse, sign
from kachery_p2p.protocol.errors import BadChannelDocument, BadInput
from kachery_p2p.protocol.limits import MAX_MADE_DOCUMENTS

_NAMED = 5
"""So many members are named in a warning."""


@dataclass
class _History:
    """``agreed``: the last document that others have too; ``made``: digests of the last ones here."""

    agreed: SignedDocument
    started: SignedDocument
    """The one in force when this node was started, or the last that came from elsewhere. What others
    have may come from it, since a backup may be from then, and comes from none that was made since."""
    made: deque[bytes] = field(default_factory=lambda: deque(maxlen=MAX_MADE_DOCUMENTS))


class Histories:
    """``keep`` is called with a channel of which something is to be written down."""

    def __init__(self, network: Network, keep: Callable[[bytes], None]) -> None:
        self._network = network
        self._context = network.context
        self._book = network.book
        self._keep = keep
        self._known: dict[bytes, _History] = {}

    def load(self) -> None:
        """Take back what was kept. What an older version wrote, others have as far as anybody knows."""
        for channel in self._book:
            kept = self._context.state.agreed(channel.hex())
            if kept is None:
                self.begin(channel)
                continue
            try:
                agreed = parse(kept[0], now=0.0, check_expiry=False)
            except BadChannelDocument as error:
                self._context.warn(f"channel {self._network.name_of(channel)!r}: {error}")
                self.begin(channel)
                continue
            known = self._known[channel] = _History(agreed, self._book.signed(channel))
            known.made.extend(kept[1])

    def begin(self, channel: bytes) -> None:
        """The channel is new here."""
        if self._book.owner_key(channel) is not None and channel not in self._known:
            signed = self._book.signed(channel)
            self._known[channel] = _History(signed, signed)
            self.made(signed)
            self._keep(channel)

    def forget(self, channel: bytes) -> None:
        """The channel was left."""
        self._known.pop(channel, None)

    def made(self, signed: SignedDocument) -> None:
        """This one is in force now; what comes next goes back to it."""
        known = self._known.get(signed.document.channel_id)
        if known is not None and signed.digest not in known.made:
            known.made.append(signed.digest)

    def agree(self, signed: SignedDocument) -> None:
        """Others have this one too, and what comes next here goes back to it."""
        channel = signed.document.channel_id
        known = self._known.get(channel)
        if known is not None and known.agreed.digest != signed.digest:
            known.agreed = signed
            self._keep(channel)

    def kept(self, channel: bytes) -> tuple[bytes, list[bytes]] | None:
        """What to write down, for :meth:`load`; None if nothing is."""
        known = self._known.get(channel)
        return None if known is None else (known.agreed.to_bytes(), list(known.made))

    def is_doubtful(self, channel: bytes, version: int) -> bool:
        """Whether somebody's document of that version may be one that this node has never seen,
        although it is not newer than the one in force."""
        known = self._known.get(channel)
        return (
            known is not None
            and channel in self._book
            and version > known.agreed.document.version
            and known.agreed.digest != self._book.signed(channel).digest
        )

    def settle(self, theirs: SignedDocument) -> tuple[SignedDocument, bytes | None]:
        """A document that a peer has. What is to be in force, which may be the one that is, and the
        secret that goes with it if it is new."""
        channel = theirs.document.channel_id
        known, key = self._known.get(channel), self._book.owner_key(channel)
        if known is None or key is None:
            return theirs, None
        ours, base = self._book.signed(channel), known.agreed
        version = theirs.document.version
        if theirs.digest in known.made:  # of several documents here, an older one, or the last
            if version > base.document.version:
                self.agree(theirs)
            return ours, None
        if version > ours.document.version and ours.digest == base.digest == known.started.digest:
            self.agree(theirs)  # nothing was changed here meanwhile
            known.started = theirs
            return theirs, None
        if version <= base.document.version:
            return ours, None
        fresh = self._context.random_bytes(SECRET_BYTES)
        together = self._together(known, ours.document, theirs.document, fresh)
        self.agree(theirs)
        self._tell(ours.document, theirs.document, together)
        if version > ours.document.version and same_rights(together, theirs.document):
            return theirs, None
        is_new = together.secret_version != ours.document.secret_version
        return sign(together, key), fresh if is_new else None

    def _together(
        self, known: _History, ours: ChannelDocument, theirs: ChannelDocument, fresh: bytes
    ) -> ChannelDocument:
        has = self._book.secret(ours.channel_id)
        secret, now = has and has[1], self._context.clock()
        bases = [known.agreed.document, known.started.document]
        try:
            return merged(bases, ours, theirs, secret=secret, fresh=fresh, now=now)
        except BadInput:  # too many of something: then nobody is in who is not in ours
            few = replace(
                theirs,
                members=tuple(each for each in theirs.members if ours.member(each.node_id)),
                bootstraps=tuple(each for each in theirs.bootstraps if each in ours.bootstraps),
            )
            return merged(bases, ours, few, secret=secret, fresh=fresh, now=now)

    def _tell(
        self, ours: ChannelDocument, theirs: ChannelDocument, together: ChannelDocument
    ) -> None:
        inside = {member.node_id for member in together.members}
        members = {m.node_id: m.label for each in (theirs, ours) for m in each.members}
        out = [label or node[:8] for node, label in members.items() if node not in inside]
        shown = ", ".join([*out[:_NAMED], "..."] if len(out) > _NAMED else out) or "nobody"
        self._context.warn(
            f"channel {ours.name!r} was changed with this owner's key elsewhere: this node's state was "
            "restored from a backup, or is on two computers. Both changes count, and what either "
            f"took away is away. Not members any more: {shown}. See 'channel show', and let one "
            "computer only have this state."
        )
