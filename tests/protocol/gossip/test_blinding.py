"""Blinded keys."""

from hashlib import blake2b

import pytest

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.gossip.blinding import blinded_key

SECRET = bytes(range(32))
SHA1 = "da39a3ee5e6b4b0d3255bfef95601890afd80709"


def test_a_file_key_is_keyed_blake2b_of_the_raw_hash() -> None:
    expected = blake2b(
        bytes.fromhex(SHA1), digest_size=16, key=SECRET, person=b"kachery-file"
    ).digest()
    assert file_key(SHA1).blinded(SECRET) == expected
    # Frozen: a change of this value would make all nodes of different releases strangers.
    assert expected.hex() == "74b7f8b0782095426e3f460d224e5272"


def test_secret_context_and_identifier_all_matter() -> None:
    keys = {
        file_key(SHA1).blinded(SECRET),
        file_key(SHA1).blinded(bytes(32)),
        file_key(SHA1[::-1]).blinded(SECRET),
        blinded_key(SECRET, b"kachery-feed", bytes.fromhex(SHA1)),
    }
    assert len(keys) == 4
    assert {len(key) for key in keys} == {16}


@pytest.mark.parametrize(
    "sha1", ["", SHA1[:-1], SHA1 + "0", SHA1.upper(), SHA1[:-1] + "g", SHA1[:-1] + "\n", "٠" * 40]
)
def test_what_is_no_sha1_is_refused(sha1: str) -> None:
    with pytest.raises(BadInput, match="SHA-1"):
        file_key(sha1).blinded(SECRET)


@pytest.mark.parametrize(
    ("secret", "context"), [(b"", b"x"), (bytes(31), b"x"), (SECRET, b""), (SECRET, bytes(17))]
)
def test_malformed_secrets_and_contexts_are_refused(secret: bytes, context: bytes) -> None:
    with pytest.raises(BadInput):
        blinded_key(secret, context, b"an identifier")
