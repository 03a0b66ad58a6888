"""The log of one subfeed as the local node has it, or gets it: the calls that concern it.

Invariants: messages are encoded before the first byte is sent, so a batch with one that cannot be
sent appends nothing; a read that fails in the middle returns nothing. A submission has a number of
its own, under which it is repeated when the node goes away in the middle.

Non-goals: positions (:mod:`.subfeeds`), constant logs (:mod:`.snapshots`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

from kachery_p2p.client.session.connection import call, items
from kachery_p2p.client.session.thread_connection import need_loop
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.arguments import several
from kachery_p2p.protocol.errors import (
    BadInput,
    DaemonNotRunning,
    KacheryError,
    LinkClosed,
    NotFound,
    NotKnownYet,
    ProtocolViolation,
)
from kachery_p2p.protocol.feeds.feed import (
    Head,
    Run,
    Slice,
    decode_messages,
    encode_message,
    feed_uri,
    pack_texts,
    subfeed_hash,
    subfeed_text,
)
from kachery_p2p.protocol.feeds.signed_message import signed_messages
from kachery_p2p.protocol.limits import (
    MAX_FEED_MESSAGES,
    MAX_SLICE,
    START_SECONDS,
    SUBMISSION_BYTES,
)

from .arguments import checked_name

R = TypeVar("R")

_PAUSE_SECONDS: Final = 0.1
_MOST_SIGNED: Final = 1_000
"""Messages of one answer with proofs, each of at most 40 hashes: so it fits into a frame."""
_PIECE: Final = 1_000
"""Messages that are encoded before the event loop has its turn."""


class LiveLog:
    """One subfeed.

    Args:
        feed: the feed id, 32 bytes.
        name: of the subfeed: text or any JSON value.
        timeout: seconds for the first contact with the channel.
        channel: name or id of the only one to use, or None.

    Raises:
        BadInput: it is no name.
    """

    ends: Final = False
    """Whether there will never be more than there is."""

    def __init__(self, feed: bytes, name: Any, *, timeout: float, channel: str | None) -> None:
        self.subfeed = subfeed_hash(checked_name(name))
        self.uri = feed_uri(feed, name)
        self._subfeed: dict[str, Any] = {"feed": feed, "subfeed": self.subfeed}
        self._road: dict[str, Any] = {"timeout": timeout, "channel": channel}
        self._target = {**self._subfeed, "name": subfeed_text(name)}
        self._source = {**self._target, **self._road}

    # --- reading -----------------------------------------------------------------------------

    async def read(
        self,
        position: int,
        most: int,
        wait: float,
        *,
        signed: bool = False,
        once: bool = False,
        strict: bool = True,
    ) -> list[Any]:
        """Messages from ``position`` on.

        Args:
            most: so many at most; 0: as many as there are.
            wait: seconds to wait for one if there is none.
            signed: in the form of :mod:`~kachery_p2p.protocol.feeds.signed_message`.
            once: only what one answer of the node holds, which is a MiB or so.
            strict: of no meaning here, where nobody's having it is always an error.
        """
        found: list[Any] = []
        while True:
            at = position + len(found)
            part, _ = await self._read(at, most and most - len(found), wait, signed)
            if found:
                found += part
            else:
                found = part
            if once or not part or len(found) == most:
                return found
            wait = 0.0

    async def _read(
        self, position: int, most: int, wait: float, signed: bool
    ) -> tuple[list[Any], int]:
        if signed:
            most = min(most or _MOST_SIGNED, _MOST_SIGNED)
        params = {
            **self._source, "position": position, "most": most, "wait": wait, "proofs": bool(signed),
        }  # fmt: skip
        with self._telling_its_name():
            answer = await call("read", "feed.read", params)
        runs, data, size = answer["runs"], answer["data"], answer["size"]
        if not runs:
            return [], size
        if answer["start"] != position:
            raise ProtocolViolation(reason=f"messages from {answer['start']}, not {position} on")
        if signed:
            # codec.convert: the node is ours, but Run and Head want their types.
            texts = Slice(position, codec.convert(list[Run], runs), data.split(b"\n"))
            heads = codec.convert(list[Head], answer["heads"])
            proofs = [(heads[place], path) for place, path in answer["proofs"]]
            return signed_messages(texts, proofs), size
        messages = decode(data)
        if len(messages) != sum(run[0] for run in runs):
            raise ProtocolViolation(reason="more or fewer messages than were announced")
        return messages, size

    async def stream(self, position: int, wait: float) -> AsyncGenerator[list[Any], None]:
        """Messages from ``position`` on, as they come, until none came for ``wait`` seconds."""
        params = {**self._source, "position": position, "wait": wait}
        found = await items("amessages", "feed.stream", params)
        with self._telling_its_name():
            async with contextlib.aclosing(found):
                async for (start, count), data in found:
                    messages = decode(data)
                    if start != position or len(messages) != count:
                        raise ProtocolViolation(
                            reason=f"{count} messages from {start} on, not {position}"
                        )
                    position += count
                    yield messages

    @contextlib.contextmanager
    def _telling_its_name(self) -> Iterator[None]:
        """Errors name the subfeed as its reader does: nodes that were asked know its hash alone."""
        try:
            yield
        except (NotFound, NotKnownYet) as error:
            raise type(error)(**{**error.fields, "what": self.uri}) from error

    async def size(self) -> int:
        """One more than the number of the last message that this node knows of."""
        answer = await call("get_num_local_messages", "feed.info", self._subfeed)
        found = (each["size"] for each in answer["subfeeds"] if each["subfeed"] == self.subfeed)
        return next(found, 0)

    async def end(self) -> int:
        """As :meth:`size`, after asking the channel if this node never saw the subfeed."""
        _, size = await self._read(MAX_FEED_MESSAGES, 1, 0.0, signed=False)
        return size

    # --- writing -----------------------------------------------------------------------------

    async def append_one(self, message: Any) -> int:
        """Append a message; its number."""
        params = {**self._target, "data": encode_message(message), "count": 1}
        number: int = (await call("append_message", "feed.append", params))["first"]
        return number

    async def append(self, messages: Iterable[Any]) -> list[int]:
        """Append messages; their numbers."""

        async def send(data: bytes, count: int) -> Any:
            params = {**self._target, "data": data, "count": count}
            return await call("append_messages", "feed.append", params)

        return await _in_parts(await encode_all(messages), send)

    async def submit(self, messages: Iterable[Any]) -> list[int]:
        """Hand messages to the owner of the feed; the numbers that they got."""

        async def send(data: bytes, count: int) -> Any:
            submission = os.urandom(SUBMISSION_BYTES)
            params = {
                **self._target, **self._road, "data": data, "count": count, "submission": submission,
            }  # fmt: skip
            return await patiently(lambda: call("submit_messages", "feed.submit", params))

        return await _in_parts(await encode_all(messages), send)

    # --- the rest ----------------------------------------------------------------------------

    async def get_rules(self) -> dict[str, Any]:
        answer = await call("get_access_rules", "feed.get_rules", self._subfeed)
        rules: dict[str, Any] = answer["rules"]
        return rules

    async def set_rules(self, rules: dict[str, Any]) -> None:
        await call("set_access_rules", "feed.set_rules", {**self._subfeed, "rules": rules})

    async def resolve(self) -> bool:
        resolved: bool = (await call("resolve_fork", "feed.resolve", self._subfeed))["resolved"]
        return resolved


async def patiently(work: Callable[[], Awaitable[R]], *, known: bool = False) -> R:
    """Do what may be repeated, again if the node goes away meanwhile and comes back.

    Args:
        known: the node was there a moment ago; else it must be there now.

    Raises:
        LinkClosed, DaemonNotRunning: it did not come back within START_SECONDS.
    """
    patience = Patience(known=known)
    while True:
        try:
            return await work()
        except (LinkClosed, DaemonNotRunning) as error:
            await patience.wait(error)


class Patience:
    """With a node that goes away. ``known``: as for :func:`patiently`."""

    def __init__(self, *, known: bool) -> None:
        self._known = known
        self._deadline: float | None = None

    def restore(self) -> None:
        """The node is there."""
        self._known = True
        self._deadline = None

    async def wait(self, error: LinkClosed | DaemonNotRunning) -> None:
        """Wait a moment before it is tried again. Raises ``error`` if that was done for long enough."""
        need_loop()
        now = asyncio.get_running_loop().time()
        if self._deadline is None:
            if isinstance(error, DaemonNotRunning) and not self._known:
                raise error
            self._deadline = now + START_SECONDS
        if now >= self._deadline:
            raise error
        await asyncio.sleep(_PAUSE_SECONDS)


def decode(data: bytes) -> list[Any]:
    """The messages that are packed in ``data``, at least one."""
    return decode_messages(data.split(b"\n"))


async def encode_all(messages: Iterable[Any]) -> list[bytes]:
    """The texts of messages.

    Raises:
        BadInput: one of them cannot be sent; says which and why.
    """
    if isinstance(messages, str | bytes | bytearray | Mapping):
        kind = type(messages).__name__
        raise BadInput(what="messages", reason=f"a {kind} is one message; give a list of them")
    texts: list[bytes] = []
    for number, message in enumerate(several("messages", messages)):
        if number % _PIECE == _PIECE - 1:
            await asyncio.sleep(0)
        try:
            texts.append(encode_message(message))
        except BadInput as error:
            reason = f"{error.fields['reason']} (nothing was appended)"
            raise BadInput(what=f"feed message [{number}]", reason=reason) from None
    return texts


def batches(texts: list[bytes]) -> Iterator[list[bytes]]:
    """The texts, in order, in lists that each fit into one call."""
    start = size = 0
    for at, text in enumerate(texts):
        size += len(text) + 1
        if size > MAX_SLICE + 1 and at > start:
            yield texts[start:at]
            start, size = at, len(text) + 1
    if start < len(texts):
        yield texts[start:]


async def _in_parts(texts: list[bytes], send: Callable[[bytes, int], Awaitable[Any]]) -> list[int]:
    """Send texts in as many calls as it takes. Each part is appended entirely or not at all."""
    numbers: list[int] = []
    for part in batches(texts):
        try:
            answer = await send(pack_texts(part), len(part))
        except KacheryError as error:
            if numbers:
                error.add_note(f"The first {len(numbers)} of {len(texts)} messages were appended.")
            raise
        numbers += range(answer["first"], answer["first"] + answer["count"])
    return numbers
