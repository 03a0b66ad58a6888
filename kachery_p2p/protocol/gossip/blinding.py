"""The keys under which availability is announced.

A blinded key is a keyed BLAKE2b of an identifier under the channel's secret. Who holds the secret
and already knows the identifier can compute it and ask for it; proxies, which have no secret, and
members who do not know the identifier learn nothing from the announcements they pass on.

The context is BLAKE2b's personalisation, so that the key of a file can never be that of a feed.
Blinding hides what a key stands for, not that two announcements are of the same thing, nor how many
there are. It grants nothing: roles are checked on every request all the same.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.limits import BLINDED_KEY_BYTES

FILE_CONTEXT: Final = b"kachery-file"
"""Personalisation of file keys (at most 16 bytes); other kinds have contexts of their own."""

FEED_CONTEXT: Final = b"kachery-feed"
"""Personalisation of subfeed keys; the identifier is the feed id and the subfeed's hash, 52 bytes."""

FEED_OWNER_CONTEXT: Final = b"kachery-owner"
"""Personalisation of the keys under which a feed's owner is found; the identifier is the feed id."""

TASK_CONTEXT: Final = b"kachery-task"
"""Personalisation of the keys under which backends for a task function are found; the identifier is
the function's id in UTF-8."""

TASK_BACKEND_CONTEXT: Final = b"kachery-backend"
"""Personalisation of the one key under which every node with a backend is found; no identifier."""

TASK_RESULT_CONTEXT: Final = b"kachery-result"
"""Personalisation of the keys of results of tasks; the identifier is the task's key, 32 bytes."""

SECRET_BYTES: Final = 32
"""Size of a channel's secret."""

_FEED_BYTES: Final = 32
_SUBFEED_BYTES: Final = 20
_SHA1 = re.compile(r"[0-9a-f]{40}", re.ASCII)


def blind(secret: bytes, sha1: str) -> bytes:
    """The blinded key of a file.

    Args:
        secret: the channel's secret, 32 bytes.
        sha1: the file's SHA-1 as 40 lower-case hex digits.

    Returns:
        16 bytes.

    Raises:
        BadInput: the secret or the hash is malformed.
    """
    if not _SHA1.fullmatch(sha1):
        raise BadInput(what=f"SHA-1 {sha1[:80]!r}", reason="it is 40 lower-case hex digits")
    return blinded_key(secret, FILE_CONTEXT, bytes.fromhex(sha1))


def feed_key(secret: bytes, feed: bytes, subfeed: bytes) -> bytes:
    """The blinded key of a subfeed, under which its holders are found: 16 bytes.

    Args:
        secret: the channel's secret, 32 bytes.
        feed: the feed id, 32 bytes.
        subfeed: the subfeed's hash, 20 bytes.

    Raises:
        BadInput: one of them has another length.
    """
    if len(subfeed) != _SUBFEED_BYTES:
        raise BadInput(what="subfeed hash", reason=f"it is {_SUBFEED_BYTES} bytes")
    return blinded_key(secret, FEED_CONTEXT, _checked_feed(feed) + subfeed)


def feed_owner_key(secret: bytes, feed: bytes) -> bytes:
    """The blinded key of a feed (32-byte id), under which its owner is found: 16 bytes.

    Raises:
        BadInput: the secret or the id is not 32 bytes.
    """
    return blinded_key(secret, FEED_OWNER_CONTEXT, _checked_feed(feed))


def blinded_key(secret: bytes, context: bytes, identifier: bytes) -> bytes:
    """The blinded key of anything: 16 bytes, different for every secret, context and identifier.

    Raises:
        BadInput: the secret is not 32 bytes, or the context is empty or longer than 16 bytes.
    """
    if len(secret) != SECRET_BYTES:
        raise BadInput(what="channel secret", reason=f"it is {SECRET_BYTES} bytes")
    if not 0 < len(context) <= blake2b.PERSON_SIZE:
        raise BadInput(what="blinding context", reason=f"1 to {blake2b.PERSON_SIZE} bytes")
    return blake2b(identifier, digest_size=BLINDED_KEY_BYTES, key=secret, person=context).digest()


def _checked_feed(feed: bytes) -> bytes:
    if len(feed) != _FEED_BYTES:
        raise BadInput(what="feed id", reason=f"it is {_FEED_BYTES} bytes")
    return feed
