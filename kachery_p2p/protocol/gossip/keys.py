"""What is announced and looked up, in one form for all nouns: content keys.

A :class:`ContentKey` says which roles it takes (``kind``), what it is called for people, and under
which blinded key it goes (:mod:`.blinding`) on a channel with a given secret. Each noun makes its own,
in the ``keys.py`` of its room; gossip sees 16 bytes.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from kachery_p2p.protocol.gossip.blinding import blinded_key

ContentKind = Literal["files", "feeds", "tasks"]
KINDS: Final[tuple[ContentKind, ...]] = ("files", "feeds", "tasks")


class ContentKey(NamedTuple):
    """``context`` and ``identifier`` are what is blinded; ``title`` is for people."""

    kind: ContentKind
    context: bytes
    identifier: bytes
    title: str

    def blinded(self, secret: bytes) -> bytes:
        """The 16-byte blinded key under a channel's secret."""
        return blinded_key(secret, self.context, self.identifier)


def request_role(kind: ContentKind) -> str:
    """The role by which one may look for content of a kind."""
    return f"request-{kind}"


def provide_role(kind: ContentKind) -> str:
    """The role by which one may offer it."""
    return f"provide-{kind}"
