"""What nodes ask of one another: the parameters and results of every request, stream and note.

==================  =======  ==========================================================  ============
name                kind     between                                                     who may
==================  =======  ==========================================================  ============
``who-has``         request  any member -> proxy                                         request-files
``file.open``       request  any member -> provider (end to end)                         request-files
``file.read``       stream   any member -> provider (end to end)                         request-files
``channel.document``  stream  member -> member: the signed document, newest version      member
``circuit``         stream   member -> proxy: connect me with another member             member
``circuit.in``      stream   proxy -> member: somebody wants to talk to you              proxy
``channels``        note     both ways, when the sender's channels or versions change    linked
``gossip.digest``   note     both ways, on linking: how far I know each origin's log     member
``gossip.batch``    note     both ways: a signed piece of an origin's announcement log   member
==================  =======  ==========================================================  ============

A stream's data frames carry a small ``meta`` and a body: ``file.read`` sends
:class:`Piece`, ``channel.document`` sends plain bodies until the end, a circuit sends opaque
records of the end-to-end session.
"""

from __future__ import annotations

import msgspec

from .limits import MAX_HOLDERS, MAX_QUERY_KEYS

WHO_HAS = "who-has"
FILE_OPEN = "file.open"
FILE_READ = "file.read"
CHANNEL_DOCUMENT = "channel.document"
CIRCUIT = "circuit"
CIRCUIT_IN = "circuit.in"
CHANNELS = "channels"
GOSSIP_DIGEST = "gossip.digest"
GOSSIP_BATCH = "gossip.batch"


class ChannelQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``channel.document``: which one."""

    channel: bytes


class CircuitTo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``circuit``: with whom. ``circuit.in``: from whom."""

    channel: bytes
    node: bytes


class WhoHas(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who holds these blinded keys. At most ``MAX_QUERY_KEYS``."""

    channel: bytes
    keys: list[bytes]

    def __post_init__(self) -> None:
        if len(self.keys) > MAX_QUERY_KEYS:
            raise ValueError(f"more than {MAX_QUERY_KEYS} keys")


class NodeInfo(msgspec.Struct, frozen=True):
    """A member as a proxy knows it. ``online``: linked to that proxy now."""

    node: bytes
    label: str
    urls: list[str]
    online: bool


class Holders(msgspec.Struct, frozen=True):
    """The answer to ``who-has``: per key, indexes into ``nodes``; at most ``MAX_HOLDERS`` each.

    ``unwilling`` names members that are online and have switched off provide-files themselves, so
    that "nobody has it" is never said when "nobody may give it" is meant.
    """

    nodes: list[NodeInfo]
    holders: list[list[int]]
    unwilling: list[bytes]

    def of(self, index: int) -> list[NodeInfo]:
        """The holders of the ``index``-th key asked; what points nowhere is left out."""
        if index >= len(self.holders):
            return []
        places = self.holders[index][:MAX_HOLDERS]
        return [self.nodes[place] for place in places if 0 <= place < len(self.nodes)]


class FileOpen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What do you have of this content? ``sha1`` is 20 raw bytes."""

    channel: bytes
    sha1: bytes


class FileInfo(msgspec.Struct, frozen=True):
    """``inline`` is the whole content of a file of at most ``INLINE_FILE`` bytes. ``partial`` says
    that the provider is itself still downloading: it serves what it has verified."""

    size: int
    inline: bytes | None
    partial: bool


class FileRead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Send bytes [start, stop). ``proofs``: with Merkle proofs of the 64 KiB blocks; start is then
    a multiple of the block, and stop too unless it is the end of the file."""

    channel: bytes
    sha1: bytes
    start: int
    stop: int
    proofs: bool


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """Meta of one body of ``file.read``: where it belongs, and its proof."""

    offset: int
    proof: list[bytes]


class OriginState(msgspec.Struct, frozen=True, array_like=True):
    origin: bytes
    epoch: int
    seq: int


class Digest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a proxy knows the announcement logs of a channel, for the origins whose ids lie in
    [low, high]. To a node that is no proxy it names that node alone. The receiver answers with the
    ``gossip.batch`` notes that are missing."""

    channel: bytes
    low: bytes
    high: bytes
    origins: list[OriginState]
