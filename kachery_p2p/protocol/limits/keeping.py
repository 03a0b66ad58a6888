"""Limits of what a storage folder keeps: its index, what goes, what is listed and scrubbed."""

from __future__ import annotations

from typing import Final

from .units import MIB

MAX_UNWRITTEN: Final = 2_000
"""Changes of the index (last uses, sizes) that wait in memory before they are written together."""
OWN_USED_SECONDS: Final = 3_600.0
"""A file of the user's that is stored again within this time after its last use is not noted as used:
a folder of a hundred thousand unchanged files costs no write for each."""
WRITE_USES_SECONDS: Final = 5.0
"""They wait so long at most: what a crash costs is the last uses of so many seconds."""
DISK_MARGIN: Final = 16 * MIB
"""Bytes that are left free on the disk where what may go can do that: for the node's own notes."""
EVICT_PAGE: Final = 256
"""Rows of the index that are looked at together when room is made."""
LIST_PAGE: Final = 500
"""Records in one piece of a listing."""
MAX_LIST_PATTERN: Final = 1_000
"""Characters of the pattern by which a listing is narrowed."""
MAX_PINS: Final = 1_000_000
"""Contents that one call pins: a directory of more files is refused."""
MAX_PIN_NAME: Final = 200
"""Characters of a pin's name."""
MAX_HOLDERS_OF_ROOM: Final = 5
"""Kinds of content that the error about a full storage names, the largest first."""
MAX_KEEP_SECONDS: Final = 100 * 365 * 24 * 3600.0
"""The longest time for which something can be kept; without a time it is kept for good."""
EXPIRED_PAGE: Final = 500
"""Expired contents that one round of tidying removes."""
SCRUB_AGAIN_SECONDS: Final = 30 * 24 * 3600.0
"""A store is verified by itself so long after it was last."""
SCRUB_OWN_RATE: Final = 20 * MIB
"""Bytes a second at which it does so."""
SCRUBS_AT_ONCE: Final = 2
"""Contents that are compared with their hashes at once at full rate. More would make a disk seek."""
SCRUB_UNIT_FILES: Final = 64
"""Small contents that are compared in one visit to a thread, ..."""
SCRUB_UNIT_BYTES: Final = 8 * MIB
"""... and the bytes of them together."""
SCRUB_UNITS_AHEAD: Final = 8
"""Such visits that are begun before the first of them is over, where that takes long."""
MAX_SCRUB_FINDINGS: Final = 1_000
"""Damaged contents that one report names; all are counted."""
READ_ON_SECONDS: Final = 2.0
"""A node that has read a range of a file counts as reading it for so long: it may ask for the next."""
READ_OUT_SECONDS: Final = 60.0
"""A file that is deleted while other nodes read it stays for so long at most, for them alone."""
