"""Which link goes when peers leave too much unread: the fullest of the peer that has most."""

from __future__ import annotations

from dataclasses import dataclass, field

from kachery_p2p.node.links.endings import end_fullest, end_surplus
from kachery_p2p.protocol.errors import KacheryError
from kachery_p2p.protocol.limits import (
    MAX_CONTROL_BYTES,
    MAX_CONTROL_BYTES_OF_ALL,
    MAX_LINKS_PER_PEER,
)


@dataclass
class Link:
    peer: str
    unread: int = 0
    idle_seconds: float = 0.0
    opened_at: float = 0.0
    closed: list[KacheryError] = field(default_factory=list)

    def close(self, error: KacheryError, *, at_once: bool = False) -> None:
        assert at_once or not self.unread, "what is not read cannot be said before it"
        self.closed.append(error)


def ended(links: list[Link]) -> list[int]:
    return [number for number, link in enumerate(links) if link.closed]


def test_all_links_of_a_peer_may_have_as_much_unread_as_one() -> None:
    part = MAX_CONTROL_BYTES // 4
    links = [Link("a", part), Link("a", 2 * part), Link("a", part), Link("b", 3 * part)]
    end_fullest(links)
    assert ended(links) == []
    links[0].unread += 1
    end_fullest(links)
    assert ended(links) == [1]
    assert "unread" in str(links[1].closed[0])


def test_who_has_one_full_link_does_not_pay_for_one_that_has_many() -> None:
    links = [Link("a", MAX_CONTROL_BYTES), *(Link("b", MAX_CONTROL_BYTES // 2) for _ in range(3))]
    end_fullest(links)
    assert ended(links) == [1]


def test_many_peers_together_have_no_more_unread_than_that() -> None:
    peers = MAX_CONTROL_BYTES_OF_ALL // MAX_CONTROL_BYTES
    links = [Link(f"p{number}", MAX_CONTROL_BYTES) for number in range(peers)]
    end_fullest(links)
    assert ended(links) == []
    links.append(Link("modest", 1))
    end_fullest(links)
    assert len(ended(links)) == 1
    assert not links[-1].closed


def test_nothing_unread_ends_nothing() -> None:
    end_fullest([])
    links = [Link("a"), Link("b")]
    end_fullest(links)
    assert ended(links) == []


def test_of_too_many_links_of_a_peer_the_one_that_was_idle_longest_goes() -> None:
    links = [Link("a", idle_seconds=float(number)) for number in range(MAX_LINKS_PER_PEER)]
    end_surplus(links)
    assert ended(links) == []
    links.insert(3, Link("a", idle_seconds=99.0))
    end_surplus(links)
    assert ended(links) == [3]
