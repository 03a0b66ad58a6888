"""What a node has, in the order of its blinded keys.

The rooms give their contents in an order of their own, files in that of their hashes. Announced so,
their places would tie together the announcements of one file on two channels, or before and after a
change of the secret, and tell bits of its hash. Blinded keys of two secrets have nothing to do with
one another, and neither have their orders.

36 bytes for each file: it is sorted in 256 parts, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from kachery_p2p.protocol.gossip.keys import ContentKey
from kachery_p2p.protocol.limits import BLINDED_KEY_BYTES

_PARTS: Final = 256
Remake = Callable[[bytes], ContentKey]
"""Makes a content again of its identifier."""


class OrderedScan:
    """Takes contents in any order, then gives them once. For one worker thread at a time.

    ``many``: the contexts of which there may be very many; of these only key and identifier are kept.
    """

    def __init__(self, many: Mapping[bytes, Remake]) -> None:
        self._many = many
        self._packed: dict[bytes, list[bytearray]] = {
            context: [bytearray() for _ in range(_PARTS)] for context in many
        }
        self._sizes: dict[bytes, int] = {}
        self._others: list[tuple[bytes, ContentKey]] = []

    def add(self, key: bytes, content: ContentKey) -> None:
        """``key`` is the content's blinded key."""
        packed = self._packed.get(content.context)
        if packed is None:
            self._others.append((key, content))
            return
        self._sizes[content.context] = BLINDED_KEY_BYTES + len(content.identifier)
        packed[key[0]] += key + content.identifier

    def __iter__(self) -> Iterator[tuple[bytes, ContentKey]]:
        """(key, content) by key; what was given is forgotten."""
        others: dict[int, list[tuple[bytes, ContentKey]]] = {}
        for key, content in self._others:
            others.setdefault(key[0], []).append((key, content))
        self._others.clear()
        for part in range(_PARTS):
            items: list[tuple[bytes, bytes, ContentKey | None, bytes]] = [
                (key, content.identifier, content, content.context)
                for key, content in others.pop(part, ())
            ]
            for context, parts in self._packed.items():
                packed, parts[part] = bytes(parts[part]), bytearray()
                size = self._sizes.get(context, 1)
                for at in range(0, len(packed), size):
                    key = packed[at : at + BLINDED_KEY_BYTES]
                    identifier = packed[at + BLINDED_KEY_BYTES : at + size]
                    items.append((key, identifier, None, context))
            items.sort(key=lambda item: item[:2])
            for key, identifier, other, context in items:
                yield key, other or self._many[context](identifier)
