"""Signed messages: made from a log, checked by anybody, and nothing in them can be changed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol.errors import BadInput, BadUri, ForgedFeed
from kachery_p2p.protocol.feeds.feed import (
    ALGORITHM,
    Run,
    Slice,
    encode_message,
    feed_uri,
    leaf_hashes,
    sign_head,
    subfeed_hash,
)
from kachery_p2p.protocol.feeds.signed_message import check_signed_message, signed_messages
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.tree import HASH_BYTES, levels, range_proof

KEY = NodeKey(b"\x07" * 32)
AUTHOR = b"\xaa" * 32
URI = feed_uri(KEY.public, "primes")


def signed_log(texts: list[bytes], runs: list[Run], name: str = "primes") -> list[Any]:
    """All messages of a log that consists of these."""
    slice = Slice(0, runs, texts)
    above = levels(ALGORITHM, b"".join(leaf_hashes(slice)))

    def node(level: int, index: int) -> bytes:
        return above[level][index * HASH_BYTES : (index + 1) * HASH_BYTES]

    count = len(texts)
    head = sign_head(KEY, subfeed_hash(name), count, above[-1], 1_700_000_000_123)
    proofs = [(head, range_proof(node, count, at, at + 1)) for at in range(count)]
    return signed_messages(slice, proofs)


def sample() -> list[Any]:
    values: list[Any] = [{"p": 2, "n": 1}, "drei", 5.0, True, None, [7, {"é": "\U0001f600"}]]
    texts = [encode_message(value) for value in values]
    return signed_log(texts, [Run(4, 1_700_000_000_000, None), Run(2, 1_700_000_000_100, AUTHOR)])


def test_every_message_checks_also_after_a_way_through_json() -> None:
    for number, signed in enumerate(sample()):
        assert signed["body"]["messageNumber"] == number
        assert "text" not in signed
        check_signed_message(signed)
        check_signed_message(json.loads(json.dumps(signed)), URI)


def test_the_form_is_the_one_that_is_promised() -> None:
    first, *_, last = sample()
    assert set(first) == {"body", "signature", "head", "proof"}
    assert first["body"] == {
        "message": {"p": 2, "n": 1},
        "messageNumber": 0,
        "timestamp": 1_700_000_000_000,
        "metaData": {},
    }
    assert last["body"]["metaData"] == {"submittedByNodeId": AUTHOR.hex()}
    assert first["head"]["feedId"] == KEY.node_id
    assert first["head"]["subfeedHash"] == subfeed_hash("primes").hex()
    assert (first["head"]["size"], first["head"]["timestamp"]) == (6, 1_700_000_000_123)
    assert bytes.fromhex(first["signature"])
    assert all(bytes.fromhex(item) for item in first["proof"])


@given(st.integers(1, 40), st.data())
@settings(deadline=None, max_examples=40)
def test_it_checks_in_a_log_of_any_length(count: int, data: st.DataObject) -> None:
    messages = signed_log([b"%d" % at for at in range(count)], [Run(count, 5, None)])
    check_signed_message(messages[data.draw(st.integers(0, count - 1))], URI)


@pytest.mark.parametrize(
    "text", ['{"a" : 1}', "1.00", '"\\u0041"', "1e999", '{"a":1,"a":2}', "1E2"]
)
def test_a_text_that_another_program_wrote_travels_along(text: str) -> None:
    signed = signed_log([text.encode(), b"2"], [Run(2, 5, None)])[0]
    assert signed["text"] == text
    check_signed_message(signed, URI)
    signed["body"]["message"] = "something else"
    with pytest.raises(ForgedFeed, match="something else than"):
        check_signed_message(signed)
    del signed["text"]
    with pytest.raises(ForgedFeed):
        check_signed_message(signed)


@pytest.mark.parametrize(("text", "other"), [("1.00", 1), ("1 ", True), ("0.0", False)])
def test_what_python_calls_equal_is_not_the_same_message(text: str, other: Any) -> None:
    signed = signed_log([text.encode()], [Run(1, 5, None)])[0]
    check_signed_message(signed)
    signed["body"]["message"] = other
    with pytest.raises(ForgedFeed):
        check_signed_message(signed)


def change(path: str, value: Any) -> Callable[[Any], None]:
    def apply(signed: Any) -> None:
        *parents, last = path.split(".")
        for each in parents:
            signed = signed[each]
        signed[last] = value(signed[last]) if callable(value) else value

    return apply


def flipped(text: str) -> str:
    return ("1" if text[0] == "0" else "0") + text[1:]


FORGERIES = {
    "message": change("body.message", {"p": 3, "n": 1}),
    "key order": change("body.message", {"n": 1, "p": 2}),
    "true for one": change("body.message", {"p": 2, "n": True}),
    "number": change("body.messageNumber", 1),
    "number beyond": change("body.messageNumber", 6),
    "timestamp": change("body.timestamp", lambda value: value + 1),
    "author": change("body.metaData", {"submittedByNodeId": AUTHOR.hex()}),
    "signature": change("signature", flipped),
    "feed": change("head.feedId", NodeKey(b"\x08" * 32).node_id),
    "subfeed": change("head.subfeedHash", subfeed_hash("other").hex()),
    "size": change("head.size", 7),
    "root": change("head.root", flipped),
    "head's time": change("head.timestamp", 0),
    "proof": change("proof", lambda proof: [flipped(proof[0]), *proof[1:]]),
    "proof too short": change("proof", lambda proof: proof[:-1]),
    "proof too long": change("proof", lambda proof: [*proof, proof[0]]),
    "a text of its own": lambda signed: signed.update(text='{"p":2,"n":1 }'),
}
MALFORMED = {
    "nothing": lambda signed: signed.clear(),
    "unsigned extra": change("body.metaData", {"comment": "not covered by the signature"}),
    "extra field": lambda signed: signed.update(comment="1"),
    "extra in body": lambda signed: signed["body"].update(comment="1"),
    "negative": change("body.messageNumber", -1),
    "no hex": change("head.root", lambda value: value[:-1] + "x"),
    "newline": change("signature", lambda value: value + "\n"),
    "spaces": change("head.feedId", "  " * 32),
    "upper case": change("head.feedId", "AB" * 32),
    "half a pair": change("body.message", "\ud800"),
    "NaN": change("body.message", float("nan")),
    "no JSON": change("body.message", b"bytes"),
    "text no JSON": lambda signed: signed.update(text="{"),
    "text half a pair": lambda signed: signed.update(text='"\ud800"'),
    "text too deep": lambda signed: signed.update(text="[" * 100_000 + "]" * 100_000),
    "proof too large": change("proof", lambda proof: proof[:1] * 100),
    "size 0": change("head.size", 0),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_change_of_anything_is_a_forgery(name: str) -> None:
    signed = sample()[0]
    changed = copy.deepcopy(signed)
    FORGERIES[name](changed)
    assert json.dumps(changed) != json.dumps(signed)
    with pytest.raises(ForgedFeed):
        check_signed_message(changed)


@pytest.mark.parametrize("name", MALFORMED)
def test_what_has_another_form_is_bad_input(name: str) -> None:
    signed = copy.deepcopy(sample()[0])
    MALFORMED[name](signed)
    with pytest.raises(BadInput):
        check_signed_message(signed)


@pytest.mark.parametrize("value", [None, [], "x", 1, {"body": None}])
def test_what_is_no_dict_is_bad_input(value: Any) -> None:
    with pytest.raises(BadInput):
        check_signed_message(value)


def test_it_can_be_bound_to_one_subfeed() -> None:
    signed = sample()[0]
    check_signed_message(signed, f"feed://{KEY.node_id}/~{subfeed_hash('primes').hex()}")
    for other in (feed_uri(KEY.public, "other"), feed_uri(b"\x01" * 32, "primes")):
        with pytest.raises(ForgedFeed, match="another subfeed"):
            check_signed_message(signed, other)
    with pytest.raises(BadInput, match="names a feed"):
        check_signed_message(signed, feed_uri(KEY.public))
    with pytest.raises(BadUri):
        check_signed_message(signed, "sha1://" + "0" * 40)


def test_a_message_of_the_log_does_not_pass_for_its_neighbour() -> None:
    first, second, *_ = sample()
    with pytest.raises(ForgedFeed):
        check_signed_message({**first, "body": {**first["body"], "messageNumber": 1}})
    with pytest.raises(ForgedFeed):
        check_signed_message({**first, "proof": second["proof"]})
