"""What comes in over a link, as :class:`~.mux.Mux` tells it to the shell that runs the link."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kachery_p2p.protocol.errors import KacheryError

from .frames import Hello
from .session import Body


@dataclass(frozen=True, slots=True)
class Requested:
    id: int
    method: str
    params: Any


@dataclass(frozen=True, slots=True)
class Responded:
    id: int
    result: Any


@dataclass(frozen=True, slots=True)
class Failed:
    id: int
    error: KacheryError


@dataclass(frozen=True, slots=True)
class Opened:
    id: int
    method: str
    params: Any


@dataclass(frozen=True, slots=True)
class Received:
    id: int
    meta: Any
    body: Body
    cost: int


@dataclass(frozen=True, slots=True)
class Writable:
    """Credit came for a stream that had none."""

    id: int


@dataclass(frozen=True, slots=True)
class Ended:
    id: int
    error: KacheryError | None


@dataclass(frozen=True, slots=True)
class Noted:
    topic: str
    params: Any


@dataclass(frozen=True, slots=True)
class Greeted:
    hello: Hello


@dataclass(frozen=True, slots=True)
class RoundTrip:
    seconds: float


@dataclass(frozen=True, slots=True)
class SaidBye:
    error: KacheryError


Event = (
    Requested
    | Responded
    | Failed
    | Opened
    | Received
    | Writable
    | Ended
    | Noted
    | Greeted
    | RoundTrip
    | SaidBye
)
