"""The local API's callers, counted: those that have not greeted yet, and those that have.

Before a connection has greeted it has a place for ``LOCAL_GREETING_SECONDS`` at most, and makes
room when its kind has too many: the node's own user, other users, and whoever connects over TCP are
kinds of their own, so that none of them fills the places of another. After it, places are kept for
the node's own user, and no other user has all the rest.
"""

from __future__ import annotations

import asyncio
import enum
from collections import Counter
from typing import Protocol

from kachery_p2p.protocol.errors import Busy, DeadlineExceeded, KacheryError
from kachery_p2p.protocol.limits import (
    LOCAL_GREETING_SECONDS,
    LOCAL_RESERVED_CLIENTS,
    MAX_LOCAL_CLIENTS,
    MAX_LOCAL_CLIENTS_PER_USER,
    MAX_LOCAL_UNGREETED,
)


class Kind(enum.Enum):
    OWN = "the node's user, or root"
    OTHER = "another user"
    TCP = "anybody on this computer"


class Connection(Protocol):
    """What is known here of a connection (:class:`~.server.Connection`)."""

    @property
    def kind(self) -> Kind: ...

    def refuse(self, error: KacheryError) -> None:
        """Tell it why, and close it."""


class Callers:
    def __init__(self) -> None:
        self._waiting: dict[Kind, dict[Connection, asyncio.TimerHandle]] = {
            kind: {} for kind in Kind
        }
        self._greeted: dict[Connection, str] = {}
        self._users: Counter[str] = Counter()
        """Greeted ones that are not the node's own user, by user or token."""

    def enter(self, connection: Connection) -> None:
        """It has connected."""
        waiting = self._waiting[connection.kind]
        if len(waiting) >= MAX_LOCAL_UNGREETED:
            oldest = next(iter(waiting))
            oldest.refuse(Busy(limit=f"{MAX_LOCAL_UNGREETED} local clients that have not greeted"))
        late = DeadlineExceeded(what="The greeting", seconds=LOCAL_GREETING_SECONDS)
        waiting[connection] = asyncio.get_running_loop().call_later(
            LOCAL_GREETING_SECONDS, connection.refuse, late
        )

    def greet(self, connection: Connection, user: str) -> None:
        """It has shown who it is. Raises Busy."""
        if connection.kind is Kind.OWN:
            user = ""
            limit = MAX_LOCAL_CLIENTS
            full = len(self._greeted) >= limit
        else:
            limit = min(MAX_LOCAL_CLIENTS_PER_USER, MAX_LOCAL_CLIENTS - LOCAL_RESERVED_CLIENTS)
            others = self._users.total()
            full = (
                self._users[user] >= limit
                or others >= MAX_LOCAL_CLIENTS - LOCAL_RESERVED_CLIENTS
                or len(self._greeted) >= MAX_LOCAL_CLIENTS
            )
        if full:
            raise Busy(limit=f"{limit} local clients")
        self._stop_waiting(connection)
        self._greeted[connection] = user
        if user:
            self._users[user] += 1

    def leave(self, connection: Connection) -> None:
        """It is closed."""
        self._stop_waiting(connection)
        user = self._greeted.pop(connection, "")
        if user:
            self._users[user] -= 1
            if not self._users[user]:
                del self._users[user]

    def make_room(self) -> None:
        """Descriptors have run out: who has not greeted goes."""
        error = Busy(limit="the open files that the system lets the node have")
        for waiting in self._waiting.values():
            for connection in list(waiting):
                connection.refuse(error)

    def _stop_waiting(self, connection: Connection) -> None:
        timer = self._waiting[connection.kind].pop(connection, None)
        if timer is not None:
            timer.cancel()
