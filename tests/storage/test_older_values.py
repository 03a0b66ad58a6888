"""Values of older daemons are taken over once."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from kachery_p2p.protocol.limits import MAX_MUTABLE
from kachery_p2p.storage.older_values import take_over
from kachery_p2p.storage.state import StateDB

SCHEMA = """
CREATE TABLE IF NOT EXISTS mutables (
    sha1 TEXT PRIMARY KEY NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL
) WITHOUT ROWID
"""


def old_file(folder: Path, values: list[tuple[str, str]]) -> Path:
    """As kachery-daemon made it: key and value as JSON, named by the key's hash."""
    path = folder / "mutables.db"
    with sqlite3.connect(path) as db:
        db.execute(SCHEMA)
        rows = [(hashlib.sha1(key.encode()).hexdigest(), key, value) for key, value in values]
        db.executemany("INSERT INTO mutables VALUES (?, ?, ?)", rows)
    db.close()
    return path


def old_text(value: Any) -> str:
    """As JavaScript's JSON.stringify writes it, with sorted keys."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


@pytest.fixture
def state(tmp_path: Path) -> Any:
    with StateDB(tmp_path / "state.sqlite", durable=False) as state:
        yield state


def test_values_are_taken_over_once_and_what_is_here_stays(tmp_path: Path, state: Any) -> None:
    name = {"type": "feed_id_for_name", "feed_name": "é"}
    pairs = [("a", 1), (name, "ab" * 32), ({"b": [1, {"z": None, "a": True}]}, {"y": 1, "x": 2})]
    path = old_file(tmp_path, [(old_text(key), old_text(value)) for key, value in pairs])
    before = path.read_bytes()
    state.set('"a"', "2")
    assert take_over(tmp_path, state) == 2
    assert state.get('"a"') == "2"
    assert state.get('{"feed_name":"é","type":"feed_id_for_name"}') == f'"{"ab" * 32}"'
    assert state.get('{"b":[1,{"a":true,"z":null}]}') == '{"x":2,"y":1}'
    state.delete('{"b":[1,{"a":true,"z":null}]}')
    assert take_over(tmp_path, state) == 0
    assert state.get('{"b":[1,{"a":true,"z":null}]}') is None
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.glob("mutables*")) == ["mutables.db"]


def test_what_is_no_value_is_left_out(tmp_path: Path, state: Any) -> None:
    long = old_text("x" * MAX_MUTABLE)
    old_file(tmp_path, [("{", "1"), ("1", "nonsense"), ("2", "NaN"), ("3", long), ("4", "4")])
    assert take_over(tmp_path, state) == 1
    assert state.get("4") == "4"


def test_a_file_that_cannot_be_read_is_left_for_the_next_time(tmp_path: Path, state: Any) -> None:
    assert take_over(tmp_path, state) == 0
    (tmp_path / "mutables.db").write_bytes(b"this is no database, and was never one" * 100)
    assert take_over(tmp_path, state) == 0
    (tmp_path / "mutables.db").unlink()
    old_file(tmp_path, [("1", "2")])
    assert take_over(tmp_path, state) == 1
