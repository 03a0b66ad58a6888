"""Signed channel documents: only what the owner signed gets through."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.signed_document import (
    ChannelDocument,
    SignedDocument,
    from_text,
    parse,
    peek,
    sign,
)
from kachery_p2p.protocol.errors import BadChannelDocument, BadInput
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import MAX_CHANNEL_DOCUMENT

OWNER, ALICE, PROXY = (NodeKey(bytes([n]) * 32) for n in range(1, 4))
SECRET = b"s" * 32
NOW = 1_700_000_000.0

DOCUMENT = ChannelDocument.create(
    "lab",
    OWNER,
    SECRET,
    [("wss://proxy.example.org", PROXY.node_id)],
    NOW,
    members=[(ALICE.node_id, "alice", "all")],
    expires_at=NOW + 1000,
)
SIGNED = sign(DOCUMENT, OWNER)
DATA = SIGNED.to_bytes()


def signed_map(change: dict[str, Any], drop: str | None = None) -> bytes:
    """A validly signed body that the package itself would not have made."""
    fields = codec.unpack(SIGNED.body) | change
    fields.pop(drop, None)
    body = codec.pack(fields)
    return codec.pack([body, OWNER.sign(b"channel", body)])


def test_what_was_signed_comes_back() -> None:
    again = parse(DATA, now=NOW)
    assert again == SIGNED
    assert again.digest == SIGNED.digest
    assert again.to_bytes() == DATA
    assert peek(DATA) == (OWNER.public, 1)


def test_the_secret_is_not_in_the_gossiped_form() -> None:
    assert SECRET not in DATA


def test_only_the_owner_can_sign() -> None:
    with pytest.raises(BadInput, match="owner"):
        sign(DOCUMENT, ALICE)
    forged = codec.pack([SIGNED.body, ALICE.sign(b"channel", SIGNED.body)])
    with pytest.raises(BadChannelDocument, match="not signed by its owner"):
        parse(forged, now=NOW)


def test_a_signature_made_for_something_else_is_worth_nothing() -> None:
    other = codec.pack([SIGNED.body, OWNER.sign(b"announcements", SIGNED.body)])
    with pytest.raises(BadChannelDocument, match="not signed by its owner"):
        parse(other, now=NOW)


def test_an_expired_document_is_refused_and_says_since_when() -> None:
    parse(DATA, now=NOW + 999)
    with pytest.raises(BadChannelDocument, match=r"expired on 2023-11-14 22:30 UTC"):
        parse(DATA, now=NOW + 1000)
    assert parse(DATA, now=NOW + 1000, check_expiry=False) == SIGNED


def test_another_format_version_is_named_beside_ours() -> None:
    newer = signed_map({"version_of_format": 2, "members": {"quite": "different"}})
    with pytest.raises(BadChannelDocument, match=r"version 2, this node reads version 1"):
        parse(newer, now=NOW)


MEMBER = codec.unpack(SIGNED.body)["members"][0]
BOOTSTRAP = codec.unpack(SIGNED.body)["bootstraps"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "kachery-feed"}, "not a channel document"),
        ({"channel_id": b"short"}, "channel_id|length"),
        ({"name": ""}, "empty"),
        ({"name": "a\x1b[2Jb"}, "control characters"),
        ({"version": 0}, "version"),
        ({"version": -1}, "version"),
        ({"version": "2"}, "version"),
        ({"expires_at": 2**60}, "expires_at"),
        ({"open": 1}, "open"),
        ({"default_roles": 64}, "proxy"),
        ({"default_roles": 128}, "default_roles"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"members": [MEMBER, MEMBER]}, "ascending"),
        ({"members": [MEMBER | {"roles": 256}]}, "roles"),
        ({"members": [MEMBER | {"roles": 1, "sealed": b""}]}, "sealed"),
        ({"members": [MEMBER | {"roles": 64, "sealed": bytes(80)}]}, "sealed"),
        ({"members": [MEMBER | {"label": "x" * 201}]}, "label"),
        ({"bootstraps": [BOOTSTRAP] * 33}, "32"),
        ({"bootstraps": [BOOTSTRAP] * 2}, "twice"),
        ({"bootstraps": [BOOTSTRAP | {"url": "file:///etc/passwd"}]}, "bootstrap"),
    ],
)
def test_even_the_owner_cannot_sign_nonsense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadChannelDocument, match=message):
        parse(signed_map(change), now=NOW)


def test_a_field_may_not_be_missing_and_the_order_is_fixed() -> None:
    with pytest.raises(BadChannelDocument, match="secret_version"):
        parse(signed_map({}, drop="secret_version"), now=NOW)
    fields = codec.unpack(SIGNED.body)
    body = codec.pack(dict(reversed(fields.items())))
    with pytest.raises(BadChannelDocument, match="canonical"):
        parse(codec.pack([body, OWNER.sign(b"channel", body)]), now=NOW)


def test_the_size_is_limited_before_anything_is_read() -> None:
    with pytest.raises(BadChannelDocument, match="larger than"):
        parse(bytes(MAX_CHANNEL_DOCUMENT + 1), now=NOW)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_with_the_one_error(data: bytes) -> None:
    with pytest.raises(BadChannelDocument):
        parse(data, now=NOW)
    with pytest.raises(BadChannelDocument):
        peek(data)


@settings(deadline=None, max_examples=200)
@given(at=st.integers(0, len(DATA) - 1), flip=st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(at: int, flip: int) -> None:
    data = bytearray(DATA)
    data[at] ^= flip
    with pytest.raises(BadChannelDocument):
        parse(bytes(data), now=NOW)


@settings(deadline=None, max_examples=60)
@given(keep=st.integers(0, len(DATA) - 1), tail=st.binary(min_size=1, max_size=3))
def test_cut_or_lengthened_documents_are_refused(keep: int, tail: bytes) -> None:
    for data in (DATA[:keep], DATA + tail):
        with pytest.raises(BadChannelDocument):
            parse(data, now=NOW)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150)
@given(name=st.sampled_from(sorted(codec.unpack(SIGNED.body))), value=VALUES)
def test_any_signed_field_of_any_type_gives_a_document_or_the_one_error(
    name: str, value: Any
) -> None:
    try:
        result = parse(signed_map({name: value}), now=NOW)
    except BadChannelDocument:
        return
    assert parse(result.to_bytes(), now=NOW) == result


def open_channel() -> SignedDocument:
    document = ChannelDocument.create(
        "open", OWNER, SECRET, [], NOW, open=True, default_roles="request"
    )
    return sign(document, OWNER)


def test_text_carries_the_document_and_the_secret_of_an_open_channel_only() -> None:
    assert from_text(SIGNED.to_text()) == (DATA, None)
    signed = open_channel()
    assert from_text(signed.to_text()) == (signed.to_bytes(), None)
    assert from_text(signed.to_text(SECRET)) == (signed.to_bytes(), SECRET)
    with pytest.raises(BadInput, match="open channel"):
        SIGNED.to_text(SECRET)
