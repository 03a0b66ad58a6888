"""Limits of folders, and of many files at once."""

from __future__ import annotations

from typing import Final

from .units import KIB, MIB

MAX_DIRECTORY_ENTRIES: Final = 1_000_000
"""Files and folders in one listing. Whoever loads it holds it in memory, with about 400 bytes each."""
MAX_DIRECTORY_LISTING: Final = 256 * MIB
"""Bytes of one listing, as JSON: looked at before it is parsed."""
MAX_DIRECTORY_DEPTH: Final = 256
"""Folders within one another: what JSON readers take, who stop at a thousand levels and see two
here."""
LISTINGS_KEPT: Final = 4
"""Listings that a program keeps in memory, so that who opens the files of a folder one after the other
reads its listing once."""
LISTINGS_KEPT_BYTES: Final = 32 * MIB
"""Bytes of all of these together, as JSON: 300,000 files. In memory they take four times that."""
SHOWN_PROBLEMS: Final = 5
"""What cannot be stored of a folder is named up to so many times; the others are counted."""

# --- many at once ---------------------------------------------------------------------------------
BATCH_FILES: Final = 512
"""Files in one batch: of a call, a look-up (MAX_QUERY_KEYS), a request between nodes, a commit."""
BATCH_BYTES: Final = 1 * MIB
"""Bytes of the files that are stored in one batch: a frame takes four times that, the journal eight."""
BATCH_BODY: Final = 256 * KIB
"""Bytes of small files in one frame between nodes: a few milliseconds of a disk, and of a slow link
half a second."""
BATCH_FILE: Final = 64 * KIB
"""A file of at most so many bytes goes into a batch; that is what the journal takes
(JOURNAL_LARGEST)."""
BATCHES_AHEAD: Final = 2
"""Batches that are read from the disk while one is stored."""
BATCHES_LOADED: Final = 6
"""Batches that are fetched, or put in place, at once. Each waits for three round trips or so: of 200 ms
each, and of so many together 5,000 files come in a second."""
MANY_AT_ONCE: Final = 32
"""Files that are too large for a batch and are stored, or loaded, at once for one caller."""

# --- files that were stored before ----------------------------------------------------------------
MAX_KNOWN_FILES: Final = 1_000_000
"""Of so many of the users' files a node remembers which content they had, some 150 bytes each; those
that were not asked for longest are forgotten first."""
RACY_SECONDS: Final = 60.0
"""A file that was written within so long before it was read may change once more and look the same:
some file systems count time in steps of two seconds; and what is written through mapped memory shows in
a file's times once, and then not again before the kernel has put it on the disk, half a minute later.
So it is read again next time."""

MAX_VIEW: Final = 16_777_216
"""Bytes of the files of a view: a page verifies its pack as a whole, and holds it."""
