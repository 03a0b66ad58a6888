"""What a node has, in the order of its blinded keys.

The rooms give their contents in an order of their own, files in that of their hashes. Announced so,
their places would tie together the announcements of one file on two channels, or before and after a
change of the secret, and tell bits of its hash. Blinded keys of two secrets have nothing to do with
one another, and neither have their orders.

36 bytes for each file: it is sorted in 256 parts, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from kachery_p2p.protocol.gossip.keys import ContentKey
from kachery_p2p.protocol.limits import BLINDED_KEY_BYTES

_PARTS: Final = 256
Remake = Callable[[bytes], ContentKey]
"""Makes a content again of its identifier."""


class Page(NamedTuple):
    """Some of very many contents of one context, by their identifiers."""

    context: bytes
    identifiers: list[bytes]


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
        if content.context in self._packed:
            self.add_many(content.context, [(key, content.identifier)])
        else:
            self._others.append((key, content))

    def add_many(self, context: bytes, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Pairs (blinded key, identifier) of a context in which there may be very many."""
        packed = self._packed[context]
        for key, identifier in items:
            self._sizes[context] = BLINDED_KEY_BYTES + len(identifier)
            packed[key[0]] += key + identifier

    def __iter__(self) -> Iterator[tuple[bytes, ContentKey]]:
        """(key, content) by key; what was given is forgotten."""
        others: dict[int, list[tuple[bytes, ContentKey]]] = {}
        for key, content in self._others:
            others.setdefault(key[0], []).append((key, content))
        self._others.clear()
        for part in range(_PARTS):
            items = [(key + content.identifier, content) for key, content in others.pop(part, ())]
            for context, parts in self._packed.items():
                packed, parts[part] = bytes(parts[part]), bytearray()
                size, remake = self._sizes.get(context, 1), self._many[context]
                items += [
                    (record, remake(record[BLINDED_KEY_BYTES:]))
                    for record in (packed[at : at + size] for at in range(0, len(packed), size))
                ]
            items.sort(key=_record)
            for record, content in items:
                yield record[:BLINDED_KEY_BYTES], content


def _record(item: tuple[bytes, ContentKey]) -> bytes:
    return item[0]
