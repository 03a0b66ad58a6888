"""A fork is accepted when it is one, and never when it is not."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kachery_p2p.protocol import codec, tree
from kachery_p2p.protocol.errors import ForgedFeed, ProtocolViolation
from kachery_p2p.protocol.feeds.feed import Head, sign_head
from kachery_p2p.protocol.feeds.fork import Fork, check_fork, make_fork
from kachery_p2p.protocol.identity import NodeKey

KEY, OTHER_KEY = NodeKey(b"\x01" * 32), NodeKey(b"\x02" * 32)
SUBFEED, OTHER_SUBFEED = b"s" * 20, b"t" * 20
MOST = 40


class History:
    """A log whose messages from ``apart`` on are others than those of the other histories."""

    def __init__(self, name: bytes = b"", apart: int = MOST) -> None:
        texts = [b"%d" % n if n < apart else name + b"%d" % n for n in range(MOST)]
        self.leaves = [tree.leaf_hash("sha256", text) for text in texts]

    def root(self, size: int) -> bytes:
        return tree.root("sha256", b"".join(self.leaves[:size]))

    def head(self, size: int, *, key: NodeKey = KEY, subfeed: bytes = SUBFEED, at: int = 0) -> Head:
        return sign_head(key, subfeed, size, self.root(size), at or size)

    def proof(self, count: int, place: int) -> list[bytes]:
        levels = tree.levels("sha256", b"".join(self.leaves[:count]))
        return tree.range_proof(
            lambda level, index: levels[level][32 * index : 32 * index + 32],
            count, place, place + 1,
        )  # fmt: skip


@cache
def two(apart: int) -> tuple[History, History]:
    return History(b"a", apart), History(b"b", apart)


def evidence(short: History, size: int, long: History, count: int) -> Fork:
    return make_fork(
        short.head(size), long.head(count), long.leaves[size - 1], long.proof(count, size - 1)
    )


sizes = st.integers(1, MOST)


@given(st.integers(0, MOST - 1), sizes, sizes)
@settings(deadline=None, max_examples=150)
def test_two_histories_are_a_fork_exactly_when_both_heads_see_where_they_part(
    apart: int, size: int, count: int
) -> None:
    one, other = two(apart)
    size, count = sorted((size, count))
    fork = evidence(one, size, other, count)
    if size > apart:
        check_fork(fork)
    else:
        with pytest.raises(ForgedFeed, match=r"continues|say the same"):
            check_fork(fork)


@given(sizes, sizes, st.booleans(), st.data())
@settings(deadline=None, max_examples=300)
def test_heads_of_one_history_are_never_a_fork_whatever_is_made_up(
    size: int, count: int, swapped: bool, data: st.DataObject
) -> None:
    honest = History()
    first, second = honest.head(size), honest.head(count, at=99)
    # Leaves and hashes that a forger may have: any of this tree, at any place, and any others.
    levels = tree.levels("sha256", b"".join(honest.leaves[:count]))
    known = [level[at : at + 32] for level in levels for at in range(0, len(level), 32)]
    hashes = st.sampled_from(known) | st.binary(min_size=32, max_size=32)
    low, high = min(size, count), max(size, count)
    truth = st.just(honest.proof(high, low - 1))
    proof: list[bytes] = data.draw(truth | st.lists(hashes, max_size=7))
    changed = data.draw(st.booleans())
    if proof and changed:
        proof[data.draw(st.integers(0, len(proof) - 1))] = data.draw(hashes)
    leaf = data.draw(hashes | st.just(honest.leaves[low - 1]) | st.binary(max_size=32))
    made = data.draw(st.booleans())
    fork = make_fork(first, second, leaf, proof) if made else Fork(first, second, leaf, proof)
    if swapped:
        fork = replace(fork, first=fork.second, second=fork.first)
    with pytest.raises(ForgedFeed):
        check_fork(fork)


@given(sizes, sizes, st.data())
@settings(deadline=None, max_examples=150)
def test_a_changed_proof_of_a_real_fork_proves_nothing(
    size: int, count: int, data: st.DataObject
) -> None:
    one, other = two(0)
    size, count = sorted((size, count))
    fork = evidence(one, size, other, count)
    kind = data.draw(st.sampled_from(["leaf", "hash", "more", "less", "sig", "swap"]))
    if kind == "swap" and size < count:
        fork = replace(fork, first=fork.second, second=fork.first)
    elif kind == "leaf" and fork.leaf:
        fork = replace(fork, leaf=fork.leaf[:31] + bytes([fork.leaf[31] ^ 1]))
    elif kind == "hash" and fork.proof:
        at = data.draw(st.integers(0, len(fork.proof) - 1))
        fork = replace(fork, proof=[*fork.proof[:at], bytes(32), *fork.proof[at + 1 :]])
    elif kind == "less" and fork.proof:
        fork = replace(fork, proof=fork.proof[:-1])
    elif kind == "sig":
        side = data.draw(st.sampled_from(["first", "second"]))
        head = getattr(fork, side)
        fork = replace(fork, **{side: replace(head, timestamp=head.timestamp + 1)})
    else:
        fork = replace(fork, proof=[*fork.proof, bytes(32)])
    with pytest.raises(ForgedFeed):
        check_fork(fork)


@pytest.mark.parametrize("size", [1, 2, 3, 16, 39, 40])
def test_two_roots_at_one_size_need_no_proof(size: int) -> None:
    one, other = two(0)
    fork = make_fork(one.head(size), other.head(size), b"ignored", [b"too"])
    assert (fork.leaf, fork.proof) == (b"", [])
    assert fork == make_fork(other.head(size), one.head(size))
    check_fork(fork)


@pytest.mark.parametrize(("size", "count"), [(1, 2), (3, 7), (8, 9), (16, 40), (39, 40)])
def test_the_heads_may_be_given_in_any_order(size: int, count: int) -> None:
    one, other = two(0)
    leaf, proof = other.leaves[size - 1], other.proof(count, size - 1)
    fork = make_fork(other.head(count), one.head(size), leaf, proof)
    assert fork == make_fork(one.head(size), other.head(count), leaf, proof)
    assert fork.first.size < fork.second.size
    check_fork(fork)


def test_the_shorter_history_may_not_supply_the_proof() -> None:
    one, other = two(0)
    wrong = make_fork(one.head(5), other.head(9), one.leaves[4], one.proof(9, 4))
    with pytest.raises(ForgedFeed, match="does not lead to the root"):
        check_fork(wrong)


def test_the_same_head_signed_at_two_times_is_no_fork() -> None:
    honest = History()
    with pytest.raises(ForgedFeed, match="say the same"):
        check_fork(make_fork(honest.head(5, at=1), honest.head(5, at=2)))
    with pytest.raises(ForgedFeed, match="say the same"):
        check_fork(make_fork(honest.head(5), honest.head(5)))


@pytest.mark.parametrize("size", [5, 9])
def test_two_subfeeds_or_feeds_are_no_fork(size: int) -> None:
    one, other = two(0)
    leaf, proof = other.leaves[4], other.proof(size, 4)
    for stranger in (other.head(size, subfeed=OTHER_SUBFEED), other.head(size, key=OTHER_KEY)):
        with pytest.raises(ForgedFeed, match="two subfeeds"):
            check_fork(make_fork(one.head(5), stranger, leaf, proof))


@pytest.mark.parametrize("side", ["first", "second"])
@pytest.mark.parametrize("count", [5, 9])
def test_both_heads_must_be_signed_by_the_feed(side: str, count: int) -> None:
    one, other = two(0)
    fork = evidence(one, 5, other, count)
    # Somebody else's signature over exactly this head.
    head: Head = getattr(fork, side)
    theirs = sign_head(OTHER_KEY, head.subfeed, head.size, head.root, head.timestamp)
    forged = replace(fork, **{side: replace(head, sig=theirs.sig)})
    check_fork(fork)
    with pytest.raises(ForgedFeed, match="did not sign") as caught:
        check_fork(forged, "node x")
    assert caught.value.fields["source"] == "node x"


def test_a_proof_beside_heads_of_one_size_is_refused() -> None:
    one, other = two(0)
    fork = make_fork(one.head(5), other.head(5))
    for extra in (replace(fork, leaf=bytes(32)), replace(fork, proof=[bytes(32)])):
        with pytest.raises(ForgedFeed, match="one length"):
            check_fork(extra)


def test_it_crosses_the_wire() -> None:
    one, other = two(3)
    for fork in (evidence(one, 5, other, 39), evidence(one, 7, other, 7)):
        again = codec.decode(Fork, codec.encode(fork))
        assert again == fork
        check_fork(again)


@pytest.mark.parametrize(
    "change",
    [{"leaf": bytes(33)}, {"proof": [bytes(31)]}, {"proof": [bytes(32)] * 41}, {"first": 1}],
    ids=str,
)
def test_malformed_evidence_is_not_even_read(change: dict[str, object]) -> None:
    one, other = two(0)
    fork = replace(evidence(one, 5, other, 9), **change)
    with pytest.raises(ProtocolViolation):
        codec.decode(Fork, codec.encode(fork))


def test_the_shorter_history_comes_first() -> None:
    one, other = two(0)
    fork = evidence(one, 5, other, 9)
    with pytest.raises(ForgedFeed, match="the longer history is named first"):
        check_fork(replace(fork, first=fork.second, second=fork.first))
