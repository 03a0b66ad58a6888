"""How much a storage folder may hold: what the user said last, or kachery's own setting in the folder.

kachery's is a line ``maxCacheSizeGiB: 20`` of ``kachery.yaml``; it counted 1,000,000,000 bytes for
each.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Final

from kachery_p2p.protocol.limits import KIB, MAX_FILE
from kachery_p2p.storage.state import StateDB

_log = logging.getLogger(__name__)

UNLIMITED: Final = 0
"""What says that there is to be no limit."""

_KEY: Final = "max storage"
_FILE: Final = "kachery.yaml"
_LARGEST_FILE: Final = 64 * KIB
_GIB_OF_KACHERY: Final = 1_000_000_000
_LINE: Final = re.compile(r"^maxCacheSizeGiB\s*:\s*([0-9.eE+]+)\s*(?:#.*)?$", re.MULTILINE)


def limit_of(root: Path, state: StateDB) -> int | None:
    """Bytes; None: there is no limit."""
    said = state.get_meta(_KEY)
    if said is not None:
        return int(said) or None
    return _of_kachery(root / _FILE)


def set_limit(state: StateDB, limit: int | None) -> None:
    """Remember it for the next start. None: no limit."""
    state.set_meta(_KEY, str(limit or UNLIMITED))


def _of_kachery(path: Path) -> int | None:
    try:
        with open(path, "rb") as file:
            text = file.read(_LARGEST_FILE).decode("utf-8", "replace")
    except OSError:
        return None
    found = _LINE.search(text)
    try:
        limit = int(float(found[1]) * _GIB_OF_KACHERY) if found else 0
    except (ValueError, OverflowError):
        limit = 0
    if found and not 0 < limit <= MAX_FILE:
        _log.warning("%s: maxCacheSizeGiB is no size, and was ignored", path)
        return None
    return limit or None
