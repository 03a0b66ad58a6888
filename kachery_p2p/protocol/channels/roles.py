"""The roles of a node on a channel, and the words people write for them.

Six roles say what a node may do with the three kinds of content; the seventh, ``proxy``, lets it
index announcements and relay for others, and is never part of ``all``: it is a duty, not a right.

In a document a set of roles is one integer, bit i for ``ROLES[i]``, so that a channel of thousands
of members stays small; hence the order of :data:`ROLES` is part of the format.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kachery_p2p.protocol.errors import BadInput

PROXY: Final = "proxy"
ROLES: Final = (
    "provide-files",
    "request-files",
    "provide-feeds",
    "request-feeds",
    "provide-tasks",
    "request-tasks",
    PROXY,
)
REQUEST_ROLES: Final = frozenset(role for role in ROLES if role.startswith("request-"))
"""The reading ones."""
ALL_BITS: Final = (1 << len(ROLES)) - 1

_SETS: Final[tuple[frozenset[str], ...]] = tuple(
    frozenset(role for bit, role in enumerate(ROLES) if bits >> bit & 1)
    for bits in range(ALL_BITS + 1)
)

_WORDS: Final[dict[str, frozenset[str]]] = {
    **{role: frozenset({role}) for role in ROLES},
    "all": frozenset(ROLES) - {PROXY},
    "none": frozenset(),
    **{
        kind: frozenset({f"provide-{kind}", f"request-{kind}"})
        for kind in ("files", "feeds", "tasks")
    },
    **{verb: frozenset(r for r in ROLES if r.startswith(verb)) for verb in ("provide", "request")},
}


def parse_roles(roles: str | Iterable[str]) -> frozenset[str]:
    """Roles as people write them, to a set of names from :data:`ROLES`.

    Args:
        roles: words, separated by commas or as an iterable. A word is a role, or ``all`` (the six
            without proxy), ``none``, ``files``, ``feeds``, ``tasks`` (both roles of that kind),
            ``provide`` or ``request`` (all three with that verb).

    Raises:
        BadInput: a word is unknown; the error names it and lists the valid ones.
    """
    words = roles.split(",") if isinstance(roles, str) else roles
    result: frozenset[str] = frozenset()
    for word in words:
        meaning = _WORDS.get(word.strip().lower())
        if meaning is None:
            raise BadInput(
                what=f"role {word.strip()[:80]!r}", reason=f"the roles are {', '.join(_WORDS)}"
            )
        result |= meaning
    return result


def to_bits(roles: Iterable[str]) -> int:
    """A set of roles as the integer that stands in documents. Raises :class:`~.errors.BadInput`."""
    names = parse_roles(roles)
    return sum(1 << bit for bit, role in enumerate(ROLES) if role in names)


def from_bits(bits: int) -> frozenset[str]:
    """The inverse of :func:`to_bits`, for 0 <= bits <= :data:`ALL_BITS`."""
    return _SETS[bits]
