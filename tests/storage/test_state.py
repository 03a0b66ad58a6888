"""The state survives crashes and old versions, and never changes by halves."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading

import pytest

from kachery_p2p.protocol.errors import BadInput, StorageDamaged, StorageFull
from kachery_p2p.storage import state as module
from kachery_p2p.storage.state import StateDB

SHA1, OTHER = "ab" * 20, "cd" * 20


@pytest.fixture
def state(tmp_path):
    with StateDB(tmp_path / "state.sqlite", durable=False) as opened:
        yield opened


def test_a_mutable_is_set_got_and_deleted(state):
    assert state.get('"k"') is None
    assert state.set('"k"', "1")
    assert state.set('"k"', "2")
    assert not state.set('"k"', "3", update=False)
    assert state.get('"k"') == "2"
    assert state.delete('"k"')
    assert not state.delete('"k"')
    assert state.set('"k"', "3", update=False)
    assert state.get('"k"') == "3"


def test_a_blob_without_origins_is_free(state):
    assert state.origins(SHA1) == frozenset()
    state.add_origin(SHA1, "a")
    state.add_origin(SHA1, "a")
    state.add_origin(SHA1, "b")
    state.add_origin(OTHER, "c")
    assert state.origins(SHA1) == {"a", "b"}
    state.clear_origins(SHA1)
    assert state.origins(SHA1) == frozenset()
    assert state.origins(OTHER) == {"c"}
    with pytest.raises(BadInput):
        state.add_origin("../..", "a")


def test_freeing_a_blob_that_is_free_writes_nothing(state):
    statements = []
    state._db.set_trace_callback(statements.append)
    state.clear_origins(SHA1)
    assert not any("DELETE" in text or "BEGIN" in text for text in statements)
    state.add_origin(SHA1, "a")
    state.clear_origins(SHA1)
    assert any("DELETE" in text for text in statements)
    assert state.origins(SHA1) == frozenset()


def test_a_blob_has_the_manifest_that_was_set_last(state):
    assert state.manifest(SHA1) is None
    state.set_manifest(SHA1, "11" * 20)
    state.set_manifest(SHA1, OTHER)
    assert state.manifest(SHA1) == OTHER


def put(state, channel_id, document=b"doc", joined_at=1.0, **changes):
    values = {"wanted_roles": {"request-files"}, "owner_seed": None, "secret": None} | changes
    state.put_channel(channel_id, document=document, joined_at=joined_at, **values)


def test_channels_are_kept_whole(state):
    put(state, "b", joined_at=2.0, owner_seed=b"s" * 32, secret=b"k" * 32)
    put(state, "a", joined_at=1.0, wanted_roles=frozenset())
    assert [row.channel_id for row in state.channels()] == ["a", "b"]
    assert state.channel("b") == module.ChannelRow(
        "b", b"doc", frozenset({"request-files"}), b"s" * 32, b"k" * 32, 2.0
    )
    assert state.channel("c") is None


def test_a_changed_channel_keeps_the_time_it_was_joined(state):
    put(state, "a", joined_at=1.0)
    put(state, "a", document=b"new", joined_at=9.0, secret=b"k")
    row = state.channel("a")
    assert (row.document, row.secret, row.joined_at) == (b"new", b"k", 1.0)


def test_a_channel_goes_with_its_announcements(state):
    put(state, "a")
    state.append_announcements("a", [(1, 1, b"key")])
    state.append_announcements("b", [(1, 1, b"key")])
    assert state.delete_channel("a")
    assert not state.delete_channel("a")
    assert state.channel("a") is None
    assert state.announcements("a") == []
    assert state.last_seq("b") == 1


def test_the_numbers_of_a_forgotten_log_are_never_used_again(state):
    put(state, "a")
    state.set_epoch("a", 4)
    state.append_announcements("a", [(1, 1, b"key")])
    state.delete_channel("a")
    assert state.epoch("a") == 5
    assert state.epoch("b") == 0


def test_announcements_are_listed_in_order_from_anywhere(state):
    assert state.last_seq("a") == 0
    rows = [(seq, seq % 2, b"key%d" % seq) for seq in range(1, 8)]
    state.append_announcements("a", iter(rows[:3]))
    state.append_announcements("a", rows[3:])
    assert state.announcements("a") == rows
    assert state.announcements("a", from_seq=3, limit=2) == rows[2:4]
    assert state.announcements("a")[0].key == b"key1"
    assert state.last_seq("a") == 7
    state.clear_announcements("a")
    assert state.announcements("a") == []


def test_a_batch_of_announcements_is_appended_whole_or_not_at_all(state):
    state.append_announcements("a", [(2, 1, b"k")])
    with pytest.raises(StorageDamaged, match="UNIQUE"):
        state.append_announcements("a", [(1, 1, b"k"), (2, 1, b"k")])
    assert state.announcements("a") == [(2, 1, b"k")]


@pytest.mark.parametrize("taken", [1, 180, 181, 1_000])
def test_a_long_batch_of_announcements_takes_several_statements_and_is_one(state, taken):
    rows = [(seq, 1, b"key%d" % seq) for seq in range(1, 1_001)]
    state.append_announcements("a", [(taken, 0, b"k")])
    with pytest.raises(StorageDamaged, match="UNIQUE"):
        state.append_announcements("a", rows)
    assert state.announcements("a") == [(taken, 0, b"k")]
    state.append_announcements("b", rows)
    assert state.announcements("b") == rows


def test_single_values(state):
    assert state.get_meta("epoch") is None
    state.set_meta("epoch", "1")
    state.set_meta("epoch", "2")
    assert state.get_meta("epoch") == "2"
    state.set_meta("epoch", None)
    assert state.get_meta("epoch") is None


def test_a_transaction_is_all_or_nothing(state):
    with pytest.raises(BadInput), state.transaction():  # noqa: PT012 - the second one fails
        state.set("k", "1")
        state.add_origin("no hash", "a")
    assert state.get("k") is None
    with state.transaction():
        state.set("k", "1")
        state.set_meta("m", "1")
    assert (state.get("k"), state.get_meta("m")) == ("1", "1")


def test_what_was_written_is_there_after_a_kill(tmp_path):
    path = tmp_path / "state.sqlite"
    script = (
        "import os, signal, sys; from pathlib import Path;"
        "from kachery_p2p.storage.state import StateDB;"
        "state = StateDB(Path(sys.argv[1])); state.set('k', 'kept');"
        "state._db.execute('BEGIN'); state._db.execute(\"UPDATE mutables SET value = 'torn'\");"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert killed.returncode == -9
    with StateDB(path) as state:
        assert state.get("k") == "kept"


def test_only_the_user_can_read_it(tmp_path):
    with StateDB(tmp_path / "state.sqlite") as state:
        state.set("k", "v")
        modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        assert modes == {0o600}


def test_any_thread_may_call(state):
    def work(number: int) -> None:
        for item in range(20):
            state.set(f"{number}-{item}", "x")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(state.get(f"{number}-{item}") for number in range(4) for item in range(20))


def test_a_database_of_an_older_version_is_brought_up(tmp_path, monkeypatch):
    path = tmp_path / "state.sqlite"
    with StateDB(path) as state:
        state.set("k", "v")
    step = "CREATE TABLE more (a); INSERT INTO more SELECT value FROM mutables;"
    monkeypatch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, step))
    with StateDB(path) as state, state.transaction() as db:
        assert db.execute("SELECT a FROM more").fetchall() == [("v",)]
        assert db.execute("PRAGMA user_version").fetchone() == (len(module.MIGRATIONS),)


def test_a_migration_that_fails_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "state.sqlite"
    StateDB(path).close()
    with monkeypatch.context() as patch:
        patch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, "CREATE TABLE more (a); NONSENSE"))
        with pytest.raises(StorageDamaged):
            StateDB(path)
    with StateDB(path) as state, state.transaction() as db:
        assert db.execute("SELECT name FROM sqlite_master WHERE name = 'more'").fetchall() == []


def test_a_database_of_a_newer_version_is_left_alone(tmp_path):
    path = tmp_path / "state.sqlite"
    StateDB(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StorageDamaged, match="newer version"):
        StateDB(path)


def test_what_is_no_database_is_refused(tmp_path):
    path = tmp_path / "state.sqlite"
    path.write_bytes(b"not a database, but long enough to be read as one" * 20)
    with pytest.raises(StorageDamaged, match="not a database"):
        StateDB(path)
    with pytest.raises(StorageDamaged):
        StateDB(tmp_path / "missing" / "state.sqlite")


def test_a_closed_database_says_so(state):
    state.close()
    state.close()
    with pytest.raises(StorageDamaged, match="closed"):
        state.get("k")
    with pytest.raises(StorageDamaged, match="closed"):
        state.set("k", "v")


def test_a_full_disk_says_so_and_keeps_what_was_there(small_disk):
    with StateDB(small_disk / "state.sqlite") as state:
        state.set("k", "kept")
        with pytest.raises(StorageFull):
            state.set("k", "x" * (8 << 20))
        assert state.get("k") == "kept"
        assert state.set("small", "fits")


def test_who_reads_waits_for_no_commit_and_sees_what_was_before(state):
    state.add_origin(SHA1, "a")
    begun, go_on = threading.Event(), threading.Event()

    def change():
        with state.transaction() as db:
            db.execute("DELETE FROM origins")
            assert state.origins(SHA1) == frozenset(), "one's own changes are seen"
            begun.set()
            assert go_on.wait(30)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        assert begun.wait(30)
        assert state.origins(SHA1) == {"a"}
    finally:
        go_on.set()
        changing.join(30)
    assert state.origins(SHA1) == frozenset()


def test_who_reads_beside_a_commit_is_told_when_it_is_closed(tmp_path):
    state = StateDB(tmp_path / "state.sqlite", durable=False)
    begun, go_on = threading.Event(), threading.Event()

    def change():
        with state.transaction():
            begun.set()
            assert go_on.wait(30)

    changing = threading.Thread(target=change)
    changing.start()
    assert begun.wait(30)
    state.origins(SHA1)
    go_on.set()
    changing.join(30)
    state.close()
    with pytest.raises(StorageDamaged, match="closed"):
        state.origins(SHA1)
