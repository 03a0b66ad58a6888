"""Limits of feeds."""

from __future__ import annotations

from typing import Final

from .links import MAX_BODY
from .units import KIB, MIB

MAX_FEED_MESSAGE: Final = 1_000_000
"""Bytes of one message as JSON in UTF-8. Larger things are stored, and the message has their URI."""
MAX_FEED_MESSAGE_DEPTH: Final = 300
"""Lists and objects inside one another in a message: a third of what Python's JSON parser manages,
so that what one node accepts, every reader can parse, however deep its own stack is."""
MAX_FEED_DIGITS: Final = 640
"""Digits in a row in a number of a message: what Python parses whatever its settings are."""
MAX_FEED_MESSAGES: Final = 1 << 40
"""Messages of one subfeed: 35,000 years of one in a second. A size above this is a lie."""
MAX_RUN: Final = 256
"""Messages of one run: they have one timestamp and one author."""
MAX_RUN_BYTES: Final = 256 * KIB
"""Bytes of the messages of one run; only a run of a single message may have more. So the run that a
read or a lost tile begins in costs little to load."""
MAX_SLICE: Final = MAX_BODY
"""Bytes of the messages in one frame, their newlines included: the largest message fits."""
MAX_SLICE_RUNS: Final = 1_000
"""Runs in one frame: about 46 bytes each with an author, so that they fit a header."""
TILE: Final = 256
"""Hashes in a tile. A lost incomplete one costs hashing 255 messages at most."""
MAX_SUBMISSIONS: Final = 10_000
"""Submissions that the owner remembers for each subfeed, so that one which is repeated because its
answer was lost is not appended twice."""
SUBMISSION_BYTES: Final = 16
"""Of the random number by which a submission is known."""
MAX_PROOF_HASHES: Final = 64
"""Hashes of one proof: a tree of MAX_FEED_MESSAGES has 41 levels."""
PROOFS_AT_ONCE: Final = 16
"""Proofs that a node asks another one for at a time."""
MOST_ASKED_PROOFS: Final = 64
"""Signed messages of one answer whose proofs another node must be asked for, one by one."""
FEED_SOURCES: Final = 3
"""Holders that a node follows at once for one subfeed: one sends messages, the others heads only."""
FEED_LAG_SECONDS: Final = 0.3
"""If who sends us messages is so far behind another's head, we change over to that one."""
FEED_SILENCE_SECONDS: Final = 4.0
"""A holder that has not said a first word about a subfeed for so long is given up for another."""
FEED_APPEAR_SECONDS: Final = 0.25
"""Before it is said of a feed that nobody has it, one that was made a moment ago may appear."""
FEED_IDLE_SECONDS: Final = 300.0
"""A subfeed that nobody has read for so long is no longer followed."""
FEED_CONTACT_SECONDS: Final = 10.0
"""What the first contact with a subfeed's holders may take if the caller says nothing else."""
MAX_FOLLOWED: Final = 4_096
"""Subfeeds that one node follows at once."""
MAX_FEED_WATCHES: Final = 1_000
"""Subfeeds that one call watches."""
MAX_WATCHED_KEYS: Final = 4_096
"""Keys for which a proxy watches on behalf of one link; of more, the oldest are forgotten."""
MAX_WATCHED_KEYS_OF_ALL: Final = 200_000
"""Keys for which it watches on behalf of all links, 0.4 kB each; of more, the oldest of the link that
has most are forgotten."""
MAX_RECENT_LOGS: Final = 256
"""Subfeeds whose newest messages are kept in memory for those who follow them."""
MAX_RECENT_BYTES: Final = 64 * KIB
"""Bytes of such messages for one subfeed."""
FEED_COMMIT_BYTES: Final = 16 * MIB
"""Bytes of messages after which one commit takes no further append."""
FEED_SPOOL_SECONDS: Final = 0.1
"""From an append that is in the spool to the commit that it shares with others."""
FEED_RELAXED_SECONDS: Final = 0.005
"""The same with durability relaxed, where readers hear of it with the commit only."""
FEED_RETRY_SECONDS: Final = 1.0
"""After a commit of acknowledged appends that failed, such as for a full disk, until the next try."""
FEED_SPOOL_BYTES: Final = 16 * MIB
"""Of appends that are not committed; further ones wait for their commit."""
MAX_FEED_DECISIONS: Final = 1 << 32
"""How often an owner may decide which history of a subfeed counts."""
MAX_FEED_WRITERS: Final = 1_000
"""Access rules of one subfeed."""
MAX_SUBFEED_NAME: Final = 1_000
"""Characters of a subfeed's name that is text."""
