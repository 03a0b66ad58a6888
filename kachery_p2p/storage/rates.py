"""How fast files may go out and come in: what the user said last, which a node keeps over restarts."""

from __future__ import annotations

from typing import Final

from kachery_p2p.storage.state import StateDB

UNLIMITED: Final = 0
"""What says that there is to be no limit."""

_KEYS: Final = ("max upload", "max download")


def rates_of(state: StateDB) -> tuple[int | None, int | None]:
    """Upload and download, in bytes a second; None: without a limit."""
    upload, download = (int(state.get_meta(key) or UNLIMITED) or None for key in _KEYS)
    return upload, download


def set_rates(state: StateDB, upload: int | None, download: int | None) -> None:
    """Remember them for the next start. 0: without a limit; None: as it was."""
    for key, rate in zip(_KEYS, (upload, download), strict=True):
        if rate is not None:
            state.set_meta(key, str(rate))
