"""What nodes ask of one another: types that say no to everything else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels import messages as channels
from kachery_p2p.protocol.channels.messages import (
    Admissions,
    ChannelQuery,
    Join,
    Joined,
    Online,
    Revocations,
    Stamped,
    Visit,
    Visited,
    VisitUse,
)
from kachery_p2p.protocol.errors import ProtocolViolation
from kachery_p2p.protocol.feeds import messages as feeds
from kachery_p2p.protocol.feeds.decision import Decision
from kachery_p2p.protocol.feeds.feed import Head, Run
from kachery_p2p.protocol.feeds.fork import Fork
from kachery_p2p.protocol.feeds.messages import (
    FeedEvidence,
    FeedFollow,
    FeedLeaf,
    FeedNumbers,
    FeedPart,
    FeedSubmit,
    FeedTexts,
)
from kachery_p2p.protocol.files import messages as files
from kachery_p2p.protocol.files.messages import (
    FileAsk,
    FileBatch,
    FileDoubt,
    FileInfo,
    FileOpen,
    FileRead,
    Piece,
    Several,
)
from kachery_p2p.protocol.gossip import messages as gossip
from kachery_p2p.protocol.gossip.messages import (
    Appeared,
    Digest,
    Heard,
    Holders,
    NodeInfo,
    OriginState,
    Pull,
    Watch,
    WhoHas,
)
from kachery_p2p.protocol.keepers import messages as keepers
from kachery_p2p.protocol.keepers.messages import (
    Dropped,
    KeepDrop,
    KeepList,
    KeepLock,
    KeepPut,
    KeepState,
    KeptPage,
    KeptThing,
    LockedCopy,
)
from kachery_p2p.protocol.limits import (
    ASK_PREFIX_BYTES,
    BLINDED_KEY_BYTES,
    MAX_HOLDERS,
    MAX_QUERY_KEYS,
)
from kachery_p2p.protocol.links import messages as links
from kachery_p2p.protocol.links.messages import CircuitTo
from kachery_p2p.protocol.methods import METHODS
from kachery_p2p.protocol.tasks import messages as tasks

CHANNEL, NODE, SHA1 = b"c" * 32, b"n" * 32, b"s" * 20
HEAD = Head(NODE, SHA1, 9, b"r" * 32, 1_000, b"g" * 64)

SAMPLES: list[Any] = [
    ChannelQuery(CHANNEL),
    CircuitTo(CHANNEL, NODE),
    Admissions(CHANNEL, [b"an admission"]),
    Join(CHANNEL, NODE, b"p" * 64, "alice"),
    Joined(b"an admission"),
    Visit(CHANNEL, b"a pass", b"s" * 32, b"p" * 64, b""),
    Visited("lab"),
    VisitUse(CHANNEL, NODE, b"p" * 64),
    Stamped(b"s" * 64),
    Revocations(CHANNEL, [b"a revocation"]),
    Joined(None),
    WhoHas(CHANNEL, "files", [b"k" * 16], 1, 0),
    WhoHas(CHANNEL, "tasks", [b"k" * 16], 7, 2_500),
    NodeInfo(NODE, "lab", ["ws://h:1"], True, bytes(64)),
    Holders([NodeInfo(NODE, "lab", [], False, b"")], [[0], []], [NODE], [], [NODE]),
    Online([NODE]),
    FileOpen(CHANNEL, SHA1),
    FileInfo(5, b"hello", False),
    FileInfo(1 << 40, None, True),
    FileRead(CHANNEL, SHA1, [(0, 65_536), (1 << 39, 1 << 40)], True),
    Piece(65_536, [b"p" * 32]),
    FileBatch(CHANNEL, [SHA1, SHA1]),
    FileDoubt(CHANNEL, SHA1, 65_536, 131_072),
    FileAsk(CHANNEL, bytes(BLINDED_KEY_BYTES), bytes(ASK_PREFIX_BYTES)),
    KeepPut(CHANNEL, SHA1, SHA1, 5, 2, 60.0, "x.dat", [(SHA1, 3)]),
    KeepState(5, True, 1e9),
    KeepList(CHANNEL, SHA1),
    KeptThing(SHA1, "x.dat", 5, 2, 1e9, 2e9, True),
    KeptPage([KeptThing(SHA1, "x.dat", 5, 2, 1e9, 2e9, False)], True),
    KeepDrop(CHANNEL, SHA1),
    Dropped(True),
    KeepLock(CHANNEL, SHA1),
    LockedCopy(5, True, 2e9),
    Several([0, 3], [5, 0]),
    OriginState(NODE, 1, 2),
    Digest(CHANNEL, bytes(32), b"\xff" * 32, [OriginState(NODE, 1, 2)], True),
    Pull(CHANNEL, [OriginState(NODE, -1, 0)]),
    Heard(CHANNEL, 4),
    Watch(CHANNEL, "feeds", [b"k" * 16], True),
    Appeared(CHANNEL, [b"k" * 16]),
    FeedFollow(CHANNEL, NODE, SHA1, 7, None, False),
    FeedPart(True, 0, 7, [Run(2, 1_000, NODE)], [b"p" * 32], [], HEAD, None),
    FeedPart(False, 0, 7, [], [], [], None, Fork(HEAD, HEAD, b"", [])),
    FeedPart(False, 0, 7, [], [], [], None, None, Decision(1, HEAD, b"s" * 64)),
    FeedSubmit(CHANNEL, NODE, SHA1, "primes", b"x" * 16),
    FeedTexts(3),
    FeedNumbers(7, 3),
    FeedEvidence(CHANNEL, NODE, SHA1, 6),
    FeedLeaf(HEAD, b"l" * 32, [b"p" * 32]),
]
QUESTIONS = {
    "ChannelQuery",
    "CircuitTo",
    "Admissions",
    "Join",
    "Visit",
    "VisitUse",
    "Revocations",
    "WhoHas",
    "FileOpen",
    "FileRead",
    "FileAsk",
    "FileDoubt",
    "FileBatch",
    "KeepPut",
    "KeepList",
    "KeepDrop",
    "KeepLock",
    "Digest",
    "Pull",
    "Heard",
    "Watch",
    "Appeared",
    "FeedFollow",
    "FeedSubmit",
    "FeedEvidence",
}
"""What is asked is refused with an unknown field; what is answered may grow."""


def structs() -> set[type]:
    """The messages of every room; those of tasks have samples of their own."""
    return {
        kind
        for room in (links, channels, gossip, files, feeds, keepers)
        for kind in vars(room).values()
        if isinstance(kind, type)
        and issubclass(kind, msgspec.Struct)
        and kind.__module__ == room.__name__
    }


def test_the_samples_hold_every_message() -> None:
    assert {type(sample) for sample in SAMPLES} == structs()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_every_message_comes_back_as_it_went(sample: Any) -> None:
    again = codec.decode(type(sample), codec.encode(sample))
    assert again == sample


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_a_field_of_another_type_or_a_missing_one_is_a_violation(sample: Any) -> None:
    plain = codec.plain(sample)
    keys = list(plain) if isinstance(plain, dict) else range(len(plain))
    for key in keys:
        for wrong in (
            {"a": [1]},
            1.5 if not isinstance(plain[key], float) else [],
            "text" if not isinstance(plain[key], str) else 5,
        ):
            changed = plain.copy()
            changed[key] = wrong
            with pytest.raises(ProtocolViolation):
                codec.convert(type(sample), changed)
    if isinstance(plain, dict):
        needed = {field.name for field in msgspec.structs.fields(sample) if field.required}
        for key in needed:
            with pytest.raises(ProtocolViolation):
                codec.convert(type(sample), {k: v for k, v in plain.items() if k != key})


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_questions_refuse_what_they_do_not_know_and_answers_ignore_it(sample: Any) -> None:
    plain = codec.plain(sample)
    if not isinstance(plain, dict):
        assert codec.convert(type(sample), [*plain, "new"]) == sample
    elif type(sample).__name__ in QUESTIONS:
        with pytest.raises(ProtocolViolation):
            codec.convert(type(sample), {**plain, "new": 1})
    else:
        assert codec.convert(type(sample), {**plain, "new": 1}) == sample


def test_a_question_has_a_bounded_number_of_keys() -> None:
    plain = {"channel": CHANNEL, "kind": "files", "keys": [b"k" * 16] * MAX_QUERY_KEYS}
    plain |= {"secret_version": 1, "hold": 0}
    assert len(codec.convert(WhoHas, plain).keys) == MAX_QUERY_KEYS
    plain["keys"] = [b"k" * 16] * (MAX_QUERY_KEYS + 1)
    with pytest.raises(ProtocolViolation, match="keys"):
        codec.convert(WhoHas, plain)


def test_places_that_point_nowhere_are_left_out() -> None:
    info = NodeInfo(NODE, "", [], True, b"")
    answer = Holders([info], [[0, 1, -1, 1 << 40, 0]], [], [], [])
    assert answer.of(0) == [info, info]
    assert answer.of(1) == []
    assert len(Holders([info], [[0] * 10_000], [], [], []).of(0)) == MAX_HOLDERS


def test_every_method_has_a_name_of_its_own_and_stands_in_the_table() -> None:
    rooms = (links, channels, gossip, files, feeds, tasks, keepers)
    names = [
        value
        for room in rooms
        for name, value in vars(room).items()
        if name.isupper() and not name.startswith("_") and isinstance(value, str)
    ]
    assert len(names) == len(set(names)) > 5
    assert set(names) == set(METHODS)
    assert sum(len(room.METHODS) for room in rooms) == len(METHODS)
    assert all(method.between and method.who for method in METHODS.values())
