"""A message of a feed with all that it takes to check it, as plain JSON for whoever it is shown to.

The form, which old users know in its ``body`` and ``signature``::

    {"body": {"message": <any JSON>, "messageNumber": 3, "timestamp": <ms>,
              "metaData": {} or {"submittedByNodeId": <64 hex>}},
     "signature": <128 hex>, "head": {"feedId", "subfeedHash", "size", "root", "timestamp"},
     "proof": [<64 hex>, ...]}

The signature is the feed's, over the head; the proof leads from the message to the head's root. What
was hashed is the message's own text: where it is not the one that :func:`.feed.encode_message` makes
of the message (another program wrote it), it is there as ``"text"``.

Invariant: :func:`check_signed_message` accepts nothing that is not covered by the signature.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct, field

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput, ForgedFeed
from kachery_p2p.protocol.limits import MAX_FEED_MESSAGE, MAX_FEED_MESSAGES
from kachery_p2p.protocol.tree import ProofError, verify_range

from .feed import (
    ALGORITHM,
    Head,
    Millis,
    Place,
    Run,
    Slice,
    check_head,
    decode_messages,
    encode_message,
    leaf_hashes,
    parse_feed_uri,
    subfeed_hash,
)

_AUTHOR: Final = "submittedByNodeId"
_SOURCE: Final = "whoever gave it to you"

_Hex20 = Annotated[str, Meta(pattern=r"^[0-9a-f]{40}\Z")]
_Hex32 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Hex64 = Annotated[str, Meta(pattern=r"^[0-9a-f]{128}\Z")]


class _MetaData(Struct, forbid_unknown_fields=True):
    author: _Hex32 | None = field(default=None, name=_AUTHOR)


class _Body(Struct, forbid_unknown_fields=True, rename="camel"):
    message: Any
    message_number: Place
    timestamp: Millis
    meta_data: _MetaData


class _Head(Struct, forbid_unknown_fields=True, rename="camel"):
    feed_id: _Hex32
    subfeed_hash: _Hex20
    size: Annotated[int, Meta(ge=1, le=MAX_FEED_MESSAGES)]
    root: _Hex32
    timestamp: Millis


class _Signed(Struct, forbid_unknown_fields=True):
    body: _Body
    signature: _Hex64
    head: _Head
    proof: Annotated[list[_Hex32], Meta(max_length=MAX_FEED_MESSAGES.bit_length())]
    text: Annotated[str, Meta(max_length=MAX_FEED_MESSAGE)] | None = None


def signed_messages(slice: Slice, proofs: Sequence[tuple[Head, Sequence[bytes]]]) -> list[Any]:
    """The messages of a slice in the form above.

    Args:
        slice: from a trusted place; nothing is verified here.
        proofs: for each message a head of its log, and the inclusion proof in the tree of as many
            leaves, as :func:`.tree.range_proof` gives it.
    """
    stamps = [(run.timestamp, run.author) for run in slice.runs for _ in range(run.count)]
    parts = zip(decode_messages(slice.texts), slice.texts, stamps, proofs, strict=True)
    found: list[Any] = []
    for number, (message, text, (timestamp, author), (head, path)) in enumerate(parts, slice.start):
        signed = {
            "body": {
                "message": message,
                "messageNumber": number,
                "timestamp": timestamp,
                "metaData": {} if author is None else {_AUTHOR: author.hex()},
            },
            "signature": head.sig.hex(),
            "head": {
                "feedId": head.feed.hex(),
                "subfeedHash": head.subfeed.hex(),
                "size": head.size,
                "root": head.root.hex(),
                "timestamp": head.timestamp,
            },
            "proof": [item.hex() for item in path],
        }
        if not _is_text_of(text, message):
            signed["text"] = str(text, "utf-8")
        found.append(signed)
    return found


def check_signed_message(signed: dict[str, Any], uri: str | None = None) -> None:
    """Check that the owner of a feed signed for a message; it takes nothing but what is in it.

    Args:
        signed: what reading with ``signed=True`` gives, also after a way through JSON.
        uri: the subfeed that it is to be of. Without it, compare ``signed["head"]["feedId"]`` and
            ``["subfeedHash"]`` yourself: anybody can sign for a feed of their own.

    Raises:
        BadInput: it does not have the form of a signed message; a BadUri if ``uri`` names no subfeed.
        ForgedFeed: the message, its number, time or author are not what was signed for.
    """
    try:
        found = msgspec.convert(signed, codec.known(_Signed))
    except (msgspec.ValidationError, RecursionError) as error:
        raise BadInput(what="signed message", reason=str(error)) from error
    body = found.body
    feed, subfeed = bytes.fromhex(found.head.feed_id), bytes.fromhex(found.head.subfeed_hash)
    if uri is not None and _place(uri) != (feed, subfeed):
        raise _forged(found, f"it is of another subfeed than {uri}")
    author = body.meta_data.author
    run = Run(1, body.timestamp, None if author is None else bytes.fromhex(author))
    leaves = leaf_hashes(Slice(body.message_number, [run], [_text(found)]))
    root, sig = bytes.fromhex(found.head.root), bytes.fromhex(found.signature)
    proof = [bytes.fromhex(item) for item in found.proof]
    try:
        verify_range(ALGORITHM, root, found.head.size, body.message_number, leaves, proof)
    except ProofError as error:
        raise _forged(found, str(error)) from None
    check_head(Head(feed, subfeed, found.head.size, root, found.head.timestamp, sig), _SOURCE)


def _place(uri: str) -> tuple[bytes, bytes]:
    feed, name = parse_feed_uri(uri)
    if name is None:
        raise BadInput(what=uri, reason="it names a feed; give the URI of one of its subfeeds")
    return feed, subfeed_hash(name)


def _text(signed: _Signed) -> bytes:
    """What was hashed. That the message is what it says is checked where they are apart."""
    if signed.text is None:
        return encode_message(signed.body.message)
    try:
        text = signed.text.encode("utf-8")
        message = json.loads(signed.text)
    except (ValueError, RecursionError) as error:
        raise BadInput(what="signed message", reason=f"its text is not JSON: {error}") from error
    if _exactly(message) != _exactly(signed.body.message):
        raise _forged(signed, "its text says something else than the message")
    return text


def _is_text_of(text: bytes, message: Any) -> bool:
    try:
        return encode_message(message) == text
    except BadInput:  # a number that Python takes for infinite
        return False


def _exactly(message: Any) -> str:
    """For comparing: True is not 1, and 1.0 is not 1."""
    try:
        return json.dumps(message)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(what="signed message", reason=f"it is no JSON value: {error}") from error


def _forged(signed: _Signed, reason: str) -> ForgedFeed:
    what = f"Message {signed.body.message_number} of feed {signed.head.feed_id}"
    return ForgedFeed(what=what, source=_SOURCE, reason=reason)
