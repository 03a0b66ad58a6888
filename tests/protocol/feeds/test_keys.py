"""The keys under which feeds are found."""

from hashlib import blake2b

import pytest

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.feeds.keys import feed_owner_key, subfeed_key
from kachery_p2p.protocol.gossip.blinding import blinded_key

SECRET = bytes(range(32))
FEED, SUBFEED = bytes(range(32, 64)), bytes(range(20))


def test_the_keys_of_feeds_are_keyed_blake2b_of_their_ids() -> None:
    def plain(context: bytes, identifier: bytes) -> bytes:
        return blake2b(identifier, digest_size=16, key=SECRET, person=context).digest()

    subfeed, owner = (
        subfeed_key(FEED, SUBFEED).blinded(SECRET),
        feed_owner_key(FEED).blinded(SECRET),
    )
    assert subfeed == plain(b"kachery-feed", FEED + SUBFEED)
    assert owner == plain(b"kachery-owner", FEED)
    # Frozen, as above.
    assert subfeed.hex() == "0b361c64409a84a12150a284c8a73fa1"
    assert owner.hex() == "5371ca7bffb171ba448359e65cc82624"


def test_every_part_of_a_feed_key_matters() -> None:
    keys = {
        subfeed_key(FEED, SUBFEED).blinded(SECRET),
        subfeed_key(FEED, SUBFEED).blinded(bytes(32)),
        subfeed_key(FEED[::-1], SUBFEED).blinded(SECRET),
        subfeed_key(FEED, SUBFEED[::-1]).blinded(SECRET),
        feed_owner_key(FEED).blinded(SECRET),
        feed_owner_key(FEED).blinded(bytes(32)),
        feed_owner_key(FEED[::-1]).blinded(SECRET),
        blinded_key(SECRET, b"kachery-file", FEED + SUBFEED),
    }
    assert len(keys) == 8


@pytest.mark.parametrize("feed", [b"", FEED[1:], FEED + b"x", FEED + SUBFEED])
def test_a_feed_id_of_another_length_has_no_key(feed: bytes) -> None:
    with pytest.raises(BadInput, match="feed id"):
        subfeed_key(feed, SUBFEED).blinded(SECRET)
    with pytest.raises(BadInput, match="feed id"):
        feed_owner_key(feed).blinded(SECRET)


@pytest.mark.parametrize("subfeed", [b"", SUBFEED[1:], SUBFEED + b"x", b"main"])
def test_a_subfeed_hash_of_another_length_has_no_key(subfeed: bytes) -> None:
    with pytest.raises(BadInput, match="subfeed hash"):
        subfeed_key(FEED, subfeed).blinded(SECRET)


def test_a_malformed_secret_makes_no_feed_key() -> None:
    for secret in (b"", bytes(31)):
        with pytest.raises(BadInput, match="channel secret"):
            subfeed_key(FEED, SUBFEED).blinded(secret)
        with pytest.raises(BadInput, match="channel secret"):
            feed_owner_key(FEED).blinded(secret)
