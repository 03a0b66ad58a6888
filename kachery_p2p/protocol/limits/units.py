"""Units, and the end of time."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
LAST_SECOND: Final = 253_402_300_799
"""Unix time of the end of the year 9999, behind which no calendar goes. A time after it is a lie."""
