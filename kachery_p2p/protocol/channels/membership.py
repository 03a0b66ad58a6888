"""What this node knows about its channels, and who may do what on them.

The book holds, for each channel the node's user joined, the highest valid document, the roles the
user switched on, the secret if there is a way to it, and the channel's key if the node's user owns
it. What counts is what the owner granted AND, for this node itself, what its user wants.

Invariants

* A document never goes back: a higher version replaces a lower one even if it is expired already
  (it may have removed somebody), and of two documents of one version every node keeps the same.
* An expired channel grants nothing. The book has no clock: it goes by the time it was told last, so
  :meth:`ChannelBook.expired` is to be called every few seconds.
* A secret is returned only for the ``secret_version`` of the document that is in force.
* Being on a channel is not being a member of it: a node may join before its owner adds it.

Non-goals: keeping any of it on disk (:meth:`ChannelBook.snapshot` gives what to keep, ``join``
takes it back, and ``admit`` the admissions), cutting links (the caller does, from an
:class:`Update`), knowing what other nodes' users switched off.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, Literal

from kachery_p2p.protocol.channels.document import SECRET_BYTES
from kachery_p2p.protocol.errors import AccessDenied, BadInput, ProtocolViolation, UnknownChannel
from kachery_p2p.protocol.identity import NodeKey, check_node_id
from kachery_p2p.protocol.limits import MAX_ADMISSIONS, MAX_CHANNELS

from .admission import Admission, check_admission, still_counts
from .signed_document import ChannelDocument, SignedDocument, grant, parse, parse_roles, peek

TAG_BYTES: Final = 16
GUEST_VERSION: Final = 0
"""Who names a channel with this version of its document holds an invitation to it."""
_TAG_CONTEXT: Final = b"kachery-channel"

Side = Literal["provider", "requester"]


@dataclass(frozen=True)
class Update:
    """What an offered document changed.

    ``signed`` is None if nothing did, and else the document to keep and to pass on. The sets hold
    node ids: ``changed`` those that are listed before and after, with other roles.
    ``rules_changed`` says that what unlisted nodes may do, or the expiry date, is different now.
    """

    channel_id: bytes
    signed: SignedDocument | None = None
    added: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()
    rules_changed: bool = False
    secret_changed: bool = False


@dataclass
class _Channel:
    signed: SignedDocument
    wanted: frozenset[str]
    secret: tuple[int, bytes] | None = None
    owner_key: NodeKey | None = None
    admissions: dict[str, Admission] = field(default_factory=dict)
    """By node id; all of them count under the document."""

    @property
    def document(self) -> ChannelDocument:
        return self.signed.document


class ChannelBook:
    """The channels of the node whose key is ``node_key``. Channel ids are 32 bytes."""

    def __init__(self, node_key: NodeKey) -> None:
        self._key = node_key
        self._channels: dict[bytes, _Channel] = {}
        self._now = 0.0

    def __iter__(self) -> Iterator[bytes]:
        return iter(tuple(self._channels))

    def __contains__(self, channel_id: bytes) -> bool:
        return channel_id in self._channels

    def __len__(self) -> int:
        return len(self._channels)

    def join(
        self,
        signed: SignedDocument,
        wanted: str | Iterable[str],
        secret: bytes | None = None,
        *,
        owner_key: NodeKey | None = None,
    ) -> bytes:
        """Be on a channel; joining again changes what is wanted and may bring a newer document.

        Args:
            signed: a parsed document; of this and one that is known, the higher version is kept.
            wanted: roles that the user switches on, as for ``parse_roles``.
            secret: the 32 bytes that came with an open channel's export.
            owner_key: the channel's own key, if the user owns the channel.

        Returns:
            The channel id.

        Raises:
            BadInput: an unknown role, a malformed secret, a foreign key, or too many channels.
        """
        document = signed.document
        roles = parse_roles(wanted)
        if secret is not None and len(secret) != SECRET_BYTES:
            raise BadInput(what="channel secret", reason=f"it is {SECRET_BYTES} bytes")
        if owner_key is not None and owner_key.public != document.channel_id:
            raise BadInput(what=f"channel {document.name!r}", reason="the key is not its owner's")
        channel = self._channels.get(document.channel_id)
        if channel is None:
            if len(self._channels) >= MAX_CHANNELS:
                raise BadInput(
                    what=f"channel {document.name!r}",
                    reason=f"a node can be on {MAX_CHANNELS} channels; leave one first",
                )
            channel = self._channels[document.channel_id] = _Channel(signed, roles)
        elif _supersedes(signed, channel.signed):
            channel.signed = signed
            _drop_void(channel)
        channel.wanted = roles
        channel.owner_key = owner_key or channel.owner_key
        version = document.secret_version
        if secret is not None and (channel.secret is None or channel.secret[0] <= version):
            channel.secret = version, secret
        self._unseal(channel)
        return document.channel_id

    def leave(self, channel_id: bytes) -> None:
        """Forget the channel. Raises UnknownChannel."""
        self._get(channel_id)
        del self._channels[channel_id]

    def resolve(self, name_or_id: str) -> bytes:
        """The id of the channel that the user means by its name or its id in hex.

        Raises:
            UnknownChannel: this node is on no such channel.
            BadInput: several channels have that name; the error lists their ids.
        """
        found = [
            channel_id
            for channel_id, channel in self._channels.items()
            if name_or_id.lower() == channel_id.hex() or name_or_id == channel.document.name
        ]
        if not found:
            raise UnknownChannel(channel=name_or_id)
        if len(found) > 1:
            ids = ", ".join(sorted(channel_id.hex() for channel_id in found))
            raise BadInput(
                what=f"channel {name_or_id!r}", reason=f"several have that name; give the id: {ids}"
            )
        return found[0]

    def offer(self, data: bytes, now: float, secret: bytes | None = None) -> Update:
        """A document came by gossip. It is ignored, without a look at its signature, unless this
        node is on that channel and the document is newer than the one in force.

        Of two documents that the owner signed with one version, the one with the smaller digest is
        kept, whatever the order in which they come.

        Args:
            data: what ``SignedDocument.to_bytes`` gave, from anybody.
            now: Unix time in seconds.
            secret: the 32 bytes that go with it, on the owner's node, which made them: it need not
                be among those to whom they are sealed.

        Raises:
            BadChannelDocument: it would be newer but is not valid, or it is no channel document.
        """
        self._now = now
        channel_id, version = peek(data)
        channel = self._channels.get(channel_id)
        if channel is None or version < channel.document.version:
            return Update(channel_id)
        # Expired or not: a version that removed somebody must not be passed over for an older one.
        signed = parse(data, now=now, check_expiry=False)
        if not _supersedes(signed, channel.signed):
            return Update(channel_id)
        old, new = channel.document, signed.document
        before_it = self.secret(channel_id)
        channel.signed = signed
        if secret is not None:
            channel.secret = new.secret_version, secret
        _drop_void(channel)
        self._unseal(channel)
        before = {member.node_id: member.bits for member in old.members}
        after = {member.node_id: member.bits for member in new.members}
        return Update(
            channel_id,
            signed,
            added=frozenset(after.keys() - before.keys()),
            removed=frozenset(before.keys() - after.keys()),
            changed=frozenset(n for n in before.keys() & after.keys() if before[n] != after[n]),
            rules_changed=_rules(old) != _rules(new),
            secret_changed=before_it != self.secret(channel_id),
        )

    def admit(self, channel_id: bytes, data: bytes) -> Admission | None:
        """An admission came, from anybody. Returns it if it counts and is news, else None.

        Of a node that is admitted twice, the first is kept, so that two of them cannot chase one
        another through the network for ever.

        Raises:
            ProtocolViolation: it is none, or not signed by the node that is named in it.
            UnknownChannel: this node is not on that channel.
        """
        channel = self._get(channel_id)
        admission = check_admission(data, channel.document)
        if admission is None or admission.node_id in channel.admissions:
            return None
        if len(channel.admissions) >= MAX_ADMISSIONS:
            return None
        channel.admissions[admission.node_id] = admission
        self._unseal(channel)
        return admission

    def admissions(self, channel_id: bytes) -> list[Admission]:
        """Those that count next to the document. Raises UnknownChannel."""
        return list(self._get(channel_id).admissions.values())

    def granted(self, channel_id: bytes, node_id: str) -> frozenset[str]:
        """The roles that a node was given, by the document or by an admission; expired or not.

        Nothing at all on a channel that this node is not on.
        """
        channel = self._channels.get(channel_id)
        if channel is None:
            return frozenset()
        admission = channel.admissions.get(node_id)
        return admission.roles if admission else grant(channel.document, node_id)

    def signed(self, channel_id: bytes) -> SignedDocument:
        """The document in force. Raises UnknownChannel."""
        return self._get(channel_id).signed

    def wanted(self, channel_id: bytes) -> frozenset[str]:
        """The roles that this node's user switched on. Raises UnknownChannel."""
        return self._get(channel_id).wanted

    def owner_key(self, channel_id: bytes) -> NodeKey | None:
        """The channel's own key, if the user owns the channel. Raises UnknownChannel."""
        return self._get(channel_id).owner_key

    def secret(self, channel_id: bytes) -> tuple[int, bytes] | None:
        """The secret in force with its version, or None if this node has none.

        Raises:
            UnknownChannel: this node is not on that channel.
        """
        channel = self._get(channel_id)
        if channel.secret is None or channel.secret[0] != channel.document.secret_version:
            return None
        return channel.secret

    def is_member(self, channel_id: bytes, node_id: str) -> bool:
        """Whether the node is listed, or the channel open; nobody is once it expired."""
        channel = self._channels.get(channel_id)
        if channel is None or channel.document.expired(self._now):
            return False
        if channel.document.open or channel.document.member(node_id) is not None:
            return True
        return node_id in channel.admissions

    def effective(self, channel_id: bytes, node_id: str) -> frozenset[str]:
        """The roles that count: granted, not expired, and for this node itself also wanted.

        Nothing at all on a channel that this node is not on.
        """
        channel = self._channels.get(channel_id)
        if channel is None or channel.document.expired(self._now):
            return frozenset()
        granted = self.granted(channel_id, node_id)
        return granted & channel.wanted if node_id == self._key.node_id else granted

    def require(self, channel_id: bytes, *, node_id: str, role: str, side: Side) -> None:
        """Let a request pass, or say why not.

        Args:
            channel_id: on which channel.
            node_id: whose role.
            role: which one, of ROLES.
            side: whether that node provides or requests, for the sentence.

        Raises:
            AccessDenied: with the channel's name, who, the role and the cause.
            UnknownChannel: this node is not on that channel.
        """
        document = self._get(channel_id).document
        if role in self.effective(channel_id, node_id):
            return
        entry = document.member(node_id)
        if document.expired(self._now):
            cause = "the channel document expired"
        elif not self.is_member(channel_id, node_id):
            cause = "not a member"
        elif role in self.granted(channel_id, node_id):
            cause = "granted, but switched off by its user"
        else:
            cause = "not granted by the channel's owner"
        name = (entry.label if entry else "") or f"node {node_id[:12]}"
        raise AccessDenied(channel=document.name, who=f"{side} {name}", role=role, cause=cause)

    def tags(self, handshake_hash: bytes, sender: str | None = None) -> dict[bytes, bytes]:
        """What a node sends over one link in place of its channels' ids: {16-byte tag: channel id}.

        A tag is a keyed BLAKE2b of the channel id and the sender's node id under the link's
        handshake hash: it says nothing to who does not know the channel, is of no use on another
        link, and cannot be sent back by a peer to feign that it knows the channel too.

        Args:
            handshake_hash: of the link, 32 to 64 bytes.
            sender: node id of who sends the tags, by default this node; the peer's id gives the map
                for reading what the peer sends.
        """
        origin = bytes.fromhex(check_node_id(sender or self._key.node_id))
        return {channel_tag(channel_id, origin, handshake_hash): channel_id for channel_id in self}

    def digests(self, handshake_hash: bytes) -> dict[bytes, int]:
        """{tag: version of our document}, for finding out over a link who has the newer one."""
        tags = self.tags(handshake_hash)
        return {tag: self._channels[channel].document.version for tag, channel in tags.items()}

    def common(
        self, peer_tags: Collection[bytes], handshake_hash: bytes, peer_id: str
    ) -> set[bytes]:
        """The channels that the peer's tags name and of which both nodes are members.

        Args:
            peer_tags: as they came; tags of channels that we are not on are skipped.
            handshake_hash: of the link.
            peer_id: the node id that the handshake proved.
        """
        known = self.tags(handshake_hash, peer_id)
        named = {known[tag] for tag in peer_tags if tag in known}
        us = self._key.node_id
        return {c for c in named if self.is_member(c, us) and self.is_member(c, peer_id)}

    def expired(self, now: float) -> set[bytes]:
        """The channels whose document is over at ``now`` (Unix seconds); sets the book's time."""
        self._now = now
        return {c for c, channel in self._channels.items() if channel.document.expired(now)}

    def snapshot(self, channel_id: bytes) -> dict[str, Any]:
        """What to keep so that ``join`` can take it back: plain values, secrets among them.

        Keys: document (bytes), wanted (list of roles), secret (bytes or None), owner_seed (bytes or
        None). A secret that is not of the document in force is left out. Raises UnknownChannel.
        """
        channel = self._get(channel_id)
        secret = self.secret(channel_id)
        return {
            "document": channel.signed.to_bytes(),
            "wanted": sorted(channel.wanted),
            "secret": secret[1] if secret else None,
            "owner_seed": channel.owner_key.seed if channel.owner_key else None,
        }

    def _get(self, channel_id: bytes) -> _Channel:
        channel = self._channels.get(channel_id)
        if channel is None:
            raise UnknownChannel(channel=channel_id.hex())
        return channel

    def _unseal(self, channel: _Channel) -> None:
        # Even if a secret of that version is known: of two documents with one version, each may
        # carry its own.
        me = self._key.node_id
        entry = channel.admissions.get(me) or channel.document.member(me)
        if entry is None or not entry.sealed:
            return
        try:
            channel.secret = channel.document.secret_version, self._key.unseal(entry.sealed)
        except ProtocolViolation:
            # The owner sealed it to somebody else: the document counts, but this node is as one
            # that was never given the secret.
            channel.secret = None


def _drop_void(channel: _Channel) -> None:
    """After the document changed: admissions that do not count under it never will again."""
    for node_id, admission in list(channel.admissions.items()):
        if not still_counts(admission, channel.document):
            del channel.admissions[node_id]


def _supersedes(new: SignedDocument, old: SignedDocument) -> bool:
    if new.document.version != old.document.version:
        return new.document.version > old.document.version
    return new.digest < old.digest


def _rules(document: ChannelDocument) -> tuple[object, ...]:
    return document.open, document.default_bits, document.expires_at


def channel_tag(channel_id: bytes, sender: bytes, handshake_hash: bytes) -> bytes:
    """The tag of one channel, see :meth:`ChannelBook.tags`. ``sender``: its public key."""
    return blake2b(
        channel_id + sender, digest_size=TAG_BYTES, key=handshake_hash, person=_TAG_CONTEXT
    ).digest()
