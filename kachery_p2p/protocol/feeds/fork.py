"""Two histories of one subfeed, and the proof that its owner signed both.

The evidence is two heads that cannot be of one log. When their sizes are equal and their roots
differ, they say it all. Else there is an inclusion proof: that of the last leaf of the shorter
length in the longer one's tree, from whose left-hand hashes follows the root that the longer
history had at that length; it is not the one that was signed.

Invariant: whatever somebody makes up, two heads of one honest history never pass. A proof that fits
the signed root and size consists of nodes of that very tree.

Non-goals: telling which history is right (the owner does), finding the proof.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from kachery_p2p.protocol.errors import ForgedFeed
from kachery_p2p.protocol.limits import MAX_FEED_MESSAGES
from kachery_p2p.protocol.tree import HASH_BYTES, ProofError, verify_range

from .feed import ALGORITHM, Hash, Head, check_head
from .frontier import root_at

_MAX_PROOF: Final = MAX_FEED_MESSAGES.bit_length() - 1


class Fork(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The evidence; worth nothing before :func:`check_fork`.

    Attributes:
        first: the head of the shorter history.
        second: that of the longer one, or of the same length.
        leaf: hash of leaf ``first.size - 1`` in the longer history; empty if the sizes are equal.
        proof: its inclusion proof, as :func:`.tree.range_proof` gives it; empty if they are equal.
    """

    first: Head
    second: Head
    leaf: Annotated[bytes, Meta(max_length=HASH_BYTES)]
    proof: Annotated[list[Hash], Meta(max_length=_MAX_PROOF)]


def make_fork(a: Head, b: Head, leaf: bytes = b"", proof: list[bytes] | None = None) -> Fork:
    """The evidence from two heads in any order, and if their sizes differ, the leaf and its proof.

    It is not checked; whoever does not know that the proof is right calls :func:`check_fork`.
    """
    if a.size == b.size:
        # By root, so that everybody writes down the same fork the same way.
        first, second = sorted((a, b), key=lambda head: (head.root, head.timestamp, head.sig))
        return Fork(first, second, b"", [])
    first, second = sorted((a, b), key=lambda head: head.size)
    return Fork(first, second, leaf, list(proof or ()))


def check_fork(fork: Fork, source: str = "another node") -> None:
    """That the owner of the feed signed two histories that exclude one another.

    Raises:
        ForgedFeed: the evidence does not show that; names ``source``.
    """
    flaw = _flaw(fork)
    if flaw is None:
        check_head(fork.first, source)
        check_head(fork.second, source)
        flaw = _flaw_of_proof(fork)
    if flaw is not None:
        what = f"Evidence of a fork of feed {fork.first.feed.hex()}"
        raise ForgedFeed(what=what, source=source, reason=flaw)


def _flaw(fork: Fork) -> str | None:
    """What is wrong with it before any signature is looked at."""
    first, second = fork.first, fork.second
    if (first.feed, first.subfeed) != (second.feed, second.subfeed):
        return "its heads are of two subfeeds"
    if first.size > second.size:
        return "the longer history is named first"
    if first.size < second.size:
        return None
    if fork.leaf or fork.proof:
        return "it has a proof although both histories are of one length"
    return "both heads say the same" if first.root == second.root else None


def _flaw_of_proof(fork: Fork) -> str | None:
    first, second = fork.first, fork.second
    if first.size == second.size:
        return None
    last = first.size - 1
    try:
        learned = verify_range(ALGORITHM, second.root, second.size, last, [fork.leaf], fork.proof)
        before = root_at(ALGORITHM, learned, first.size)
    except ProofError as error:
        return str(error)
    return "the longer history continues the shorter one" if before == first.root else None
