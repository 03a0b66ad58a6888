"""What an origin says of its announcement log as a whole: complete up to here.

A mark is an entry of the log (:mod:`.announcements`) that names no key. It says that everything the
origin provides of certain kinds, under the channel's secret of a certain version, stands in the log
before it. It holds until the next mark, or the next epoch, which begins with nothing complete. What the
origin comes to provide afterwards it announces as it comes.

So whoever has a log up to a mark can say of a key that is not in it: that origin does not have it.
Without a mark, or under another secret, the answer is "not known yet".

Non-goals: proving it. An origin that leaves out what it has hurts only who looks for that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.gossip.keys import KINDS, ContentKind
from kachery_p2p.protocol.limits import BLINDED_KEY_BYTES

_VERSION_BYTES: Final = 8
_BITS: Final[dict[ContentKind, int]] = {kind: 1 << bit for bit, kind in enumerate(KINDS)}

NOTHING_COMPLETE: Final = bytes(BLINDED_KEY_BYTES)
"""The mark that takes back the ones before it, and what holds at the start of an epoch."""


def pack_mark(secret_version: int, kinds: Iterable[ContentKind]) -> bytes:
    """The 16 bytes that stand in place of a key: bits of kinds, zeros, the version as u64.

    Raises:
        BadInput: the version is not that of a secret.
    """
    if not 0 < secret_version < 1 << 63:
        raise BadInput(what=f"secret version {secret_version}", reason="1 to 2^63 - 1 is possible")
    bits = sum({_BITS[kind] for kind in kinds})
    version = secret_version.to_bytes(_VERSION_BYTES, "big")
    return bits.to_bytes(BLINDED_KEY_BYTES - _VERSION_BYTES, "little") + version


def says_complete(mark: bytes, secret_version: int, kind: ContentKind) -> bool:
    """Whether a log with this newest mark has all that its origin provides of a kind, under the
    secret of a version. Bits that are not known say nothing."""
    version = int.from_bytes(mark[-_VERSION_BYTES:], "big")
    return version == secret_version and bool(mark[0] & _BITS[kind])
