"""Two histories of one channel, put together.

Only the owner's key makes documents, each from the one before. But a node that is restored from a
backup, or a state folder that was copied to a second computer, goes on from an older one, and then
there are two successors of one document. Of these the higher version would count, and what the other
one took away would silently be given back. So the owner's node merges them: what either took away is
away, and what either gave is given, as far as a document that both come from (a base) tells.

It may not be known which document that is. Then there are several bases, and where they differ it is
in doubt who changed what: nobody has there what is not in both histories.

Invariant: nobody has more by the merged document than by a base unless one of the two gave it, and
what one of the two took away nobody has.

Non-goals: knowing that there are two histories, see :mod:`kachery_p2p.node.channels.histories`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Final, TypeVar

from msgspec.structs import replace

from .document import Admitter, Bootstrap, ChannelDocument, Member, check, entry_of
from .roles import REQUEST_ROLES, to_bits

_REQUESTS: Final = to_bits(REQUEST_ROLES)
_public: Final = attrgetter("public")
K = TypeVar("K", bound=Hashable)


def merged(
    bases: Sequence[ChannelDocument],
    ours: ChannelDocument,
    theirs: ChannelDocument,
    *,
    secret: bytes | None,
    fresh: bytes,
    now: float,
) -> ChannelDocument:
    """The next document after ``ours`` and ``theirs``; unsigned.

    Args:
        bases: one or more, of which both come from one.
        secret: that of ``ours`` if it is known, 32 bytes.
        fresh: 32 random bytes, the secret from now on if somebody lost the right to it.
        now: Unix time in seconds.

    Raises:
        BadInput: together they are more than fits into a document.
    """
    bits = _merge([_bits(b.members) for b in bases], _bits(ours.members), _bits(theirs.members))
    admitters = _merge(
        [_bits(base.admitters) for base in bases], _bits(ours.admitters), _bits(theirs.admitters)
    )
    version = max(ours.version, theirs.version) + 1
    revoked = len({each.invitations_from for each in (*bases, ours, theirs)}) > 1
    result = replace(
        ours,
        version=version,
        issued_at=int(now),
        expires_at=_expiry({base.expires_at for base in bases}, ours.expires_at, theirs.expires_at),
        members=(),
        bootstraps=_bootstraps(bases, ours, theirs, bits),
        admitters=tuple(
            Admitter(public, most & bits[public] & _REQUESTS)
            for public, most in sorted(admitters.items())
            if most & bits.get(public, 0) & _REQUESTS
        ),
        invitations_from=version if revoked else ours.invitations_from,
    )
    entries = _entries(ours, theirs)
    had = {
        entry.public for each in (*bases, ours, theirs) for entry in each.members if entry.sealed
    }
    keep = {public for public in had if bits.get(public, 0) & ~to_bits({"proxy"})}
    versions = {each.secret_version for each in (*bases, ours, theirs)}
    if ours.open or (len(versions) == 1 and keep == had and secret is not None):
        members = [_with(entries[public], bits[public], secret or fresh) for public in bits]
    else:
        members = [entry_of(public, entries[public].label, bits[public], fresh) for public in bits]
        result = replace(result, secret_version=max(versions) + 1)
    result = replace(result, members=tuple(sorted(members, key=_public)))
    check(result)
    return result


def same_rights(one: ChannelDocument, other: ChannelDocument) -> bool:
    """Whether two documents say the same, whatever their versions and secrets are."""
    return _rights(one) == _rights(other)


def _rights(document: ChannelDocument) -> tuple[object, ...]:
    return (
        _bits(document.members),
        _bits(document.admitters),
        frozenset((each.url, each.public) for each in document.bootstraps),
        document.expires_at,
        document.invitations_from > 0,
    )


def _bits(entries: Iterable[Member] | Iterable[Admitter]) -> dict[bytes, int]:
    return {entry.public: entry.bits for entry in entries}


def _merge(
    bases: Sequence[Mapping[K, int]], ours: Mapping[K, int], theirs: Mapping[K, int]
) -> dict[K, int]:
    """Bits by key. What one of them removed is out, also if the other one changed it."""
    result: dict[K, int] = {}
    for key in {**ours, **theirs}:
        before, here, there = {base.get(key) for base in bases}, ours.get(key), theirs.get(key)
        if before == {here}:
            kept = there
        elif before == {there}:
            kept = here
        elif here is None or there is None:
            kept = None
        else:
            kept = here & there
        if kept is not None:
            result[key] = kept
    return result


def _expiry(before: set[int | None], ours: int | None, theirs: int | None) -> int | None:
    if before == {ours}:
        return theirs
    if before == {theirs}:
        return ours
    return min((each for each in (ours, theirs) if each is not None), default=None)


def _bootstraps(
    bases: Sequence[ChannelDocument],
    ours: ChannelDocument,
    theirs: ChannelDocument,
    bits: Mapping[bytes, int],
) -> tuple[Bootstrap, ...]:
    """Those of nodes that stay members; a URL stands for one node."""
    by_url: dict[str, Bootstrap] = {}
    before = {each for base in bases for each in base.bootstraps}
    for each in (*ours.bootstraps, *theirs.bootstraps):
        in_all = each in ours.bootstraps and each in theirs.bootstraps
        if each.public in bits and (in_all or each not in before):
            by_url.setdefault(each.url, each)
    return tuple(by_url.values())


def _entries(ours: ChannelDocument, theirs: ChannelDocument) -> dict[bytes, Member]:
    return {entry.public: entry for each in (theirs, ours) for entry in each.members}


def _with(entry: Member, bits: int, secret: bytes) -> Member:
    """A member's entry with these roles; its box is kept if there is one."""
    made = entry_of(entry.public, entry.label, bits, secret)
    return replace(made, sealed=entry.sealed) if made.sealed and entry.sealed else made
