"""Whose places in the local API are whose."""

from __future__ import annotations

from typing import Any

import pytest

from kachery_p2p.node.doors import callers as callers_module
from kachery_p2p.node.doors.callers import Callers, Kind
from kachery_p2p.protocol.errors import Busy
from tests.node.harness import until


class Client:
    def __init__(self, callers: Callers, kind: Kind) -> None:
        self.kind = kind
        self.refused: list[Any] = []
        self._callers = callers
        callers.enter(self)  # type: ignore[arg-type]

    def refuse(self, error: Any) -> None:
        self.refused.append(error)
        self._callers.leave(self)  # type: ignore[arg-type]

    def greet(self, user: str) -> None:
        self._callers.greet(self, user)  # type: ignore[arg-type]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "MAX_LOCAL_CLIENTS": 10,
        "LOCAL_RESERVED_CLIENTS": 4,
        "MAX_LOCAL_CLIENTS_PER_USER": 5,
        "MAX_LOCAL_UNGREETED": 3,
    }.items():
        monkeypatch.setattr(callers_module, name, value)


@pytest.mark.usefixtures("few")
async def test_who_does_not_greet_makes_room_for_its_own_kind_only() -> None:
    callers = Callers()
    own, other = Client(callers, Kind.OWN), Client(callers, Kind.OTHER)
    crowd = [Client(callers, Kind.TCP) for _ in range(10)]
    assert [bool(each.refused) for each in crowd] == [True] * 7 + [False] * 3
    assert not own.refused
    assert not other.refused
    callers.make_room()
    assert all(each.refused for each in [own, other, *crowd])


@pytest.mark.usefixtures("few")
async def test_places_are_kept_for_the_nodes_own_user() -> None:
    callers = Callers()
    for user in ("eve", "mallory"):
        for number in range(9):
            client = Client(callers, Kind.OTHER)
            if number < (5 if user == "eve" else 1):
                client.greet(user)
            else:
                with pytest.raises(Busy):
                    client.greet(user)
                client.refuse("busy")
    own = [Client(callers, Kind.OWN) for _ in range(3)]
    for each in own:
        each.greet("")
    one_more = Client(callers, Kind.OWN)
    one_more.greet("")
    with pytest.raises(Busy):
        Client(callers, Kind.OWN).greet("")
    one_more.refuse("gone")
    Client(callers, Kind.OWN).greet("")


@pytest.mark.usefixtures("few")
async def test_who_has_gone_is_counted_nowhere() -> None:
    callers = Callers()
    for _ in range(20):
        for kind, user in ((Kind.OTHER, "eve"), (Kind.TCP, "full"), (Kind.OWN, "")):
            client = Client(callers, kind)
            client.greet(user)
            callers.leave(client)  # type: ignore[arg-type]
            callers.leave(client)  # type: ignore[arg-type]
    assert not callers._greeted
    assert not callers._users
    assert not any(callers._waiting.values())


async def test_who_does_not_greet_in_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers_module, "LOCAL_GREETING_SECONDS", 0.01)
    callers = Callers()
    prompt, slow = Client(callers, Kind.OWN), Client(callers, Kind.OWN)
    prompt.greet("")
    await until(lambda: slow.refused)
    assert not prompt.refused
