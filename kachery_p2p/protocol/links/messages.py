"""What is said to have a proxy connect two members. A circuit carries opaque records of the session
that the two make with one another."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from kachery_p2p.protocol.limits import MAX_FIRST_MESSAGE
from kachery_p2p.protocol.method import Method

CIRCUIT = "circuit"
CIRCUIT_IN = "circuit.in"


class CircuitTo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``circuit`` and ``join.circuit``: with whom. ``circuit.in`` and ``join.in``: from whom.

    ``first`` is the opener's first handshake message, which the proxy passes on; empty: it comes as
    data. It proves nothing and holds nothing secret, so whoever repeats it gains nothing.
    """

    channel: bytes
    node: bytes
    first: Annotated[bytes, msgspec.Meta(max_length=MAX_FIRST_MESSAGE)] = b""


METHODS: Final = (
    Method(
        CIRCUIT, "stream", CircuitTo, "member -> proxy: connect me with another member", "member"
    ),
    Method(
        CIRCUIT_IN, "stream", CircuitTo, "proxy -> member: somebody wants to talk to you", "proxy"
    ),
)
