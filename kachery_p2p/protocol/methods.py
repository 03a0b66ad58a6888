"""What nodes ask of one another: the parameters and results of every request, stream and note.

==================  =======  ==========================================================  ============
name                kind     between                                                     who may
==================  =======  ==========================================================  ============
``who-has``         request  any member -> proxy                                         request-<kind>
``file.open``       request  any member -> provider (end to end)                         request-files
``file.read``       stream   any member -> provider (end to end)                         request-files
``feed.follow``     stream   any member -> holder (end to end): a log as it grows          request-feeds
``feed.submit``     stream   any member -> owner (end to end): messages to append        request-feeds
``feed.evidence``   request  any member -> holder (end to end): one leaf and its proof   request-feeds
``task.run``        stream   any member -> provider (end to end): run a function         request-tasks
``task.offers``     request  any member -> provider (end to end): which functions it runs  request-tasks
``task.result``     request  any member -> holder (end to end): a signed result          request-files
``channel.document``  stream  member -> member: the signed document, newest version      member
``channel.online``  request  member -> proxy: who else is linked to you                 member
``channel.admissions``  note  both ways: who was admitted while the owner was away       member
``join``            stream   guest -> admitter (end to end): I hold an invitation        guest
``join.circuit``    stream   guest -> proxy: connect me with the admitter                guest
``join.in``         stream   proxy -> admitter: a guest wants to talk to you             proxy
``circuit``         stream   member -> proxy: connect me with another member             member
``circuit.in``      stream   proxy -> member: somebody wants to talk to you              proxy
``channels``        note     both ways, when the sender's channels or versions change    linked
``gossip.digest``   note     both ways, on linking: how far I know each origin's log     member
``gossip.batch``    note     both ways: a signed piece of an origin's announcement log   member
``watch``           note     any member -> proxy: tell me who comes to have these keys   request-<kind>
``appeared``        note     proxy -> member: somebody has, or who has it is back        proxy
==================  =======  ==========================================================  ============

A stream's data frames carry a small ``meta`` and a body: ``file.read`` sends
:class:`Piece`, ``channel.document`` sends plain bodies until the end, ``join`` the same with
:class:`Joined` as meta of the first, a circuit sends opaque
records of the end-to-end session. ``feed.follow`` sends :class:`FeedPart`, with the messages' texts
as body where there are any; on ``feed.submit`` the submitter sends one :class:`FeedTexts` with the
texts as body, and the owner answers with :class:`FeedNumbers`. What goes over ``task.run`` and the
other methods of tasks is in :mod:`.tasks.messages`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from kachery_p2p.protocol.feeds.decision import Decision
from kachery_p2p.protocol.feeds.feed import FeedId, Hash, Head, Place, Run, SubfeedHash
from kachery_p2p.protocol.feeds.fork import Fork
from kachery_p2p.protocol.gossip.keys import ThingKind

from .limits import (
    ADMISSIONS_PER_NOTE,
    MAX_FEED_MESSAGES,
    MAX_HOLDERS,
    MAX_LABEL,
    MAX_ONLINE,
    MAX_PROOF_HASHES,
    MAX_QUERY_KEYS,
    MAX_SLICE_RUNS,
    MAX_SUBFEED_NAME,
)

WHO_HAS = "who-has"
FILE_OPEN = "file.open"
FILE_READ = "file.read"
CHANNEL_DOCUMENT = "channel.document"
CHANNEL_ONLINE = "channel.online"
CHANNEL_ADMISSIONS = "channel.admissions"
JOIN = "join"
JOIN_CIRCUIT = "join.circuit"
JOIN_IN = "join.in"
CIRCUIT = "circuit"
CIRCUIT_IN = "circuit.in"
CHANNELS = "channels"
GOSSIP_DIGEST = "gossip.digest"
GOSSIP_BATCH = "gossip.batch"
WATCH = "watch"
APPEARED = "appeared"
FEED_FOLLOW = "feed.follow"
FEED_SUBMIT = "feed.submit"
FEED_EVIDENCE = "feed.evidence"
TASK_RUN = "task.run"
TASK_OFFERS = "task.offers"
TASK_RESULT = "task.result"


class ChannelQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``channel.document`` and ``channel.online``: which one."""

    channel: bytes


class Online(msgspec.Struct, frozen=True):
    """The answer to ``channel.online``: other members that are linked to this proxy, by id; those of
    the lowest ids, if there are more than ``MAX_ONLINE``."""

    nodes: Annotated[list[bytes], Meta(max_length=MAX_ONLINE)]


class Admissions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``channel.admissions``: packed :class:`~.channels.admission.Admission` records."""

    channel: bytes
    admissions: Annotated[list[bytes], Meta(max_length=ADMISSIONS_PER_NOTE)]


class Join(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``join``: make me a member. ``invitation`` is its id, ``proof`` of :func:`~.channels.invitation.prove`,
    ``label`` what the newcomer calls itself."""

    channel: bytes
    invitation: Annotated[bytes, Meta(min_length=32, max_length=32)]
    proof: Annotated[bytes, Meta(min_length=64, max_length=64)]
    label: Annotated[str, Meta(max_length=MAX_LABEL)]


class Joined(msgspec.Struct, frozen=True):
    """Meta of the first body of the answer, the signed document: the admission, if there is one."""

    admission: bytes | None


class CircuitTo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``circuit`` and ``join.circuit``: with whom. ``circuit.in`` and ``join.in``: from whom."""

    channel: bytes
    node: bytes


class WhoHas(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who holds these blinded keys, all of things of one kind. At most ``MAX_QUERY_KEYS``."""

    channel: bytes
    kind: ThingKind
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

    ``unwilling`` names members that are online and have switched off providing such things, so
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


class Watch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From now on (or, with ``on`` false, no longer) tell me when somebody who provides one of these
    keys comes on line, or begins to provide it. At most ``MAX_QUERY_KEYS``."""

    channel: bytes
    kind: ThingKind
    keys: list[bytes]
    on: bool

    def __post_init__(self) -> None:
        if len(self.keys) > MAX_QUERY_KEYS:
            raise ValueError(f"more than {MAX_QUERY_KEYS} keys")


class Appeared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody who provides these keys is there now: it is worth asking who."""

    channel: bytes
    keys: list[bytes]


_Proof = Annotated[list[Hash], Meta(max_length=MAX_PROOF_HASHES)]


class FeedFollow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Send the messages from ``position`` on, and go on as they come; up to ``stop`` if given.
    ``quiet``: send heads only."""

    channel: bytes
    feed: FeedId
    subfeed: SubfeedHash
    position: Place
    stop: Place | None
    quiet: bool


class FeedPart(msgspec.Struct, frozen=True, array_like=True):
    """Meta of one frame of ``feed.follow``.

    With messages: ``runs`` describes those that begin at ``start``; ``peaks`` is the frontier there,
    in a stream's first part with messages; ``right`` leads from their end to ``head``. Without:
    news of the log. ``head`` is left out while it is the one sent last, or there is none. ``decision``:
    what the owner decided after a fork, in a stream's first part, and when it is new.
    """

    owner: bool
    base: Place
    start: Place
    runs: Annotated[list[Run], Meta(max_length=MAX_SLICE_RUNS)]
    peaks: _Proof
    right: _Proof
    head: Head | None = None
    fork: Fork | None = None
    decision: Decision | None = None


class FeedSubmit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Append messages to a subfeed. ``submission`` is 16 bytes that name this submission: repeating
    it appends nothing and gives the same answer. ``name``: of the subfeed, as in its URI."""

    channel: bytes
    feed: FeedId
    subfeed: SubfeedHash
    name: Annotated[str, Meta(max_length=MAX_SUBFEED_NAME)]
    submission: Annotated[bytes, Meta(min_length=16, max_length=16)]


class FeedTexts(msgspec.Struct, frozen=True, array_like=True):
    """How many messages the body holds."""

    count: Annotated[int, Meta(ge=1, le=MAX_FEED_MESSAGES)]


class FeedNumbers(msgspec.Struct, frozen=True, array_like=True):
    """Where the messages stand now: ``count`` of them from number ``first``."""

    first: Place
    count: Annotated[int, Meta(ge=0, le=MAX_FEED_MESSAGES)]


class FeedEvidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prove which message stands at ``index`` of the log under your head."""

    channel: bytes
    feed: FeedId
    subfeed: SubfeedHash
    index: Place


class FeedLeaf(msgspec.Struct, frozen=True):
    """The leaf's hash and its inclusion proof in the tree of ``head``."""

    head: Head
    leaf: Hash
    proof: _Proof
