"""Two sides that know a token show it to each other without saying it."""

from __future__ import annotations

import dataclasses

import pytest

from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.local.proof import FULL, READ_ONLY, Challenge, Token, parse_token

KEY, OTHER = NodeKey(b"k" * 32), NodeKey(b"o" * 32)
TOKEN = Token(b"t" * 32, KEY.public, FULL)
CHALLENGE = Challenge(TOKEN, b"c" * 32, b"d" * 32)


def test_both_sides_are_believed_if_they_know_the_token() -> None:
    assert CHALLENGE.is_daemon(CHALLENGE.daemon_proof(), CHALLENGE.sign(KEY))
    assert CHALLENGE.is_client(CHALLENGE.client_proof())


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(CHALLENGE, client=b"x" * 32),
        dataclasses.replace(CHALLENGE, daemon=b"x" * 32),
        dataclasses.replace(CHALLENGE, client=CHALLENGE.daemon, daemon=CHALLENGE.client),
        dataclasses.replace(CHALLENGE, token=dataclasses.replace(TOKEN, secret=b"x" * 32)),
        dataclasses.replace(CHALLENGE, token=dataclasses.replace(TOKEN, right=READ_ONLY)),
    ],
)
def test_a_proof_of_another_conversation_is_worth_nothing(other: Challenge) -> None:
    assert not CHALLENGE.is_daemon(other.daemon_proof(), CHALLENGE.sign(KEY))
    assert not CHALLENGE.is_client(other.client_proof())
    if other.token.secret == TOKEN.secret:
        assert not CHALLENGE.is_daemon(CHALLENGE.daemon_proof(), other.sign(KEY))


def test_what_one_side_says_is_not_what_the_other_has_to() -> None:
    assert not CHALLENGE.is_client(CHALLENGE.daemon_proof())
    assert not CHALLENGE.is_daemon(CHALLENGE.client_proof(), CHALLENGE.sign(KEY))


def test_who_may_read_the_token_cannot_pose_as_the_node() -> None:
    assert not CHALLENGE.is_daemon(CHALLENGE.daemon_proof(), CHALLENGE.sign(OTHER))
    assert not CHALLENGE.is_daemon(CHALLENGE.daemon_proof(), b"")


def test_a_token_file_says_token_and_node_and_nothing_else_is_one() -> None:
    text = TOKEN.to_text()
    assert parse_token(text, FULL) == TOKEN
    for wrong in ("", text[:-1], text + "x", text.upper(), "0" * 64, "\N{SNOWMAN}" * 130):
        assert parse_token(wrong, FULL) is None
    assert "7474" not in repr(TOKEN)
