"""How links end: with which error, and which of a peer's links goes when it has too much."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from kachery_p2p.protocol.errors import KacheryError, LinkClosed
from kachery_p2p.protocol.limits import MAX_CONTROL_BYTES, MAX_LINKS_PER_PEER


class Ending(Protocol):
    """A link, as far as it is looked at here. ``unread``: bytes of control frames that wait."""

    peer: str
    opened_at: float

    @property
    def idle_seconds(self) -> float: ...

    @property
    def unread(self) -> int: ...

    def close(self, error: KacheryError, *, at_once: bool = False) -> None: ...


def end_surplus(links: Collection[Ending]) -> None:
    """Of too many links of one peer, old ones that nobody has noticed to be dead go first."""
    if len(links) > MAX_LINKS_PER_PEER:
        oldest = max(links, key=lambda each: (each.idle_seconds, -each.opened_at))
        oldest.close(LinkClosed(peer=oldest.peer[:8], reason="newer links replace it"))


def end_fullest(links: Collection[Ending]) -> None:
    """All links of one peer may have as much unread as one: of more, the fullest goes."""
    if sum(each.unread for each in links) > MAX_CONTROL_BYTES:
        fullest = max(links, key=lambda each: each.unread)
        reason = f"its peer has {MAX_CONTROL_BYTES} bytes unread on its links"
        fullest.close(LinkClosed(peer=fullest.peer[:8], reason=reason), at_once=True)


def first_of(group: BaseExceptionGroup[KacheryError]) -> KacheryError:
    """The first error of a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, KacheryError)
    return error


def as_closed(peer: str, error: KacheryError) -> KacheryError:
    """An error as that of a link with ``peer`` that it ended."""
    if isinstance(error, LinkClosed):
        return error
    closed = LinkClosed(peer=peer[:8], reason=str(error))
    closed.__cause__ = error
    return closed
