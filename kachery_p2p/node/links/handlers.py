"""Who does what peers ask: for each request, stream and note a handler, which the rooms register.

Invariant: what a handler is called with has been decoded and type-checked. Whether the peer may ask for
it is the handler's to check.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import ProtocolViolation

from .link import Link
from .stream import Stream

T = TypeVar("T")

OnRequest = Callable[[Link, Any], Awaitable[Any]]
OnStream = Callable[[Link, Stream, Any], Awaitable[None]]
OnNote = Callable[[Link, Any], None]


class Handlers:
    """By name, with the type of the parameters: ``requests``, ``streams`` and ``notes``."""

    def __init__(self) -> None:
        self.requests: dict[str, tuple[type[Any], OnRequest]] = {}
        self.streams: dict[str, tuple[type[Any], OnStream]] = {}
        self.notes: dict[str, tuple[type[Any], OnNote]] = {}

    def on_request_of(
        self, method: str, kind: type[T], handler: Callable[[Link, T], Awaitable[Any]]
    ) -> None:
        """From now on ``handler`` answers these requests."""
        self.requests[method] = (kind, handler)

    def on_stream_of(
        self, method: str, kind: type[T], handler: Callable[[Link, Stream, T], Awaitable[None]]
    ) -> None:
        """From now on ``handler`` serves these streams."""
        self.streams[method] = (kind, handler)

    def on_note_of(self, topic: str, kind: type[T], handler: Callable[[Link, T], None]) -> None:
        """From now on ``handler`` hears these notes."""
        self.notes[topic] = (kind, handler)

    async def request(self, link: Link, method: str, params: Any) -> Any:
        """Have a request answered. Raises ProtocolViolation, and what the handler raises."""
        entry = self.requests.get(method)
        if entry is None:
            raise ProtocolViolation(reason=f"no such request: {method[:40]!r}")
        return await entry[1](link, codec.convert(entry[0], params))

    async def stream(self, link: Link, stream: Stream, method: str, params: Any) -> None:
        """Have a stream served. Raises as :meth:`request`."""
        entry = self.streams.get(method)
        if entry is None:
            raise ProtocolViolation(reason=f"no such stream: {method[:40]!r}")
        await entry[1](link, stream, codec.convert(entry[0], params))

    def note(self, link: Link, topic: str, params: Any) -> None:
        """Have a note heard; one that nobody here knows is ignored: the peer may be newer."""
        entry = self.notes.get(topic)
        if entry is not None:
            entry[1](link, codec.convert(entry[0], params))
