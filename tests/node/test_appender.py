"""Appends that come together are committed together; with durability relaxed they need not wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.node import appender as module
from kachery_p2p.node.appender import Appender
from kachery_p2p.node.context import Context
from kachery_p2p.node.workers import Workers
from kachery_p2p.protocol.errors import (
    FeedForked,
    FeedReadOnly,
    KacheryError,
    StorageDamaged,
    StorageFull,
)
from kachery_p2p.protocol.feed import sign_head
from kachery_p2p.protocol.feed_fork import make_fork
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.storage.feed_append import Append
from kachery_p2p.storage.feeds import FeedStore

from .harness import until

KEY = NodeKey(b"k" * 32)
SUB, OTHER = b"s" * 20, b"o" * 20
ALL = {"max_messages": 1 << 40, "max_bytes": 1 << 40}


def call(*numbers: int, subfeed: bytes = SUB, submission: bytes | None = None) -> Append:
    texts = [b"%d" % number for number in numbers]
    return Append(KEY.public, subfeed, None, texts, None, 5, submission)


class Bench:
    """An appender over a real store whose commits can be held up, and made to fail."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        self.store = FeedStore(path, durable=durable)
        self.store.create_feed(KEY.seed, None, 1.0)
        self.workers = Workers()
        self.warnings: list[str] = []
        self.commits: list[list[bytes]] = []
        self.error: KacheryError | None = None
        context = SimpleNamespace(workers=self.workers, warn=self.warnings.append)
        self.appender = Appender(cast(Context, context), self.store, self._committed)
        self._append_all = self.store.append_all
        self.store.append_all = self._commit  # type: ignore[method-assign]

    def _commit(self, calls: list[Append]) -> None:
        if self.error is not None:
            raise self.error
        self._append_all(calls)

    def _committed(self, calls: list[Append]) -> None:
        self.commits.append([text for each in calls for text in each.texts])

    def held(self, subfeed: bytes = SUB) -> list[int]:
        return [int(text) for text in self.store.read(KEY.public, subfeed, 0, **ALL).texts]

    async def append(self, *numbers: int, **more: Any) -> int:
        return (await self.appender.append(call(*numbers, **more))).first


@contextlib.asynccontextmanager
async def bench(path: Path, *, durable: bool = False) -> AsyncIterator[Bench]:
    made = Bench(path / "feeds.sqlite", durable=durable)
    try:
        yield made
    finally:
        made.workers.close()
        made.store.close()


@pytest.mark.parametrize("durable", [True, False])
async def test_what_comes_while_a_commit_runs_goes_into_one(tmp_path: Path, durable: bool) -> None:
    async with bench(tmp_path, durable=durable) as it:
        firsts = await asyncio.gather(*(it.append(number) for number in range(50)))
        assert firsts == list(range(50)) == it.held()
        assert [len(commit) for commit in it.commits] == [1, 49]


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
        assert [len(commit) for commit in it.commits] == [1, 4, 4, 3]


async def test_one_who_is_cancelled_takes_no_other_along(tmp_path: Path) -> None:
    async with bench(tmp_path, durable=True) as it:
        tasks = [asyncio.create_task(it.append(number)) for number in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        assert await tasks[2] == 2
        assert it.held() == [0, 1, 2], "what was handed over is appended"


# --- durability relaxed --------------------------------------------------------------------------


async def test_a_durable_node_acknowledges_nothing_before_its_commit(tmp_path: Path) -> None:
    async with bench(tmp_path, durable=True) as it:
        await it.append(0)
        assert it.appender.accept(call(1)) is None


async def test_numbers_are_promised_and_kept(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        assert it.appender.accept(call(0)) is None, "nothing is known of the log yet"
        assert await it.append(0, 1) == 0
        assert [it.appender.accept(call(n)) for n in (2, 3)] == [2, 3]
        assert it.appender.accept(call(4, 5)) == 4
        assert it.appender.accept(call(0, subfeed=OTHER)) is None
        assert it.commits == [[b"0", b"1"]], "nobody hears of them yet"
        await it.appender.settle((KEY.public, OTHER))
        assert len(it.commits) == 1, "nothing is owed there"
        await it.appender.settle((KEY.public, SUB))
        assert it.held() == [0, 1, 2, 3, 4, 5]
        assert it.commits[1:] == [[b"2", b"3", b"4", b"5"]]
        assert it.appender.accept(call(6)) == 6
        await until(lambda: len(it.commits) == 3)  # by itself, soon
        assert it.held() == list(range(7))
        assert not it.warnings


async def test_who_waits_and_who_does_not_keep_their_order(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        await it.append(0)
        assert it.appender.accept(call(1)) == 1
        waiting = asyncio.create_task(it.append(2, submission=b"n" * 16))
        await asyncio.sleep(0)
        assert it.appender.accept(call(3)) is None, "what the submission brings is not known"
        assert await waiting == 2
        assert it.appender.accept(call(3)) == 3
        await it.appender.settle()
        assert it.held() == [0, 1, 2, 3]


async def test_a_full_spool_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kachery_p2p.storage.feed_spool.FEED_SPOOL_BYTES", 300)
    async with bench(tmp_path) as it:
        await it.append(0)
        accepted = 1
        while it.appender.accept(call(accepted)) is not None:
            accepted += 1
        assert 1 < accepted < 10
        assert await it.append(accepted) == accepted
        assert it.held() == list(range(accepted + 1))
        assert it.appender.accept(call(accepted + 1)) == accepted + 1, "there is room again"
        await it.appender.settle()


async def test_a_commit_that_fails_loses_nothing_that_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FEED_RETRY_SECONDS", 0.01)
    async with bench(tmp_path) as it:
        await it.append(0)
        assert it.appender.accept(call(1)) == 1
        it.error = full = StorageFull(what="feeds", path="/full")
        await it.appender.settle()
        assert it.appender.accept(call(2)) is None, "nothing more is promised"
        with pytest.raises(StorageFull):
            await it.append(2)
        assert it.held() == [0]
        it.error = None
        await until(lambda: it.held() == [0, 1])
        assert await it.append(2) == 2
        assert it.appender.accept(call(3)) == 3
        await it.appender.settle()
        assert it.held() == [0, 1, 2, 3]
        assert set(it.warnings) == {f"1 acknowledged appends are not written yet: {full}"}


async def test_what_cannot_be_written_when_the_node_stops_is_there_at_its_next_start(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as it:
        await it.append(0)
        assert it.appender.accept(call(1)) == 1
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
        assert it.appender.accept(call(1)) is None
        assert await it.append(1) == 1
        assert it.appender.accept(call(2)) == 2
        it.appender.forget(KEY.public)
        assert it.appender.accept(call(3)) is None
        assert await it.append(3) == 3
        assert it.held() == [0, 1, 2, 3]


async def test_what_the_log_itself_refuses_is_told_to_the_user(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        head = (await it.appender.append(call(0))).head
        other = sign_head(KEY, SUB, 1, b"r" * 32, 5)
        assert it.appender.accept(call(1)) == 1
        it.store.record_fork(make_fork(head, other))
        await it.appender.settle()
        assert it.held() == [0]
        assert len(it.warnings) == 1
        assert "1 messages that were acknowledged" in it.warnings[0]
        assert str(FeedForked(feed=KEY.public.hex())) in it.warnings[0]
        with pytest.raises(FeedForked):
            await it.append(1)


async def test_a_spool_that_cannot_be_written_is_an_error_and_nothing_is_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(tmp_path) as it:
        await it.append(0)
        monkeypatch.setattr(
            "kachery_p2p.storage.feed_spool.pwrite_all",
            lambda *_: (_ for _ in ()).throw(OSError(5, "broken")),
        )
        with pytest.raises(StorageDamaged, match="broken"):
            it.appender.accept(call(1))
        assert await it.append(1) == 1
        assert it.held() == [0, 1]


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["append", "append", "accept", "accept", "accept", "submit", "cancel", "settle",
             "fail", "mend", "forget", "kill"]
        ),
        st.sampled_from([SUB, OTHER]),
    ),
    max_size=40,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(operations=OPERATIONS)
def test_whatever_happens_what_was_acknowledged_is_there_in_its_place(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, bytes]]
) -> None:
    asyncio.run(_go_through(tmp_path_factory.mktemp("appender"), operations))


async def _go_through(path: Path, operations: list[tuple[str, bytes]]) -> None:
    acknowledged: dict[bytes, dict[int, int]] = {SUB: {}, OTHER: {}}
    it = Bench(path / "feeds.sqlite", durable=False)
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
            case "accept":
                first = it.appender.accept(call(number, subfeed=subfeed))
                if first is not None:
                    assert first not in acknowledged[subfeed]
                    acknowledged[subfeed][first] = number
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
                it.workers.close()
                it.store.close()
                it = Bench(path / "feeds.sqlite", durable=False)
        await asyncio.sleep(0)
    it.error = None
    await asyncio.gather(*waiting, return_exceptions=True)
    await it.appender.close()
    for subfeed, messages in acknowledged.items():
        held = it.held(subfeed) if it.store.info(KEY.public, subfeed) is not None else []
        assert {first: held[first] for first in messages} == messages
    it.workers.close()
    it.store.close()
