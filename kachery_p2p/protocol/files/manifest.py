"""Manifests: what a large file consists of, as JSON that is itself content.

The format is kachery's, ``{"size","sha1","chunks":[{"start","end","sha1"},...]}``, with one field
more: ``"tree": {"algorithm","block","root"}``, the Merkle root over 64 KiB blocks. A manifest is
named by the SHA-1 of its own bytes and that name is in the URI, so everything in it is as
trustworthy as the URI.

Invariants of a :class:`Manifest` that came out of :meth:`Manifest.parse`: the chunks cover
[0, size) without a gap or an overlap and none is empty; hashes are lower-case hex of the right
length; a ``tree`` is of the one kind this version can use. Fields that are not known are ignored,
and a tree of another kind counts as no tree, so manifests of later versions load.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.limits import BLOCK, MAX_FILE, MAX_MANIFEST

TREE_ALGORITHM: Final = "blake3"
"""The hash of file trees; the name of an entry of :data:`.tree.HASHES`."""

_SHA1: Final = re.compile(r"[0-9a-f]{40}")
_ROOT: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes [start, end) of the file and the SHA-1 of them, in hex."""

    start: int
    end: int
    sha1: str


@dataclass(frozen=True, slots=True)
class Tree:
    """A Merkle tree over the file: name of the hash, bytes of a block, 32-byte root."""

    algorithm: str
    block: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a file of ``size`` bytes and whole hash ``sha1`` consists of."""

    size: int
    sha1: str
    chunks: tuple[Chunk, ...]
    tree: Tree | None = None

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """A manifest from its bytes, every field checked.

        Raises:
            BadInput: it is not one, or is larger than MAX_MANIFEST.
        """
        if len(data) > MAX_MANIFEST:
            raise _bad(f"it has {len(data)} bytes, more than {MAX_MANIFEST}")
        try:
            value = json.loads(str(data, "utf-8"))
        except (ValueError, RecursionError) as error:
            raise _bad(f"it is not JSON ({error})") from None
        fields = _object(value, "it")
        size = _integer(fields, "size")
        sha1 = _hex(fields, "sha1", _SHA1)
        listed = fields.get("chunks")
        if not isinstance(listed, list):
            raise _bad("chunks is not a list")
        chunks = []
        position = 0
        for item in listed:
            entry = _object(item, "a chunk")
            start, end = _integer(entry, "start"), _integer(entry, "end")
            if start != position or end <= start:
                raise _bad(f"the chunk {start}-{end} does not begin at {position} or is empty")
            chunks.append(Chunk(start, end, _hex(entry, "sha1", _SHA1)))
            position = end
        if position != size:
            raise _bad(f"the chunks end at {position} and the size is {size}")
        return cls(size, sha1, tuple(chunks), _tree(fields.get("tree")))

    def to_json(self) -> bytes:
        """The bytes that are stored; the same manifest always gives the same bytes."""
        value: dict[str, Any] = {
            "size": self.size,
            "sha1": self.sha1,
            "chunks": [{"start": c.start, "end": c.end, "sha1": c.sha1} for c in self.chunks],
        }
        if self.tree is not None:
            value["tree"] = {
                "algorithm": self.tree.algorithm,
                "block": self.tree.block,
                "root": self.tree.root.hex(),
            }
        return json.dumps(value, separators=(",", ":")).encode()

    @property
    def name(self) -> str:
        """SHA-1 (hex) of :meth:`to_json`.

        A manifest that another program wrote may be laid out differently, and is then known by the
        SHA-1 of the bytes it came in.
        """
        return hashlib.sha1(self.to_json()).hexdigest()


def _tree(value: Any) -> Tree | None:
    if value is None:
        return None
    fields = _object(value, "tree")
    algorithm = fields.get("algorithm")
    if not isinstance(algorithm, str):
        raise _bad("algorithm is not text")
    if algorithm != TREE_ALGORITHM or _integer(fields, "block") != BLOCK:
        return None
    return Tree(algorithm, BLOCK, bytes.fromhex(_hex(fields, "root", _ROOT)))


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _bad(f"{what} is not an object")
    return value


def _integer(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int or not 0 <= value <= MAX_FILE:
        raise _bad(f"{name} is not a whole number from 0 to {MAX_FILE}")
    return value


def _hex(fields: dict[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise _bad(f"{name} is not a hash in lower-case hex")
    return value


def _bad(reason: str) -> BadInput:
    return BadInput(what="manifest", reason=reason)
