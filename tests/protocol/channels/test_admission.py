"""Admissions: what counts next to a document, for whom, and how long."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.admission import CONTEXT, Admission, admit, check_admission
from kachery_p2p.protocol.channels.document import Admitter, ChannelDocument
from kachery_p2p.protocol.channels.membership import ChannelBook
from kachery_p2p.protocol.channels.messages import CHANNEL_ADMISSIONS, Admissions
from kachery_p2p.protocol.channels.signed_document import SignedDocument, parse, sign
from kachery_p2p.protocol.errors import BadInput, KacheryError, ProtocolViolation
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import ADMISSIONS_PER_NOTE, MAX_ADMISSIONS, MAX_HEADER, MAX_LABEL

OWNER, SERVER, ALICE, NEW, PROXY = (NodeKey(bytes([n]) * 32) for n in range(1, 6))
SECRET, FRESH = b"s" * 32, b"f" * 32
NOW = 1_700_000_000.0
INVITATION = bytes(31) + b"\x07"
READ = frozenset({"request-files"})


def lab(admits: str = "request-files") -> ChannelDocument:
    document = ChannelDocument.create(
        "lab", OWNER, SECRET, [("ws://p:1", PROXY.node_id)], NOW,
        members=[(SERVER.node_id, "server", "all"), (ALICE.node_id, "alice", "all")],
    )  # fmt: skip
    return document.with_admitter(SERVER.node_id, admits, NOW)


def new(
    document: ChannelDocument, roles: frozenset[str] = READ, key: NodeKey = SERVER
) -> Admission:
    return admit(key, document, NEW.public, "new", roles, SECRET, NOW, INVITATION)


def resigned(admission: Admission, key: NodeKey = SERVER) -> Admission:
    """Whatever it says, as its admitter would sign it."""
    body = codec.pack(codec.plain(admission)[:-1])
    return msgspec.structs.replace(admission, signature=key.sign(CONTEXT, body))


def book_with(document: ChannelDocument, key: NodeKey = ALICE) -> ChannelBook:
    book = ChannelBook(key)
    book.join(sign(document, OWNER), "all")
    return book


def signed(document: ChannelDocument) -> bytes:
    made: SignedDocument = sign(document, OWNER)
    return made.to_bytes()


# --- what the owner says -----------------------------------------------------------------------


def test_a_document_without_admitters_is_written_as_before() -> None:
    with_one = lab()
    without = with_one.with_admitter(SERVER.node_id, "none", NOW)
    assert b"admitters" in codec.encode(with_one)
    assert b"admitters" not in codec.encode(without)
    assert parse(signed(with_one), now=NOW).document == with_one
    assert with_one.may_admit(SERVER.node_id) == READ
    assert without.may_admit(SERVER.node_id) == with_one.may_admit(ALICE.node_id) == frozenset()
    both = with_one.with_admitter(ALICE.node_id, "request", NOW)
    assert [a.public for a in both.admitters] == sorted([SERVER.public, ALICE.public])


@pytest.mark.parametrize("roles", ["all", "provide-files", "files", "request,proxy"])
def test_admitters_give_reading_roles_only(roles: str) -> None:
    with pytest.raises(BadInput, match="request-files"):
        lab().with_admitter(SERVER.node_id, roles, NOW)


@pytest.mark.parametrize("left", ["none", "proxy", "provide", "request-feeds"])
def test_who_loses_a_role_admits_nobody_with_it_any_more(left: str) -> None:
    """Set-roles to none left an admitter, whose puppet was sealed the new secret."""
    before = lab()
    after = before.with_roles(SERVER.node_id, left, SECRET, FRESH, NOW)
    assert after.may_admit(SERVER.node_id) == frozenset()
    assert after.admitters == ()
    claimed = msgspec.structs.replace(new(before), secret_version=after.secret_version)
    forged = codec.encode(resigned(claimed))
    assert check_admission(forged, after) is None
    book = book_with(before)
    book.admit(OWNER.public, codec.encode(new(before)))
    book.offer(signed(after), NOW)
    assert book.admissions(OWNER.public) == [], "nor does who was admitted before"
    assert book.admit(OWNER.public, forged) is None
    # Not even when it has the role again: it has to be authorised anew.
    again = after.with_roles(SERVER.node_id, "all", FRESH, SECRET, NOW)
    assert again.may_admit(SERVER.node_id) == frozenset()
    again = again.with_admitter(SERVER.node_id, "request-files", NOW)
    assert again.may_admit(SERVER.node_id) == READ


def test_what_an_admitter_keeps_it_may_still_give() -> None:
    document = lab("request").with_roles(
        SERVER.node_id, "request-files,provide", SECRET, FRESH, NOW
    )
    assert document.may_admit(SERVER.node_id) == READ
    assert check_admission(codec.encode(new(document)), document) is not None
    with pytest.raises(BadInput, match="authorised"):
        new(document, frozenset({"request-feeds"}))


def test_a_document_that_lets_an_admitter_give_more_than_it_has_does_not_count_for_that() -> None:
    document = lab()
    members = tuple(
        msgspec.structs.replace(m, bits=0, sealed=b"") if m.public == SERVER.public else m
        for m in document.members
    )
    odd = msgspec.structs.replace(document, members=members)
    assert odd.admitters
    assert odd.may_admit(SERVER.node_id) == frozenset()
    assert check_admission(codec.encode(new(document)), odd) is None


def test_nobody_is_authorised_to_give_what_it_has_not_got() -> None:
    document = lab("none").with_roles(SERVER.node_id, "request-files", SECRET, FRESH, NOW)
    with pytest.raises(BadInput, match="has not got request-feeds, request-tasks"):
        document.with_admitter(SERVER.node_id, "request", NOW)


def test_only_members_of_channels_that_are_not_open_are_admitters() -> None:
    with pytest.raises(BadInput, match="not a member"):
        lab().with_admitter(NEW.node_id, "request", NOW)
    with pytest.raises(BadInput, match="open"):
        msgspec_checked(open=True)
    gone = lab().without_member(SERVER.node_id, FRESH, NOW)
    assert gone.admitters == ()


def msgspec_checked(**changes: object) -> SignedDocument:
    return sign(msgspec.structs.replace(lab(), **changes), OWNER)


@pytest.mark.parametrize(
    "admitters",
    [
        (Admitter(SERVER.public, 0),),
        (Admitter(SERVER.public, 2), Admitter(SERVER.public, 2)),
        (Admitter(NEW.public, 2),),
        (Admitter(SERVER.public, 1),),
    ],
)
def test_admitters_that_cannot_be_are_refused(admitters: tuple[Admitter, ...]) -> None:
    with pytest.raises(BadInput, match="admitters"):
        msgspec_checked(admitters=admitters)


# --- what counts -------------------------------------------------------------------------------


def test_an_admission_makes_a_member_with_its_roles_and_the_secret() -> None:
    document = lab()
    record = codec.encode(new(document))
    for key in (ALICE, NEW, PROXY, SERVER):
        book = book_with(document, key)
        channel = document.channel_id
        assert not book.is_member(channel, NEW.node_id)
        admitted = book.admit(channel, record)
        assert admitted is not None
        assert book.is_member(channel, NEW.node_id)
        assert book.effective(channel, NEW.node_id) == READ == book.granted(channel, NEW.node_id)
        book.require(channel, node_id=NEW.node_id, role="request-files", side="requester")
        assert book.admissions(channel) == [admitted]
        assert book.admit(channel, record) is None, "no news"
    assert book_with(document, NEW).secret(document.channel_id) is None
    book = book_with(document, NEW)
    book.admit(document.channel_id, record)
    assert book.secret(document.channel_id) == (1, SECRET)
    assert document.channel_id in book.common(
        set(book.tags(b"h" * 32, ALICE.node_id)), b"h" * 32, ALICE.node_id
    )


def test_nobody_admits_more_than_the_owner_lets_it() -> None:
    document = lab()
    for roles in (frozenset({"request-feeds"}), READ | {"provide-files"}, frozenset[str]()):
        with pytest.raises(BadInput, match="authorised"):
            new(document, roles)
    with pytest.raises(BadInput, match="authorised"):
        new(document, key=ALICE)
    with pytest.raises(BadInput):
        admit(SERVER, document, ALICE.public, "x", READ, SECRET, NOW, INVITATION)  # she is listed
    with pytest.raises(BadInput, match="label"):
        admit(SERVER, document, NEW.public, "a\nb", READ, SECRET, NOW, INVITATION)


def test_a_record_by_who_is_not_authorised_does_not_count_however_it_is_signed() -> None:
    elsewhere = lab("request").with_admitter(ALICE.node_id, "request", NOW)
    document = lab()
    for made in (
        new(elsewhere, READ, ALICE),
        new(elsewhere, READ | {"request-feeds"}),
    ):
        assert check_admission(codec.encode(made), elsewhere) is not None
        assert check_admission(codec.encode(made), document) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("node", bytes(32)),
        ("label", "mallory"),
        ("secret_version", 1),
        ("sealed", bytes(80)),
        ("issued_at", 5),
        ("signature", bytes(64)),
    ],
)
def test_a_changed_record_is_a_violation(field: str, value: object) -> None:
    document = lab()
    made = new(document)
    changed = msgspec.structs.replace(made, **{field: value})
    if changed == made:
        changed = msgspec.structs.replace(made, signature=made.signature[::-1])
    with pytest.raises(ProtocolViolation, match="did not sign"):
        check_admission(codec.encode(changed), document)


@given(st.integers(0, 400), st.integers(1, 255))
def test_a_byte_that_changed_never_makes_it_count_differently(place: int, flip: int) -> None:
    document = lab()
    made = new(document)
    data = bytearray(codec.encode(made))
    data[place % len(data)] ^= flip
    try:
        found = check_admission(bytes(data), document)
    except KacheryError:
        return
    assert found is None or found == made


# --- how long ----------------------------------------------------------------------------------


def outdated(document: ChannelDocument) -> bool:
    """Whether the newer ``document`` ends the admission, both for who had it and for who gets it."""
    first = lab()
    made = codec.encode(new(first))
    book = book_with(first)
    book.admit(first.channel_id, made)
    book.offer(signed(document), NOW)
    late = book_with(document)
    late.admit(document.channel_id, made)
    assert book.admissions(first.channel_id) == late.admissions(first.channel_id)
    return not book.admissions(first.channel_id)


def test_it_ends_with_the_authorisation() -> None:
    assert outdated(lab().with_admitter(SERVER.node_id, "none", NOW))
    assert outdated(lab().with_admitter(SERVER.node_id, "request-feeds", NOW))
    assert outdated(lab().without_member(SERVER.node_id, FRESH, NOW))
    assert not outdated(lab().with_admitter(SERVER.node_id, "request", NOW))
    assert not outdated(lab().with_admitter(ALICE.node_id, "request", NOW))


def test_it_ends_when_the_owner_lists_the_newcomer_and_what_the_owner_says_counts() -> None:
    document = lab().with_member(NEW.node_id, "new", "none", SECRET, NOW)
    assert outdated(document)
    assert book_with(document).granted(document.channel_id, NEW.node_id) == frozenset()


def test_it_ends_with_the_secret_so_that_nobody_who_was_removed_comes_back() -> None:
    listed = lab().with_member(NEW.node_id, "new", "request-files", SECRET, NOW)
    removed = listed.without_member(NEW.node_id, FRESH, NOW)
    assert outdated(removed)
    assert outdated(lab().without_member(ALICE.node_id, FRESH, NOW)), "whoever was removed"


def test_an_expired_document_has_no_members_admitted_ones_included() -> None:
    document = lab().with_expiry(NOW + 10, NOW)
    book = book_with(document)
    book.admit(document.channel_id, codec.encode(new(document)))
    book.expired(NOW + 5)
    assert book.effective(document.channel_id, NEW.node_id)
    book.expired(NOW + 10)
    assert not book.is_member(document.channel_id, NEW.node_id)
    assert not book.effective(document.channel_id, NEW.node_id)


def test_of_two_for_one_node_the_first_is_kept_and_of_too_many_the_last_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document = lab()
    book = book_with(document)
    first = new(document)
    assert book.admit(document.channel_id, codec.encode(first)) == first
    assert book.admit(document.channel_id, codec.encode(new(document))) is None
    assert book.admissions(document.channel_id) == [first]
    monkeypatch.setattr("kachery_p2p.protocol.channels.membership.MAX_ADMISSIONS", 1)
    other = admit(SERVER, document, bytes(31) + b"\x09", "x", READ, SECRET, NOW, INVITATION)
    assert book.admit(document.channel_id, codec.encode(other)) is None
    assert MAX_ADMISSIONS > 100


def test_a_full_note_fits_a_header() -> None:
    document = lab()
    longest = admit(
        SERVER, document, NEW.public, "\U0001f600" * MAX_LABEL, READ, SECRET, NOW, INVITATION
    )
    note = Admissions(document.channel_id, [codec.encode(longest)] * ADMISSIONS_PER_NOTE)
    assert len(codec.encode([8, CHANNEL_ADMISSIONS, codec.plain(note)])) < MAX_HEADER
