"""Limits of origins and archives: storage elsewhere that a node reads, and perhaps writes."""

from __future__ import annotations

from typing import Final

from .units import KIB, MIB

MAX_ORIGINS: Final = 16
"""Origins and archives of one node: a look-up asks the index of each."""
MAX_ORIGIN_URL: Final = 1_000
"""Characters of an origin's URL."""
ORIGIN_THREADS: Final = 8
"""Calls of one origin that run at once. Each reads a piece at most, so this bounds the memory too."""
ORIGIN_PIECE: Final = 1 * MIB
"""Bytes that are read from an origin in one call. A whole number of blocks."""
ORIGIN_PIECES_AHEAD: Final = 3
"""Pieces of one segment that are read ahead of the one that is being written."""
ORIGIN_CALL_SECONDS: Final = 20.0
"""An origin that has not answered a call within this is slow, and others are asked."""
ORIGIN_PUT_SECONDS: Final = 60.0
"""The same for writing one piece, and for the end of an upload, which may take a store a while."""
FETCH_THROUGH_SECONDS: Final = 20.0
"""Another node that asks for a file which must be fetched whole from an origin first is told after so
long that this takes a while, before it takes this node for silent."""
ORIGIN_LIST_SECONDS: Final = 600.0
"""The same for one page of a listing: a folder of a file system is walked for it."""
ORIGIN_CONNECT_SECONDS: Final = 10.0
"""A connection to an origin is made within this, or never."""
ORIGIN_RETRY_FIRST: Final = 2.0
"""An origin that cannot be reached is left alone for about so long at first, ..."""
ORIGIN_RETRY_MOST: Final = 60.0
"""... and for so long at most."""
ORIGIN_REFRESH_SECONDS: Final = 3600.0
"""Between two listings of an origin; what another wrote there is known after this."""
ORIGIN_PAGE_OBJECTS: Final = 20_000
"""An origin is listed in so many pages that each has about so many objects: what memory holds."""
ORIGIN_NEWS_EACH: Final = 1_000
"""Changes of a listing that are announced one by one; for more, all that is here is compared."""
MAX_ORIGIN_INDEX_LINE: Final = 4 * KIB
"""Bytes of a line of an index file."""
TREE_GROUP: Final = 128
"""Leaves of a hash tree that are read together: 4 KiB for 8 MiB of the file. A power of two."""
TREE_TOP_BYTES: Final = 1 * MIB
"""What is read of the upper levels of a tree, once: of very large files groups are larger for it."""
TREE_GROUPS_KEPT: Final = 64
"""Groups of one tree that are kept in memory."""
ARCHIVE_STRAY_SECONDS: Final = 24 * 3600.0
"""What an archive run left under a temporary name goes with the next one, if it is so old."""
