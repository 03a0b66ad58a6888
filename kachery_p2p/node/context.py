"""What every part of a node needs: its identity, clock, randomness, workers and channel book."""

from __future__ import annotations

import random
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from kachery_p2p._version import __version__
from kachery_p2p.protocol.channels.member_urls import member_urls, sign_urls
from kachery_p2p.protocol.channels.membership import ChannelBook
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.storage.backing.index import OriginIndex
from kachery_p2p.storage.bindings import Bindings
from kachery_p2p.storage.files.blobs import BlobStore
from kachery_p2p.storage.inventory.inventory import Inventory
from kachery_p2p.storage.inventory.quota import Quota
from kachery_p2p.storage.state import StateDB

from .naps import Naps
from .rates import Rates
from .turns import Turns
from .workers import Workers

SOFTWARE = f"kachery_p2p/{__version__}"
MAX_WARNINGS = 100
"""The last warnings that a node keeps for whoever asks what is wrong."""


@dataclass
class Context:
    """Made once by the composition root. ``clock`` is Unix time in seconds."""

    key: NodeKey
    book: ChannelBook
    state: StateDB
    store: BlobStore
    inventory: Inventory
    quota: Quota
    workers: Workers
    label: str = ""
    urls: list[str] = field(default_factory=list)
    software: str = SOFTWARE
    clock: Callable[[], float] = time.time
    random_bytes: Callable[[int], bytes] = secrets.token_bytes
    random: Callable[[], float] = random.random
    elsewhere: OriginIndex | None = None
    """What lies in origins; it is the user's own, as what was stored here."""
    turns: Turns = field(default_factory=Turns)
    rates: Rates = field(default_factory=Rates)
    naps: Naps = field(default_factory=Naps)
    warnings: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=MAX_WARNINGS))

    _signed: tuple[tuple[str, ...], bytes] | None = field(default=None, init=False, repr=False)

    @property
    def node_id(self) -> str:
        return self.key.node_id

    def signed_urls(self) -> tuple[list[str], bytes]:
        """Where other nodes are told to dial this one, and the signature that goes with it."""
        urls = tuple(member_urls(self.urls))
        if self._signed is None or self._signed[0] != urls:
            self._signed = urls, sign_urls(self.key, urls)
        return list(urls), self._signed[1]

    def may_leave(self, sha1: str, channel: bytes) -> bool:
        """Whether a blob may go out on a channel: one that was fetched on another may not, unless it
        lies in an origin, too.

        Reads the disk: for a worker thread.
        """
        if self.bindings.may_leave(sha1, channel.hex()):
            return True
        own = self.elsewhere is not None and self.elsewhere.has(sha1)
        return own and not self.state.unshared([sha1], channel.hex())

    @property
    def bindings(self) -> Bindings:
        """What blobs are bound to."""
        return Bindings(self.store, self.state)

    def warn(self, text: str) -> None:
        """Remember something the user should know; the newest are shown by ``info``."""
        if not self.warnings or self.warnings[-1][1] != text:
            self.warnings.append((self.clock(), text))

    def take_back(self, text: str) -> None:
        """Forget a warning: what it warned of is mended, and there is nothing to do any more."""
        for warning in [each for each in self.warnings if each[1] == text]:
            self.warnings.remove(warning)
