"""Feeds: names, heads and who may write."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kachery_p2p.protocol import codec, limits
from kachery_p2p.protocol.errors import BadInput, BadUri, ForgedFeed, ProtocolViolation
from kachery_p2p.protocol.feeds.feed import (
    CONTEXT,
    AccessRules,
    Head,
    check_head,
    feed_uri,
    parse_feed_uri,
    sign_head,
    subfeed_hash,
    subfeed_text,
)
from kachery_p2p.protocol.identity import NodeKey, verify
from kachery_p2p.protocol.uri import parse_uri

FEED = bytes(range(32))
HEX = FEED.hex()
DIGEST = "0123456789abcdef0123456789abcdef01234567"
KEY = NodeKey(b"\x05" * 32)

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
awkward = st.text("%25?#/ ~+&=.\n\x85é\U0001f600a", min_size=1, max_size=12)
names = (texts | awkward).filter(lambda name: name[0] != "~")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip

# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # What sha1sum says of the text; frozen.
        ("main", "b28b7af69320201d1cf206ebf28373980add1451"),
        ("é/ü", hashlib.sha1(b"\xc3\xa9/\xc3\xbc").hexdigest()),
        ({"b": 1, "a": [1, "x"]}, hashlib.sha1(b'{"a":[1,"x"],"b":1}').hexdigest()),
        ({"é": "ü"}, hashlib.sha1(rb'{"\u00e9":"\u00fc"}').hexdigest()),
        ([], hashlib.sha1(b"[]").hexdigest()),
        (5, hashlib.sha1(b"5").hexdigest()),
        (1.5, hashlib.sha1(b"1.5").hexdigest()),
        (True, hashlib.sha1(b"true").hexdigest()),
        (None, hashlib.sha1(b"null").hexdigest()),
        (f"~{DIGEST}", DIGEST),
        (f"~{DIGEST.upper()}", DIGEST),
    ],
    ids=str,
)
def test_names_hash_as_they_always_did(name: Any, expected: str) -> None:
    assert subfeed_hash(name).hex() == expected


def test_text_that_reads_like_json_names_the_same_as_the_json() -> None:
    # No choice of ours: kachery hashed the bytes of either.
    assert subfeed_hash("5") == subfeed_hash(5)
    assert subfeed_hash('["a"]') == subfeed_hash(["a"])
    assert subfeed_hash('[ "a"]') != subfeed_hash(["a"])


@given(json_values.filter(lambda value: not isinstance(value, str)))
def test_any_json_is_a_name_and_its_hash_names_the_same(name: Any) -> None:
    found = subfeed_hash(name)
    assert len(found) == 20
    assert subfeed_text(name) == f"~{found.hex()}"
    assert subfeed_hash(subfeed_text(name)) == found


@given(st.dictionaries(st.text(), st.integers(), min_size=2, max_size=6))
def test_the_order_of_keys_does_not_matter(name: dict[str, int]) -> None:
    assert subfeed_hash(name) == subfeed_hash(dict(reversed(name.items())))


@given(names)
def test_text_stands_for_itself(name: str) -> None:
    assert subfeed_text(name) == name
    assert subfeed_hash(name) == hashlib.sha1(name.encode()).digest()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "0 characters"),
        ("x" * (limits.MAX_SUBFEED_NAME + 1), "1001 characters"),
        ("~", "40 hex digits"),
        ("~main", "40 hex digits"),
        (f"~{DIGEST[1:]}", "40 hex digits"),
        (f"~{DIGEST}0", "40 hex digits"),
        (f"~{DIGEST}\n", "40 hex digits"),
        (f"~{DIGEST[:-1]}g", "40 hex digits"),
        ("~" + "٠" * 40, "40 hex digits"),
        ("a\ud800", "not valid text"),
        (float("nan"), "no JSON"),
        ({"x": float("inf")}, "no JSON"),
        (b"main", "no JSON"),
        ({1, 2}, "no JSON"),
        ({(1, 2): 3}, "no JSON"),
        ({1: 2, "a": 3}, "no JSON"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_cannot_be_a_name_is_refused(name: Any, reason: str) -> None:
    for function in (subfeed_hash, subfeed_text, lambda name: feed_uri(FEED, name)):
        with pytest.raises(BadInput, match=reason):
            function(name)


def test_a_name_without_end_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for name in (loop, deep):
        with pytest.raises(BadInput, match="no JSON"):
            subfeed_hash(name)
    while deep:  # so that it need not be taken down recursively
        deep = deep.pop()


def test_the_longest_name_is_one() -> None:
    assert len(subfeed_hash("x" * limits.MAX_SUBFEED_NAME)) == 20


# --- URIs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        (None, ""),
        ("main", "/main"),
        ("a b", "/a%20b"),
        ("a/b", "/a/b"),
        ("/a//b/", "//a//b/"),
        ("100%", "/100%25"),
        ("a%20b", "/a%2520b"),
        ("a?b#c", "/a%3Fb%23c"),
        ("é", "/%C3%A9"),
        ("a\nb", "/a%0Ab"),
        ("a+b~c", "/a%2Bb~c"),
        (f"~{DIGEST}", f"/~{DIGEST}"),
        (f"~{DIGEST.upper()}", f"/~{DIGEST}"),
        ({"a": 1}, "/~" + hashlib.sha1(b'{"a":1}').hexdigest()),
    ],
    ids=str,
)
def test_a_uri_is_written_as_kachery_wrote_it(name: Any, tail: str) -> None:
    uri = feed_uri(FEED, name)
    assert uri == f"feed://{HEX}{tail}"
    feed, found = parse_feed_uri(uri)
    assert feed == FEED
    assert found == (None if name is None else subfeed_text(name))


@given(names)
@settings(max_examples=300)
def test_any_name_survives_the_way_through_a_uri(name: str) -> None:
    uri = feed_uri(FEED, name)
    assert uri == f"feed://{HEX}/{quote(name)}"
    assert uri.isascii()
    assert uri.isprintable()
    assert parse_feed_uri(uri) == (FEED, name)
    assert str(parse_uri(uri)) == uri


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"feed://{HEX}", None),
        (f"feed://{HEX}/", None),
        (f"FEED://{HEX.upper()}/Main", "Main"),
        (f"feed://{HEX}/a b", "a b"),
        (f"feed://{HEX}/a#b", "a#b"),
        (f"feed://{HEX}/é", "é"),
        (f"feed://{HEX}/a%2fb", "a/b"),
        (f"feed://{HEX}/100%", "100%"),
        (f"feed://{HEX}/a%zz", "a%zz"),
        (f"feed://{HEX}/a+b", "a+b"),
        (f"feed://{HEX}/main?later=1", "main"),
        (f"feed://{HEX}/%7E{DIGEST}", f"~{DIGEST}"),
    ],
)
def test_other_ways_to_write_a_uri_are_read(text: str, name: str | None) -> None:
    assert parse_feed_uri(text) == (FEED, name)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"sha1://{DIGEST}/x", "names a file"),
        (f"sha1dir://{DIGEST}/x", "names a file"),
        ("main", "does not begin"),
        ("feed://", "0 digits"),
        (f"feed://{HEX[1:]}", "63 digits"),
        (f"feed://{HEX}/%FF", "not UTF-8"),
        (f"feed://{HEX}/%ED%A0%80", "not UTF-8"),
        (f"feed://{HEX}/~abc", "40 hex digits"),
        (f"feed://{HEX}/{'x' * 1001}", "1001 characters"),
        (f"feed://{HEX}/a\ud800", "not valid text"),
        (f"feed://{HEX}/main?manifest={DIGEST}", "no label, manifest"),
        ("", "does not begin"),
        (5, "not a str"),
        (None, "not a str"),
    ],
    ids=repr,
)
def test_what_is_no_feed_uri_is_refused(text: Any, reason: str) -> None:
    with pytest.raises(BadUri, match=reason):
        parse_feed_uri(text)


@pytest.mark.parametrize("feed", [b"", FEED[1:], FEED + b"x"])
def test_a_feed_id_of_another_length_makes_no_uri(feed: bytes) -> None:
    with pytest.raises(BadUri, match="digits"):
        feed_uri(feed, "main")


def test_a_name_too_long_for_a_uri_stands_there_as_its_hash() -> None:
    name = "\U0001f600" * limits.MAX_SUBFEED_NAME
    uri = feed_uri(FEED, name)
    assert uri == f"feed://{HEX}/~{subfeed_hash(name).hex()}"
    feed, found = parse_feed_uri(uri)
    assert feed == FEED
    assert subfeed_hash(found) == subfeed_hash(name)
    assert len(feed_uri(FEED, "%" * limits.MAX_SUBFEED_NAME)) == 72 + 3 * limits.MAX_SUBFEED_NAME


@given(st.text() | names.map(lambda tail: f"feed://{HEX}/{tail}"))
@settings(max_examples=200)
def test_any_text_is_a_feed_uri_or_a_bad_uri(text: str) -> None:
    try:
        feed, name = parse_feed_uri(text)
    except BadUri:
        return
    again = feed_uri(feed, name)
    assert subfeed_hash(parse_feed_uri(again)[1]) == subfeed_hash(name)


# --- heads ---------------------------------------------------------------------------------------


def head(**changes: Any) -> Head:
    fields = {"subfeed": b"s" * 20, "size": 7, "root": b"r" * 32, "timestamp": 1_700_000_000_000}
    return sign_head(KEY, **{**fields, **changes})


def test_a_head_is_signed_over_the_five_fields() -> None:
    made = head()
    message = codec.pack([KEY.public, b"s" * 20, 7, b"r" * 32, 1_700_000_000_000])
    assert CONTEXT == b"feed head"
    assert verify(KEY.public, b"feed head", message, made.sig)
    # Frozen: nodes of different releases must agree. Ed25519 is deterministic.
    digest = hashlib.sha256(codec.encode(made)).hexdigest()
    assert digest == "d735c4f6f79a50e131923db3ec7efdea5fea52f7f97dfa8d04aca61250f492bc"


@pytest.mark.parametrize(
    "change",
    [
        {"feed": NodeKey(b"\x06" * 32).public},
        {"subfeed": b"t" * 20},
        {"size": 8},
        {"root": b"R" * 32},
        {"timestamp": 0},
        {"sig": bytes(64)},
        {"sig": NodeKey(b"\x06" * 32).sign(b"feed head", b"x")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_no_field_of_a_head_can_be_changed(change: dict[str, Any]) -> None:
    check_head(head())
    with pytest.raises(ForgedFeed, match="did not sign") as caught:
        check_head(replace(head(), **change), source="node abc")
    assert "node abc" in str(caught.value)
    assert caught.value.fields.keys() >= {"what", "source", "reason"}


def test_a_signature_for_another_purpose_is_worth_nothing() -> None:
    made = head()
    message = codec.pack([made.feed, made.subfeed, made.size, made.root, made.timestamp])
    for context in (b"announcements", b"channel", b"feed", b"feed head "):
        with pytest.raises(ForgedFeed):
            check_head(replace(made, sig=KEY.sign(context, message)))


def test_a_feed_whose_key_everybody_has_is_refused() -> None:
    # Points of small order: some signatures would hold for any message.
    for feed in (bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"):
        for sig in (bytes(64), feed + bytes(32)):
            with pytest.raises(ForgedFeed):
                check_head(replace(head(), feed=feed, sig=sig))


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0}, {"size": -1}, {"size": limits.MAX_FEED_MESSAGES + 1}, {"size": 2**80},
        {"size": 1.0}, {"size": None}, {"subfeed": b"s" * 19}, {"subfeed": b"s" * 21},
        {"root": b""}, {"root": b"r" * 33}, {"root": "r" * 32}, {"timestamp": -1},
        {"timestamp": 2**63}, {"timestamp": 2**80}, {"timestamp": 0.5},
    ],
    ids=str,
)  # fmt: skip
def test_a_head_out_of_range_is_neither_signed_nor_read(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="feed head"):
        head(**change)
    with pytest.raises(ProtocolViolation):
        codec.convert(Head, codec.plain(replace(head(), **change)))


@pytest.mark.parametrize("size", [1, limits.MAX_FEED_MESSAGES])
@pytest.mark.parametrize("timestamp", [0, 2**63 - 1])
def test_the_extremes_are_signed_and_cross_the_wire(size: int, timestamp: int) -> None:
    made = head(size=size, timestamp=timestamp)
    again = codec.decode(Head, codec.encode(made))
    assert again == made
    check_head(again)


# --- who may write -------------------------------------------------------------------------------

ALICE, BOB = "a" * 64, "b" * 64


def rules(*pairs: tuple[Any, Any]) -> dict[str, Any]:
    return {"rules": [{"nodeId": node, "write": write} for node, write in pairs]}


def test_the_form_of_old_is_read_and_written() -> None:
    value = rules((ALICE, True), (BOB, False))
    parsed = AccessRules.parse(value)
    assert parsed.plain() == value
    assert AccessRules.parse(parsed.plain()) == parsed
    assert parsed.may_write(ALICE)
    assert not parsed.may_write(BOB)
    assert not parsed.may_write("c" * 64)


def test_without_rules_nobody_may_write() -> None:
    nobody = AccessRules.parse({"rules": []})
    assert not nobody.may_write(ALICE)
    assert nobody.plain() == {"rules": []}


@given(st.dictionaries(st.binary(min_size=32, max_size=32).map(bytes.hex), st.booleans()))
def test_exactly_those_who_were_told_may_write(told: dict[str, bool]) -> None:
    parsed = AccessRules.parse(rules(*told.items()))
    assert {node for node in told if parsed.may_write(node)} == {n for n in told if told[n]}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "Expected"),
        ([], "Expected"),
        ({}, "missing required field `rules`"),
        ({"rules": None}, "Expected `array`"),
        ({"rules": [ALICE]}, "Expected `object`"),
        ({"rules": [{"nodeId": ALICE}]}, "missing required field `write`"),
        ({"rules": [{"write": True}]}, "missing required field `nodeId`"),
        ({"rules": [], "default": True}, "unknown field `default`"),
        ({"rules": [{"nodeId": ALICE, "write": True, "read": True}]}, "unknown field `read`"),
        (rules((ALICE, 1)), "Expected `bool`"),
        (rules((ALICE, "true")), "Expected `bool`"),
        (rules((5, True)), "Expected `str`"),
        (rules((ALICE[1:], True)), "64 lowercase hex"),
        (rules((ALICE.upper(), True)), "64 lowercase hex"),
        (rules(("g" * 64, True)), "64 lowercase hex"),
        (rules((ALICE, True), (ALICE, True)), "twice"),
        (rules((ALICE, True), (BOB, True), (ALICE, False)), "twice"),
        (rules(*((f"{n:064x}", True) for n in range(1_001))), "1001 rules"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_malformed_rules_are_refused(value: Any, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        AccessRules.parse(value)


def test_as_many_rules_as_allowed_are_allowed() -> None:
    most = [(f"{n:064x}", True) for n in range(limits.MAX_FEED_WRITERS)]
    assert AccessRules.parse(rules(*most)).may_write(f"{limits.MAX_FEED_WRITERS - 1:064x}")
