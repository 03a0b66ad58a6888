"""Under which content key a file is announced and looked up."""

from __future__ import annotations

import functools
import re
from typing import Final

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.gossip.keys import ContentKey

FILE_CONTEXT: Final = b"kachery-file"
"""Personalisation of file keys; the identifier is the file's SHA-1, 20 bytes."""
PART_CONTEXT: Final = b"kachery-part"
"""The same of the keys of those who are fetching a file, and have a part of it."""

_KEPT: Final = 4_096
"""Keys that are kept, 300 bytes each: each file of a batch is looked up, and announced soon after."""
_SHA1: Final = re.compile(r"[0-9a-f]{40}", re.ASCII)


@functools.lru_cache(_KEPT)
def file_key(sha1: str) -> ContentKey:
    """A file, by its SHA-1 as 40 lower-case hex digits.

    Raises:
        BadInput: the hash is malformed.
    """
    if not _SHA1.fullmatch(sha1):
        raise BadInput(what=f"SHA-1 {sha1[:80]!r}", reason="it is 40 lower-case hex digits")
    return file_key_of(bytes.fromhex(sha1))


def file_key_of(digest: bytes) -> ContentKey:
    """A file, by its SHA-1 as 20 bytes."""
    return ContentKey("files", FILE_CONTEXT, digest, f"sha1://{digest.hex()}")


def part_key(sha1: str) -> ContentKey:
    """A part of a file, whichever: who fetches it announces that, so that others fetch from there."""
    return file_key(sha1)._replace(context=PART_CONTEXT, title=f"a part of sha1://{sha1}")
