"""What a pipe has to give, sent to the node in pieces as it comes: nobody knows how much that is."""

from __future__ import annotations

import os
import select
from typing import Final

from kachery_p2p.protocol.errors import BadPath, Cancelled

from . import blocking

_LOOK_SECONDS: Final = 0.2
"""So often a thread that waits for a pipe looks whether anybody still waits for it."""


class StreamPieces:
    """What a pipe or the like still has to give. The descriptor stays the caller's."""

    size = None

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name

    async def read(self, start: int, length: int) -> bytes:
        """Raises BadPath: it cannot be read."""
        return await blocking.run(lambda gone: self._read(length, gone))

    def _read(self, length: int, gone: blocking.Gone) -> bytes:
        found = bytearray()
        try:
            while len(found) < length:
                if not select.select([self._descriptor], [], [], _LOOK_SECONDS)[0]:
                    if gone():
                        raise Cancelled(what=f"Reading {self._name}")
                    continue
                data = os.read(self._descriptor, length - len(found))
                if not data:
                    break
                found += data
        except OSError as error:
            raise BadPath(path=self._name, reason=(error.strerror or "?").lower()) from error
        return bytes(found)
