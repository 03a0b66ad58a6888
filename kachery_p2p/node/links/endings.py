"""How links and streams end: with which error, which goes when there is too much, and what ends with
a right."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Protocol, TypeVar

from kachery_p2p.protocol.errors import InternalError, KacheryError, LinkClosed
from kachery_p2p.protocol.limits import (
    MAX_CONTROL_BYTES,
    MAX_CONTROL_BYTES_OF_ALL,
    MAX_LINKS_PER_PEER,
)

from .stream import Stream

log = logging.getLogger(__name__)
T = TypeVar("T")


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
    """All links of one peer may have as much unread as one, and those of all peers
    ``MAX_CONTROL_BYTES_OF_ALL``: of more, the fullest of the peer that has most unread goes."""
    unread: dict[str, int] = {}
    for each in links:
        unread[each.peer] = unread.get(each.peer, 0) + each.unread
    peer = max(unread, key=lambda each: unread[each], default="")
    if unread.get(peer, 0) > MAX_CONTROL_BYTES:
        reason = f"its peer has {MAX_CONTROL_BYTES} bytes unread on its links"
    elif sum(unread.values()) > MAX_CONTROL_BYTES_OF_ALL:
        reason = (
            f"{MAX_CONTROL_BYTES_OF_ALL} bytes are unread on all links, and it has most of them"
        )
    else:
        return
    fullest = max((x for x in links if x.peer == peer), key=lambda each: each.unread)
    fullest.close(LinkClosed(peer=peer[:8], reason=reason), at_once=True)


def first_of(group: BaseExceptionGroup[KacheryError]) -> KacheryError:
    """The first error of a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, KacheryError)
    return error


def ended_by(group: BaseExceptionGroup[BaseException], link: object) -> KacheryError:
    """Why a link ended whose tasks ended with these errors."""
    known, bugs = group.split(KacheryError)
    if bugs is not None:
        # What breaks in a way that nobody foresaw still only costs this one link.
        log.exception("link %s failed", link, exc_info=bugs)
        return InternalError(reason=str(bugs.exceptions[0]))
    assert known is not None
    return first_of(known)


def as_closed(peer: str, error: KacheryError) -> KacheryError:
    """An error as that of a link with ``peer`` that it ended. Everybody who waits has one of
    its own."""
    if isinstance(error, LinkClosed):
        return error.again()
    closed = LinkClosed(peer=peer[:8], reason=str(error))
    closed.__cause__ = error
    return closed


def without_frames(error: BaseException) -> None:
    """Let go of the frames through which an error came, and those that it was caused by: they hold what
    was under way, and the link that keeps the error."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            waiting += (each.__cause__, each.__context__)
            if isinstance(each, BaseExceptionGroup):
                waiting += each.exceptions


def cut(streams: Mapping[Stream, T], check: Callable[[T], object]) -> None:
    """End each stream for which ``check`` raises, with that. Links need not end with it: they may share
    another channel, or have lost only a role. What cannot be checked is ended too. Never raises."""
    for stream, whose in list(streams.items()):
        try:
            check(whose)
        except KacheryError as error:
            stream.end(error)
        except Exception as error:  # a bug: then nobody knows whether it may go on
            log.exception("a right that cannot be told")
            stream.end(InternalError(reason=f"rights that cannot be told: {error}"))
