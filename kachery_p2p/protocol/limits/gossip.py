"""Limits of gossip: announcements, look-ups, watches."""

from __future__ import annotations

from typing import Final

from .units import KIB, MIB

BLINDED_KEY_BYTES: Final = 16
MAX_ANNOUNCE_ENTRIES: Final = 1_000
"""Entries of one signed announcement batch (about 17 kB)."""
ANNOUNCE_MERGE: Final = 10
"""So many small batches in a row are signed anew as one, and so many of those, up to a full one."""
MAX_KEYS_PER_ORIGIN: Final = 1_000_000
"""Live keys that an index holds for one node of one channel: what INDEX_MOST is enough for."""
MAX_LOG_ENTRIES: Final = 2 * (MAX_KEYS_PER_ORIGIN + MAX_ANNOUNCE_ENTRIES)
"""Entries that an index keeps of one announcement log: its owner compacts it before that."""
MAX_LOG_BATCHES: Final = 16_384
"""Batches in which it keeps them: MAX_LOG_ENTRIES in full ones, and as many smaller ones."""
INDEX_KEY_BYTES: Final = 24
"""Bytes of memory that an index needs for a key, beside what stands in its batch."""
INDEX_BATCH_BYTES: Final = 700
"""Bytes of memory that it needs for a batch, beside its entries."""
INDEX_LEAST: Final = 1 * MIB
"""Bytes of memory that a node may always have of an index: some 25,000 keys."""
INDEX_GUARANTEED: Final = 128 * MIB
"""Bytes that these are for all nodes together; of more than 128 each has less."""
INDEX_MOST: Final = 72 * MIB
"""Bytes for one node, over all channels."""
INDEX_POOL: Final = 160 * MIB
"""Bytes for all nodes beyond what each may always have: in all some seven million keys."""
MAX_DIGEST_ORIGINS: Final = 1_000
"""Origins in one digest note, so that it fits a header; more are sent in several."""
ANNOUNCE_DELAY: Final = 0.005
"""Seconds for which announcements are gathered before they are signed and sent together."""
ANNOUNCE_SPREAD: Final = 0.02
"""Seconds by which that is longer at most, at random, on each of several channels, so that they do not
all speak in the same instant and of the same content."""
ANNOUNCE_ALIVE_SECONDS: Final = 10.0
"""A node that compares its storage with what it announced says so often that it is still at it."""
ANNOUNCE_SILENCE_SECONDS: Final = 30.0
"""A member that owes the rest of its announcements and says nothing for so long is not waited for."""
GOSSIP_PUSHES: Final = 16
"""Batches under way to one peer as notes, 17 kB each; it pulls the others."""
GOSSIP_HEARD_AFTER: Final = GOSSIP_PUSHES // 4
"""After so many the receiver says that it has them."""
PULL_BODY: Final = 64 * KIB
"""Bytes of batches, about, in one frame of a pull: four full ones, or 400 of one entry, whose
signatures take 24 ms of a worker thread."""
PULL_CREDIT: Final = 512 * KIB
"""Bytes that one pull lets its sender have under way."""
MAX_PULLS: Final = 16
"""Pulls that one node has open at once, so MAX_PULLS * PULL_CREDIT of memory; more wait their turn. A
node serves as many on one link."""
PULL_TURN_SECONDS: Final = 5.0
"""A pull that has run for so long lets others have their turn, if any wait, and goes on later."""
OVERTAKE_FIRST_SECONDS: Final = 1.0
OVERTAKE_MOST_SECONDS: Final = 600.0
"""Seconds between two times that a node starts its log over because of what a peer claims to know of
it: doubles from first to most, so that a liar cannot keep everybody waiting for it."""
REJOIN_SECONDS: Final = 5.0
"""After its start a proxy gives the members that it does not see yet so long to come back."""
LOOKUP_HOLD_SECONDS: Final = 4.0
"""A proxy holds back the answer "not known yet" for so long: less than LOOKUP_SECONDS."""
MAX_HELD_LOOKUPS: Final = 64
"""Questions of one link that a proxy holds so; one more is answered at once."""
MAX_HELD_KEYS: Final = 4_096
"""Keys of those, all together."""
MAX_HELD_KEYS_OF_ALL: Final = 65_536
"""Keys of those of all links, 0.5 kB each: beyond, questions are answered at once."""
LOOKUP_PATIENCE: Final = 30.0
"""A look-up that finds nobody waits so long for members that are still announcing what they have."""
MAX_ANSWER_NODES: Final = 128
"""Nodes described in one answer to 'who has'."""
MAX_QUERY_KEYS: Final = 512
"""Keys in one 'who has'."""
MAX_HOLDERS: Final = 64
"""Nodes named in one answer per key."""
