"""Feeds of constant content: some subfeeds of a feed, stored as a file and named by its hash.

The file is JSON, in the form that kachery's users have theirs::

    {"subfeeds": {<hash>: {"subfeedHash": <hash>, "messages": [...]}, ...}}

The URI of one subfeed of it is the file's with ``?subfeedName=<quoted name>`` (``&`` after a query).

Invariants: what is read never changes, whatever a reader does to what it got. The file may be from a
stranger: a wrong form is a BadInput.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from typing import Any, Final
from urllib.parse import quote, unquote

from kachery_p2p.protocol.errors import BadInput, BadUri
from kachery_p2p.protocol.feeds.feed import subfeed_hash, subfeed_text
from kachery_p2p.protocol.limits import MAX_URI
from kachery_p2p.protocol.uri import build_uri, parse_uri

from .arguments import checked_name

BASENAME: Final = "feed.json"
_NAME: Final = "subfeedName"
_HASH: Final = re.compile(r"[0-9a-f]{40}")


class SnapshotLog:
    """One subfeed of a snapshot; it has the methods of a :class:`.live_logs.LiveLog`.

    Those that would change something, or ask for signatures, raise BadInput.
    """

    ends: Final = True

    def __init__(self, snapshot: str, name: Any, messages: list[Any] | None) -> None:
        """``messages``: None if the snapshot does not have the subfeed, which is then empty."""
        self.subfeed = subfeed_hash(name)
        self.uri = subfeed_uri(snapshot, name)
        self._snapshot = snapshot
        self._name = subfeed_text(name)
        self._messages = messages

    async def read(
        self,
        position: int,
        most: int,
        wait: float,
        *,
        signed: bool = False,
        once: bool = False,
        strict: bool = False,
    ) -> list[Any]:
        if strict and self._messages is None:
            raise BadInput(what=self._snapshot, reason=f"it has no subfeed {self._name!r}")
        if signed:
            raise self._constant("no message is signed, its URI vouches for all of it")
        stop = position + most if most else None
        # What the caller does to its messages must not show in later reads.
        found: list[Any] = json.loads(json.dumps((self._messages or [])[position:stop]))
        return found

    async def stream(self, position: int, wait: float) -> AsyncGenerator[list[Any], None]:
        yield await self.read(position, 0, wait)

    async def size(self) -> int:
        return len(self._messages or [])

    async def end(self) -> int:
        return len(self._messages or [])

    async def append_one(self, message: Any) -> int:
        raise self._constant("append to the feed that it was taken of")

    async def append(self, messages: Any) -> list[int]:
        raise self._constant("append to the feed that it was taken of")

    async def submit(self, messages: Any) -> list[int]:
        raise self._constant("submit to the feed that it was taken of")

    async def get_rules(self) -> dict[str, Any]:
        raise self._constant("nobody can write to it")

    async def set_rules(self, rules: dict[str, Any]) -> None:
        raise self._constant("nobody can write to it")

    async def resolve(self) -> bool:
        raise self._constant("it has no forks")

    def _constant(self, remedy: str) -> BadInput:
        return BadInput(what=self.uri, reason=f"this is a snapshot, which never changes: {remedy}")


class Snapshot:
    """The content of a snapshot's file.

    Args:
        uri: of the file.
        content: the JSON value in it, or what is to be in it.

    Raises:
        BadInput: it does not have the form of a snapshot.
    """

    def __init__(self, uri: str, content: Any) -> None:
        self.uri = uri
        self._subfeeds: dict[str, list[Any]] = {}
        subfeeds = content.get("subfeeds") if isinstance(content, dict) else None
        if not isinstance(subfeeds, dict):
            raise BadInput(
                what=uri, reason="this file is no snapshot of a feed: it has no subfeeds"
            )
        for name, described in subfeeds.items():
            messages = described.get("messages") if isinstance(described, dict) else None
            if not _HASH.fullmatch(name) or not isinstance(messages, list):
                reason = f"this file is no snapshot of a feed: {name[:40]!r} in it is no subfeed"
                raise BadInput(what=uri, reason=reason)
            self._subfeeds[name] = messages

    def log(self, name: Any) -> SnapshotLog:
        """One subfeed, empty if it is not in the snapshot. Raises BadInput if no such name is
        possible."""
        return SnapshotLog(
            self.uri, name, self._subfeeds.get(subfeed_hash(checked_name(name)).hex())
        )

    @property
    def sizes(self) -> dict[str, int]:
        """Hash of a subfeed, in hex -> its number of messages."""
        return {name: len(messages) for name, messages in self._subfeeds.items()}


def snapshot_content(subfeeds: dict[bytes, list[Any]]) -> dict[str, Any]:
    """The JSON value of a snapshot's file, from the messages of each subfeed, by its hash."""
    return {
        "subfeeds": {
            name.hex(): {"subfeedHash": name.hex(), "messages": messages}
            for name, messages in subfeeds.items()
        }
    }


def is_snapshot_uri(uri: str) -> bool:
    """Whether it names a file, and so a snapshot if anything."""
    return uri[:8].lower().startswith("sha1://")


def subfeed_uri(snapshot: str, name: Any) -> str:
    """The URI of a subfeed of the snapshot with the URI ``snapshot``."""
    separator = "&" if "?" in snapshot else "?"
    text = f"{snapshot}{separator}{_NAME}={quote(subfeed_text(name), safe='')}"
    return text if len(text) <= MAX_URI else subfeed_uri(snapshot, f"~{subfeed_hash(name).hex()}")


def parse_snapshot_uri(uri: str) -> tuple[str, str | None]:
    """The URI of the snapshot's file, and the name of the subfeed if it names one.

    Raises:
        BadUri: it is no ``sha1://`` URI, or names no possible subfeed.
    """
    parsed = parse_uri(uri)
    if parsed.kind != "sha1":
        raise BadUri(uri=uri, reason="a snapshot's begins with 'sha1://'")
    for item in uri.partition("?")[2].split("&"):
        key, _, value = item.partition("=")
        if key == _NAME:
            try:
                name = unquote(value, errors="strict")
                subfeed_hash(name)
            except UnicodeDecodeError:
                raise BadUri(uri=uri, reason=f"{_NAME} is not UTF-8") from None
            except BadInput as error:
                raise BadUri(uri=uri, reason=error.fields["reason"]) from None
            return build_uri(parsed), name
    return build_uri(parsed), None
