"""Appends that come together are committed together; those whose number is certain need not wait."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.node.context import Context
from kachery_p2p.node.feeds import appender as module
from kachery_p2p.node.feeds.appender import Appender
from kachery_p2p.node.workers import Workers
from kachery_p2p.protocol.errors import (
    FeedForked,
    FeedReadOnly,
    KacheryError,
    StorageDamaged,
    StorageFull,
)
from kachery_p2p.protocol.feeds.feed import (
    ALGORITHM,
    Head,
    Slice,
    check_head,
    leaf_hashes,
    sign_head,
)
from kachery_p2p.protocol.feeds.fork import make_fork
from kachery_p2p.protocol.feeds.frontier import Frontier
from kachery_p2p.protocol.feeds.messages import FeedNumbers
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.storage.feeds.append import Append
from kachery_p2p.storage.feeds.log import Log
from kachery_p2p.storage.feeds.store import FeedStore
from tests.node.harness import until

KEY = NodeKey(b"k" * 32)
SUB, OTHER = b"s" * 20, b"o" * 20
ALL = {"max_messages": 1 << 40, "max_bytes": 1 << 40}


def call(*numbers: int, subfeed: bytes = SUB, submission: bytes | None = None) -> Append:
    texts = [b"%d" % number for number in numbers]
    return Append(KEY.public, subfeed, None, texts, None, 5, submission)


class Bench:
    """An appender over a real store whose commits and syncs can be held up, and made to fail."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        self.store = FeedStore(path, durable=durable)
        self.store.create_feed(KEY.seed, None, 1.0)
        self.workers = Workers()
        self.warnings: list[str] = []
        self.told: list[list[int]] = []
        self.heads: list[Head] = []
        self.heard = True
        self.error: KacheryError | None = None
        self.sync_error: KacheryError | None = None
        self.may_sync = threading.Event()
        self.may_sync.set()
        self.may_commit = threading.Event()
        self.may_commit.set()
        context = SimpleNamespace(workers=self.workers, warn=self.warnings.append)
        self.appender = Appender(
            cast(Context, context), self.store, self._tell, lambda log: self.heard
        )
        self._append_all = self.store.append_all
        self.store.append_all = self._commit  # type: ignore[method-assign]
        self._sync_accepted = self.store.sync_accepted
        self.store.sync_accepted = self._sync  # type: ignore[method-assign]

    def _commit(self, calls: list[Append]) -> None:
        assert self.may_commit.wait(10)
        if self.error is not None:
            raise self.error
        self._append_all(calls)

    def _sync(self) -> None:
        assert self.may_sync.wait(10)
        if self.sync_error is not None:
            raise self.sync_error
        self._sync_accepted()

    def _tell(self, log: Log, slice: Slice, head: Head) -> None:
        if log[1] == SUB:
            self.told.append([int(text) for text in slice.texts])
        self.heads.append(head)

    def held(self, subfeed: bytes = SUB) -> list[int]:
        return [int(text) for text in self.store.read(KEY.public, subfeed, 0, **ALL).texts]

    async def append(self, *numbers: int, **more: Any) -> int:
        return (await self.appender.append(call(*numbers, **more))).first

    def promise(self, *numbers: int, **more: Any) -> asyncio.Future[FeedNumbers] | None:
        return self.appender.promise(call(*numbers, **more))

    def accept(self, *numbers: int, **more: Any) -> int | None:
        """The number of the first message, if the append is acknowledged at once."""
        promised = self.promise(*numbers, **more)
        return None if promised is None else promised.result().first

    def close(self) -> None:
        self.may_sync.set()
        self.may_commit.set()
        self.workers.close()
        self.store.close()


@contextlib.asynccontextmanager
async def bench(path: Path, *, durable: bool = False) -> AsyncIterator[Bench]:
    made = Bench(path / "feeds.sqlite", durable=durable)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("durable", [True, False])
async def test_what_comes_while_a_commit_runs_goes_into_one(tmp_path: Path, durable: bool) -> None:
    async with bench(tmp_path, durable=durable) as it:
        firsts = await asyncio.gather(*(it.append(number) for number in range(50)))
        assert firsts == list(range(50)) == it.held()
        assert [len(commit) for commit in it.told] == [1, 49]


async def test_what_is_wrong_with_one_is_its_own_affair(tmp_path: Path) -> None:
    async with bench(tmp_path, durable=True) as it:
        strange = Append(b"x" * 32, SUB, None, [b"1"], None, 5, None)
        good, bad, last = await asyncio.gather(
            it.append(0), it.appender.append(strange), it.append(1), return_exceptions=True
        )
        assert (good, last) == (0, 1)
        assert isinstance(bad, FeedReadOnly)
        assert it.held() == [0, 1]


async def test_a_submission_that_is_repeated_has_the_number_of_the_first_time(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, durable=True) as it:
        number = b"n" * 16
        firsts = await asyncio.gather(
            it.append(0, 1),
            it.append(2, submission=number),
            it.append(3),
            it.append(2, submission=number),
        )
        assert firsts == [0, 2, 3, 2]
        assert it.held() == [0, 1, 2, 3]


async def test_a_commit_takes_no_more_than_so_many_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FEED_COMMIT_BYTES", 10)
    async with bench(tmp_path, durable=True) as it:
        await asyncio.gather(*(it.append(number) for number in range(100, 112)))
        assert [len(commit) for commit in it.told] == [1, 4, 4, 3]


async def test_one_who_is_cancelled_takes_no_other_along(tmp_path: Path) -> None:
    async with bench(tmp_path, durable=True) as it:
        tasks = [asyncio.create_task(it.append(number)) for number in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        assert await tasks[2] == 2
        assert it.held() == [0, 1, 2], "what was handed over is appended"


# --- the spool -----------------------------------------------------------------------------------


@pytest.fixture
def late_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the spool is not committed before somebody waits for it."""
    monkeypatch.setattr(module, "FEED_SPOOL_SECONDS", 3600.0)


async def promised(it: Bench, *numbers: int, **more: Any) -> asyncio.Future[FeedNumbers]:
    future = it.promise(*numbers, **more)
    assert future is not None
    return future


@pytest.mark.usefixtures("late_commits")
async def test_an_append_is_acknowledged_and_told_when_the_spool_is_on_the_disk(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, durable=True) as it:
        assert it.promise(0) is None, "nothing is known of the log yet"
        await it.append(0)
        it.may_sync.clear()
        first, second = await promised(it, 1), await promised(it, 2, 3)
        await asyncio.sleep(0.02)
        assert not first.done()
        assert not second.done()
        assert it.told == [[0]]
        it.may_sync.set()
        assert (await first).first == 1
        assert (await second).first == 2
        assert it.told == [[0], [1], [2, 3]], "the second came while the disk was busy"
        assert it.held() == [0], "they are in the spool only"
        await it.appender.told((KEY.public, SUB))
        assert it.held() == [0]
        await it.appender.settle((KEY.public, SUB))
        assert it.held() == [0, 1, 2, 3]
        assert it.told == [[0], [1], [2, 3]], "once is enough"


@pytest.mark.usefixtures("late_commits")
async def test_what_comes_while_a_commit_runs_stays_in_the_spool(tmp_path: Path) -> None:
    async with bench(tmp_path, durable=True) as it:
        await it.append(0)
        await it.append(1)
        it.may_commit.clear()
        settling = asyncio.create_task(it.appender.settle())
        await asyncio.sleep(0)
        assert await it.append(2) == 2, "the spool does not wait for the commit"
        it.may_commit.set()
        await settling
        assert it.held() == [0, 1]
    async with bench(tmp_path, durable=True) as it:  # it was killed
        assert it.held() == [0, 1, 2]


async def test_what_is_in_the_spool_is_committed_soon_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FEED_SPOOL_SECONDS", 0.001)
    async with bench(tmp_path, durable=True) as it:
        await it.append(0)
        await asyncio.gather(*(it.append(number) for number in range(1, 20)))
        await until(lambda: it.held() == list(range(20)))


@pytest.mark.usefixtures("late_commits")
async def test_what_nobody_listens_to_is_signed_and_told_with_its_commit(tmp_path: Path) -> None:
    async with bench(tmp_path, durable=True) as it:
        it.heard = False
        for number in range(5):
            await it.append(number)
        assert it.told == [[0]]
        await it.appender.told((KEY.public, SUB))
        assert it.told == [[0], [1, 2, 3, 4]]
        it.heard = True
        assert await it.append(5) == 5
        assert it.told[2:] == [[5]]


@pytest.mark.usefixtures("late_commits")
async def test_a_commit_that_is_faster_than_the_sync_acknowledges_and_tells(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, durable=True) as it:
        await it.append(0)
        it.may_sync.clear()
        one = await promised(it, 1)
        assert await it.append(2, submission=b"n" * 16) == 2
        assert (await one).first == 1
        assert it.told == [[0], []], "two calls, and one of them a submission"
        assert [head.size for head in it.heads] == [1, 3]
        it.may_sync.set()
        await until(lambda: not it.appender._syncing)
        assert await it.append(3) == 3
        await it.appender.settle()
        assert it.held() == [0, 1, 2, 3]
        assert [head.size for head in it.heads] == [1, 3, 4], "nobody was told of less afterwards"


@pytest.mark.usefixtures("late_commits")
async def test_what_may_be_refused_waits_for_its_commit(tmp_path: Path) -> None:
    """Something else changed the log while the disk was busy with the spool."""
    async with bench(tmp_path, durable=True) as it:
        await it.append(0)
        it.may_sync.clear()
        good = await promised(it, 1)
        it.appender.forget(KEY.public)
        it.may_sync.set()
        assert (await it.append(2), (await good).first) == (2, 1)
        it.may_sync.clear()
        bad = await promised(it, 3)
        it.appender.forget(KEY.public)
        other = sign_head(KEY, SUB, 3, b"r" * 32, 5)
        it.store.record_fork(make_fork(it.heads[-1], other))
        it.may_sync.set()
        with pytest.raises(FeedForked):
            await it.append(4)
        with pytest.raises(FeedForked):
            await bad
        assert it.held() == [0, 1, 2]
        assert all(head.size <= 3 for head in it.heads), "nothing else was ever signed for anybody"
        assert not it.warnings, "nothing was acknowledged that is lost"


@pytest.mark.usefixtures("late_commits")
async def test_a_sync_that_fails_acknowledges_nothing_and_appends_go_on_otherwise(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, durable=True) as it:
        await it.append(0)
        it.sync_error = StorageDamaged(path="/broken", reason="appended messages: broken")
        with pytest.raises(StorageDamaged, match="broken"):
            await it.append(1)
        assert it.told[:1] == [[0]]
        assert it.promise(2) is None, "what the disk has of the spool is not certain"
        assert await it.append(2) == 2, "what failed has a place: it may be on the disk"
        assert it.held() == [0, 1, 2]
        it.sync_error = None
        assert it.promise(3) is not None, "the spool has been emptied"
        await it.appender.settle()
        assert it.held() == [0, 1, 2, 3]


async def test_a_large_append_is_not_hashed_on_the_loop(tmp_path: Path) -> None:
    async with bench(tmp_path, durable=True) as it:
        await it.append(0)
        assert it.promise(*range(1, 102)) is None
        assert await it.append(*range(1, 102)) == 1
        assert it.held() == list(range(102))


# --- durability relaxed --------------------------------------------------------------------------


async def test_numbers_are_promised_and_kept(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        assert it.accept(0) is None, "nothing is known of the log yet"
        assert await it.append(0, 1) == 0
        assert [it.accept(n) for n in (2, 3)] == [2, 3]
        assert it.accept(4, 5) == 4
        assert it.accept(0, subfeed=OTHER) is None
        assert it.told == [[0, 1]], "nobody hears of them yet"
        await it.appender.settle((KEY.public, OTHER))
        assert len(it.told) == 1, "nothing is owed there"
        await it.appender.settle((KEY.public, SUB))
        assert it.held() == [0, 1, 2, 3, 4, 5]
        assert it.told[1:] == [[2, 3, 4, 5]]
        assert it.accept(6) == 6
        await until(lambda: len(it.told) == 3)  # by itself, soon
        assert it.held() == list(range(7))
        assert not it.warnings


async def test_who_waits_and_who_does_not_keep_their_order(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        await it.append(0)
        assert it.accept(1) == 1
        waiting = asyncio.create_task(it.append(2, submission=b"n" * 16))
        await asyncio.sleep(0)
        assert it.accept(3) is None, "what the submission brings is not known"
        assert await waiting == 2
        assert it.accept(3) == 3
        await it.appender.settle()
        assert it.held() == [0, 1, 2, 3]


async def test_a_full_spool_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kachery_p2p.storage.feeds.spool.FEED_SPOOL_BYTES", 300)
    async with bench(tmp_path) as it:
        await it.append(0)
        accepted = 1
        while it.accept(accepted) is not None:
            accepted += 1
        assert 1 < accepted < 10
        assert await it.append(accepted) == accepted
        assert it.held() == list(range(accepted + 1))
        assert it.accept(accepted + 1) == accepted + 1, "there is room again"
        await it.appender.settle()


async def test_a_commit_that_fails_loses_nothing_that_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FEED_RETRY_SECONDS", 0.01)
    async with bench(tmp_path) as it:
        await it.append(0)
        assert it.accept(1) == 1
        it.error = full = StorageFull(what="feeds", path="/full")
        await it.appender.settle()
        assert it.accept(2) is None, "nothing more is promised"
        with pytest.raises(StorageFull):
            await it.append(2)
        assert it.held() == [0]
        it.error = None
        await until(lambda: it.held() == [0, 1])
        assert await it.append(2) == 2
        assert it.accept(3) == 3
        await it.appender.settle()
        assert it.held() == [0, 1, 2, 3]
        assert set(it.warnings) == {f"1 acknowledged appends are not written yet: {full}"}


async def test_what_cannot_be_written_when_the_node_stops_is_there_at_its_next_start(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as it:
        await it.append(0)
        assert it.accept(1) == 1
        it.error = StorageFull(what="feeds", path="/full")
        await it.appender.close()
        assert it.held() == [0]
    async with bench(tmp_path) as it:
        assert it.held() == [0, 1]


async def test_nothing_is_promised_while_something_else_changes_the_log(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        waiting = asyncio.create_task(it.append(0))
        await asyncio.sleep(0)
        it.appender.forget(KEY.public)
        assert await waiting == 0
        assert it.accept(1) is None
        assert await it.append(1) == 1
        assert it.accept(2) == 2
        it.appender.forget(KEY.public)
        assert it.accept(3) is None
        assert await it.append(3) == 3
        assert it.held() == [0, 1, 2, 3]


async def test_what_the_log_itself_refuses_is_told_to_the_user(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        await it.append(0)
        [head] = it.heads
        other = sign_head(KEY, SUB, 1, b"r" * 32, 5)
        assert it.accept(1) == 1
        it.store.record_fork(make_fork(head, other))
        await it.appender.settle()
        assert it.held() == [0]
        assert len(it.warnings) == 1
        assert "1 messages that were acknowledged" in it.warnings[0]
        assert str(FeedForked(feed=KEY.public.hex())) in it.warnings[0]
        with pytest.raises(FeedForked):
            await it.append(1)


@pytest.mark.parametrize("durable", [True, False])
async def test_a_spool_that_cannot_be_written_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    async with bench(tmp_path, durable=durable) as it:
        await it.append(0)
        monkeypatch.setattr(
            "kachery_p2p.storage.feeds.spool.pwrite_all",
            lambda *_: (_ for _ in ()).throw(OSError(5, "broken")),
        )
        assert it.promise(1) is None
        assert await it.append(1) == 1
        assert it.held() == [0, 1]
        assert "broken" in it.warnings[0]


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["append", "append", "accept", "accept", "accept", "submit", "cancel", "settle",
             "fail", "mend", "forget", "kill", "wait", "wait", "listen", "hold", "go on"]
        ),
        st.sampled_from([SUB, OTHER]),
    ),
    max_size=40,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(operations=OPERATIONS, durable=st.booleans())
def test_whatever_happens_what_was_acknowledged_is_there_in_its_place(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, bytes]], durable: bool
) -> None:
    asyncio.run(_go_through(tmp_path_factory.mktemp("appender"), operations, durable))


async def _go_through(path: Path, operations: list[tuple[str, bytes]], durable: bool) -> None:
    acknowledged: dict[bytes, dict[int, int]] = {SUB: {}, OTHER: {}}
    signed: list[Head] = []
    it = Bench(path / "feeds.sqlite", durable=durable)
    waiting: list[asyncio.Task[None]] = []

    async def append(number: int, subfeed: bytes, **more: Any) -> None:
        with contextlib.suppress(StorageFull):
            acknowledged[subfeed][await it.append(number, subfeed=subfeed, **more)] = number

    for number, (what, subfeed) in enumerate(operations):
        match what:
            case "append":
                waiting.append(asyncio.create_task(append(number, subfeed)))
            case "submit":
                submission = number.to_bytes(16, "big")
                waiting.append(asyncio.create_task(append(number, subfeed, submission=submission)))
            case "cancel" if waiting:
                waiting[-1].cancel()
            case "accept" if not durable:
                first = it.accept(number, subfeed=subfeed)
                if first is not None:
                    assert first not in acknowledged[subfeed]
                    acknowledged[subfeed][first] = number
            case "accept":
                waiting.append(asyncio.create_task(append(number, subfeed)))
            case "wait" if waiting:
                await asyncio.wait(waiting[-1:], timeout=0.01)
            case "listen":
                it.heard = not it.heard
            case "hold":
                it.may_sync.clear()
            case "go on":
                it.may_sync.set()
            case "settle":
                await it.appender.settle()
            case "fail":
                it.error = StorageFull(what="feeds", path="/full")
            case "mend":
                it.error = None
            case "forget":
                it.appender.forget(KEY.public)
            case "kill":
                for task in waiting:
                    task.cancel()
                it.close()
                signed += it.heads
                it = Bench(path / "feeds.sqlite", durable=durable)
        await asyncio.sleep(0)
    it.error = None
    it.may_sync.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    await it.appender.close()
    signed += it.heads
    for subfeed, messages in acknowledged.items():
        held = it.held(subfeed) if it.store.info(KEY.public, subfeed) is not None else []
        assert {first: held[first] for first in messages} == messages
    for head in signed:
        _check_of_one_history(it.store, head)
    it.close()


def _check_of_one_history(store: FeedStore, head: Head) -> None:
    """What anybody was ever shown is the beginning of what is held in the end."""
    check_head(head)
    slice = store.read(head.feed, head.subfeed, 0, max_messages=head.size, max_bytes=1 << 40)
    frontier = Frontier(ALGORITHM)
    frontier.extend(leaf_hashes(slice))
    assert (frontier.size, frontier.root()) == (head.size, head.root)
