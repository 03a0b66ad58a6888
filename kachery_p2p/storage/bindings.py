"""What content is bound to: the rules of who may have what came from where.

* What the node's user stored for no channel in particular is free: it may go out on every channel.
* What they stored for one channel, and what came whole from one channel, is bound to it.
* What came from several channels, a part from each, goes out on none: nobody on either has shown that
  they had all of it. It may be stored anew, which makes it the user's to give.
* What came from an origin is the user's own, and free; with a part from one channel it is bound to
  that.
* What the user unshared on a channel goes out there no more, until they store it for that channel
  again.

Invariants: an origin is on disk before its blob is there, under any name, whatever fails or dies in
between; where the bytes of a download came from is on disk before they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kachery_p2p.storage.files.blobs import Arriving, BlobStore, nothing
from kachery_p2p.storage.files.origins import FREE, NOBODY
from kachery_p2p.storage.files.partials import Partial
from kachery_p2p.storage.files.writer import Stored

from .state import StateDB


class Bindings:
    """Channels are ids in hex. All methods read or write the disk; any thread may call."""

    def __init__(self, store: BlobStore, state: StateDB) -> None:
        self._store = store
        self._state = state

    def may_leave(self, sha1: str, channel: str) -> bool:
        """Whether a blob may go out on a channel, if it is here."""
        return bool(self.leaving([sha1], channel))

    def leaving(self, sha1s: Sequence[str], channel: str) -> set[str]:
        """Those of some blobs that may go out on a channel, if they are here."""
        origins = self._state.origins_of(sha1s)
        may = {sha1 for sha1 in sha1s if sha1 not in origins or channel in origins[sha1]}
        return may - self._state.unshared(sha1s, channel)

    # --- what is stored here ---------------------------------------------------------------------

    def arriving(
        self, channel: str | None, may_be_here: Callable[[str], bool] = lambda sha1: True
    ) -> Arriving:
        """For the store: what it stores is bound to a channel, or (None) to nothing.

        What is here and free stays so until :meth:`stored`, in case the store fails. ``may_be_here``:
        what is known not to be is not looked for.
        """
        if channel is None or channel == FREE:
            return nothing

        def bind(sha1s: Sequence[str]) -> None:
            origins = self._state.origins_of(sha1s)
            missing = [
                sha1
                for sha1 in sha1s
                if (
                    channel not in origins[sha1]
                    if sha1 in origins
                    else not (may_be_here(sha1) and self._is_here(sha1))
                )
            ]
            if missing:
                self._state.add_origins(missing, channel)

        return bind

    def arriving_like(self, sha1: str) -> Arriving:
        """For the store: what it makes of a blob is bound to what that is bound to."""
        origins = self._state.origins(sha1)

        def bind(sha1s: Sequence[str]) -> None:
            for channel in origins:
                self.arriving(channel)(sha1s)

        return bind

    def stored(self, stored: Stored, channel: str | None) -> None:
        """The user stored it: it is theirs to give, wherever else it came from."""
        self.own(
            [name for name in (stored.sha1, stored.manifest_sha1) if name is not None], channel
        )

    def own(self, sha1s: Sequence[str], channel: str | None) -> None:
        """As :meth:`stored`, of many."""
        self._state.share_again(sha1s, channel)
        origins = self._state.origins_of(sha1s)
        if channel is None:
            for sha1 in origins:
                self._state.clear_origins(sha1)
            return
        missing = [sha1 for sha1 in sha1s if channel not in origins.get(sha1, ())]
        if missing:
            self._state.add_origins(missing, channel)

    def is_free(self, sha1: str) -> bool:
        """Whether a blob is here, and may go out on every channel."""
        return self._is_here(sha1) and not self._state.origins(sha1)

    def _is_here(self, sha1: str) -> bool:
        return self._store.find(sha1) is not None

    # --- what is fetched -------------------------------------------------------------------------

    def resumed(self, partial: Partial) -> frozenset[str]:
        """Where the bytes came from that an opened partial has. Bytes of which that is not known
        are bound to nobody."""
        if not partial.received_bytes:
            self._state.forget_download(partial.sha1)
            return frozenset()
        channels = self._state.download_channels(partial.sha1)
        if not channels:
            self._state.add_download_channel(partial.sha1, NOBODY)
            return frozenset({NOBODY})
        return channels

    def complete(self, sha1: str, channels: frozenset[str]) -> None:
        """A download is about to become a blob; its bytes came from these channels."""
        if channels != {FREE} and not self.is_free(sha1):
            channels -= {FREE}
            (origin,) = channels if len(channels) == 1 else (NOBODY,)
            self._state.add_origin(sha1, origin)
