"""Results that a node keeps: for whom they are, how many, and which go first."""

from __future__ import annotations

import sqlite3

import pytest

from kachery_p2p.protocol.errors import StorageDamaged
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.tasks.result import sign_result
from kachery_p2p.protocol.tasks.task import Payload
from kachery_p2p.storage.tasks import results as task_results
from kachery_p2p.storage.tasks.store import TaskStore

KEY = NodeKey(b"\x07" * 32)


@pytest.fixture
def store(tmp_path):
    with TaskStore(tmp_path / "tasks.sqlite", durable=False) as opened:
        yield opened


def key_of(number):
    return number.to_bytes(32, "big")


def result_of(number, text=b"5", timestamp=1_000):
    return sign_result(
        KEY, key=key_of(number), function="count.1", type="pure-calculation", timestamp=timestamp,
        payload=Payload("json", text),
    )  # fmt: skip


def test_a_result_comes_back_with_the_channels_it_may_go_to(store):
    assert store.result(key_of(1)) is None
    assert store.keep_result(result_of(1), None, 1.0) == []
    assert store.result(key_of(1)) == (result_of(1), frozenset())
    store.keep_result(result_of(1), "a", 2.0)
    store.keep_result(result_of(1), "b", 3.0)
    store.keep_result(result_of(1), "b", 3.0)
    assert store.result(key_of(1)) == (result_of(1), {"a", "b"})
    assert store.may_give(key_of(1), "a")
    assert not store.may_give(key_of(1), "c")
    assert not store.may_give(key_of(2), "a")
    assert store.forget_result(key_of(1))
    assert not store.forget_result(key_of(1))
    assert store.result(key_of(1)) is None
    assert not store.may_give(key_of(1), "a")


def test_another_parcel_does_not_go_where_the_one_before_went(store):
    store.keep_result(result_of(1), "a", 1.0)
    newer = result_of(1, timestamp=2_000)
    store.keep_result(newer, "b", 2.0)
    assert store.result(key_of(1)) == (newer, {"a", "b"})
    different = result_of(1, b"6")
    store.keep_result(different, "c", 3.0)
    assert store.result(key_of(1)) == (different, {"c"})
    store.keep_result(result_of(1, b"7"), None, 4.0)
    assert store.result(key_of(1)) == (result_of(1, b"7"), frozenset())


def test_the_keys_of_all_results_or_of_a_channels(store, monkeypatch):
    monkeypatch.setattr(task_results, "_PAGE", 3)
    for number in range(10):
        store.keep_result(result_of(number), "even" if number % 2 == 0 else None, 1.0)
    assert list(store.results()) == [key_of(number) for number in range(10)]
    assert list(store.results("even")) == [key_of(number) for number in (0, 2, 4, 6, 8)]
    assert list(store.results("odd")) == []
    store.forget_results_of("even")
    assert list(store.results("even")) == []
    assert store.result(key_of(2)) == (result_of(2), frozenset())


def test_keys_that_go_while_they_are_listed_do_no_harm(store, monkeypatch):
    monkeypatch.setattr(task_results, "_PAGE", 2)
    for number in range(6):
        store.keep_result(result_of(number), None, 1.0)
    found = []
    for key in store.results():
        found.append(key)
        store.forget_result(key_of(4))
    assert found == [key_of(number) for number in (0, 1, 2, 3, 5)]


def test_the_results_that_were_not_used_for_longest_are_forgotten(store, monkeypatch):
    monkeypatch.setattr(task_results, "MAX_TASK_RESULTS", 3)
    for number in range(3):
        assert store.keep_result(result_of(number), "a", 1.0) == []
    store.result(key_of(0))
    assert store.keep_result(result_of(3), "a", 1.0) == [key_of(1)]
    assert store.keep_result(result_of(2), "a", 1.0) == []
    assert store.keep_result(result_of(4), "a", 1.0) == [key_of(0)]
    assert list(store.results()) == list(store.results("a")) == [key_of(n) for n in (2, 3, 4)]


def test_the_bytes_of_results_are_bounded_too(store, monkeypatch):
    size = len(b"x" * 1_000)
    monkeypatch.setattr(task_results, "MAX_TASK_RESULT_BYTES", 4 * size)
    for number in range(3):
        assert store.keep_result(result_of(number, b"x" * size), None, 1.0) == []
    assert store.keep_result(result_of(3, b"x" * size), None, 1.0) == [key_of(0)]
    assert store.keep_result(result_of(4, b"x" * 3 * size), None, 1.0) == [
        key_of(number) for number in (1, 2, 3)
    ]
    store.forget_result(key_of(4))
    for number in range(3):
        assert store.keep_result(result_of(number, b"x" * size), None, 1.0) == []


def test_the_order_of_use_outlives_a_restart_and_so_do_the_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(task_results, "MAX_TASK_RESULTS", 3)
    path = tmp_path / "tasks.sqlite"
    with TaskStore(path, durable=False) as store:
        for number in range(3):
            store.keep_result(result_of(number), None, 1.0)
        store.result(key_of(0))
    with TaskStore(path, durable=False) as store:
        assert store.keep_result(result_of(3), None, 1.0) == [key_of(1)]


def test_many_uses_are_written_now_and_then(store, monkeypatch):
    monkeypatch.setattr(task_results, "_TOUCHES", 5)
    for number in range(8):
        store.keep_result(result_of(number), None, 1.0)
    statements = []
    store._db.set_trace_callback(statements.append)
    for number in (0, 1, 2, 3):
        store.result(key_of(number))
    assert not any("UPDATE" in text for text in statements)
    store.result(key_of(4))
    assert sum("UPDATE" in text for text in statements) == 5
    assert not store._touched


def test_what_failed_is_not_counted(store, monkeypatch):
    store.keep_result(result_of(1), "a", 1.0)

    def fail(db):
        raise sqlite3.OperationalError("no luck")

    with monkeypatch.context() as patch:
        patch.setattr(store, "_make_room", fail)
        with pytest.raises(StorageDamaged, match="no luck"):
            store.keep_result(result_of(1, b"6"), "b", 2.0)
        with pytest.raises(StorageDamaged):
            store.keep_result(result_of(2), "b", 2.0)
    assert store.result(key_of(1)) == (result_of(1), {"a"})
    assert store._count == 1
    assert list(store.results()) == [key_of(1)]


def test_a_row_that_is_no_result_is_named_as_damage(store):
    store.keep_result(result_of(1), None, 1.0)
    store._change("UPDATE results SET result = x'00'")
    with pytest.raises(StorageDamaged, match="TaskResult"):
        store.result(key_of(1))
    assert store.forget_result(key_of(1))
