"""What an owner can do to a channel document."""

import pytest

from kachery_p2p.protocol.channels import document as document_module
from kachery_p2p.protocol.channels.document import ChannelDocument
from kachery_p2p.protocol.channels.signed_document import grant, parse, sign
from kachery_p2p.protocol.errors import BadInput, ProtocolViolation
from kachery_p2p.protocol.identity import NodeKey

OWNER, ALICE, BOB, PROXY = (NodeKey(bytes([n]) * 32) for n in range(1, 5))
SECRET, FRESH = b"s" * 32, b"f" * 32
URL = "wss://proxy.example.org:8443/x"
NOW = 1_700_000_000.5


def lab(**more: object) -> ChannelDocument:
    arguments: dict[str, object] = {
        "members": [(ALICE.node_id, "alice", "all"), (BOB.node_id, "bob", "request")],
        **more,
    }
    return ChannelDocument.create(
        "lab",
        OWNER,
        SECRET,
        [(URL, PROXY.node_id)],
        NOW,
        **arguments,  # type: ignore[arg-type]
    )


def unsealed(document: ChannelDocument, key: NodeKey) -> bytes | None:
    entry = document.member(key.node_id)
    return key.unseal(entry.sealed) if entry and entry.sealed else None


def test_a_new_channel_is_version_one_and_members_can_read_its_secret() -> None:
    document = lab()
    assert (document.version, document.secret_version) == (1, 1)
    assert document.channel_id == OWNER.public
    assert document.issued_at == 1_700_000_000
    assert unsealed(document, ALICE) == unsealed(document, BOB) == SECRET
    assert [m.public for m in document.members] == sorted(m.public for m in document.members)
    assert parse(sign(document, OWNER).to_bytes(), now=NOW).document == document


def test_a_bootstrap_is_a_proxy_without_the_secret() -> None:
    document = lab()
    assert grant(document, PROXY.node_id) == {"proxy"}
    assert unsealed(document, PROXY) is None
    entry = document.member(ALICE.node_id)
    assert entry is not None
    with pytest.raises(ProtocolViolation):
        PROXY.unseal(entry.sealed)


def test_a_member_can_be_a_bootstrap_too() -> None:
    document = lab().with_bootstrap("ws://alice:1", ALICE.node_id, NOW)
    assert grant(document, ALICE.node_id) == grant(lab(), ALICE.node_id) | {"proxy"}
    assert unsealed(document, ALICE) == SECRET


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.with_member("ab" * 32, "x", "proxy", SECRET, NOW + 9),
        lambda d: d.without_member(ALICE.node_id, FRESH, NOW + 9),
        lambda d: d.with_roles(ALICE.node_id, "files", SECRET, FRESH, NOW + 9),
        lambda d: d.with_bootstrap("ws://other", PROXY.node_id, NOW + 9),
        lambda d: d.without_bootstrap(URL, NOW + 9),
        lambda d: d.with_expiry(NOW + 100, NOW + 9),
    ],
)
def test_every_change_is_the_next_version_and_leaves_the_old_one_alone(change: object) -> None:
    before = lab()
    kept = sign(before, OWNER).body
    after = change(before)  # type: ignore[operator]
    assert after.version == before.version + 1
    assert after.issued_at == int(NOW + 9)
    assert sign(before, OWNER).body == kept
    sign(after, OWNER)


def test_removing_a_member_gives_the_others_a_new_secret() -> None:
    after = lab().without_member(ALICE.node_id, FRESH, NOW)
    assert after.member(ALICE.node_id) is None
    assert grant(after, ALICE.node_id) == frozenset()
    assert after.secret_version == 2
    assert unsealed(after, BOB) == FRESH
    assert unsealed(after, PROXY) is None


def test_removing_a_mere_proxy_keeps_the_secret_and_drops_its_urls() -> None:
    after = lab().without_member(PROXY.node_id, FRESH, NOW)
    assert after.bootstraps == ()
    assert after.secret_version == 1
    assert unsealed(after, BOB) == SECRET


def test_a_member_that_becomes_a_mere_proxy_loses_the_secret() -> None:
    after = lab().with_roles(ALICE.node_id, "proxy", SECRET, FRESH, NOW)
    assert unsealed(after, ALICE) is None
    assert after.secret_version == 2
    assert unsealed(after, BOB) == FRESH


def test_a_proxy_that_becomes_a_full_member_gets_the_secret() -> None:
    after = lab().with_roles(PROXY.node_id, "all,proxy", SECRET, FRESH, NOW)
    assert unsealed(after, PROXY) == SECRET
    assert after.secret_version == 1


def test_an_open_channel_keeps_its_secret_because_everybody_has_it() -> None:
    after = lab(open=True, default_roles="request").without_member(ALICE.node_id, FRESH, NOW)
    assert after.secret_version == 1
    assert unsealed(after, BOB) == SECRET


def test_only_open_channels_grant_something_to_nodes_that_are_not_listed() -> None:
    stranger = "cd" * 32
    assert grant(lab(default_roles="all"), stranger) == frozenset()
    assert grant(lab(open=True, default_roles="files"), stranger) == {
        "provide-files",
        "request-files",
    }
    assert grant(lab(open=True, default_roles="all"), BOB.node_id) == grant(lab(), BOB.node_id)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.with_member(ALICE.node_id, "", "all", SECRET, NOW), "already"),
        (lambda d: d.with_member("xyz", "", "all", SECRET, NOW), "hex digits"),
        (lambda d: d.with_member("ab" * 32, "a\nb", "proxy", SECRET, NOW), "label"),
        (lambda d: d.with_member("ab" * 32, "a" * 201, "proxy", SECRET, NOW), "200"),
        (lambda d: d.with_member("ab" * 32, "", "boss", SECRET, NOW), "boss"),
        (lambda d: d.with_roles(ALICE.node_id, "proxy", SECRET, b"short", NOW), "32 bytes"),
        (lambda d: d.without_member("ab" * 32, FRESH, NOW), "not a member"),
        (lambda d: d.with_roles("ab" * 32, "all", SECRET, FRESH, NOW), "not a member"),
        (lambda d: d.with_bootstrap(URL, PROXY.node_id, NOW), "twice"),
        (lambda d: d.without_bootstrap("ws://nowhere", NOW), "no such URL"),
        (lambda d: d.with_expiry(1e15, NOW), "expires_at"),
        (lambda d: lab(default_roles="proxy", open=True), "proxy"),
    ],
)
def test_senseless_changes_are_refused(change: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        change(lab())  # type: ignore[operator]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://proxy",
        "wss://",
        "ws://host:99999",
        "ws://host:x",
        "ws://[::1",
        "ws://me:pw@host",
        "ws://host/ x",
        "ws://höst",
        "ws://host/" + "x" * 2000,
    ],
)
def test_urls_that_nobody_should_dial_are_refused(url: str) -> None:
    with pytest.raises(BadInput, match="bootstrap"):
        lab().with_bootstrap(url, PROXY.node_id, NOW)


@pytest.mark.parametrize("name", ["", " lab", "la\tb", "l\u202eab", "x" * 101, "AB" * 32, "\ud800"])
def test_names_that_would_mislead_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match="channel name"):
        ChannelDocument.create(name, OWNER, SECRET, [], NOW)


def test_there_is_room_for_as_many_members_as_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    # Sealing five thousand boxes takes a second and is not what this test is about.
    monkeypatch.setattr(document_module, "seal_to", lambda public, secret: bytes(80))
    members = [(f"{n:064x}", f"workstation-{n:04}", "all") for n in range(1, 5000)]
    full = lab(members=members)
    assert len(full.members) == 5000
    assert parse(sign(full, OWNER).to_bytes(), now=NOW).document == full
    with pytest.raises(BadInput, match="5000"):
        full.with_member("ff" * 32, "", "proxy", SECRET, NOW)
