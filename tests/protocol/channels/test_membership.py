"""The channel book: what it keeps, and who may do what."""

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels import membership
from kachery_p2p.protocol.channels.membership import ChannelBook
from kachery_p2p.protocol.channels.signed_document import (
    ChannelDocument,
    SignedDocument,
    parse,
    sign,
)
from kachery_p2p.protocol.errors import (
    AccessDenied,
    BadChannelDocument,
    BadInput,
    UnknownChannel,
)
from kachery_p2p.protocol.identity import NodeKey

OWNER, OTHER_OWNER, ALICE, BOB, PROXY = (NodeKey(bytes([n]) * 32) for n in range(1, 6))
SECRET, FRESH = b"s" * 32, b"f" * 32
NOW = 1_700_000_000.0
HASH = bytes(range(32))

ONE = ChannelDocument.create(
    "lab",
    OWNER,
    SECRET,
    [("wss://proxy", PROXY.node_id)],
    NOW,
    members=[(ALICE.node_id, "alice", "all"), (BOB.node_id, "bob", "request")],
)
CHANNEL = OWNER.public


def signed(document: ChannelDocument, owner: NodeKey = OWNER) -> SignedDocument:
    return sign(document, owner)


def book(key: NodeKey = ALICE, document: ChannelDocument = ONE, wanted: str = "all") -> ChannelBook:
    result = ChannelBook(key)
    result.join(signed(document), wanted)
    return result


def test_what_counts_is_what_was_granted_and_for_ourselves_also_wanted() -> None:
    ours = book(BOB, wanted="files")
    assert ours.effective(CHANNEL, BOB.node_id) == {"request-files"}
    assert len(ours.effective(CHANNEL, ALICE.node_id)) == 6
    assert ours.effective(CHANNEL, PROXY.node_id) == {"proxy"}
    assert ours.effective(CHANNEL, "ab" * 32) == frozenset()
    assert ours.effective(bytes(32), BOB.node_id) == frozenset()


@pytest.mark.parametrize(
    ("node", "role", "wanted", "who", "cause"),
    [
        (ALICE, "provide-files", "request", "alice", "granted, but switched off by its user"),
        (BOB, "provide-files", "all", "bob", "not granted by the channel's owner"),
        (PROXY, "request-files", "all", PROXY.node_id[:12], "not granted by the channel's owner"),
        (OWNER, "request-files", "all", OWNER.node_id[:12], "not a member"),
    ],
)
def test_a_refusal_names_channel_node_role_and_cause(
    node: NodeKey, role: str, wanted: str, who: str, cause: str
) -> None:
    with pytest.raises(AccessDenied) as caught:
        book(wanted=wanted).require(CHANNEL, node_id=node.node_id, role=role, side="requester")
    sentence = str(caught.value)
    assert all(part in sentence for part in ("'lab'", "requester", who, role, cause))


def test_what_is_granted_and_wanted_passes() -> None:
    ours = book(wanted="provide-files")
    ours.require(CHANNEL, node_id=ALICE.node_id, role="provide-files", side="provider")
    ours.require(CHANNEL, node_id=BOB.node_id, role="request-tasks", side="requester")
    with pytest.raises(UnknownChannel):
        ours.require(bytes(32), node_id=BOB.node_id, role="proxy", side="provider")


def test_a_removal_reaches_the_book_and_says_what_changed() -> None:
    ours = book()
    two = ONE.without_member(BOB.node_id, FRESH, NOW).with_member(
        "ab" * 32, "new proxy", "proxy", FRESH, NOW
    )
    two = two.with_roles(PROXY.node_id, "none", FRESH, SECRET, NOW)
    update = ours.offer(signed(two).to_bytes(), NOW)
    assert update.signed is not None
    assert update.removed == {BOB.node_id}
    assert update.added == {"ab" * 32}
    assert update.changed == {PROXY.node_id}
    assert update.secret_changed
    assert not update.rules_changed
    assert ours.effective(CHANNEL, BOB.node_id) == frozenset()
    assert ours.secret(CHANNEL) == (2, FRESH)


def test_a_change_of_the_expiry_is_a_change_of_the_rules() -> None:
    update = book().offer(signed(ONE.with_expiry(NOW + 5, NOW)).to_bytes(), NOW)
    assert update.rules_changed
    assert not update.secret_changed
    assert not update.changed | update.added | update.removed


def test_old_known_and_foreign_documents_change_nothing() -> None:
    two = ONE.with_expiry(NOW + 100, NOW)
    ours = book(document=two)
    foreign = ChannelDocument.create("lab", OTHER_OWNER, SECRET, [], NOW)
    for document, owner in ((ONE, OWNER), (two, OWNER), (foreign, OTHER_OWNER)):
        update = ours.offer(signed(document, owner).to_bytes(), NOW)
        assert update == membership.Update(document.channel_id)
    assert ours.signed(CHANNEL).document == two
    assert list(ours) == [CHANNEL]


def test_a_forged_document_is_an_error_and_changes_nothing() -> None:
    ours = book()
    body = signed(ONE.without_member(ALICE.node_id, FRESH, NOW)).body
    with pytest.raises(BadChannelDocument, match="not signed"):
        ours.offer(codec.pack([body, BOB.sign(b"channel", body)]), NOW)
    assert ours.signed(CHANNEL).document == ONE


@settings(deadline=None, max_examples=80)
@given(st.binary(max_size=200))
def test_offered_garbage_is_only_ever_a_bad_channel_document(data: bytes) -> None:
    with pytest.raises(BadChannelDocument):
        book().offer(data, NOW)


def test_in_whatever_order_documents_come_all_books_end_with_the_same_one() -> None:
    two = ONE.without_member(BOB.node_id, FRESH, NOW)
    rival = ONE.with_expiry(NOW + 50, NOW)
    another = ONE.without_member(PROXY.node_id, FRESH, NOW)
    assert two.version == rival.version == another.version
    offers = [signed(d).to_bytes() for d in (ONE, two, rival, another)]
    kept = set()
    for order in permutations(offers):
        ours = book()
        for data in order:
            ours.offer(data, NOW)
        secret = ours.secret(CHANNEL)
        kept.add((ours.signed(CHANNEL).to_bytes(), secret))
    assert len(kept) == 1
    assert kept.pop()[0] in offers[1:]


def test_a_newer_version_counts_even_if_it_expired_meanwhile() -> None:
    ours = book()
    two = ONE.without_member(BOB.node_id, FRESH, NOW).with_expiry(NOW + 5, NOW)
    assert ours.offer(signed(two).to_bytes(), NOW + 6).removed == {BOB.node_id}
    assert ours.effective(CHANNEL, ALICE.node_id) == frozenset()
    with pytest.raises(AccessDenied, match="expired"):
        ours.require(CHANNEL, node_id=ALICE.node_id, role="provide-files", side="provider")


def test_an_expired_channel_grants_nothing_until_its_owner_renews_it() -> None:
    ours = book(document=ONE.with_expiry(NOW + 5, NOW))
    assert ours.expired(NOW + 4) == set()
    assert ours.effective(CHANNEL, ALICE.node_id)
    assert ours.expired(NOW + 5) == {CHANNEL}
    assert not ours.effective(CHANNEL, ALICE.node_id)
    assert not ours.is_member(CHANNEL, ALICE.node_id)
    ours.offer(
        signed(ONE.with_expiry(NOW + 90, NOW).with_expiry(NOW + 99, NOW)).to_bytes(), NOW + 6
    )
    assert ours.effective(CHANNEL, ALICE.node_id)


def test_who_joins_before_being_added_becomes_a_member_by_gossip() -> None:
    before = ONE.without_member(ALICE.node_id, FRESH, NOW)
    ours = book(document=before)
    assert ours.secret(CHANNEL) is None
    assert ours.effective(CHANNEL, ALICE.node_id) == frozenset()
    after = before.with_member(ALICE.node_id, "alice", "all", FRESH, NOW)
    update = ours.offer(signed(after).to_bytes(), NOW)
    assert update.secret_changed
    assert ours.secret(CHANNEL) == (2, FRESH)
    assert ours.effective(CHANNEL, ALICE.node_id)


def test_a_proxy_has_no_secret() -> None:
    assert book(PROXY, wanted="proxy").secret(CHANNEL) is None


def test_a_secret_that_was_sealed_to_somebody_else_is_none() -> None:
    fields = codec.unpack(signed(ONE).body)
    boxes = {entry["node_id"]: entry for entry in fields["members"]}
    boxes[ALICE.public]["sealed"] = boxes[BOB.public]["sealed"]
    body = codec.pack(fields)
    ours = ChannelBook(ALICE)
    ours.join(parse(codec.pack([body, OWNER.sign(b"channel", body)]), now=NOW), "all")
    assert ours.secret(CHANNEL) is None


def test_the_secret_of_an_open_channel_comes_with_the_export_and_stays_through_updates() -> None:
    document = ChannelDocument.create(
        "open", OWNER, SECRET, [], NOW, open=True, default_roles="files"
    )
    ours = ChannelBook(ALICE)
    ours.join(signed(document), "all", SECRET)
    assert ours.secret(CHANNEL) == (1, SECRET)
    assert ours.effective(CHANNEL, "ab" * 32) == {"provide-files", "request-files"}
    ours.offer(signed(document.with_expiry(NOW + 9, NOW)).to_bytes(), NOW)
    assert ours.secret(CHANNEL) == (1, SECRET)
    with pytest.raises(BadInput, match="32 bytes"):
        ours.join(signed(document), "all", b"short")


def test_joining_again_changes_the_roles_and_keeps_the_newer_document() -> None:
    two = ONE.with_expiry(NOW + 9, NOW)
    ours = book(document=two)
    ours.join(signed(ONE), "request-files")
    assert ours.signed(CHANNEL).document == two
    assert ours.wanted(CHANNEL) == {"request-files"}
    assert len(ours) == 1


def test_channels_are_found_by_name_and_id_and_ambiguity_lists_the_ids() -> None:
    ours = book()
    assert ours.resolve("lab") == ours.resolve(CHANNEL.hex().upper()) == CHANNEL
    twin = ChannelDocument.create("lab", OTHER_OWNER, SECRET, [], NOW)
    ours.join(signed(twin, OTHER_OWNER), "none")
    assert ours.resolve(twin.channel_id.hex()) == twin.channel_id
    with pytest.raises(BadInput, match=CHANNEL.hex()) as caught:
        ours.resolve("lab")
    assert twin.channel_id.hex() in str(caught.value)
    with pytest.raises(UnknownChannel, match="'Lab'"):
        ours.resolve("Lab")


def test_a_channel_that_was_left_is_unknown() -> None:
    ours = book()
    ours.leave(CHANNEL)
    assert CHANNEL not in ours
    for call in (ours.leave, ours.signed, ours.secret, ours.wanted, ours.snapshot):
        with pytest.raises(UnknownChannel):
            call(CHANNEL)


def test_the_number_of_channels_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "MAX_CHANNELS", 1)
    ours = book()
    ours.join(signed(ONE), "none")
    twin = ChannelDocument.create("lab", OTHER_OWNER, SECRET, [], NOW)
    with pytest.raises(BadInput, match="1 channels"):
        ours.join(signed(twin, OTHER_OWNER), "all")


def test_an_owner_key_is_kept_if_it_is_the_right_one() -> None:
    ours = book()
    assert ours.owner_key(CHANNEL) is None
    with pytest.raises(BadInput, match="owner"):
        ours.join(signed(ONE), "all", owner_key=ALICE)
    ours.join(signed(ONE), "all", owner_key=OWNER)
    ours.join(signed(ONE), "none")
    assert ours.owner_key(CHANNEL) == OWNER


def test_a_snapshot_brings_everything_back() -> None:
    ours = book(wanted="files")
    ours.join(signed(ONE), "files", SECRET, owner_key=OWNER)
    kept = codec.unpack(codec.pack(ours.snapshot(CHANNEL)))
    again = ChannelBook(ALICE)
    again.join(
        parse(kept["document"], now=NOW, check_expiry=False),
        kept["wanted"],
        kept["secret"],
        owner_key=NodeKey(kept["owner_seed"]),
    )
    assert again.snapshot(CHANNEL) == ours.snapshot(CHANNEL)


def test_two_nodes_find_their_common_channels_and_name_no_others() -> None:
    alice, bob = book(ALICE), book(BOB)
    private = ChannelDocument.create("private", OTHER_OWNER, SECRET, [], NOW)
    alice.join(signed(private, OTHER_OWNER), "all")
    sent = set(alice.tags(HASH))
    assert len(sent) == 2
    assert all(len(tag) == 16 for tag in sent)
    assert bob.common(sent, HASH, ALICE.node_id) == {CHANNEL}
    assert alice.common(set(bob.tags(HASH)), HASH, BOB.node_id) == {CHANNEL}
    assert alice.tags(HASH) == bob.tags(HASH, ALICE.node_id) | {
        tag: c for tag, c in alice.tags(HASH).items() if c != CHANNEL
    }
    assert not sent & set(alice.tags(HASH[::-1]))


def test_tags_sent_back_prove_nothing() -> None:
    document = ChannelDocument.create(
        "open", OWNER, SECRET, [], NOW, open=True, default_roles="all"
    )
    ours = book(document=document)
    assert ours.common(set(ours.tags(HASH)), HASH, BOB.node_id) == set()
    assert ours.common(set(ours.tags(HASH, BOB.node_id)), HASH, BOB.node_id) == {CHANNEL}


def test_knowing_a_channel_is_not_membership() -> None:
    alice, stranger = book(ALICE), book(OTHER_OWNER)
    tags = set(stranger.tags(HASH))
    assert alice.common(tags, HASH, OTHER_OWNER.node_id) == set()
    assert stranger.common(set(alice.tags(HASH)), HASH, ALICE.node_id) == set()


def test_digests_say_who_has_the_newer_document() -> None:
    two = ONE.with_expiry(NOW + 9, NOW)
    ours = book(document=two)
    assert ours.digests(HASH) == dict.fromkeys(ours.tags(HASH), 2)
