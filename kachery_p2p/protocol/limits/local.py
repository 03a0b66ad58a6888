"""Limits of the local API, of clients and of the command line."""

from __future__ import annotations

from typing import Final

from .channels import MAX_CHANNEL_DOCUMENT
from .units import KIB, MIB

# --- local API ------------------------------------------------------------------------------------
MAX_LOCAL_FRAME: Final = 4 * MIB
"""Bytes of one frame between client and daemon; stores are streamed in smaller pieces."""
LOCAL_PIECE: Final = 1 * MIB
"""Bytes of one piece of a streamed store or load_bytes."""
MAX_LOCAL_CLIENTS: Final = 1_024
MAX_LOCAL_CLIENTS_PER_USER: Final = 512
"""Of one user other than the node's own; over TCP, of those with one token."""
LOCAL_RESERVED_CLIENTS: Final = 256
"""Of MAX_LOCAL_CLIENTS, so many places are for the node's own user."""
MAX_LOCAL_UNGREETED: Final = 64
"""Connections that have not said who they are: of the node's own user, of others, and over TCP so many
each. For one more, the oldest makes room."""
LOCAL_GREETING_SECONDS: Final = 5.0
"""In which a client must have greeted: it says so at once, unless it is stopped."""
MAX_LOCAL_GREETING: Final = 16 * KIB
"""Bytes of one frame before both sides have greeted: a path of 4 KiB fits."""
LOCAL_QUEUES_FAIR: Final = 128 * MIB
"""Bytes that wait for all clients together; beyond that, each may have its share of it."""
LOCAL_QUEUES_MOST: Final = 256 * MIB
"""Beyond that, who has not read for longest is cut off."""
LOCAL_UNFINISHED: Final = 64 * MIB
"""Bytes of frames of all clients together that were begun and not ended."""
LOCAL_PIECES_AT_ONCE: Final = 4
"""Pieces that are read from the disk at once for one client's calls of load_bytes."""
MAX_NOTICE: Final = 16 * KIB
"""Bytes of what a node leaves in its state folder about where it runs: two paths of 4 KiB fit."""
NOTICE_SECONDS: Final = 5.0
"""So often a node looks whether its socket is where clients look, and says that it still runs."""
NOTICE_LATE_SECONDS: Final = 60.0
"""A node of another computer that has not said so for as long has ended: file servers and the clocks of
two computers are late as well."""
LOOP_DESCRIPTORS: Final = 12
"""Files that a process must be able to open before an event loop is made: the loop's own, and the first
connection's."""
MAX_IDLE_CONNECTIONS: Final = 8
"""Connections that a client's threads leave open for the next sync call."""
MAX_LOCAL_REQUESTS: Final = 2_048
"""Calls of one client that run at once; more wait in the socket."""
LOCAL_ITEM_CREDIT: Final = 4 * MIB
"""Of Items of one call, so many bytes may wait for the client to deal with them (and one Item more)."""
LOCAL_ITEM_OVERHEAD: Final = 128
"""Bytes that each of them counts for beside its data."""
LOCAL_QUEUE: Final = 8 * MIB
"""Bytes that wait for one end of a local socket to read; the other end's calls wait then."""
MAX_LOCAL_DESCRIPTORS: Final = 16
"""File descriptors of one client that came and are not yet claimed by a call."""
MAX_OPEN_STORES: Final = 32
"""Files that a client has open at once to store or link them; more wait their turn. More would not be
faster, and a process may have 256 descriptors."""
LOCAL_DESCRIPTORS_EACH: Final = 48
"""Files of one client that a node has open at once; then its socket is not read."""
LOCAL_DESCRIPTORS_SHARE: Final = 4
"""Of what a node may have open, one part of so many is for clients' files."""
LOCAL_UPLOAD_PIECES: Final = 8
"""Pieces of one streamed store that wait for the disk; then the client's socket is not read."""
DEFAULT_API_PORT: Final = 20_421
MAX_MUTABLE: Final = 1 * MIB
"""Bytes of one mutable's key or value as JSON."""
MAX_STATUS_ROWS: Final = 100
"""Rows of one list in a node's status: with all lists full of long names, it still fits a frame."""
MAX_STATUS_NAMES: Final = 10
"""Names in one row of it, such as the members of a channel that are online."""
MAX_STATUS_LABEL: Final = 80
"""Characters of a label or name in it."""
MAX_STATUS_TEXT: Final = 600
"""Characters of a warning or error in it."""
CONNECT_LOCAL_SECONDS: Final = 5.0
"""A daemon that does not greet within this is called not running."""
START_SECONDS: Final = 15.0
"""A daemon that was just started and does not answer within this is given up and ended."""
STOP_SECONDS: Final = 10.0
"""From the order to stop until the daemon's process is gone: SHUTDOWN_SECONDS, and as much again."""

# --- looking for what is wrong --------------------------------------------------------------------
DOCTOR_TRIAL_SECONDS: Final = 5.0
"""For so long a thing is loaded to see whether it comes; what came is kept."""
DOCTOR_HASH_BYTES: Final = 1024 * MIB
"""Bytes of the largest local file that is hashed to see whether it is whole: about a second."""
DOCTOR_PROBE_BYTES: Final = 64 * KIB
"""Bytes that are written to see whether a disk takes any."""
LOW_DISK_BYTES: Final = 1024 * MIB
"""Of a disk with less room than this, users are warned."""
CLOCK_WARNING_SECONDS: Final = 60.0
"""Of a clock that is off by more than this, but by less than MAX_CLOCK_SKEW, too."""

# --- command line ---------------------------------------------------------------------------------
CAT_PIECE: Final = 16 * MIB
"""Bytes that 'cat' loads at a time, so what it holds whatever the size of the file."""
MAX_CHANNEL_TEXT: Final = 2 * MAX_CHANNEL_DOCUMENT
"""Bytes of text in which a channel document comes: base64 adds a third, mail programs the rest."""
