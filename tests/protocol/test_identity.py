"""Node keys: ids, signatures bound to their purpose, sealed boxes."""

from __future__ import annotations

import os

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol import identity
from kachery_p2p.protocol.errors import BadInput, ProtocolViolation
from kachery_p2p.protocol.identity import NodeKey, check_node_id, seal_to, verify

FAST = settings(max_examples=60, deadline=None)
KEY = NodeKey(bytes(range(32)))
OTHER = NodeKey(b"\x07" * 32)
CONTEXTS = st.binary(max_size=20).filter(lambda context: b"\0" not in context)


def test_public_key_is_that_of_rfc_8032_test_1() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    key = NodeKey(seed)
    assert key.node_id == public
    assert key.public == bytes.fromhex(public)
    assert key.seed == seed


@FAST
@given(seed=st.binary(min_size=32, max_size=32), context=CONTEXTS, message=st.binary(max_size=200))
def test_signature_is_plain_ed25519_over_prefix_context_zero_message(
    seed: bytes, context: bytes, message: bytes
) -> None:
    key = NodeKey(seed)
    signature = key.sign(context, message)
    signed = b"kachery-p2p:" + context + b"\0" + message
    assert signature == Ed25519PrivateKey.from_private_bytes(seed).sign(signed)
    assert verify(key.public, context, message, signature)


@FAST
@given(a=CONTEXTS, b=CONTEXTS, m=st.binary(max_size=30), n=st.binary(max_size=30))
def test_signature_is_valid_for_no_other_context_or_message(
    a: bytes, b: bytes, m: bytes, n: bytes
) -> None:
    assert verify(KEY.public, b, n, KEY.sign(a, m)) == ((a, m) == (b, n))


def test_moving_bytes_between_context_and_message_does_not_verify() -> None:
    signature = KEY.sign(b"feed", b"head\0rest")
    assert not verify(KEY.public, b"feed\0head", b"rest", signature)
    assert not verify(KEY.public, b"feedhead", b"\0rest", signature)


def test_context_with_a_zero_byte_is_refused() -> None:
    with pytest.raises(BadInput):
        KEY.sign(b"a\0b", b"")


def test_verify_is_false_for_another_key() -> None:
    assert not verify(OTHER.public, b"c", b"m", KEY.sign(b"c", b"m"))


@FAST
@given(bit=st.integers(0, 64 * 8 - 1))
def test_verify_is_false_for_any_flipped_signature_bit(bit: int) -> None:
    signature = bytearray(KEY.sign(b"c", b"m"))
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify(KEY.public, b"c", b"m", bytes(signature))


@FAST
@given(
    public=st.binary(max_size=40) | st.binary(min_size=32, max_size=32),
    signature=st.binary(max_size=70) | st.binary(min_size=64, max_size=64),
    context=st.binary(max_size=5),
    message=st.binary(max_size=5),
)
def test_verify_of_arbitrary_bytes_is_false_and_never_raises(
    public: bytes, signature: bytes, context: bytes, message: bytes
) -> None:
    assert verify(public, context, message, signature) is False


def test_verify_of_wrong_types_is_false() -> None:
    signature = KEY.sign(b"c", b"m")
    for bad in (None, "text", 7, [1]):
        assert verify(bad, b"c", b"m", signature) is False  # type: ignore[arg-type]
        assert verify(KEY.public, bad, b"m", signature) is False  # type: ignore[arg-type]
        assert verify(KEY.public, b"c", bad, signature) is False  # type: ignore[arg-type]
        assert verify(KEY.public, b"c", b"m", bad) is False  # type: ignore[arg-type]


def test_signature_under_a_small_order_key_does_not_verify() -> None:
    # With A the neutral point, R = A and S = 0 satisfy the bare equation for every message.
    neutral = b"\x01" + bytes(31)
    assert not verify(neutral, b"c", b"m", neutral + bytes(32))


def test_generate_takes_its_seed_from_the_given_source() -> None:
    asked: list[int] = []

    def source(size: int) -> bytes:
        asked.append(size)
        return b"\x05" * size

    assert NodeKey.generate(source).seed == b"\x05" * 32
    assert asked == [32]
    assert NodeKey.generate(os.urandom) != NodeKey.generate(os.urandom)


@pytest.mark.parametrize("seed", [b"", b"x" * 31, b"x" * 33, "x" * 32, None])
def test_seed_of_another_length_or_type_is_refused_and_not_shown(seed: object) -> None:
    with pytest.raises(BadInput) as caught:
        NodeKey(seed)  # type: ignore[arg-type]
    assert "xxx" not in str(caught.value)


def test_repr_names_the_node_and_never_shows_the_seed() -> None:
    for text in (repr(KEY), str(KEY), f"{KEY}"):
        assert KEY.node_id in text
        assert KEY.seed.hex() not in text
        assert repr(KEY.seed)[2:-1] not in text


def test_keys_are_equal_when_their_seeds_are() -> None:
    assert NodeKey(KEY.seed) == KEY
    assert hash(NodeKey(KEY.seed)) == hash(KEY)
    assert KEY != OTHER
    assert KEY.seed != KEY


@FAST
@given(plaintext=st.binary(max_size=300))
def test_sealed_box_opens_with_the_right_key_only(plaintext: bytes) -> None:
    sealed = seal_to(KEY.public, plaintext)
    assert len(sealed) == len(plaintext) + identity.SEAL_OVERHEAD
    assert KEY.unseal(sealed) == plaintext
    with pytest.raises(ProtocolViolation):
        OTHER.unseal(sealed)


@FAST
@given(data=st.data())
def test_changed_sealed_box_does_not_open(data: st.DataObject) -> None:
    sealed = bytearray(seal_to(KEY.public, b"the channel's secret"))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProtocolViolation):
        KEY.unseal(bytes(sealed))


@FAST
@given(garbage=st.binary(max_size=100))
def test_arbitrary_bytes_do_not_unseal(garbage: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        KEY.unseal(garbage)


@pytest.mark.parametrize(
    "public",
    [b"", b"x" * 31, bytes(32), b"\x01" + bytes(31), b"\x02" + bytes(31), b"\xff" * 32, None],
)
def test_sealing_to_what_is_no_public_key_is_refused(public: bytes) -> None:
    with pytest.raises(BadInput):
        seal_to(public, b"secret")


@FAST
@given(seed=st.binary(min_size=32, max_size=32))
def test_every_node_id_passes_the_check(seed: bytes) -> None:
    node_id = NodeKey(seed).node_id
    assert check_node_id(node_id) is node_id


@pytest.mark.parametrize(
    "text",
    [
        *("", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n", " " + "a" * 63, "٠" * 64),
        *(b"a" * 64, None, 7),
    ],
)
def test_other_texts_are_no_node_ids(text: object) -> None:
    with pytest.raises(BadInput):
        check_node_id(text)


def test_refusal_of_a_long_text_shows_its_beginning_only() -> None:
    with pytest.raises(BadInput) as caught:
        check_node_id("z" * 100_000)
    assert len(str(caught.value)) < 200


def test_another_implementation_rejects_our_signature_over_the_bare_message() -> None:
    signature = KEY.sign(b"c", b"m")
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(KEY.public).verify(signature, b"m")
