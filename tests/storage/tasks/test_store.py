"""What a node remembers of tasks survives it, is bounded, and lets no action begin twice."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kachery_p2p.protocol.errors import Busy, StorageDamaged, StorageInUse
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import ACTION_KEEP_LEAST, ACTION_KEEP_SECONDS
from kachery_p2p.protocol.tasks.result import sign_result
from kachery_p2p.protocol.tasks.task import Payload
from kachery_p2p.storage.tasks import store as tasks
from kachery_p2p.storage.tasks.store import TaskStore

KEY = NodeKey(b"\x07" * 32)
NODE, OTHER = b"\x01" * 32, b"\x02" * 32
TASK, SECOND = b"t" * 16, b"u" * 16
PARCEL = Payload("json", b"5")


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    with TaskStore(tmp_path / "tasks.sqlite", durable=False, clock=clock) as opened:
        yield opened


def key_of(number):
    return number.to_bytes(32, "big")


def result_of(number, text=b"5", timestamp=1_000):
    return sign_result(
        KEY, key=key_of(number), function="count.1", type="pure-calculation", timestamp=timestamp,
        payload=Payload("json", text),
    )  # fmt: skip


# --- actions that run here -----------------------------------------------------------------------


def test_an_action_starts_once_and_ends_once(store, clock):
    assert store.action(TASK) is None
    assert not store.action_ended(TASK, "finished", PARCEL, "", "")
    assert store.action_started(TASK, NODE, "pump.1", 5.0)
    assert not store.action_started(TASK, NODE, "pump.1", 6.0)
    assert not store.action_started(TASK, OTHER, "pump.2", 6.0)
    assert store.action(TASK) == (TASK, NODE, "pump.1", "started", 5.0, None, None, "", "")
    assert store.action_ended(TASK, "finished", PARCEL, "", "")
    ended = (TASK, NODE, "pump.1", "finished", 5.0, clock.now, PARCEL, "", "")
    assert store.action(TASK) == ended
    assert not store.action_ended(TASK, "failed", None, "no", "trace")
    assert not store.action_started(TASK, NODE, "pump.1", 6.0)
    assert store.action(TASK) == ended
    assert store.action(SECOND) is None


def test_why_an_action_failed_is_kept(store):
    store.action_started(TASK, NODE, "pump.1", 5.0)
    assert store.action_ended(TASK, "failed", None, "it burst", "Traceback: \u00e9")
    row = store.action(TASK)
    assert (row.state, row.payload, row.reason) == ("failed", None, "it burst")
    assert row.traceback == "Traceback: \u00e9"


def test_what_was_given_up_may_still_turn_out(store):
    for task in (TASK, SECOND):
        store.action_started(task, NODE, "pump.1", 5.0)
    assert store.abandon_started({SECOND}) == [TASK]
    assert store.abandon_started({SECOND}) == []
    assert store.action(TASK).state == "unknown"
    assert "while it ran" in store.action(TASK).reason
    assert store.action(SECOND).state == "started"
    assert not store.action_started(TASK, NODE, "pump.1", 6.0)
    assert store.action_ended(TASK, "finished", PARCEL, "", "")
    assert store.action(TASK).payload == PARCEL
    assert store.action(TASK).reason == ""
    assert not store.action_ended(TASK, "unknown", None, "", "")


# --- actions asked of others ---------------------------------------------------------------------


def test_an_action_is_asked_of_one_node_only(store):
    assert store.sent(TASK) is None
    assert store.outcome(TASK) is None
    assert not store.action_known(TASK, "finished", PARCEL, "", "")
    assert store.action_sent(TASK, NODE)
    assert store.action_sent(TASK, NODE)
    assert not store.action_sent(TASK, OTHER)
    assert store.sent(TASK) == NODE
    assert store.outcome(TASK) is None
    assert store.forget_sent(TASK)
    assert not store.forget_sent(TASK)
    assert store.sent(TASK) is None
    assert store.action_sent(TASK, OTHER, "pump.1")
    assert store.sent(TASK) == OTHER
    assert store.action_known(TASK, "finished", PARCEL, "", "")
    assert store.outcome(TASK).payload == PARCEL
    assert store.outcome(TASK).function == "pump.1"
    assert not store.forget_sent(TASK)
    assert not store.action_known(TASK, "failed", None, "", "")
    assert store.action_sent(TASK, OTHER)
    assert not store.action_sent(TASK, NODE)
    assert store.outcome(TASK).state == "finished"


def test_what_runs_here_and_what_is_asked_for_are_kept_apart(store):
    assert store.action_sent(TASK, NODE)
    assert store.action_started(TASK, NODE, "pump.1", 5.0)
    assert store.action_known(TASK, "unknown", None, "lost", "")
    assert store.action(TASK).state == "started"
    assert store.outcome(TASK).state == "unknown"
    assert store.action_known(TASK, "cancelled", None, "", "")
    assert store.abandon_started(set()) == [TASK]
    assert store.outcome(TASK).state == "cancelled"


# --- bounds --------------------------------------------------------------------------------------


def begin_and_end(store, task, clock, payload=PARCEL):
    assert store.action_started(task, NODE, "pump.1", clock.now)
    assert store.action_ended(task, "finished", payload, "", "")
    assert store.action_sent(task, NODE)
    assert store.action_known(task, "finished", payload, "", "")


def test_old_ends_are_forgotten_and_what_still_runs_is_not(store, clock):
    begin_and_end(store, TASK, clock)
    running, asked = b"r" * 16, b"s" * 16
    assert store.action_started(running, NODE, "pump.1", clock.now)
    assert store.action_sent(asked, NODE)
    clock.now += ACTION_KEEP_SECONDS
    begin_and_end(store, SECOND, clock)
    assert store.action(TASK).state == store.outcome(TASK).state == "finished"
    clock.now += 1.0
    begin_and_end(store, b"v" * 16, clock)
    assert store.action(TASK) is store.outcome(TASK) is store.sent(TASK) is None
    assert store.action(running).state == "started"
    assert store.sent(asked) is None
    assert store.action(SECOND) is not None
    assert store.sent(SECOND) is not None


def test_a_full_journal_forgets_early_and_then_refuses(store, clock, monkeypatch):
    monkeypatch.setattr(tasks, "MAX_ACTIONS", 4)
    ids = [bytes([number]) * 16 for number in range(8)]
    for task in ids[:4]:
        begin_and_end(store, task, clock)
    for begin in (
        lambda: store.action_started(ids[4], NODE, "pump.1", clock.now),
        lambda: store.action_sent(ids[4], NODE),
    ):
        with pytest.raises(Busy, match="remember"):
            begin()
    assert store.action(ids[4]) is store.sent(ids[4]) is None
    # What is known is still told, and asking again costs no room.
    assert not store.action_started(ids[0], NODE, "pump.1", clock.now)
    assert store.action_sent(ids[0], NODE)
    clock.now += ACTION_KEEP_LEAST + 1
    begin_and_end(store, ids[4], clock)
    assert store.action(ids[0]) is store.outcome(ids[0]) is None
    assert store.action(ids[4]) is not None


def test_what_still_runs_is_never_forgotten_for_room(store, clock, monkeypatch):
    monkeypatch.setattr(tasks, "MAX_ACTIONS", 2)
    for task in (TASK, SECOND):
        assert store.action_started(task, NODE, "pump.1", clock.now)
    clock.now += 10 * ACTION_KEEP_SECONDS
    with pytest.raises(Busy):
        store.action_started(b"v" * 16, NODE, "pump.1", clock.now)
    assert store.action(TASK).state == store.action(SECOND).state == "started"


def test_the_bytes_of_outcomes_are_bounded_too(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(tasks, "MAX_ACTION_BYTES", 2_500)
    path = tmp_path / "tasks.sqlite"
    payload = Payload("bytes", b"x" * 1_000)
    with TaskStore(path, durable=False, clock=clock) as store:
        for number in range(3):
            begin_and_end(store, bytes([number]) * 16, clock, payload)
    with TaskStore(path, durable=False, clock=clock) as store:
        with pytest.raises(Busy):
            store.action_started(TASK, NODE, "pump.1", clock.now)
        clock.now += ACTION_KEEP_LEAST + 1
        begin_and_end(store, TASK, clock, payload)
        assert store.action(bytes(16)) is None


# --- the disk ------------------------------------------------------------------------------------


def test_everything_is_there_after_a_restart(tmp_path):
    path = tmp_path / "tasks.sqlite"
    with TaskStore(path) as store:
        store.keep_result(result_of(1), "a", 1.0)
        store.action_started(TASK, NODE, "pump.1", 5.0)
        store.action_started(SECOND, NODE, "pump.1", 5.0)
        store.action_ended(SECOND, "cancelled", None, "by its requester", "")
        store.action_sent(TASK, OTHER)
        with pytest.raises(StorageInUse):
            TaskStore(path)
    with TaskStore(path) as store:
        assert store.result(key_of(1)) == (result_of(1), {"a"})
        assert store.action(TASK).state == "started"
        assert store.action(SECOND).state == "cancelled"
        assert store.sent(TASK) == OTHER
        assert not store.action_started(TASK, NODE, "pump.1", 6.0)
        assert not store.action_sent(TASK, NODE)


def test_the_store_closes_twice_and_says_so_afterwards(tmp_path):
    store = TaskStore(tmp_path / "tasks.sqlite", durable=False)
    store.keep_result(result_of(1), None, 1.0)
    store.result(key_of(1))
    store.close()
    store.close()
    with pytest.raises(StorageDamaged, match="closed"):
        store.action(TASK)
    with pytest.raises(StorageDamaged, match="closed"):
        store.action_started(TASK, NODE, "pump.1", 1.0)


def test_commits_of_actions_wait_for_the_disk_and_others_do_not(tmp_path):
    with TaskStore(tmp_path / "tasks.sqlite") as store:
        seen = []

        def note(sql):
            if sql.startswith(("COMMIT", "PRAGMA synchronous =")):
                seen.append(sql)

        store._db.set_trace_callback(note)
        store.keep_result(result_of(1), None, 1.0)
        store.action_sent(TASK, NODE)
        store.keep_result(result_of(2), None, 1.0)
        full, normal = "PRAGMA synchronous = FULL", "PRAGMA synchronous = NORMAL"
        assert seen == ["COMMIT", full, "COMMIT", normal, "COMMIT"]
        assert store._row("PRAGMA synchronous") == (1,)


def test_a_failed_commit_is_heard_by_all_and_counts_nothing(store, monkeypatch):
    assert store.action_started(TASK, NODE, "pump.1", 1.0)

    def fail(*_):
        raise sqlite3.OperationalError("no luck")

    with monkeypatch.context() as patch:
        patch.setattr(store, "_forget_old", fail)
        with pytest.raises(StorageDamaged, match="no luck"):
            store.action_started(SECOND, NODE, "pump.1", 1.0)
    assert store.action(SECOND) is None
    assert store._usage[0] == (1, 0)
    assert store.action_started(SECOND, NODE, "pump.1", 1.0)


def test_of_many_threads_one_starts_an_action(store):
    ids = [bytes([number]) * 16 for number in range(20)]
    began, barrier = [], threading.Barrier(8)

    def start():
        barrier.wait()
        for task in ids:
            if store.action_started(task, NODE, "pump.1", 1.0):
                began.append(task)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(began) == ids


_KILLED = """
import os, sys
from pathlib import Path
from kachery_p2p.storage.tasks.store import TaskStore
store = TaskStore(Path(sys.argv[1]))
for number in range(10_000):
    task = number.to_bytes(16, "big")
    assert store.action_started(task, bytes(32), "pump.1", 1.0)
    assert store.action_sent(task, bytes(32))
    if number % 2:
        assert store.action_ended(task, "finished", None, "", "")
    print(number, flush=True)
"""


def test_what_was_said_before_a_kill_is_known_after_it(tmp_path):
    path = tmp_path / "tasks.sqlite"
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            if int(line) == 25:
                break
        process.kill()
        last = int([line, *process.stdout][-1])
    with TaskStore(path) as store:
        for number in range(last + 1):
            task = number.to_bytes(16, "big")
            assert store.action(task).state == ("finished" if number % 2 else "started")
            assert store.sent(task) == bytes(32)
            assert not store.action_started(task, bytes(32), "pump.1", 2.0)
        lost = store.abandon_started(set())
        # One more may have begun before the kill than was said.
        assert set(lost) >= {number.to_bytes(16, "big") for number in range(0, last + 1, 2)}
        assert len(lost) <= last // 2 + 2


# --- against a model -----------------------------------------------------------------------------

task_ids = st.integers(0, 5).map(lambda number: bytes([number]) * 16)
ends = st.sampled_from(["finished", "failed", "cancelled", "unknown"])


class Journal(RuleBasedStateMachine):
    """The store beside two dictionaries; nothing is old enough to be forgotten."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "tasks.sqlite"
        self.store = TaskStore(self.path, durable=False)
        self.here, self.asked = {}, {}

    def teardown(self):
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(task=task_ids)
    def start(self, task):
        assert self.store.action_started(task, NODE, "pump.1", 1.0) == (task not in self.here)
        self.here.setdefault(task, "started")

    @rule(task=task_ids, state=ends)
    def end(self, task, state):
        open_ = self.here.get(task) in ("started", "unknown")
        assert self.store.action_ended(task, state, None, state, "") == open_
        if open_:
            self.here[task] = state

    @rule(running=st.sets(task_ids))
    def abandon(self, running):
        lost = [t for t, state in self.here.items() if state == "started" and t not in running]
        assert sorted(self.store.abandon_started(running)) == sorted(lost)
        self.here.update(dict.fromkeys(lost, "unknown"))

    @rule(task=task_ids, node=st.sampled_from([NODE, OTHER]))
    def send(self, task, node):
        before = self.asked.get(task)
        assert self.store.action_sent(task, node) == (before is None or before[0] == node)
        self.asked.setdefault(task, (node, "sent"))

    @rule(task=task_ids, state=ends)
    def know(self, task, state):
        node, before = self.asked.get(task, (None, None))
        open_ = before in ("sent", "unknown")
        assert self.store.action_known(task, state, None, state, "") == open_
        if open_:
            self.asked[task] = (node, state)

    @rule(task=task_ids)
    def forget(self, task):
        open_ = self.asked.get(task, (None, None))[1] == "sent"
        assert self.store.forget_sent(task) == open_
        if open_:
            del self.asked[task]

    @precondition(lambda self: self.here or self.asked)
    @rule()
    def reopen(self):
        self.store.close()
        self.store = TaskStore(self.path, durable=False)

    @invariant()
    def agree(self):
        for number in range(6):
            task = bytes([number]) * 16
            row = self.store.action(task)
            assert (None if row is None else row.state) == self.here.get(task)
            node, state = self.asked.get(task, (None, None))
            assert self.store.sent(task) == node
            known = self.store.outcome(task)
            assert (None if known is None else known.state) == (state if state != "sent" else None)
        assert self.store._usage[0][0] == len(self.here)
        assert self.store._usage[1][0] == len(self.asked)


TestJournal = Journal.TestCase
TestJournal.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
