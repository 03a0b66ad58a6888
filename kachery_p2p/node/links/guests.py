"""Links of those who are no members: guests, who may become one, and visitors, who do not.

*Guests* have proved nothing, so they are few. One more than there may be makes the oldest go; one with
an exchange under way counts as younger. Each also has a deadline, which :mod:`.links.network` keeps.

*Visitors* opened a share link and have shown its pass. Their links share no channel, and so are let
into nothing but what asks for :meth:`Visitors.require`. What a pass allows is looked up each time, so
one that is over or was revoked is worth nothing from that moment on; :meth:`Visitors.sweep` closes its
links.

Invariant: a pass is valid for this node alone: what a proxy says of a visitor counts for nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from kachery_p2p.node.context import Context
from kachery_p2p.node.links.link import Link
from kachery_p2p.protocol.channels.visitor_pass import (
    Mark,
    Revocation,
    Visiting,
    VisitorPass,
    require_covered,
    require_valid,
)
from kachery_p2p.protocol.errors import AccessDenied, Busy, KacheryError, NotAMember, ShareRefused
from kachery_p2p.protocol.limits import (
    GUEST_SECONDS,
    MAX_GUESTS,
    MAX_REVOCATIONS,
    MAX_VISITOR_RESULTS,
    MAX_VISITORS,
)

_BUSY_SECONDS = GUEST_SECONDS / 4
"""By so much a guest counts as younger that is in the middle of something."""


class Guests:
    def __init__(self) -> None:
        self._links: dict[Link, None] = {}

    def __contains__(self, link: Link) -> bool:
        return link in self._links

    def __len__(self) -> int:
        return len(self._links)

    def add(self, link: Link) -> None:
        while len(self._links) >= MAX_GUESTS:
            oldest = min(self._links, key=_age)
            del self._links[oldest]
            oldest.close(Busy(limit=f"{MAX_GUESTS} newcomers at once"))
        self._links[link] = None

    def discard(self, link: Link) -> None:
        self._links.pop(link, None)


def _age(link: Link) -> float:
    return link.opened_at + (0.0 if link.idle_seconds else _BUSY_SECONDS)


REVOKED = "who made it revoked it"
NOT_COUNTED = "its uses are counted, and this one was not"


class Visitors:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._book = context.book
        self._links: dict[Link, Visiting] = {}
        self._given: dict[Link, deque[bytes]] = {}
        """Marks of what a visitor may have beside what its pass is to: results of its tasks."""
        self.revoked: dict[bytes, dict[tuple[bytes, bytes], Revocation]] = {}
        """By channel, then by the node that made the pass and the pass's id."""

    def __contains__(self, link: Link) -> bool:
        return link in self._links

    def __len__(self) -> int:
        return len(self._links)

    def add(self, link: Link, visiting: Visiting) -> None:
        """The peer of a link has shown its pass, which was checked."""
        self._links[link] = visiting
        if len(self._links) > MAX_VISITORS:
            oldest = max((x for x in self._links if x is not link), key=lambda x: x.idle_seconds)
            self.discard(oldest)
            oldest.close(Busy(limit=f"{MAX_VISITORS} visitors at once"))

    def discard(self, link: Link) -> None:
        self._links.pop(link, None)
        self._given.pop(link, None)

    def give(self, link: Link, mark: Mark) -> None:
        """From this node, and while it is linked, a visitor may have this as if its pass were to it."""
        visiting = self._links.get(link)
        if visiting is not None and visiting.secret:
            given = self._given.setdefault(link, deque(maxlen=MAX_VISITOR_RESULTS))
            given.append(mark(visiting.secret))

    def is_revoked(self, visitor_pass: VisitorPass) -> bool:
        key = visitor_pass.home, visitor_pass.id
        return key in self.revoked.get(visitor_pass.channel, ())

    def revoke(self, revocation: Revocation) -> bool:
        """A checked revocation came; whether it is news and of some use."""
        known = self.revoked.setdefault(revocation.channel, {})
        key = revocation.home, revocation.id
        if key in known or revocation.until <= self._context.clock():
            return False
        of_home = Counter(home for home, _ in known)[revocation.home]
        if of_home >= MAX_REVOCATIONS:
            del known[next(each for each in known if each[0] == revocation.home)]
        known[key] = revocation
        return True

    def require_any(self, link: Link, channel: bytes, role: str = "") -> VisitorPass:
        """The pass of a visitor of a channel, whatever it is to.

        Raises:
            NotAMember: the peer has shown none.
            ShareRefused: it does not count any more.
            AccessDenied: it does not give ``role``, if one is named.
        """
        return self._checked(link, channel, role).visitor_pass

    def require_circuit(self, link: Link, channel: bytes, node: bytes) -> None:
        """As :meth:`require_any`, for a circuit to a node: who is not counted yet may turn to the one
        that counts, and to no other."""
        visiting = self._valid(link, channel)
        if not visiting.counted and node != visiting.visitor_pass.home:
            raise ShareRefused(reason=NOT_COUNTED)

    def require(self, link: Link, channel: bytes, role: str, mark: Mark) -> None:
        """As :meth:`require_any`, and AccessDenied unless the pass is to the content with that mark."""
        visiting = self._checked(link, channel, role)
        if visiting.secret and mark(visiting.secret) in self._given.get(link, ()):
            return
        require_covered(visiting, role, mark, self._name(channel))

    def require_home(self, link: Link, channel: bytes) -> VisitorPass:
        """As :meth:`require_any`, and AccessDenied unless this node made the pass: what changes
        something here is for nobody else to give away."""
        found = self.require_any(link, channel)
        if found.home.hex() != self._context.node_id:
            raise AccessDenied(
                channel=self._name(channel),
                who="the visitor",
                role="request-feeds",
                cause="its link was made by another node",
            )
        return found

    def _valid(self, link: Link, channel: bytes) -> Visiting:
        visiting = self._links.get(link)
        if visiting is None or visiting.visitor_pass.channel != channel:
            raise NotAMember(node=link.peer, peer=self._context.node_id[:8])
        self._require_valid(visiting.visitor_pass)
        return visiting

    def _checked(self, link: Link, channel: bytes, role: str) -> Visiting:
        visiting = self._valid(link, channel)
        if not visiting.counted:
            raise ShareRefused(reason=NOT_COUNTED)
        if role and role not in visiting.visitor_pass.roles:
            name = self._name(channel)
            raise AccessDenied(
                channel=name, who="the visitor", role=role, cause="its link is to something else"
            )
        return visiting

    def _require_valid(self, visitor_pass: VisitorPass) -> None:
        channel = visitor_pass.channel
        if channel not in self._book:
            raise ShareRefused(reason="this node left the channel")
        if self.is_revoked(visitor_pass):
            raise ShareRefused(reason=REVOKED)
        require_valid(visitor_pass, self._book.signed(channel).document, self._context.clock())

    def _name(self, channel: bytes) -> str:
        return self._book.signed(channel).document.name

    def sweep(self) -> None:
        """Close the links of those whose passes are void now, and forget what is of no use any more."""
        self.cut()
        now = self._context.clock()
        for channel, known in list(self.revoked.items()):
            for key, each in list(known.items()):
                if each.until <= now:
                    del known[key]
            if not known or channel not in self._book:
                del self.revoked[channel]

    def cut(self) -> None:
        """Close the links of those whose passes are void now."""
        self._close_where(lambda visiting: self._require_valid(visiting.visitor_pass))

    def _close_where(self, check: Callable[[Visiting], None]) -> None:
        for link, visiting in list(self._links.items()):
            try:
                check(visiting)
            except KacheryError as error:
                self.discard(link)
                link.close(error, at_once=True)
