"""Passes: when they count, what they cover, and what a changed one is worth."""

from __future__ import annotations

import pytest

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.document import ChannelDocument
from kachery_p2p.protocol.channels.visitor_pass import (
    Visiting,
    VisitorPass,
    check_pass,
    check_revocation,
    is_pass_proven,
    is_stamped,
    make_pass,
    prove_pass,
    require_covered,
    revoke,
    secret_of,
    stamp,
)
from kachery_p2p.protocol.errors import AccessDenied, ProtocolViolation, ShareRefused
from kachery_p2p.protocol.feeds.keys import subfeed_key
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.identity import NodeKey

OWNER, HOME, OTHER, VISITOR = (NodeKey(bytes([n]) * 32) for n in (1, 2, 3, 4))
SEED, NOW = bytes([9]) * 32, 1_700_000_000.0
FILE, FEED = file_key("ab" * 20), subfeed_key(bytes(32), bytes(20))
DOCUMENT = ChannelDocument.create(
    "lab", OWNER, bytes(32), [("wss://proxy.example", OTHER.node_id)], NOW,
    members=[(HOME.node_id, "home", "all"), (OTHER.node_id, "other", "all,proxy")],
)  # fmt: skip


def made(signer: NodeKey = OWNER, document: ChannelDocument = DOCUMENT, uses: int = 0) -> bytes:
    roles = frozenset({"request-files"})
    return codec.encode(
        make_pass(
            signer, document, home=HOME.public, seed=SEED, contents=[FILE.blinded], roles=roles,
            uses=uses, now=NOW, expires_at=NOW + 60,
        )
    )  # fmt: skip


def refused(data: bytes, document: ChannelDocument = DOCUMENT, now: float = NOW) -> str:
    with pytest.raises(ShareRefused) as error:
        check_pass(data, document, now)
    return str(error.value.fields["reason"])


def test_the_owners_pass_counts_until_its_time_is_over() -> None:
    assert check_pass(made(), DOCUMENT, NOW + 59).roles == {"request-files"}
    assert "time is over" in refused(made(), now=NOW + 60)


def test_an_admitters_pass_counts_as_long_as_it_may_admit() -> None:
    admitting = DOCUMENT.with_admitter(HOME.node_id, "request-files", NOW)
    assert "may not share" in refused(made(HOME))
    check_pass(made(HOME, admitting), admitting, NOW)
    fewer = DOCUMENT.with_admitter(HOME.node_id, "request-feeds", NOW)
    assert "may not share" in refused(made(HOME, fewer), fewer)
    gone = admitting.without_member(HOME.node_id, bytes(32), NOW)
    assert "may not share" in refused(made(HOME, admitting), gone)


def test_the_owner_ends_all_that_were_made_before() -> None:
    later = DOCUMENT.without_invitations(NOW)
    assert "owner revoked" in refused(made(), later)
    check_pass(made(document=later), later, NOW)


def test_it_is_void_with_its_home_and_on_another_channel() -> None:
    gone = DOCUMENT.without_member(HOME.node_id, bytes(32), NOW)
    assert "may not share" in refused(made(), gone)
    elsewhere = ChannelDocument.create("x", OTHER, bytes(32), [], NOW)
    assert "another channel" in refused(made(), elsewhere)
    assert "expired" in refused(made(), DOCUMENT.with_expiry(NOW + 1, NOW), now=NOW + 2)


def test_no_byte_of_it_can_be_changed() -> None:
    data = made()
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(ProtocolViolation):
            check_pass(changed, DOCUMENT, NOW)


def test_nobody_makes_himself_a_pass_with_more_than_request_roles() -> None:
    forged = make_pass(
        OTHER, DOCUMENT, home=OTHER.public, seed=SEED, contents=[FILE.blinded],
        roles=frozenset({"request-files"}), uses=0, now=NOW, expires_at=NOW + 60,
    )  # fmt: skip
    assert "may not share" in refused(codec.encode(forged))
    providing = make_pass(
        OWNER, DOCUMENT, home=HOME.public, seed=SEED, contents=[FILE.blinded],
        roles=frozenset({"provide-files"}), uses=0, now=NOW, expires_at=NOW + 60,
    )  # fmt: skip
    assert "may not share" in refused(codec.encode(providing))


def test_it_covers_what_is_in_its_scope_for_who_knows_its_secret() -> None:
    record = codec.decode(VisitorPass, made())
    knowing = Visiting(record, secret_of(SEED), True)
    require_covered(knowing, "request-files", FILE.blinded, "lab")
    for visiting, role, mark in [
        (knowing, "request-files", file_key("cd" * 20).blinded),
        (knowing, "request-feeds", FILE.blinded),
        (knowing, "request-files", FEED.blinded),
        (Visiting(record, b"", True), "request-files", FILE.blinded),
        (Visiting(record, bytes(32), True), "request-files", FILE.blinded),
    ]:
        with pytest.raises(AccessDenied):
            require_covered(visiting, role, mark, "lab")


def test_a_proof_is_for_one_visitor_one_receiver_and_one_session() -> None:
    right = {
        "channel": OWNER.public,
        "verifier": OTHER.public,
        "visitor": VISITOR.public,
        "handshake_hash": bytes(32),
    }
    key = NodeKey(SEED)
    proof = prove_pass(key, **right)
    assert is_pass_proven(key.public, proof, **right)
    for name in right:
        assert not is_pass_proven(key.public, proof, **right | {name: b"x" * 32}), name
    assert not is_pass_proven(OTHER.public, proof, **right)


def test_a_stamp_is_for_one_visitor_and_by_who_made_the_pass() -> None:
    counted = codec.decode(VisitorPass, made(uses=1))
    word = stamp(HOME, counted.channel, counted.id, VISITOR.public)
    assert is_stamped(counted, VISITOR.public, word)
    assert not is_stamped(counted, OTHER.public, word)
    assert not is_stamped(counted, VISITOR.public, b"")
    forged = stamp(OTHER, counted.channel, counted.id, VISITOR.public)
    assert not is_stamped(counted, VISITOR.public, forged)
    assert is_stamped(codec.decode(VisitorPass, made()), VISITOR.public, b"")


def test_a_revocation_is_its_nodes_own() -> None:
    data = codec.encode(revoke(HOME, OWNER.public, OTHER.public, NOW))
    assert check_revocation(data).home == HOME.public
    for at in range(len(data)):
        with pytest.raises(ProtocolViolation):
            check_revocation(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
