"""The values that kachery's daemon and kachery_p2p 0.8 kept in the storage folder, ``mutables.db``:
taken over once, when a node has that folder for the first time.

Invariants: the file is only read; what was set here already stays; what was deleted here later does
not come back. The ids under ``{"type": "feed_id_for_name", ...}`` are values like any other: the keys
of these feeds lie in a ``feeds.db`` that is not read, so no feed has its name from there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

from kachery_p2p.protocol.canonical import canonical_json
from kachery_p2p.protocol.limits import MAX_MUTABLE

from .state import StateDB

_FILE: Final = "mutables.db"
_DONE: Final = "older values"

_log = logging.getLogger(__name__)


def take_over(storage: Path, state: StateDB) -> int:
    """Take over the values that lie in a storage folder; how many. A file that cannot be read is left
    for the next time, with a line in the log. Raises StorageFull, StorageDamaged."""
    path = storage / _FILE
    if state.get_meta(_DONE) is not None or not path.is_file():
        return 0
    try:
        with contextlib.closing(_open(path)) as old:
            values = list(_values(old))
    except sqlite3.Error as error:
        _log.warning("The values in %s could not be read: %s.", path, error)
        return 0
    with state.transaction():
        taken = sum(state.set(key, value, update=False) for key, value in values)
        state.set_meta(_DONE, str(path))
    _log.info("Took over %d values from %s.", taken, path)
    return taken


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)


def _values(old: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    for key, value in old.execute("SELECT key, value FROM mutables"):
        try:
            pair = canonical_json(json.loads(key)), canonical_json(json.loads(value))
        except (TypeError, ValueError, RecursionError):
            continue
        if all(len(text.encode("utf-8", "replace")) <= MAX_MUTABLE for text in pair):
            yield pair
