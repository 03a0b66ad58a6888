"""What is said to have a proxy connect two members. A circuit carries opaque records of the session
that the two make with one another."""

from __future__ import annotations

from typing import Final

import msgspec

from kachery_p2p.protocol.method import Method

CIRCUIT = "circuit"
CIRCUIT_IN = "circuit.in"


class CircuitTo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``circuit`` and ``join.circuit``: with whom. ``circuit.in`` and ``join.in``: from whom."""

    channel: bytes
    node: bytes


METHODS: Final = (
    Method(
        CIRCUIT, "stream", CircuitTo, "member -> proxy: connect me with another member", "member"
    ),
    Method(
        CIRCUIT_IN, "stream", CircuitTo, "proxy -> member: somebody wants to talk to you", "proxy"
    ),
)
