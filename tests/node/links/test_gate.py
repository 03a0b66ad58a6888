"""Who has to go when too many wait at the gate: strangers before members, the oldest first."""

from __future__ import annotations

import pytest

from kachery_p2p.node.links import gate as gate_module
from kachery_p2p.node.links.gate import Gate, Waiting
from kachery_p2p.protocol.limits import (
    MAX_LINKS,
    MAX_PENDING_HANDSHAKES,
    MAX_PENDING_KNOWN,
    MAX_PENDING_PER_ADDRESS,
)


class Crowd:
    """A gate, and who had to go, in order."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.gone: list[str] = []

    def come(self, name: str, address: str | None = "1.1.1.1") -> Waiting:
        waiting = self.gate.enter(address, lambda: self.gone.append(name))
        assert waiting is not None
        return waiting


def test_of_one_address_the_oldest_silent_one_makes_room() -> None:
    crowd = Crowd()
    for number in range(MAX_PENDING_PER_ADDRESS):
        crowd.come(str(number))
    crowd.come("new")
    assert crowd.gone == ["0"]
    crowd.come("elsewhere", "2.2.2.2")
    assert crowd.gone == ["0"]
    assert len(crowd.gate) == MAX_PENDING_PER_ADDRESS + 1


def test_who_knows_a_channel_stays_while_a_stranger_can_go() -> None:
    crowd = Crowd()
    member = crowd.come("member")
    crowd.gate.recognise(member)
    for number in range(1_000):
        crowd.come(str(number), f"{number % 200}.1.1.1")
    assert "member" not in crowd.gone
    assert len(crowd.gate) == MAX_PENDING_HANDSHAKES + 1
    assert crowd.gate.leave(member, proved=True)
    assert crowd.gate.open == 1


def test_a_lab_behind_one_address_that_knows_a_channel_is_not_bounded_by_it() -> None:
    crowd = Crowd()
    for number in range(MAX_PENDING_KNOWN):
        crowd.gate.recognise(crowd.come(str(number)))
    crowd.come("a stranger")
    assert not crowd.gone
    crowd.gate.recognise(crowd.come("one more"))
    assert crowd.gone == ["0"]


def test_behind_a_reverse_proxy_each_client_counts_for_itself() -> None:
    crowd = Crowd()
    for number in range(MAX_PENDING_PER_ADDRESS + 5):
        crowd.gate.locate(crowd.come(f"flood {number}", None), "6.6.6.6")
    other = crowd.come("other", None)
    crowd.gate.locate(other, "7.7.7.7")
    assert crowd.gone == [f"flood {number}" for number in range(5)]


def test_of_all_that_wait_one_of_the_address_with_the_most_goes() -> None:
    crowd = Crowd()
    crowd.come("single", "9.9.9.9")
    for number in range(1_000):
        crowd.come(str(number), f"{number % 3}.1.1.1")
    assert "single" not in crowd.gone
    assert len(crowd.gate) == MAX_PENDING_HANDSHAKES


def test_who_has_gone_is_counted_nowhere() -> None:
    crowd = Crowd()
    for known in (False, True):
        for address in ("1.1.1.1", None):
            waiting = crowd.come("x", address)
            if known:
                crowd.gate.recognise(waiting)
            crowd.gate.locate(waiting, "2.2.2.2")
            assert crowd.gate.leave(waiting)
            assert not crowd.gate.leave(waiting, proved=True)
            crowd.gate.locate(waiting, "3.3.3.3")
    assert not len(crowd.gate)
    assert not crowd.gate._by_address
    assert crowd.gate.open == 0


def test_no_more_links_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "MAX_LINKS", 2)
    assert MAX_LINKS > 2
    crowd = Crowd()
    for _ in range(2):
        crowd.gate.leave(crowd.come("link"), proved=True)
    assert crowd.gate.enter("1.1.1.1", lambda: None) is None
    assert crowd.gate.refused == 1


def test_when_room_is_needed_the_oldest_are_shown_out() -> None:
    crowd = Crowd()
    for number in range(10):
        crowd.come(str(number))
    crowd.gate.clear(0.5)
    assert crowd.gone == list("01234")
    crowd.gate.clear()
    assert not len(crowd.gate)
