"""A subfeed as its reader and writers have it: a log, and a position in it.

Invariants: the position moves only past messages that were handed out, so whoever goes on after an
error, or after any disconnection, has neither gap nor duplicate. A :class:`Subfeed` has one reader;
for another one, make another Subfeed.

Every method that asks the node is there twice, the async one with an ``a`` in front.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from typing import Any, Final

from kachery_p2p.client.display.notebook_html import table
from kachery_p2p.client.session.portal import twin
from kachery_p2p.client.session.tracebacks import trimmed
from kachery_p2p.protocol.errors import DaemonNotRunning, FeedDeleted, KacheryError, LinkClosed
from kachery_p2p.protocol.feeds.access import AccessRules
from kachery_p2p.protocol.identity import check_node_id

from .arguments import NOBODY_HAS_IT, checked_count, seconds
from .flag import Flag
from .live_logs import LiveLog, Patience, patiently
from .snapshots import SnapshotLog

STREAM_WAIT_MSEC: Final = 60_000.0
"""How long one call of the node waits for a message of a stream; then there is another."""


class Subfeed:
    """One log of a feed, of messages that are any JSON, and a position in it.

    Made by :meth:`Feed.load_subfeed` and :func:`load_subfeed`. The first read of a subfeed that this
    node never saw asks the channel, for at most the feed's ``timeout_sec``.
    """

    def __init__(
        self,
        log: LiveLog | SnapshotLog,
        name: Any,
        position: int = 0,
        *,
        is_writeable: bool = False,
    ) -> None:
        self._log = log
        self._writeable = is_writeable
        self._name = name
        self._position = checked_count("position", position)
        self._reached = False

    @property
    def uri(self) -> str:
        """``feed://<64 hex>/<quoted name>``; of a snapshot, its URI with ``?subfeedName=``."""
        return self._log.uri

    @property
    def subfeed_name(self) -> Any:
        """The name as it was given; text if it came in a URI."""
        return self._name

    @property
    def subfeed_hash(self) -> str:
        """The SHA-1 of the name, 40 hex digits."""
        return self._log.subfeed.hex()

    @property
    def is_snapshot(self) -> Flag:
        """Whether it will never have other messages than now."""
        return Flag(self._log.ends)

    @property
    def is_writeable(self) -> Flag:
        """Whether this node has the feed's key, so that it can append."""
        return Flag(self._writeable)

    @property
    def position(self) -> int:
        """The number of the message that is read next; the first one has 0."""
        return self._position

    def set_position(self, position: int) -> None:
        """Read from this message on. Raises BadInput if it is no number from 0."""
        self._position = checked_count("position", position)

    def get_uri(self) -> str:
        """:attr:`uri`, under its name of before."""
        return self.uri

    def get_subfeed_name(self) -> Any:
        """:attr:`subfeed_name`, under its name of before."""
        return self.subfeed_name

    def get_subfeed_hash(self) -> str:
        """:attr:`subfeed_hash`, under its name of before."""
        return self.subfeed_hash

    def get_position(self) -> int:
        """:attr:`position`, under its name of before."""
        return self.position

    # --- reading -----------------------------------------------------------------------------

    async def aget_next_messages(
        self,
        *,
        wait_msec: float = 10,
        signed: bool = False,
        max_num_messages: int = 0,
        advance_position: bool = True,
        strict: bool = False,
    ) -> list[Any]:
        """The messages from the position on, as far as there are any.

        Args:
            wait_msec: milliseconds to wait for one if there is none.
            signed: each as a dict that proves it, see :func:`check_signed_message`.
            max_num_messages: no more than so many; 0: all there are.
            advance_position: move the position past them.
            strict: raise NotFound, or NotKnownYet, for a subfeed that nobody has; else it has no
                messages, and may have some later.

        Returns:
            The messages. After an error the position is where it was.

        Raises:
            FeedDeleted: it was deleted on this node.
            AccessDenied, FeedForked, Unreachable, DaemonNotRunning, NeedsNode, BadInput
        """
        position = self._position
        most = checked_count("max_num_messages", max_num_messages)
        found = await self._read(position, most, wait_msec, signed=signed, strict=strict)
        if advance_position:
            self._position = position + len(found)
        return found

    async def aget_next_message(
        self,
        *,
        wait_msec: float = 10,
        signed: bool = False,
        advance_position: bool = True,
        strict: bool = False,
    ) -> Any:
        """The message at the position; None if there is none (or if it is JSON's null).

        Reading many is much faster with :meth:`get_next_messages` or :meth:`message_stream`.
        Arguments and errors are those of :meth:`get_next_messages`.
        """
        position = self._position
        found = await self._read(position, 1, wait_msec, signed=signed, strict=strict)
        if not found:
            return None
        if advance_position:
            self._position = position + 1
        return found[0]

    async def _read(
        self, position: int, most: int, wait_msec: float, *, signed: bool, strict: bool
    ) -> list[Any]:
        wait = seconds(wait_msec)
        try:
            return await self._log.read(position, most, wait, signed=signed, strict=strict)
        except NOBODY_HAS_IT as error:
            self._check_there(error)
            if strict:
                raise
            return []

    def _check_there(self, error: KacheryError) -> None:
        """Raise FeedDeleted if nobody has what lay on this very node, where nobody else is asked."""
        if self._writeable:
            raise FeedDeleted(feed=self.uri.removeprefix("feed://").partition("/")[0]) from error

    def message_stream(self, *, signed: bool = False, strict: bool = False) -> Iterator[Any]:
        """Every message from the position on, and those to come, as they come.

        On a live feed it never ends by itself; Ctrl-C ends it. It survives a restart of the local node,
        and ends with FeedDeleted when the feed is deleted there. The position is always behind the
        message that was given last. A subfeed that nobody has yet is waited for; ``strict`` raises, as
        in :meth:`get_next_messages`.

        Raises:
            as :meth:`get_next_messages`.
        """
        __tracebackhide__ = True
        while True:
            try:
                batch = follow(self, signed=signed, strict=strict)
            except KacheryError as error:
                raise trimmed(error)  # noqa: B904
            yield from self._handed_out(batch)
            if not batch and self._log.ends:
                return

    async def amessages(self, *, signed: bool = False, strict: bool = False) -> AsyncIterator[Any]:
        """The async form of :meth:`message_stream`: ``async for message in subfeed.amessages()``."""
        batches = self._signed_batches(strict) if signed else self._batches(strict)
        async with contextlib.aclosing(batches):
            async for batch in batches:
                for message in self._handed_out(batch):
                    yield message

    async def _signed_batches(self, strict: bool) -> AsyncGenerator[list[Any], None]:
        while (batch := await afollow(self, signed=True, strict=strict)) or not self._log.ends:
            yield batch

    async def _batches(self, strict: bool) -> AsyncGenerator[list[Any], None]:
        """Messages as the node sends them, without being asked for each; the position is moved by who
        takes them."""
        patience = Patience(known=self._reached)
        while True:
            position, found = self._position, False
            stream = self._log.stream(position, seconds(STREAM_WAIT_MSEC))
            try:
                async with contextlib.aclosing(stream):
                    async for batch in stream:
                        self._reached, found = True, bool(batch)
                        patience.restore()
                        if self._position == position:
                            yield batch
                            position += len(batch)
                        if self._position != position:
                            break  # it was set: go on from there
            except (LinkClosed, DaemonNotRunning) as error:
                await patience.wait(error)
            except NOBODY_HAS_IT as error:
                self._check_there(error)
                if strict or self._log.ends:
                    raise
            else:
                self._reached = True
            if self._log.ends and not found:
                return

    def _handed_out(self, batch: list[Any]) -> Iterator[Any]:
        """Each message, the position moved past it; until somebody else moves the position."""
        for number, message in enumerate(batch, self._position):
            if self._position != number:
                return
            self._position = number + 1
            yield message

    async def aget_num_local_messages(self) -> int:
        """How many messages this node knows of; the channel is not asked. Where a mirror began in
        the middle, this is still one more than the last one's number. Raises as
        :meth:`get_next_messages`."""
        return await self._log.size()

    async def aget_num_messages(self) -> int:
        """How many messages there are, as far as this node knows; the channel is asked if it never
        saw the subfeed, and there are none if nobody has it. To begin at the end:
        ``subfeed.set_position(await subfeed.aget_num_messages())``. Raises as
        :meth:`get_next_messages`."""
        try:
            return await self._log.end()
        except NOBODY_HAS_IT:
            return 0

    async def aprint_messages(self) -> None:
        """Print all messages that there are, from the first one, each as JSON on a line of its own.
        The position stays. Raises as :meth:`get_next_messages`."""
        await self._print(signed=False)

    async def aprint_signed_messages(self) -> None:
        """As :meth:`print_messages`, each in the form that proves it, see
        :func:`check_signed_message`."""
        await self._print(signed=True)

    async def _print(self, *, signed: bool) -> None:
        position = 0
        while found := await self._printed(position, signed):
            position += len(found)
            print("\n".join(map(json.dumps, found)))

    async def _printed(self, position: int, signed: bool) -> list[Any]:
        try:
            return await self._log.read(position, 0, 0.0, signed=signed, once=True)
        except NOBODY_HAS_IT:
            return []

    # --- writing -----------------------------------------------------------------------------

    async def aappend_message(self, message: Any) -> int:
        """Append a message to a feed whose key this node has.

        Args:
            message: any JSON value of up to 1,000,000 bytes; no NaN, and nothing that is not JSON.

        Returns:
            Its number. When this returns, it is on disk.

        Raises:
            BadInput, FeedReadOnly, FeedForked, FeedBehind, StorageFull, ReadOnlyUser,
            DaemonNotRunning, NeedsNode
        """
        return await self._log.append_one(message)

    async def aappend_messages(self, messages: Iterable[Any]) -> list[int]:
        """Append several messages at once, which is many times faster than one by one.

        Up to 1 MiB of them become visible together, or not at all. A message that cannot be sent is
        found before anything is appended.

        Returns:
            Their numbers.

        Raises:
            as :meth:`append_message`; a note of the error says if a part was appended before it.
        """
        return await self._log.append(messages)

    async def asubmit_message(self, message: Any) -> int:
        """Have the owner of the feed append a message; it must have granted this node that.

        Returns:
            The number that the message got. It is appended exactly once, also when links break on
            the way.

        Raises:
            NotAWriter, AccessDenied, NotFound, Unreachable, DeadlineExceeded; others as
            :meth:`append_message`.
        """
        return (await self._log.submit([message]))[0]

    async def asubmit_messages(self, messages: Iterable[Any]) -> list[int]:
        """Have the owner append several messages; as :meth:`append_messages`, otherwise as
        :meth:`submit_message`."""
        return await self._log.submit(messages)

    # --- who may write -----------------------------------------------------------------------

    async def agrant_write_access(self, *, node_id: str) -> None:
        """Let another node submit messages.

        Args:
            node_id: 64 hex digits, what ``get_node_id()`` says there.

        Raises:
            BadInput, FeedReadOnly (only the owner grants), ReadOnlyUser, DaemonNotRunning, NeedsNode
        """
        await self._set_access(node_id, True)

    async def arevoke_write_access(self, *, node_id: str) -> None:
        """Take that back; what it submitted stays. As :meth:`grant_write_access`."""
        await self._set_access(node_id, False)

    async def _set_access(self, node_id: str, write: bool) -> None:
        check_node_id(node_id)
        rules = (await self._log.get_rules())["rules"]
        rules = [rule for rule in rules if rule["nodeId"] != node_id]
        if write:
            rules.append({"nodeId": node_id, "write": True})
        await self.aset_access_rules({"rules": rules})

    async def aget_access_rules(self) -> dict[str, Any]:
        """Who but the owner may write: ``{"rules": [{"nodeId": <64 hex>, "write": True}, ...]}``.
        Raises as :meth:`grant_write_access`."""
        return await self._log.get_rules()

    async def aset_access_rules(self, rules: dict[str, Any]) -> None:
        """Say who may write, in the form of :meth:`get_access_rules`. Raises as
        :meth:`grant_write_access`."""
        await self._log.set_rules(AccessRules.parse(rules).plain())

    async def aresolve_fork(self) -> bool:
        """Owner only: of two histories that were signed, take the one on this node for the true one
        and go on with it. The others hear of it, and drop what they have of the other one.

        Returns:
            Whether there was a fork.

        Raises:
            BadInput: this node holds no message; others as :meth:`grant_write_access`.
        """
        return await self._log.resolve()

    get_next_messages = twin(aget_next_messages, asks_only=True)
    get_next_message = twin(aget_next_message, asks_only=True)
    get_num_local_messages = twin(aget_num_local_messages, asks_only=True)
    get_num_messages = twin(aget_num_messages, asks_only=True)
    print_messages = twin(aprint_messages)
    print_signed_messages = twin(aprint_signed_messages)
    append_message = twin(aappend_message, asks_only=True)
    append_messages = twin(aappend_messages)
    submit_message = twin(asubmit_message)
    submit_messages = twin(asubmit_messages)
    grant_write_access = twin(agrant_write_access, asks_only=True)
    revoke_write_access = twin(arevoke_write_access, asks_only=True)
    get_access_rules = twin(aget_access_rules, asks_only=True)
    set_access_rules = twin(aset_access_rules, asks_only=True)
    resolve_fork = twin(aresolve_fork, asks_only=True)

    def __repr__(self) -> str:
        return f"<Subfeed {self.uri} at message {self._position}>"

    def _repr_html_(self) -> str:
        """What notebooks show. It asks nobody, so it is quick, and never fails."""
        position = f"the next message that is read is number {self._position}"
        return table("Subfeed", [("name", self._name), ("URI", self.uri), ("position", position)])


async def afollow(
    subfeed: Subfeed,
    *,
    signed: bool = False,
    wait_msec: float | None = None,
    most: int = 0,
    strict: bool = False,
) -> list[Any]:
    """The next messages of somebody who reads for ever; the position stays.

    Args:
        wait_msec: as long as that, if there is none; a minute by default.
        most: so many at most; 0: what one answer of the node holds.
        strict: as for :meth:`Subfeed.get_next_messages`.

    Returns:
        No message if there was none for so long.

    Raises:
        as :meth:`Subfeed.get_next_messages`; a node that goes away is waited for.
    """
    wait = seconds(STREAM_WAIT_MSEC if wait_msec is None else wait_msec)

    async def read() -> list[Any]:
        position = subfeed._position
        try:
            found = await subfeed._log.read(
                position, most, wait, signed=signed, once=True, strict=strict
            )
        except NOBODY_HAS_IT as error:
            subfeed._check_there(error)
            if strict or subfeed._log.ends:
                raise
            found = []
        # It may have been set meanwhile.
        return found if subfeed._position == position else []

    found = await patiently(read, known=subfeed._reached)
    subfeed._reached = True
    return found


follow = twin(afollow, asks_only=True)
