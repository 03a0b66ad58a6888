"""Signed results of tasks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput, ForgedResult, ProtocolViolation
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.tasks.result import TaskResult, check_result, sign_result
from kachery_p2p.protocol.tasks.task import Payload

SIGNER, OTHER = NodeKey(b"\x02" * 32), NodeKey(b"\x03" * 32)
KEY = b"k" * 32
URI = f"sha1://{'ab' * 20}/result.npy"


def signed(**changes: Any) -> TaskResult:
    values: dict[str, Any] = {
        "key": KEY, "function": "count.1", "type": "pure-calculation", "timestamp": 1_000,
        "payload": Payload("json", b"5"),
    }  # fmt: skip
    return sign_result(SIGNER, **{**values, **changes})


def test_a_result_crosses_the_wire_and_is_believed() -> None:
    for result in (signed(), signed(type="query", payload=Payload("npy", None, URI), timestamp=0)):
        again = codec.decode(TaskResult, codec.encode(result))
        assert again == result
        check_result(again)
        check_result(again, "bob", key=KEY, function="count.1", type=result.type)
        assert again.node == SIGNER.public


@pytest.mark.parametrize(
    "change",
    [
        {"key": b"l" * 32},
        {"function": "count.2"},
        {"type": "query"},
        {"node": OTHER.public},
        {"node": bytes(32)},
        {"timestamp": 1_001},
        {"payload": Payload("json", b"6")},
        {"payload": Payload("bytes", b"5")},
        {"payload": Payload("json", None, URI)},
        {"signature": bytes(64)},
        {"signature": signed(timestamp=2).signature},
    ],
    ids=lambda change: "-".join(change),
)
def test_a_change_of_any_field_shows(change: dict[str, Any]) -> None:
    with pytest.raises(ForgedResult, match=r"count\..* from bob .* did not sign it"):
        check_result(replace(signed(), **change), "bob")


@given(st.integers(0, 511))
@settings(deadline=None, max_examples=30)
def test_every_bit_of_the_signature_counts(bit: int) -> None:
    result = signed()
    spoilt = bytearray(result.signature)
    spoilt[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ForgedResult):
        check_result(replace(result, signature=bytes(spoilt)))


@pytest.mark.parametrize(
    ("wanted", "word"),
    [
        ({"key": b"l" * 32}, "task"),
        ({"function": "count.2"}, "function"),
        ({"type": "query"}, "type"),
    ],
    ids=["key", "function", "type"],
)
def test_a_genuine_result_of_something_else_is_refused(wanted: Any, word: str) -> None:
    with pytest.raises(ForgedResult, match=f"from bob .* another {word} than was asked for"):
        check_result(signed(), "bob", **wanted)


def test_a_signature_for_something_else_is_worth_nothing() -> None:
    result = signed()
    message = codec.pack(codec.plain(result)[:-1])
    check_result(replace(result, signature=SIGNER.sign(b"task result", message)))
    with pytest.raises(ForgedResult):
        check_result(replace(result, signature=SIGNER.sign(b"feed head", message)))


@pytest.mark.parametrize(
    "changes",
    [{"key": b"short"}, {"function": ""}, {"function": "a\nb"}, {"type": "other"},
     {"timestamp": -1}, {"timestamp": 2**63}],
    ids=lambda changes: "-".join(changes),
)  # fmt: skip
def test_what_nobody_would_accept_is_not_signed(changes: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="task result"):
        signed(**changes)


@pytest.mark.parametrize("place", range(7))
def test_a_malformed_result_is_refused(place: int) -> None:
    plain = codec.plain(signed())
    for wrong in (None, b"", "", 1.5, [], {"a": 1}):
        with pytest.raises(ProtocolViolation):
            codec.convert(TaskResult, [*plain[:place], wrong, *plain[place + 1 :]])
    for other in (plain[:-1], [*plain, 1], []):
        with pytest.raises(ProtocolViolation):
            codec.convert(TaskResult, other)
