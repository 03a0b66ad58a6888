"""Storing what the node's own user has: bound to a channel or to none, in the index, for good or for a
time.

Invariant: what is stored is in the index as the user's own before it is there, so that it never looks
like something that may go; and what it is bound to is on disk before.

All methods block: they are for worker threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from kachery_p2p.node.context import Context
from kachery_p2p.storage.files.blobs import Arriving
from kachery_p2p.storage.files.writer import Stored


class Wish(NamedTuple):
    """How something is to be stored. ``channel``: for that one alone; ``label``: what its user calls
    it; ``seconds``: for how long, None: for good."""

    channel: bytes | None = None
    label: str = ""
    seconds: float | None = None


class Storing:
    """Of one content. ``arriving`` goes to the store, and then :meth:`stored` is to be called."""

    def __init__(self, context: Context, wish: Wish) -> None:
        self._context = context
        self._wish = wish
        self._channel = None if wish.channel is None else wish.channel.hex()
        self._bind = context.bindings.arriving(self._channel)
        self._was_kept = False

    def arriving(self, sha1s: Sequence[str]) -> None:
        """As :data:`~kachery_p2p.storage.files.blobs.Arriving`."""
        self._bind(sha1s)
        before = self._context.inventory.thing(sha1s[0])
        here = before is not None and before.kind in ("file", "link")
        own = here and before is not None and before.source != "fetched"
        self._was_kept = own and self._context.state.expiry(sha1s[0]) is None
        self._context.inventory.storing(sha1s, self._wish.label)

    def stored(self, stored: Stored) -> None:
        """It is there."""
        state, wish = self._context.state, self._wish
        self._context.bindings.stored(stored, self._channel)
        until = None if wish.seconds is None else self._context.clock() + wish.seconds
        if until is not None and self._was_kept:
            return  # it was here for good before
        for name in (stored.sha1, stored.manifest_sha1):
            if name is not None:
                latest = until and max(until, state.expiry(name) or 0.0)
                state.keep_until(name, latest)


def store_as(context: Context, wish: Wish, how: Callable[[Arriving], Stored]) -> Stored:
    """Store something from beginning to end."""
    storing = Storing(context, wish)
    stored = how(storing.arriving)
    storing.stored(stored)
    return stored


def store_many(
    context: Context, contents: Sequence[bytes], labels: Sequence[str], channel: bytes | None
) -> list[str]:
    """Store many small contents with one commit, for good; their hashes. ``labels``: what their user
    calls each."""
    bind = context.bindings.arriving(None if channel is None else channel.hex())

    def arriving(sha1s: Sequence[str]) -> None:
        bind(sha1s)
        context.inventory.storing_each(list(zip(sha1s, labels, strict=True)))

    sha1s = context.store.store_batch(contents, arriving)
    _is_own(context, sha1s, channel)
    return sha1s


def own_many(context: Context, sha1s: Sequence[str], channel: bytes | None) -> None:
    """The user has these too, which are here: they are theirs, for good."""
    context.inventory.own(sha1s)
    _is_own(context, sha1s, channel)


def _is_own(context: Context, sha1s: Sequence[str], channel: bytes | None) -> None:
    context.bindings.own(sha1s, None if channel is None else channel.hex())
    context.state.keep_for_good(sha1s)
