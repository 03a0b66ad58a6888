"""Limits of files: manifests, downloads, and what is tidied away."""

from __future__ import annotations

from typing import Final

from .units import KIB, MIB

# --- files ----------------------------------------------------------------------------------------
MANIFEST_CHUNK: Final = 20_000_000
"""Bytes of a manifest's chunk, and the size above which a file has a manifest."""
BLOCK: Final = 64 * KIB
"""Bytes of a leaf of the file tree: the smallest range that can be verified by itself."""
MAX_MANIFEST: Final = 64 * MIB
"""Bytes of a manifest: enough for a file of 9 TB."""
SEGMENT: Final = 16 * MIB
"""Bytes that are asked for at once of what somebody waits for."""
FIRST_SEGMENT: Final = 1 * MIB
"""Bytes that are asked of each of several sources first, and four times as many of the only one: how
fast it is nobody knows yet."""
LONGEST_SEGMENT: Final = 16 * SEGMENT
"""Bytes that are asked of one source at a time, at most."""
SEGMENT_SECONDS: Final = 1.0
"""What is asked of one source at a time takes about so long, at the rate that was measured."""
SILENCE_SECONDS: Final = 2.0
"""A source that gave nothing for so long is silent: others are asked for the same."""
SILENCE_TRIPS: Final = 4
"""The same in round trips, where these are long."""
SILENCE_REST_SECONDS: Final = 5.0
"""A source that was silent is asked for nothing else for so long, while there are others."""
REVIEW_SECONDS: Final = 0.1
"""So often it is looked whether a source is silent or slow, where there are several."""
MAX_RANGES: Final = 256
"""Byte ranges in one request to a source, and in one call of a local client."""
MAX_SEGMENTS_EACH: Final = 16
"""Requests that one download has with one source at once: a long one for the whole file, the others for
bytes that somebody waits for."""
READ_BATCH_BYTES: Final = 4 * MIB
"""Bytes that are asked for together by who reads ranges."""
READ_AHEAD_BYTES: Final = 16 * MIB
"""Bytes that are fetched ahead of where such a reader is."""
PIECES_AT_ONCE: Final = 32
"""Small pieces that are read from the disk in one visit to a worker thread: as many as fit into a large
one, but no more than these."""
QUICK_BYTES: Final = 8 * MIB
"""Bytes that a reader of a file that is ready is given in one request of one source."""
QUICK_ROOM: Final = 64 * MIB
"""Bytes of all such readers together that are asked for, or wait for their clients to take them."""
QUICK_SECONDS: Final = 1.0
"""So long, or SILENCE_TRIPS round trips, a source may give such a reader nothing before others are
asked, too."""
FEW_BYTES: Final = 1 * MIB
"""Bytes that a provider reads in one visit to a worker for who asks for no more."""
READ_CACHE_BYTES: Final = 64 * MIB
"""Bytes that an open file keeps in the memory of the program that reads it."""
READ_AHEAD_FIRST: Final = 512 * KIB
"""Bytes that are fetched ahead of who begins to read one after another; twice as many each time."""
READ_AHEAD_MOST: Final = 16 * MIB
"""Bytes of that at most."""
STRIDES_FIRST: Final = 4
"""Reads that are fetched ahead of who reads at equal distances; twice as many each time."""
STRIDES_MOST: Final = 32
"""That many at most, of READ_AHEAD_MOST bytes together."""
PLACE_NEAR: Final = 1 * MIB
"""Who reads twice so close together reads in one place."""
PLACE_FIRST: Final = 512 * KIB
"""Bytes of such a place that are fetched then; twice as many each time."""
PLACE_MOST: Final = 2 * MIB
"""Bytes of that at most."""
PLACES_READ: Final = 16
"""Places of one file that are remembered: those read last."""
PLACES_SHARE: Final = 4
"""One of so many reads is near another where somebody reads in places; fewer are so by chance."""
UNKEPT_BYTES: Final = 64 * MIB
"""Bytes of files that a full disk has no room for, which are in memory for those who read them."""
OPEN_SECONDS: Final = 30.0
"""For so long after the last read of a part, a download stays ready for the next one: sources are known
and linked, the manifest is read, the partial is open."""
MAX_OPEN_FILES: Final = 128
"""Downloads that stay ready so; of more, the one that was read least recently is ended."""
MAX_SOURCES: Final = 8
"""Nodes that one download reads from at once."""
SWARM_AFTER_SECONDS: Final = 0.5
"""A download that takes longer than this offers others what it has, and looks for others that do."""
MAP_SECONDS: Final = 0.25
"""So often a source that has a part is asked what it has by now."""
SOURCE_RETRY_FIRST: Final = 1.0
"""Seconds until a source that failed is tried again while others go on; twice as many each time."""
SOURCE_RETRY_MOST: Final = 15.0
"""Seconds of that at most."""
DURABLE_WINDOW: Final = 64 * MIB
"""Bytes of verified blocks that a crash may cost a download, at most."""
SYNC_AFTER: Final = DURABLE_WINDOW // 4
"""Bytes of newly verified blocks after which a partial is to be synced. While that runs, at most
``DURABLE_WINDOW - SYNC_AFTER`` more may come: then the writer waits."""
MAX_DOWNLOADS: Final = 64
"""Downloads that run at once; more wait their turn."""
INLINE_FILE: Final = 32 * KIB
"""A file of at most so many bytes travels in the answer itself."""
ASK_FILE: Final = 128 * KIB
"""A file of at most so many bytes is sent to who asks for it before it knows who has it."""
ASK_PREFIX_BYTES: Final = 3
"""Bytes of a hash that are told to a member that may not have the content: too few to ask others."""
ASK_CANDIDATES: Final = 64
"""Files whose hashes begin with these bytes among which the one that is asked for is looked for."""
ASK_SECONDS: Final = 0.25
"""So long, or four round trips, such an answer is waited for before proxies are asked who has it."""
ASKED_AT_ONCE: Final = 2
"""Members that are asked so."""
FILES_ASKED_FOR: Final = 16
"""Files that are asked for so at once."""
MAX_GIVERS: Final = 64
"""Members of which it is remembered that they gave a file."""
MAX_ASK_SKIPS: Final = 63
"""Files that are loaded without asking a member that time and again did not have them."""
MAX_FILE: Final = 1 << 50
"""Bytes (1 PiB). A size above this is a lie."""
VERIFY_ON_READ: Final = MANIFEST_CHUNK
"""Local blobs of at most this size are hashed whenever they are handed out (0.1 s at most)."""
MAX_STAMPS_ELSEWHERE: Final = 10_000
"""Large files of a folder that cannot be written to, of which a process remembers that it has compared
them with their hashes; each takes about 200 bytes."""

PARTIAL_KEEP_SECONDS: Final = 14 * 24 * 3600.0
"""A download in progress that nobody has gone on with for so long is thrown away."""
MAX_QUARANTINED: Final = 100
"""Files of damaged content that are kept aside; the newest."""
MAX_QUARANTINED_BYTES: Final = 4 * 1024 * MIB
"""Bytes of them, but for the newest one, which is kept whatever its size: it may be all there is."""
ORIGIN_KEEP_SECONDS: Final = 30 * 24 * 3600.0
"""For so long after content has gone it is remembered which channels it was for, should it be back."""
SWEEP_FOLDERS: Final = 1_000
"""Folders of the storage, or pages of rows, that are tidied in one visit to a worker thread."""
INDEX_WAIT_SECONDS: Final = 60.0
"""For so long a storage that was never indexed waits for what is there to be announced."""
SWEEP_TOGETHER: Final = 100
"""Folders of the storage that are listed, and then compared with its index together: a query for each
took longer than the listing."""
SWEEP_ROWS: Final = 500
"""Rows in a page: while such a page is forgotten, no store or download begins."""
SWEEP_PAUSE_SECONDS: Final = 3600.0
"""Between two rounds of tidying the storage."""

# --- journal of small stores ----------------------------------------------------------------------
JOURNAL_BYTES: Final = 16 * MIB
"""Bytes of the journal's file. One half, good for 2,047 stores of up to 4,064 bytes, fills while the
blobs of the other are synced, which takes a tenth of that time."""
JOURNAL_LARGEST: Final = 64 * KIB
"""Bytes of the largest content that goes through the journal, so is written twice: above this,
writing costs more than the syncs that are saved."""
JOURNAL_IDLE_SECONDS: Final = 2.0
"""A journal that nothing was added to for so long is emptied, so that the next start is quick."""
JOURNAL_SYNC_EACH: Final = 64
"""Blobs that are synced one by one; of more, the file system is synced as a whole, which is ten
times faster but waits for what other programs wrote, too."""
STRAY_SECONDS: Final = 24 * 3600.0
"""Where a file system has no locks, a temporary file of this age was left by a process that is gone."""
