"""What stands in a channel document, and the ways in which its owner may change it.

The document names the channel's proxies and members with their roles, and carries the channel's
secret (see blinding.py), sealed to each member that may provide or request.

Invariants

* Every change gives a new document with the next version; a document is worth nothing until it is
  signed (channel.py).
* Members that are proxies only have no copy of the secret, so a proxy cannot link blinded keys with
  contents. Whoever loses the right to the secret causes a new one (``secret_version`` grows).
  The exception is an open channel: its secret is handed out with every export, so replacing it
  would shut out the unlisted nodes and nobody else.
* Nobody gives what they have not got: an admitter may give those of its roles that it has now, by
  this document. Who loses a role loses the right to give it, for good.
* One way to write it down: fields in the order given here, members ascending by id.

Non-goals: signatures, keeping documents, any memory of earlier secrets.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from operator import attrgetter
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import replace

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.identity import SEAL_OVERHEAD, NodeKey, check_node_id, seal_to
from kachery_p2p.protocol.limits import (
    LAST_SECOND,
    MAX_BOOTSTRAPS,
    MAX_CHANNEL_NAME,
    MAX_LABEL,
    MAX_MEMBERS,
    MAX_URL,
)

from .roles import ALL_BITS, PROXY, REQUEST_ROLES, from_bits, to_bits

FORMAT: Final = "kachery-channel"
VERSION_OF_FORMAT: Final = 1
SECRET_BYTES: Final = 32
"""Size of a channel's secret."""

_SEALED_BYTES: Final = SECRET_BYTES + SEAL_OVERHEAD
_HEX_ID: Final = re.compile(r"[0-9a-fA-F]{64}")
_public: Final = attrgetter("public")

Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
Count = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Later = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Seconds = Annotated[int, Meta(ge=0, le=LAST_SECOND)]
Bits = Annotated[int, Meta(ge=0, le=ALL_BITS)]


class Bootstrap(Struct, frozen=True, forbid_unknown_fields=True):
    """A proxy that every member dials: its ws:// or wss:// URL and its public key."""

    url: str
    public: Key = field(name="node_id")

    @property
    def node_id(self) -> str:
        """The node id, 64 hex digits."""
        return self.public.hex()


class Member(Struct, frozen=True, forbid_unknown_fields=True):
    """A node that the owner listed. ``sealed`` is empty for who has no use for the secret."""

    public: Key = field(name="node_id")
    label: str
    bits: Bits = field(name="roles")
    sealed: bytes

    @property
    def node_id(self) -> str:
        """The node id, 64 hex digits."""
        return self.public.hex()

    @property
    def roles(self) -> frozenset[str]:
        """The roles that the owner granted."""
        return from_bits(self.bits)


class Admitter(Struct, frozen=True, forbid_unknown_fields=True):
    """A member that may make others members, with these roles at most (see admission.py)."""

    public: Key = field(name="node_id")
    bits: Bits = field(name="roles")


class ChannelDocument(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One version of a channel. The order of the fields is part of the format; ``admitters`` and
    ``invitations_from`` are left out while there are none.

    Node ids are given and returned as 64 hex digits; the channel id is 32 bytes.
    """

    format: str
    version_of_format: int
    channel_id: Key
    name: str
    version: Count
    issued_at: Seconds
    expires_at: Seconds | None
    open: bool
    default_bits: Bits = field(name="default_roles")
    bootstraps: tuple[Bootstrap, ...]
    members: tuple[Member, ...]
    secret_version: Count
    admitters: tuple[Admitter, ...] = ()
    invitations_from: Later = 0
    """Invitations that were made under an earlier version than this are revoked."""

    @classmethod
    def create(
        cls,
        name: str,
        owner_key: NodeKey,
        secret: bytes,
        bootstraps: Iterable[tuple[str, str]],
        now: float,
        *,
        members: Iterable[tuple[str, str, str | Iterable[str]]] = (),
        expires_at: float | None = None,
        open: bool = False,
        default_roles: str | Iterable[str] = (),
    ) -> ChannelDocument:
        """The first version of a new channel, unsigned.

        Args:
            name: what people call it.
            owner_key: the channel's own key (not a node's).
            secret: 32 random bytes.
            bootstraps: pairs (URL, node id) of the proxies.
            now: Unix time in seconds, as ``expires_at``.
            members: triples (node id, label, roles).
            open: unlisted nodes are members too, with ``default_roles``.

        Raises:
            BadInput: a value is malformed; the error says which.
        """
        members = tuple(members)
        document = cls(
            format=FORMAT,
            version_of_format=VERSION_OF_FORMAT,
            channel_id=owner_key.public,
            name=check_name(name),
            version=0,
            issued_at=int(now),
            expires_at=None if expires_at is None else int(expires_at),
            open=open,
            default_bits=to_bits(default_roles),
            bootstraps=(),
            members=(),
            secret_version=1,
        )
        for _, label, _ in members:
            check_label(label)
        entries = _sorted(
            entry_of(bytes.fromhex(check_node_id(node_id)), label, to_bits(roles), secret)
            for node_id, label, roles in members
        )
        document = replace(document, members=entries)
        for url, node_id in bootstraps:
            document = document.with_bootstrap(url, node_id, now)
        return _checked(replace(document, version=1))

    @property
    def default_roles(self) -> frozenset[str]:
        """What an open channel grants to nodes that are not listed."""
        return from_bits(self.default_bits)

    def expired(self, now: float) -> bool:
        """Whether the document's time is over at ``now`` (Unix seconds)."""
        return self.expires_at is not None and now >= self.expires_at

    def member(self, node_id: str) -> Member | None:
        """The entry of a listed node."""
        public = bytes.fromhex(node_id)
        at = bisect_left(self.members, public, key=_public)
        found = at < len(self.members) and self.members[at].public == public
        return self.members[at] if found else None

    def may_admit(self, node_id: str) -> frozenset[str]:
        """The roles that a node may give to newcomers by itself; empty: it may not admit.

        Whatever the document says of admitters, none of them gives what it has not got itself.
        """
        public = bytes.fromhex(node_id)
        bits = next((each.bits for each in self.admitters if each.public == public), 0)
        member = self.member(node_id) if bits else None
        return from_bits(bits & member.bits) if member is not None else frozenset()

    def with_admitter(
        self, node_id: str, roles: str | Iterable[str], now: float
    ) -> ChannelDocument:
        """With a member that may admit others with these roles, or, without roles, may not any more.

        Raises:
            BadInput: it is no member, has not got one of the roles itself, a role is no reading role,
                or the channel is open.
        """
        entry = self._listed(node_id)
        bits = to_bits(roles)
        lacking = ", ".join(sorted(from_bits(bits & ~entry.bits) & REQUEST_ROLES))
        if lacking:
            raise BadInput(
                what=f"node {node_id}",
                reason=f"it has not got {lacking} itself, and can give to others only what it has; "
                "name fewer roles, or grant it these first ('channel set-roles')",
            )
        rest = [each for each in self.admitters if each.public != entry.public]
        added = [Admitter(entry.public, bits)] if bits else []
        admitters = sorted([*rest, *added], key=_public)
        return self._next(now, admitters=tuple(admitters))

    def with_member(
        self, node_id: str, label: str, roles: str | Iterable[str], secret: bytes, now: float
    ) -> ChannelDocument:
        """With one more member. ``secret`` is the current one.

        Raises:
            BadInput: it is a member already, or a value is malformed.
        """
        public = bytes.fromhex(check_node_id(node_id))
        check_label(label)
        if self.member(node_id) is not None:
            raise BadInput(what=f"node {node_id}", reason="it is a member already; set its roles")
        entry = entry_of(public, label, to_bits(roles), secret)
        return self._next(now, members=_sorted((*self.members, entry)))

    def without_member(self, node_id: str, new_secret: bytes, now: float) -> ChannelDocument:
        """Without that member and its bootstrap URLs.

        Unless the removed node never had the secret, or the channel is open, ``new_secret`` (32
        fresh random bytes) becomes the secret: compare ``secret_version`` to know.

        Raises:
            BadInput: it is no member.
        """
        entry = self._listed(node_id)
        rest = tuple(member for member in self.members if member is not entry)
        bootstraps = tuple(b for b in self.bootstraps if b.public != entry.public)
        admitters = tuple(each for each in self.admitters if each.public != entry.public)
        changed = self._next(now, members=rest, bootstraps=bootstraps, admitters=admitters)
        return changed._rotated(new_secret) if entry.sealed else changed

    def with_roles(
        self,
        node_id: str,
        roles: str | Iterable[str],
        secret: bytes,
        new_secret: bytes,
        now: float,
    ) -> ChannelDocument:
        """With other roles for a member.

        A node that is left without any use for the secret had it, so ``new_secret`` becomes the
        secret then, as in :meth:`without_member`. What it has lost it may not give to newcomers any
        more, even when it is granted that again.

        Raises:
            BadInput: it is no member, or a role is unknown.
        """
        old = self._listed(node_id)
        bits = to_bits(roles)
        if _needs_secret(bits) and old.sealed:
            entry = replace(old, bits=bits)  # keeps its box: resealing would change it for nothing
        else:
            entry = entry_of(old.public, old.label, bits, secret)
        rest = (member for member in self.members if member is not old)
        admitters = tuple(
            each if each.public != entry.public else replace(each, bits=each.bits & bits)
            for each in self.admitters
            if each.public != entry.public or each.bits & bits
        )
        changed = self._next(now, members=_sorted((*rest, entry)), admitters=admitters)
        return changed._rotated(new_secret) if old.sealed and not entry.sealed else changed

    def without_invitations(self, now: float) -> ChannelDocument:
        """With all invitations revoked that there are, whoever made them."""
        return self._next(now, invitations_from=self.version + 1)

    def with_bootstrap(
        self, url: str, node_id: str, now: float, *, label: str = ""
    ) -> ChannelDocument:
        """With a proxy at ``url`` that members dial; the node gets the role proxy if it lacks it.

        Raises:
            BadInput: the URL is malformed or listed already.
        """
        public = bytes.fromhex(check_node_id(node_id))
        members = self.members
        old = self.member(node_id)
        if old is None:
            members = _sorted((*members, entry_of(public, label, to_bits({PROXY}), b"")))
        elif PROXY not in old.roles:
            proxy = replace(old, bits=to_bits(old.roles | {PROXY}))
            members = tuple(proxy if member is old else member for member in members)
        bootstraps = (*self.bootstraps, Bootstrap(url, public))
        return self._next(now, members=members, bootstraps=bootstraps)

    def without_bootstrap(self, url: str, now: float) -> ChannelDocument:
        """Without that URL; its node stays a member. Raises BadInput if it is not listed."""
        rest = tuple(entry for entry in self.bootstraps if entry.url != url)
        if len(rest) == len(self.bootstraps):
            raise BadInput(what=f"bootstrap {url[:200]!r}", reason="the channel has no such URL")
        return self._next(now, bootstraps=rest)

    def with_expiry(self, expires_at: float | None, now: float) -> ChannelDocument:
        """With another date (Unix seconds) after which it is worth nothing, or without one."""
        return self._next(now, expires_at=None if expires_at is None else int(expires_at))

    def _next(self, now: float, **changes: object) -> ChannelDocument:
        changes |= {"version": self.version + 1, "issued_at": int(now)}
        return _checked(replace(self, **changes))

    def _listed(self, node_id: str) -> Member:
        entry = self.member(check_node_id(node_id))
        if entry is None:
            raise BadInput(what=f"node {node_id}", reason=f"not a member of {self.name!r}")
        return entry

    def _rotated(self, secret: bytes) -> ChannelDocument:
        if self.open:
            return self
        members = tuple(entry_of(m.public, m.label, m.bits, secret) for m in self.members)
        return replace(self, members=members, secret_version=self.secret_version + 1)


def check_name(name: str) -> str:
    """``name`` itself if a channel may be called that; else BadInput."""
    _check_text("channel name", name, MAX_CHANNEL_NAME)
    if not name:
        raise BadInput(what="channel name", reason="it is empty")
    if _HEX_ID.fullmatch(name):
        raise BadInput(what="channel name", reason="it looks like a channel id")
    return name


def check(document: ChannelDocument) -> None:
    """All that the types do not say. Raises BadInput."""
    check_name(document.name)
    if len(document.members) > MAX_MEMBERS:
        raise BadInput(what="members", reason=f"more than {MAX_MEMBERS}")
    if len(document.bootstraps) > MAX_BOOTSTRAPS:
        raise BadInput(what="bootstraps", reason=f"more than {MAX_BOOTSTRAPS}")
    if PROXY in document.default_roles:
        raise BadInput(what="default roles", reason="proxy is granted by name only")
    previous = b""
    for member in document.members:
        if member.public <= previous:
            raise BadInput(what="members", reason="not in ascending order, each once")
        previous = member.public
        _check_text("label", member.label, MAX_LABEL)
        if len(member.sealed) != (_SEALED_BYTES if _needs_secret(member.bits) else 0):
            raise BadInput(what=f"member {member.node_id}", reason="its sealed secret is amiss")
    urls = [entry.url for entry in document.bootstraps]
    if len(set(urls)) != len(urls):
        raise BadInput(what="bootstraps", reason="a URL is listed twice")
    for url in urls:
        check_url(url)
    _check_admitters(document)


def _checked(document: ChannelDocument) -> ChannelDocument:
    check(document)
    try:
        # replace() and __init__ do not look at the Meta bounds; convert() does.
        msgspec.convert(codec.plain(document), codec.known(ChannelDocument))
    except msgspec.ValidationError as error:
        raise BadInput(what="channel document", reason=str(error)) from error
    return document


def _check_text(what: str, text: str, most: int) -> None:
    if len(text) > most:
        raise BadInput(what=what, reason=f"longer than {most} characters")
    if not text.isprintable() or text != text.strip():
        raise BadInput(what=what, reason="control characters, or blanks at its ends")


def check_label(label: str) -> None:
    """Raises BadInput if a node may not be called that. An id names the node that has it."""
    _check_text("label", label, MAX_LABEL)
    if _HEX_ID.fullmatch(label):
        raise BadInput(what="label", reason="it looks like a node id; choose a name")


def _check_admitters(document: ChannelDocument) -> None:
    if document.admitters and document.open:
        raise BadInput(what="admitters", reason="an open channel admits by its export")
    previous = b""
    for admitter in document.admitters:
        if admitter.public <= previous:
            raise BadInput(what="admitters", reason="not in ascending order, each once")
        previous = admitter.public
        if document.member(admitter.public.hex()) is None:
            raise BadInput(what="admitters", reason="one of them is not a member")
        roles = from_bits(admitter.bits)
        if not roles or not roles <= REQUEST_ROLES:
            reason = "they may give the roles request-files, request-feeds and request-tasks"
            raise BadInput(what="admitters", reason=reason)


def check_url(url: str) -> None:
    """Raises BadInput if no proxy can be at this URL."""
    what = f"bootstrap {url[:200]!r}"
    if len(url) > MAX_URL:
        raise BadInput(what=what, reason=f"longer than {MAX_URL} characters")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise BadInput(what=what, reason="not printable ASCII")
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("ws", "wss") and parts.hostname and parts.port != 0
    except ValueError:  # a malformed port or IPv6 address
        valid = False
    if not valid:
        raise BadInput(what=what, reason="a URL such as wss://proxy.example.org:8443 is needed")
    if parts.username is not None:
        raise BadInput(what=what, reason="no user names or passwords: every member sees it")


def _needs_secret(bits: int) -> bool:
    return bool(from_bits(bits) - {PROXY})


def entry_of(public: bytes, label: str, bits: int, secret: bytes) -> Member:
    """A member's entry, with the secret sealed to it if it has a use for that."""
    if not _needs_secret(bits):
        return Member(public, label, bits, b"")
    if len(secret) != SECRET_BYTES:
        raise BadInput(what="channel secret", reason=f"it is {SECRET_BYTES} bytes")
    return Member(public, label, bits, seal_to(public, secret))


def _sorted(members: Iterable[Member]) -> tuple[Member, ...]:
    return tuple(sorted(members, key=_public))
