"""What one of two histories took away is away, and what one of them gave is given."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.protocol.channels.document import ChannelDocument
from kachery_p2p.protocol.channels.merging import merged, same_rights
from kachery_p2p.protocol.channels.roles import PROXY, ROLES
from kachery_p2p.protocol.channels.signed_document import sign
from kachery_p2p.protocol.identity import NodeKey

OWNER = NodeKey(bytes([99]) * 32)
KEYS = {NodeKey(bytes([n]) * 32).node_id: NodeKey(bytes([n]) * 32) for n in range(1, 7)}
NODES = list(KEYS)
OLD, FRESH = bytes([1]) * 32, bytes([2]) * 32
URL = "ws://127.0.0.1:1"

Step = tuple[str, int, frozenset[str]]
steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "roles", "revoke", "admit"]),
        st.integers(0, len(NODES) - 1),
        st.frozensets(st.sampled_from(ROLES)),
    ),
    max_size=6,
)


def first() -> ChannelDocument:
    members = [(node, f"n{i}", "all") for i, node in enumerate(NODES[:4])]
    return ChannelDocument.create("lab", OWNER, OLD, [(URL, NODES[0])], 1.0, members=members)


def after(document: ChannelDocument, changes: list[Step], secret: int) -> ChannelDocument:
    """Each secret that is made is another one."""
    known = OLD
    for kind, index, roles in changes:
        node, fresh = NODES[index], bytes([secret := secret + 1]) * 32
        version, inside = document.secret_version, document.member(node) is not None
        if kind == "add" and not inside:
            document = document.with_member(node, f"n{index}", roles, known, 2.0)
        elif kind == "remove" and inside:
            document = document.without_member(node, fresh, 2.0)
        elif kind == "roles" and inside:
            document = document.with_roles(node, roles, known, fresh, 2.0)
        elif kind == "revoke":
            document = document.without_invitations(2.0)
        elif kind == "admit" and inside and document.member(node).roles >= {"request-files"}:  # type: ignore[union-attr]
            document = document.with_admitter(node, "request-files", 2.0)
        known = fresh if document.secret_version != version else known
    return document


def rights(document: ChannelDocument, node: str) -> frozenset[str]:
    member = document.member(node)
    return frozenset() if member is None else member.roles


@given(steps, steps, steps)
def test_nobody_has_what_either_took_away_or_neither_gave(
    before: list[Step], mine: list[Step], others: list[Step]
) -> None:
    base = after(first(), before, 10)
    ours, theirs = after(base, mine, 30), after(base, others, 50)
    result = merged([base], ours, theirs, secret=None, fresh=FRESH, now=3.0)
    sign(result, OWNER)  # it is well-formed
    assert result.version > max(ours.version, theirs.version)
    for node in NODES:
        had, here, there = (rights(each, node) for each in (base, ours, theirs))
        taken = (had - here) | (had - there)
        assert not rights(result, node) & taken
        assert rights(result, node) <= here | there
        out = any(each.member(node) is None and base.member(node) for each in (ours, theirs))
        assert not (out and result.member(node))
        assert result.may_admit(node) <= ours.may_admit(node) | theirs.may_admit(node)
    if any(each.invitations_from > base.invitations_from for each in (ours, theirs)):
        assert result.invitations_from == result.version


@given(steps, steps)
def test_what_only_one_changed_is_as_it_says(before: list[Step], mine: list[Step]) -> None:
    base = after(first(), before, 10)
    ours = after(base, mine, 30)
    for pair in ((ours, base), (base, ours)):
        assert same_rights(merged([base], *pair, secret=None, fresh=FRESH, now=3.0), ours)


@given(steps, steps, steps)
def test_where_it_is_in_doubt_from_which_document_both_come_nobody_has_what_is_not_in_both(
    before: list[Step], mine: list[Step], others: list[Step]
) -> None:
    """Theirs come from the later base: what they removed of what that one gave does not come back."""
    early = first()
    base = after(early, before, 10)
    ours, theirs = after(base, mine, 30), after(base, others, 50)
    result = merged([early, base], ours, theirs, secret=None, fresh=FRESH, now=3.0)
    sign(result, OWNER)
    for node in NODES:
        had, here, there = (rights(each, node) for each in (base, ours, theirs))
        assert not rights(result, node) & ((had - here) | (had - there))


def test_who_is_out_has_not_got_the_secret_and_everybody_else_has() -> None:
    base = first()
    ours = base.without_member(NODES[1], bytes([3]) * 32, 2.0)
    theirs = base.without_member(NODES[2], bytes([4]) * 32, 2.0)
    theirs = theirs.with_member(NODES[5], "new", "all", bytes([4]) * 32, 2.0)
    result = merged([base], ours, theirs, secret=bytes([3]) * 32, fresh=FRESH, now=3.0)
    assert {m.node_id for m in result.members} == {NODES[0], NODES[3], NODES[5]}
    for member in result.members:
        assert KEYS[member.node_id].unseal(member.sealed) == FRESH
    assert result.secret_version > max(ours.secret_version, theirs.secret_version)


def test_if_nobody_lost_the_secret_it_stays() -> None:
    """So that who was admitted under it stays a member."""
    base = first()
    ours = base.with_member(NODES[4], "four", "all", OLD, 2.0)
    theirs = base.with_member(NODES[5], "five", {PROXY}, OLD, 2.0)
    result = merged([base], ours, theirs, secret=OLD, fresh=FRESH, now=3.0)
    assert result.secret_version == base.secret_version
    for member in result.members:
        if member.sealed:
            assert KEYS[member.node_id].unseal(member.sealed) == OLD
    assert {NODES[4], NODES[5]} <= {m.node_id for m in result.members}
