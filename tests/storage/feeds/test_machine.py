"""An owner and a mirror, in any order of calls, closings and kills, against lists."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kachery_p2p.protocol.feeds.feed import Head, Slice, check_head, leaf_hashes
from kachery_p2p.protocol.feeds.frontier import Frontier, left_peaks, right_proof
from kachery_p2p.protocol.tree import verify_range
from kachery_p2p.storage.feeds.store import FeedStore
from tests.storage.feeds.samples import (
    ALL,
    AUTHOR,
    FEED,
    SEED,
    SUB,
    copy_as_killed,
    extend,
    leaves_of,
    nodes_over,
)

fractions = st.floats(0, 1)
"""Where in what there is, for it is not known yet how much that is."""


def within(low: int, high: int, at: float) -> int:
    return low + round((high - low) * at)


class Logs(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.copies = 0
        self.messages: list[tuple[int, bytes | None, bytes]] = []
        self.leaves: list[bytes] = []
        self.heads: list[Head] = []
        self.submitted: dict[bytes, int] = {}
        self.held: tuple[int, int] | None = None
        """What the mirror has."""
        self.owner = self.mirror = None

    @initialize()
    def begin(self) -> None:
        for name in ("owner", "mirror"):
            (self.folder / name).mkdir()
            path = self.folder / name / "feeds.sqlite"
            setattr(self, name, FeedStore(path, durable=False))
        self.owner.create_feed(SEED, None, 1.0)

    def teardown(self) -> None:
        for store in (self.owner, self.mirror):
            if store is not None:
                store.close()
        shutil.rmtree(self.folder)

    # --- the owner -----------------------------------------------------------------------------

    @rule(
        count=st.one_of(st.integers(1, 4), st.integers(250, 520)),
        step=st.integers(-3, 3),
        author=st.sampled_from([None, AUTHOR]),
        submission=st.one_of(st.none(), st.binary(min_size=16, max_size=16)),
    )
    def append(self, count: int, step: int, author: bytes | None, submission: bytes | None) -> None:
        size = len(self.messages)
        before = self.messages[-1][0] if size else 10
        texts = [b"%d" % number for number in range(size, size + count)]
        done = self.owner.append(
            FEED, SUB, None, texts, author=author, now_ms=before + step, submission=submission
        )
        if submission is not None and (author, submission) in self.submitted:
            assert done.first == self.submitted[author, submission]
            return
        self.submitted[author, submission] = size
        assert (done.first, done.count, done.head.size) == (size, count, size + count)
        check_head(done.head)
        timestamp = max(before, before + step) if size else before + step
        self.messages += [(timestamp, author, text) for text in texts]
        self.heads.append(done.head)
        added = self.owner.read(FEED, SUB, size, **ALL)
        assert leaves_of(added) == self.messages[size:]
        self.leaves += leaf_hashes(added)
        depth = nodes_over(self.leaves)
        assert Frontier("sha256", size + count, left_peaks(depth, size + count)).root() == (
            done.head.root
        )

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        known = sorted((key for key in self.submitted if key[1]), key=str)
        if known:
            author, submission = data.draw(st.sampled_from(known))
            done = self.owner.append(
                FEED, SUB, None, [b"0"], author=author, now_ms=0, submission=submission
            )
            assert done.first == self.submitted[author, submission]
            assert done.head == self.heads[-1]

    # --- the mirror ----------------------------------------------------------------------------

    @precondition(lambda self: self.heads)
    @rule(at=fractions, overlap=fractions, much=fractions, which=fractions)
    def extend(self, at: float, overlap: float, much: float, which: float) -> None:
        head = self.heads[within(0, len(self.heads) - 1, which)]
        if self.held is None:
            start = within(0, head.size, at)
            base, size = start, start
        else:
            base, size = self.held
            start = within(base, size, 1 - overlap / 2)
        if start > head.size or not head.size:
            return
        stop = within(start, head.size, much)
        if not stop:
            return
        nodes = nodes_over(self.leaves[: head.size])
        slice = self.owner.read(FEED, SUB, start, **{**ALL, "max_messages": max(1, stop - start)})
        if start == stop:
            slice = Slice(start, [], [])
        right = right_proof(nodes, head.size, stop)
        told = extend(
            self.mirror,
            FEED,
            SUB,
            slice,
            right,
            head,
            "channel",
            base_peaks=left_peaks(nodes, start),
        )
        self.held = base, max(size, stop)
        assert told == self.held[1]

    # --- both ----------------------------------------------------------------------------------

    @rule(name=st.sampled_from(["owner", "mirror"]), kill=st.booleans())
    def reopen(self, name: str, kill: bool) -> None:
        store = getattr(self, name)
        path = store.path
        if kill:
            self.copies += 1
            path = copy_as_killed(path, self.folder / f"copy{self.copies}")
        store.close()
        setattr(self, name, FeedStore(path, durable=False))

    @rule(name=st.sampled_from(["owner", "mirror"]), at=fractions, end=fractions, most=fractions)
    def read_and_prove(self, name: str, at: float, end: float, most: float) -> None:
        store = getattr(self, name)
        base, size = (0, len(self.messages)) if name == "owner" else self.held or (0, 0)
        if not size:
            return
        start = within(base, size, at)
        stop = within(start, size, end)
        limit = within(1, 600, most)
        found = store.read(FEED, SUB, start, **{**ALL, "max_messages": limit})
        assert leaves_of(found) == self.messages[start : min(size, start + limit)]
        if not stop:
            return
        proof = store.proof(FEED, SUB, start, stop)
        assert proof.head in self.heads
        frontier = Frontier("sha256", start, proof.peaks)
        frontier.extend(self.leaves[start:stop])
        if stop:
            assert frontier.root_within(proof.head.size, proof.right) == proof.head.root
        if start < size:
            head, leaf, inclusion = store.leaf_proof(FEED, SUB, start)
            assert leaf == self.leaves[start]
            verify_range("sha256", head.root, head.size, start, [leaf], inclusion)

    @rule(which=fractions)
    def no_head_of_one_history_is_a_fork(self, which: float) -> None:
        if self.heads and self.held is not None:
            head = self.heads[within(0, len(self.heads) - 1, which)]
            assert self.mirror.fork_with(head) is None
            assert self.owner.fork_with(head) is None

    @invariant()
    def sizes_are_right(self) -> None:
        if self.owner is None:
            return
        info = self.owner.info(FEED, SUB)
        if info is not None:
            assert (info.base, info.size, info.head) == (0, len(self.messages), self.heads[-1])
        info = self.mirror.info(FEED, SUB)
        assert (info and (info.base, info.size)) == self.held


Logs.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestLogs = Logs.TestCase
