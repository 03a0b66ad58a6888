"""What others can have of a file while it is being fetched here: verified blocks, with their proofs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from kachery_p2p.node.workers import Workers
from kachery_p2p.protocol.errors import NotFound
from kachery_p2p.protocol.files.ranges import Range
from kachery_p2p.protocol.limits import BLOCK, MAX_RANGES
from kachery_p2p.storage.files.partials import Partial


class SharedPart:
    """Of one download. ``lock`` is held by whoever ends the partial, or makes it the blob."""

    def __init__(self, workers: Workers, lock: asyncio.Lock) -> None:
        self.partial: Partial | None = None
        """While it is there to be read."""
        self._workers = workers
        self._lock = lock

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.partial.size if self.partial is not None else 0

    def held(self) -> list[Range]:
        """Which bytes are here: ``MAX_RANGES`` ranges at most. Nothing without a tree, for then no part
        can be verified by itself."""
        partial = self.partial
        return partial.held(MAX_RANGES) if partial is not None and partial.kind == "tree" else []

    async def read(self, pieces: Sequence[Range]) -> list[tuple[bytes, list[bytes]]]:
        """Each of these pieces with its proof.

        Raises:
            NotFound: one is not here, or no part any more, but the whole file.
        """
        async with self._lock:
            return await self._workers.disk(self._read, pieces)

    def _read(self, pieces: Sequence[Range]) -> list[tuple[bytes, list[bytes]]]:
        found = []
        for start, stop in pieces:
            data = proof = None
            if self.partial is not None:
                data = self.partial.read_verified(start, stop)
                proof = self.partial.proof(start // BLOCK, -(-stop // BLOCK))
            if data is None or proof is None:
                raise NotFound(what="that range", detail="the provider is still fetching it itself")
            found.append((data, proof))
        return found
