"""What the tests of the multiplexer share: ends of links, and how frames get across."""

from __future__ import annotations

from typing import Any

from kachery_p2p.protocol.links.frames import Frame, Hello, decode_headers, join_headers
from kachery_p2p.protocol.links.mux import Mux

HELLO = Hello("test", 0.0, "", [], {})


def decoded(header: bytes) -> Frame:
    """The frame of a header that came alone."""
    [frame] = decode_headers(join_headers([header]))
    return frame


def one(*, initiator: bool = False, greeted: bool = True) -> Mux:
    made = Mux(initiator=initiator, now=0.0)
    if greeted:
        made.receive(HELLO, None, 0.0)
    return made


def pair() -> tuple[Mux, Mux]:
    return one(initiator=True), one()


def following(sender: Mux) -> tuple[Frame, Any] | None:
    """What the sender sends next, as its receiver decodes it."""
    item = sender.next_frame()
    if item is None:
        return None
    frame, body = item
    return (decoded(frame) if isinstance(frame, bytes) else frame), body


def drain(sender: Mux) -> list[Frame]:
    found = []
    while (item := following(sender)) is not None:
        found.append(item[0])
    return found


def as_received(frame: Frame, body: Any) -> Any:
    """What a session would hand to the receiver; the body of a sealed tail does not matter here."""
    return None if body is None else memoryview(bytes(body))
