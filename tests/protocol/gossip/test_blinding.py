"""Blinded keys."""

from hashlib import blake2b

import pytest

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.gossip.blinding import blind, blinded_key, feed_key, feed_owner_key

SECRET = bytes(range(32))
FEED, SUBFEED = bytes(range(32, 64)), bytes(range(20))
SHA1 = "da39a3ee5e6b4b0d3255bfef95601890afd80709"


def test_a_file_key_is_keyed_blake2b_of_the_raw_hash() -> None:
    expected = blake2b(
        bytes.fromhex(SHA1), digest_size=16, key=SECRET, person=b"kachery-file"
    ).digest()
    assert blind(SECRET, SHA1) == expected
    # Frozen: a change of this value would make all nodes of different releases strangers.
    assert expected.hex() == "74b7f8b0782095426e3f460d224e5272"


def test_secret_context_and_identifier_all_matter() -> None:
    keys = {
        blind(SECRET, SHA1),
        blind(bytes(32), SHA1),
        blind(SECRET, SHA1[::-1]),
        blinded_key(SECRET, b"kachery-feed", bytes.fromhex(SHA1)),
    }
    assert len(keys) == 4
    assert {len(key) for key in keys} == {16}


@pytest.mark.parametrize(
    "sha1", ["", SHA1[:-1], SHA1 + "0", SHA1.upper(), SHA1[:-1] + "g", SHA1[:-1] + "\n", "٠" * 40]
)
def test_what_is_no_sha1_is_refused(sha1: str) -> None:
    with pytest.raises(BadInput, match="SHA-1"):
        blind(SECRET, sha1)


@pytest.mark.parametrize(
    ("secret", "context"), [(b"", b"x"), (bytes(31), b"x"), (SECRET, b""), (SECRET, bytes(17))]
)
def test_malformed_secrets_and_contexts_are_refused(secret: bytes, context: bytes) -> None:
    with pytest.raises(BadInput):
        blinded_key(secret, context, b"thing")


def test_the_keys_of_feeds_are_keyed_blake2b_of_their_ids() -> None:
    def plain(context: bytes, identifier: bytes) -> bytes:
        return blake2b(identifier, digest_size=16, key=SECRET, person=context).digest()

    subfeed, owner = feed_key(SECRET, FEED, SUBFEED), feed_owner_key(SECRET, FEED)
    assert subfeed == plain(b"kachery-feed", FEED + SUBFEED)
    assert owner == plain(b"kachery-owner", FEED)
    # Frozen, as above.
    assert subfeed.hex() == "0b361c64409a84a12150a284c8a73fa1"
    assert owner.hex() == "5371ca7bffb171ba448359e65cc82624"


def test_every_part_of_a_feed_key_matters() -> None:
    keys = {
        feed_key(SECRET, FEED, SUBFEED),
        feed_key(bytes(32), FEED, SUBFEED),
        feed_key(SECRET, FEED[::-1], SUBFEED),
        feed_key(SECRET, FEED, SUBFEED[::-1]),
        feed_owner_key(SECRET, FEED),
        feed_owner_key(bytes(32), FEED),
        feed_owner_key(SECRET, FEED[::-1]),
        blinded_key(SECRET, b"kachery-file", FEED + SUBFEED),
    }
    assert len(keys) == 8


@pytest.mark.parametrize("feed", [b"", FEED[1:], FEED + b"x", FEED + SUBFEED])
def test_a_feed_id_of_another_length_has_no_key(feed: bytes) -> None:
    with pytest.raises(BadInput, match="feed id"):
        feed_key(SECRET, feed, SUBFEED)
    with pytest.raises(BadInput, match="feed id"):
        feed_owner_key(SECRET, feed)


@pytest.mark.parametrize("subfeed", [b"", SUBFEED[1:], SUBFEED + b"x", b"main"])
def test_a_subfeed_hash_of_another_length_has_no_key(subfeed: bytes) -> None:
    with pytest.raises(BadInput, match="subfeed hash"):
        feed_key(SECRET, FEED, subfeed)


def test_a_malformed_secret_makes_no_feed_key() -> None:
    for secret in (b"", bytes(31)):
        with pytest.raises(BadInput, match="channel secret"):
            feed_key(secret, FEED, SUBFEED)
        with pytest.raises(BadInput, match="channel secret"):
            feed_owner_key(secret, FEED)
