"""What nodes announce and look for: files, feeds, and what has to do with tasks, in one form.

A :class:`Thing` says which roles it takes (``kind``), what it is called for people, and under which
blinded key it goes (:mod:`.blinding`) on a channel with a given secret.
"""

from __future__ import annotations

from hashlib import sha1 as _sha1
from typing import Final, Literal, NamedTuple

from kachery_p2p.protocol.feeds.feed import feed_uri
from kachery_p2p.protocol.tasks.task import check_function_id, check_key

from .blinding import (
    FEED_CONTEXT,
    FEED_OWNER_CONTEXT,
    FILE_CONTEXT,
    TASK_BACKEND_CONTEXT,
    TASK_CONTEXT,
    TASK_RESULT_CONTEXT,
    blinded_key,
)

ThingKind = Literal["files", "feeds", "tasks"]
KINDS: Final[tuple[ThingKind, ...]] = ("files", "feeds", "tasks")

NAME_BYTES: Final = 20


class Thing(NamedTuple):
    """``context`` and ``identifier`` are what is blinded; ``title`` is for people."""

    kind: ThingKind
    context: bytes
    identifier: bytes
    title: str

    @property
    def name(self) -> bytes:
        """20 bytes by which a node's own notes tell it from its other things."""
        if self.context == FILE_CONTEXT:
            return self.identifier
        return _sha1(self.context + self.identifier).digest()

    def key(self, secret: bytes) -> bytes:
        """The 16-byte blinded key under a channel's secret."""
        return blinded_key(secret, self.context, self.identifier)


def file(sha1: str) -> Thing:
    """A file, by its hash in hex."""
    return Thing("files", FILE_CONTEXT, bytes.fromhex(sha1), f"sha1://{sha1}")


def subfeed(feed: bytes, subfeed: bytes) -> Thing:
    """A subfeed's log, whoever holds it."""
    title = feed_uri(feed, f"~{subfeed.hex()}")
    return Thing("feeds", FEED_CONTEXT, feed + subfeed, title)


def feed_owner(feed: bytes) -> Thing:
    """The node that has a feed's key, and so every subfeed there is."""
    return Thing("feeds", FEED_OWNER_CONTEXT, feed, feed_uri(feed))


def task_function(function: str) -> Thing:
    """A node with a backend for a task function, by the function's id. Raises BadInput."""
    identifier = check_function_id(function).encode("utf-8")
    return Thing("tasks", TASK_CONTEXT, identifier, f"task function {function!r}")


def task_backends() -> Thing:
    """A node with a backend for any task function."""
    return Thing("tasks", TASK_BACKEND_CONTEXT, b"", "task backends")


def task_result(key: bytes) -> Thing:
    """A signed result, by the 32-byte key of the task: whoever may share files may share it.

    Raises:
        BadInput: the key has another length.
    """
    title = f"the result of task {check_key(key).hex()}"
    return Thing("files", TASK_RESULT_CONTEXT, key, title)


def request_role(kind: ThingKind) -> str:
    """The role by which one may look for things of a kind."""
    return f"request-{kind}"


def provide_role(kind: ThingKind) -> str:
    """The role by which one may offer them."""
    return f"provide-{kind}"
