"""Invitation lines, and the proof that one was had."""

from __future__ import annotations

import contextlib
from base64 import urlsafe_b64encode
from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.document import Bootstrap
from kachery_p2p.protocol.channels.invitation import (
    PREFIX,
    Invitation,
    is_invitation,
    is_proven,
    make_invitation,
    parse_line,
    prove,
    to_line,
)
from kachery_p2p.protocol.errors import BadInvitation
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import MAX_INVITATION_BOOTSTRAPS, MAX_INVITATION_TEXT

CHANNEL, ADMITTER, NEWCOMER, OTHER = (NodeKey(bytes([n]) * 32).public for n in range(1, 5))
PROXY = Bootstrap("wss://proxy.example.org:8443", bytes(31) + b"\x05")
HASH = b"h" * 32


def lab(seed: bytes = b"s" * 32, proxies: int = 1) -> Invitation:
    return make_invitation(
        channel=CHANNEL,
        name="lab",
        admitter=ADMITTER,
        seed=seed,
        expires_at=1_800_000_000.7,
        bootstraps=(PROXY,) * proxies,
    )


def test_a_line_is_one_word_that_no_shell_minds_and_short() -> None:
    line = to_line(lab())
    assert set(line) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-:")
    assert len(line) < 300
    assert parse_line(line) == lab()
    assert is_invitation(line)
    assert not is_invitation("-----BEGIN KACHERY CHANNEL lab-----")


def test_it_names_so_many_bootstraps_and_no_more() -> None:
    made = lab(proxies=MAX_INVITATION_BOOTSTRAPS + 3)
    assert len(made.bootstraps) == MAX_INVITATION_BOOTSTRAPS
    assert parse_line(to_line(made)) == made


@pytest.mark.parametrize(
    "wrap",
    [
        lambda line: f"  {line}\r\n",
        lambda line: f"Hi Bob, paste this:\n\n{line}\n\nbest, Ann",
        lambda line: f"> {line[:76]}\n> {line[76:152]}\n> {line[152:]}\n",
        lambda line: f"{line[:90]}\r\n{line[90:]}\r\n\r\nSee you",
        lambda line: f"run: kachery-p2p channel join {line} # until friday",
        lambda line: f"'{line}'",
    ],
)
def test_what_mail_programs_do_to_it_is_undone(wrap) -> None:  # type: ignore[no-untyped-def]
    assert parse_line(wrap(to_line(lab()))) == lab()


@given(st.integers(0, 250), st.sampled_from("ABCxyz019_-"))
def test_a_letter_that_changed_is_noticed(place: int, letter: str) -> None:
    line = to_line(lab())
    place = len(PREFIX) + place % (len(line) - len(PREFIX))
    changed = line[:place] + letter + line[place + 1 :]
    if changed == line:
        return
    # Of the last letter not every bit counts.
    if place == len(line) - 1:
        assert_same_or_refused(changed)
        return
    with pytest.raises(BadInvitation):
        parse_line(changed)


def assert_same_or_refused(text: str) -> None:
    with contextlib.suppress(BadInvitation):
        assert parse_line(text) == lab()


@given(st.integers(1, 250))
def test_a_line_that_was_cut_is_noticed(cut: int) -> None:
    line = to_line(lab())
    with pytest.raises(BadInvitation, match="cut short"):
        parse_line(line[: max(len(PREFIX), len(line) - cut)])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "does not begin"),
        ("kachery-invite", "does not begin"),
        (PREFIX, "cut short"),
        ("x" * (MAX_INVITATION_TEXT + 1), "longer"),
    ],
)
def test_what_is_none_is_said_to_be_none(text: str, reason: str) -> None:
    with pytest.raises(BadInvitation, match=reason):
        parse_line(text)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("version", 2, "of version 2"),
        ("channel", b"short", "Expected|length"),
        ("name", "", "empty"),
        ("name", "a\nb", "control"),
        ("bootstraps", (), "length"),
        ("bootstraps", (PROXY,) * (MAX_INVITATION_BOOTSTRAPS + 1), "length"),
        ("bootstraps", (Bootstrap("http://x", CHANNEL),), "URL such as"),
        ("bootstraps", (Bootstrap("ws://user:pw@x", CHANNEL),), "passwords"),
        ("expires_at", -1, ">="),
    ],
)
def test_what_is_whole_but_wrong_is_refused(field: str, value: object, reason: str) -> None:
    wrong = msgspec.structs.replace(lab(), **{field: value})
    with pytest.raises(BadInvitation, match=reason):
        parse_line(to_line(wrong))


def test_a_line_is_not_more_than_one_value() -> None:
    packed = codec.pack([*codec.plain(lab()), 1])
    data = sha256(packed).digest()[:4] + packed
    with pytest.raises(BadInvitation):
        parse_line(PREFIX + urlsafe_b64encode(data).decode().rstrip("="))


def test_a_proof_counts_for_one_session_of_two_nodes_about_one_channel() -> None:
    key = lab().key
    facts = {"channel": CHANNEL, "admitter": ADMITTER, "newcomer": NEWCOMER, "handshake_hash": HASH}
    proof = prove(key, **facts)
    assert is_proven(key.public, proof, **facts)
    for name in facts:
        assert not is_proven(key.public, proof, **(facts | {name: OTHER}))
    assert not is_proven(OTHER, proof, **facts)
    assert not is_proven(key.public, proof[:-1] + bytes([proof[-1] ^ 1]), **facts)
    assert not is_proven(key.public, b"", **facts)
    assert not is_proven(key.public, prove(NodeKey(b"x" * 32), **facts), **facts)


def test_a_proof_is_for_nothing_else() -> None:
    key = lab().key
    message = codec.pack([CHANNEL, ADMITTER, NEWCOMER, HASH])
    facts = {"channel": CHANNEL, "admitter": ADMITTER, "newcomer": NEWCOMER, "handshake_hash": HASH}
    assert not is_proven(key.public, key.sign(b"channel", message), **facts)
    assert key.sign(b"invitation", message) == prove(key, **facts)
