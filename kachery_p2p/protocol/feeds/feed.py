"""Feeds: how they and their subfeeds are named, what their messages are, and who signed for them.

A feed is an Ed25519 key pair; its id is the public key. It has any number of subfeeds, each a log of
messages with one signed *head* at a time. The log is an RFC 9162 tree with SHA-256 over leaves ::

    u64 timestamp in ms, big-endian || u8 length of the author || author || the message

where the message is JSON text in UTF-8, and the author the 32-byte id of the node that submitted it,
or nothing when the feed's owner wrote it. Messages that follow one another with one timestamp and
author travel as a *run*; a *slice* is some runs and the texts of their messages.

Invariants

* A message is one JSON value of at most ``MAX_FEED_MESSAGE`` bytes, without a newline, and what one
  node accepts every reader can parse: strict JSON, no lone surrogates, ``MAX_FEED_MESSAGE_DEPTH``
  and ``MAX_FEED_DIGITS``. Its bytes are what is hashed; they are never written anew.
* A head is signed for its feed, subfeed, size, root and time all together.

Non-goals: keeping a log, contradictory heads (feed_fork.py), the tree itself (frontier.py, tree.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha1, sha256
from itertools import accumulate
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from kachery_p2p.protocol import codec, json_values
from kachery_p2p.protocol.errors import BadInput, BadUri, ForgedFeed, ProtocolViolation
from kachery_p2p.protocol.identity import SIGNATURE_BYTES, NodeKey, verify
from kachery_p2p.protocol.limits import (
    MAX_FEED_DIGITS,
    MAX_FEED_MESSAGE,
    MAX_FEED_MESSAGE_DEPTH,
    MAX_FEED_MESSAGES,
    MAX_RUN,
    MAX_SUBFEED_NAME,
    MAX_URI,
)
from kachery_p2p.protocol.tree import HASH_BYTES
from kachery_p2p.protocol.uri import KacheryUri, parse_uri

from .access import AccessRules as AccessRules

ALGORITHM: Final = "sha256"
"""The hash of feeds' trees."""
CONTEXT: Final = b"feed head"
"""What a head's signature is for."""
FEED_BYTES: Final = 32
SUBFEED_BYTES: Final = 20
MAX_MILLIS: Final = 2**63 - 1
"""Of a timestamp: what SQLite holds."""

FeedId = Annotated[bytes, Meta(min_length=FEED_BYTES, max_length=FEED_BYTES)]
SubfeedHash = Annotated[bytes, Meta(min_length=SUBFEED_BYTES, max_length=SUBFEED_BYTES)]
Hash = Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
Author = Annotated[bytes, Meta(min_length=32, max_length=32)]
Millis = Annotated[int, Meta(ge=0, le=MAX_MILLIS)]
Place = Annotated[int, Meta(ge=0, le=MAX_FEED_MESSAGES)]
"""How many messages come before something."""

_BY_HASH: Final = re.compile(r"~([0-9a-fA-F]{40})")
_SHOWN_CHARS: Final = 80

# --- names ---------------------------------------------------------------------------------------


def subfeed_hash(name: Any) -> bytes:
    """The 20 bytes by which a subfeed is known, as kachery always computed them.

    Args:
        name: text (SHA-1 of its UTF-8), ``~`` and 40 hex digits (that hash itself), or any other
            JSON value (SHA-1 of it as compact JSON with sorted keys).

    Raises:
        BadInput: it is none of these, is empty, or is text of more than ``MAX_SUBFEED_NAME``
            characters.
    """
    if not isinstance(name, str):
        try:
            text = json.dumps(
                name,
                sort_keys=True,
                separators=(",", ":"),
                allow_nan=False,
                default=json_values.default,
            )
        except (TypeError, ValueError, RecursionError) as error:
            raise BadInput(what="subfeed name", reason=f"it is no JSON value: {error}") from error
        return sha1(text.encode("ascii")).digest()
    shown = f"subfeed name {name[:_SHOWN_CHARS]!r}"
    if not 0 < len(name) <= MAX_SUBFEED_NAME:
        reason = f"it has {len(name)} characters, 1 to {MAX_SUBFEED_NAME} are possible"
        raise BadInput(what=shown, reason=reason)
    if name[0] == "~":
        match = _BY_HASH.fullmatch(name)
        if match is None:
            raise BadInput(what=shown, reason="after '~' come 40 hex digits and nothing else")
        return bytes.fromhex(match[1])
    try:
        return sha1(name.encode("utf-8")).digest()
    except UnicodeEncodeError as error:
        raise BadInput(what=shown, reason=f"it is not valid text: {error.reason}") from error


def subfeed_text(name: Any) -> str:
    """The name as it stands in a URI: text itself, anything else as ``~`` and its hash in hex.

    Raises:
        BadInput: as :func:`subfeed_hash`.
    """
    found = subfeed_hash(name)
    return name if isinstance(name, str) and name[0] != "~" else f"~{found.hex()}"


def feed_uri(feed: bytes, name: Any = None) -> str:
    """``feed://<64 hex digits>[/<quoted name>]``.

    Args:
        feed: the feed id, 32 bytes.
        name: of a subfeed, as for :func:`subfeed_hash`; None for the feed itself. A name that would
            make the URI longer than ``MAX_URI`` stands there as its hash.

    Raises:
        BadInput: the name is none; a BadUri if the feed id is none.
    """
    path = "" if name is None else subfeed_text(name)
    text = str(KacheryUri("feed", "ed25519", feed.hex(), path=path))
    return text if len(text) <= MAX_URI else feed_uri(feed, f"~{subfeed_hash(name).hex()}")


def parse_feed_uri(text: str) -> tuple[bytes, str | None]:
    """The feed id (32 bytes) of a URI and the subfeed's name; None if it names the feed only.

    Raises:
        BadUri: it is no ``feed://`` URI, or no subfeed can have that name.
    """
    uri = parse_uri(text)
    if uri.kind != "feed":
        raise BadUri(uri=str(uri), reason="it names a file; a feed's begins with 'feed://'")
    if uri.path:
        try:
            subfeed_hash(uri.path)
        except BadInput as error:
            raise BadUri(uri=str(uri), reason=error.fields["reason"]) from None
    return bytes.fromhex(uri.hash), uri.path or None


# --- messages ------------------------------------------------------------------------------------


class Run(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How many messages have this timestamp (ms) and author (a node id; None: the owner)."""

    count: Annotated[int, Meta(ge=1, le=MAX_RUN)]
    timestamp: Millis
    author: Author | None


@dataclass(frozen=True)
class Slice:
    """Messages ``start <= i < stop`` of a log: their runs, and one text for each message.

    Raises:
        ValueError: the texts are not as many as the runs say.
    """

    start: int
    runs: list[Run]
    texts: list[bytes]

    def __post_init__(self) -> None:
        told = sum(run.count for run in self.runs)
        if told != len(self.texts):
            raise ValueError(f"runs of {told} messages with {len(self.texts)} texts")

    @property
    def stop(self) -> int:
        """One more than the place of the last message."""
        return self.start + len(self.texts)


def leaf_hashes(slice: Slice) -> list[bytes]:
    """The 32-byte hashes of the messages, as the leaves of the log's tree."""
    texts = slice.texts
    found: list[bytes] = []
    for run in slice.runs:
        author = run.author or b""
        prefix = b"\x00" + run.timestamp.to_bytes(8, "big") + bytes((len(author),)) + author
        at = len(found)
        found += [sha256(prefix + text).digest() for text in texts[at : at + run.count]]
    return found


def pack_texts(texts: Iterable[bytes]) -> bytes:
    """The texts of some messages, newlines between them."""
    return b"\n".join(texts)


def unpack_texts(body: bytes, count: int) -> list[bytes]:
    """The inverse of :func:`pack_texts`, for what anybody may have sent.

    Args:
        body: what was sent.
        count: how many messages it is to be.

    Raises:
        ProtocolViolation: it is not ``count`` messages.
    """
    found = body.count(b"\n") + 1 if body or count else 0
    if found != count:
        raise ProtocolViolation(reason=f"{found} messages of a feed where {count} were announced")
    if not count:
        return []
    texts = body.split(b"\n")
    try:
        # Once for all: a newline is never a part of another character.
        str(body, "utf-8")
        for text in texts:
            _check_json(text)
            if len(text) > _SHORT and (flaw := _flaw(text)):
                raise ProtocolViolation(reason=f"a message of a feed: {flaw}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolViolation(reason=f"a message of a feed is not JSON: {error}") from error
    return texts


def encode_message(value: Any) -> bytes:
    """A JSON value as the text of a message.

    Raises:
        BadInput: it is no JSON value, or breaks one of the bounds of messages; says which.
    """
    try:
        text = _ENCODER.encode(value).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:  # UnicodeEncodeError among them
        found = json_values.flaw(value, surrogates=False)
        known = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise _unsendable(f"it is no JSON value: {found or known}") from error
    if len(text) > _SHORT and (flaw := _flaw(text)):
        raise _unsendable(flaw)
    # Python's encoder would make keys text, so readers got others.
    if b"{" in text and json_values.careful(value) == "keys":
        raise _unsendable(json_values.flaw(value) or "a key is no text")
    return text


def decode_messages(texts: Sequence[bytes]) -> list[Any]:
    """The values of messages that were checked, in one go."""
    found: list[Any] = json.loads(str(b"[%b]" % b",".join(texts), "utf-8"))
    return found


_check_json: Final = msgspec.json.Decoder(msgspec.Raw).decode
_SHORT: Final = min(2 * MAX_FEED_MESSAGE_DEPTH, MAX_FEED_DIGITS)
"""A valid JSON text of at most so many bytes can break none of the bounds."""
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_ALL_ZERO: Final = bytes.maketrans(b"123456789", b"0" * 9)
_TOO_MANY_DIGITS: Final = b"0" * (MAX_FEED_DIGITS + 1)
_NO_BRACKET: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEP: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def _flaw(text: bytes) -> str | None:
    """Which bound a valid JSON text breaks. Deterministic, so that all nodes agree on it."""
    if len(text) > MAX_FEED_MESSAGE:
        return f"it has {len(text)} bytes, more than the {MAX_FEED_MESSAGE} allowed"
    deep = text.count(b"[") + text.count(b"{") > MAX_FEED_MESSAGE_DEPTH
    long = _TOO_MANY_DIGITS in text.translate(_ALL_ZERO)
    if not (deep or long):
        return None
    bare = _STRING.sub(b"", text)
    if long and _TOO_MANY_DIGITS in bare.translate(_ALL_ZERO):
        return f"a number in it has more than the {MAX_FEED_DIGITS} digits allowed"
    brackets = bare.translate(None, _NO_BRACKET)
    if max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > MAX_FEED_MESSAGE_DEPTH:
        return f"lists and objects are nested more than the {MAX_FEED_MESSAGE_DEPTH} deep allowed"
    return None


def _unsendable(reason: str) -> BadInput:
    return BadInput(what="feed message", reason=reason)


_ENCODER: Final = json.JSONEncoder(
    separators=(",", ":"), allow_nan=False, ensure_ascii=False, default=json_values.default
)

# --- heads ---------------------------------------------------------------------------------------


class Head(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the owner signed: that the first ``size`` messages of a subfeed have this root."""

    feed: FeedId
    subfeed: SubfeedHash
    size: Annotated[int, Meta(ge=1, le=MAX_FEED_MESSAGES)]
    root: Hash
    timestamp: Millis
    sig: Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]


def sign_head(key: NodeKey, subfeed: bytes, size: int, root: bytes, timestamp: int) -> Head:
    """A head of one's own feed.

    Args:
        key: the feed's key.
        subfeed: its hash, 20 bytes.
        size: messages, from 1.
        root: of the tree of so many leaves, 32 bytes.
        timestamp: ms.

    Raises:
        BadInput: a value out of range.
    """
    unsigned = Head(key.public, subfeed, size, root, timestamp, bytes(SIGNATURE_BYTES))
    try:
        codec.convert(Head, codec.plain(unsigned))
    except ProtocolViolation as error:
        raise BadInput(what="feed head", reason=error.fields["reason"]) from None
    return replace(unsigned, sig=key.sign(CONTEXT, _signed_bytes(unsigned)))


def check_head(head: Head, source: str = "another node") -> None:
    """That the feed's key signed it: about 60 microseconds.

    Raises:
        ForgedFeed: it did not; names ``source``.
    """
    if not verify(head.feed, CONTEXT, _signed_bytes(head), head.sig):
        what = f"A head of feed {head.feed.hex()} at {head.size} messages"
        raise ForgedFeed(what=what, source=source, reason="the feed's key did not sign it")


def _signed_bytes(head: Head) -> bytes:
    return codec.pack([head.feed, head.subfeed, head.size, head.root, head.timestamp])
