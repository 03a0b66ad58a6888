"""Limits of links: records, frames, streams, circuits, what peers make a node hold, and time."""

from __future__ import annotations

from typing import Final

from .units import KIB, MIB

# --- version --------------------------------------------------------------------------------------
PROTOCOL_VERSION: Final = 6
"""Wire protocol. Two nodes talk only if it is equal; it is checked before the handshake."""

# --- records and frames ---------------------------------------------------------------------------
MAX_HEADER: Final = 64 * KIB
"""Bytes of one packed frame header, so of one control message. Larger answers are streams."""
MAX_LIST_ITEMS: Final = 8_192
"""Items of one list in a message. Lists are allocated by what they claim to hold, before it is
there, and a small message can nest a thousand of them: this keeps such a lie below 64 MiB."""
MAX_BODY: Final = 1 * MIB
"""Bytes of bulk in one frame. Large enough to amortise a record, small enough to interleave."""
MIN_BODY: Final = 64 * KIB
"""Bytes of bulk that are made at a time for a slow link: a block of a file can be verified by
itself."""
MIN_FRAGMENT: Final = 16 * KIB
"""Bytes of a body that a record has at least, if there are so many: 13 ms at 10 Mbit/s."""
BULK_FRAME_SECONDS: Final = 0.01
"""Bulk is cut so that a record occupies the link for about this long, between MIN_FRAGMENT and
MAX_BODY."""
JOINED_BYTES: Final = 16 * KIB
"""Bytes of headers and tails in a record up to which one more frame is put into it."""
MAX_RECORD_FRAMES: Final = 64
"""Frames of one record."""
MAX_HEADERS: Final = JOINED_BYTES + MAX_HEADER
"""Bytes of all packed headers of one record."""
MAX_RELAY_TAIL: Final = MAX_BODY + MAX_HEADERS + 64
"""Bytes of one relayed record: a whole inner record with its headers, length and tags."""
MAX_RECORD: Final = JOINED_BYTES + MAX_RELAY_TAIL + MAX_HEADERS + 64
"""Bytes of one WebSocket message, whatever is in it."""
MAX_UNTAKEN: Final = 16
"""Messages that came on a WebSocket and wait: when there are more, nothing is read from its socket."""
MAX_UNTAKEN_BYTES: Final = 2 * MIB
"""Bytes of them, likewise."""
MAX_UNTAKEN_BYTES_OF_ALL: Final = 16 * MIB
"""Bytes of small ones on all WebSockets: beyond, nothing is read where one message waits."""
REKEY_RECORDS: Final = 65_536
"""Records after which a direction's key is replaced (Noise REKEY): at most 64 GiB under one key."""

# --- link -----------------------------------------------------------------------------------------
HANDSHAKE_SECONDS: Final = 10.0
"""From accepted connection to finished handshake and hello, else the connection is closed."""
MAX_HANDSHAKE_MESSAGE: Final = 4 * KIB
"""Bytes of one handshake message; XX with our payload needs about 250."""
MAX_FIRST_MESSAGE: Final = 64
"""Bytes of what rides in the opening of a circuit: the first handshake message has 45."""
FIRST_BYTE_SECONDS: Final = 2.0
"""From accepted connection to its first byte: who dials has something to say at once."""
MAX_PENDING_HANDSHAKES: Final = 128
"""Inbound connections of strangers, who have not proved who they are, over all addresses. For one more,
the oldest of the address with the most makes room."""
MAX_PENDING_PER_ADDRESS: Final = 64
"""The same for one IP address, or IPv6 network of 64 bits."""
MAX_PENDING_KNOWN: Final = 256
"""Inbound connections of those who have not proved who they are, but that they know a channel: a lab
that comes back all at once. For one more, the oldest makes room."""
MAX_UPGRADE_BYTES: Final = 16 * KIB
"""Bytes of the request with which a WebSocket opens; what browsers and proxies add fits ten times."""
KNOCK_MARKS: Final = 8
"""Channels that a dialler shows to know; the place of those that it has not is filled."""
KNOCK_SECONDS: Final = 600.0
"""How old a knock may be: MAX_CLOCK_SKEW, for clocks that differ by more find no link anyway."""
MAX_KNOCKS_KEPT: Final = 16_384
"""Knocks that a node remembers so that each is good once: all its links, made anew four times."""
ACCEPT_RETRY_SECONDS: Final = 0.5
"""After a connection could not be accepted for want of descriptors or memory, until the next try."""
ACCEPT_AT_ONCE: Final = 4
"""Connections that are accepted in one turn of the event loop: so few, compared with
MAX_PENDING_PER_ADDRESS, that who has something to say is heard before others take its place."""
MAX_DESCRIPTORS: Final = 1 << 20
"""To what a node raises its limit of open files where the system knows no bound."""
MIN_DESCRIPTORS: Final = 64
"""A node that nobody is linked to has some 45 open; with fewer than this it does not start."""
MAX_CHECKED_URLS: Final = 256
"""Signatures over addresses of nodes that are remembered as right or wrong: of look-ups in a row, each
names the same nodes."""
MAX_DIAL_ADDRESSES: Final = 4
"""IP addresses of one name that are tried."""
MAX_OPTION_ITEMS: Final = 64
"""Networks, or origins, in one option of the daemon."""
MAX_LINKS: Final = 4_096
"""Open links of one node."""
PING_SECONDS: Final = 10.0
"""A link on which nothing was received for so long is pinged."""
RTT_SECONDS: Final = 15.0
"""So often the round-trip time of a link is measured, however busy it is."""
RTT_REMEMBERED_SECONDS: Final = 60.0
"""The round-trip time that is told, and that links are chosen by, is the least of so long."""
SUSPECT_SECONDS: Final = 1.5
"""A link on which a ping is unanswered for so long, or SUSPECT_TRIPS round trips, and nothing else
came, is doubtful: others are preferred, and a new one is made beside it."""
SUSPECT_TRIPS: Final = 4
"""See SUSPECT_SECONDS."""
DOUBT_SECONDS: Final = 0.5
"""Who waits for something has a link pinged on which nothing came for so long."""
TICK_SECONDS: Final = 0.5
"""So often a link is looked after while a ping is unanswered or something waits to be taken."""
HOUSEKEEPING_SECONDS: Final = 5.0
"""So often a node looks what has become old."""
RARE_HOUSEKEEPING_SECONDS: Final = 30.0
"""The same of what wakes a thread each time and is in no hurry."""
STOPPED_SECONDS: Final = 5.0
"""By how much a timer is late in a process that was stopped, or whose computer slept."""
REPLACE_FIRST: Final = 1.5
"""The first attempt to make a new link beside a doubtful one may take so many seconds: a packet that
opens a connection, and is lost, is sent again after one, and then later and later."""
REPLACE_MOST: Final = 6.0
"""Each further one may take half as long again, up to this."""
DEAD_SECONDS: Final = 25.0
"""A link on which nothing was received for so long is dead (a ping went unanswered)."""
MAX_REQUESTS: Final = 1_024
"""Requests of one peer that are being served at once on one link, and that we have open."""
MAX_STREAMS: Final = 4_096
"""Streams open at once on one link, circuits included."""
LEAST_RATE: Final = 10_000
"""Bytes a second: the lowest limit that a user may set to what goes out, or comes in."""
MOST_RATE: Final = 10**12
"""The highest."""
RATE_BURST_SECONDS: Final = 0.25
"""What was not used for so long may be used at once later."""
RATE_PIECE_SECONDS: Final = 0.1
"""What goes at a time under a limit takes about so long."""
RATE_CREDIT: Final = 16 * KIB
"""Bytes of a piece for which a source that is held back gets credit at a time: it hears of us."""
RATE_WINDOW: Final = 2 * MIB
"""Bytes that such a source may have under way on one stream: two of the largest pieces."""
STREAM_CREDIT: Final = 8 * MIB
"""Bytes that one stream's receiver lets its sender have under way."""
CIRCUIT_CREDIT: Final = 8 * MIB
"""Bytes of one circuit, each way, that a proxy holds at most: its whole memory for that user. It is
what 100 MB/s are in 80 ms."""
CIRCUIT_CREDIT_LEAST: Final = 64 * KIB
"""The same for a node that has so many circuits that they hold all they may."""
CIRCUIT_CREDIT_BATCH: Final = 32 * KIB
"""Bytes of a circuit that are forwarded before their credit goes back: finer than the window."""
QUEUE_SECONDS: Final = 0.02
"""Seconds of bulk that a link lets queue on the way: whatever is said next waits so long."""
WINDOW_FIRST: Final = 64 * KIB
"""Bytes that a new link may have under way until it knows more; twice as many after a round trip."""
WINDOW_LEAST: Final = 16 * KIB
"""Bytes that a link may always have under way: a fragment is sent while one is acknowledged."""
WINDOW_MOST: Final = 64 * MIB
"""Bytes that it may have at most: what 300 MB/s are in 200 ms."""
MAX_PROBES: Final = 32
"""Pings that measure one link and are unanswered."""
FRAME_OVERHEAD: Final = 64
"""Bytes that a data frame costs in credit beyond its tail, so that empty frames are bounded."""
MAX_CONTROL_QUEUE: Final = 8_192
"""Control frames waiting for a slow link; a peer that lets so many pile up is dropped."""
MAX_CONTROL_BYTES: Final = 2 * MIB
"""Bytes of them, encoded; as many for all links of one peer."""
MAX_CONTROL_BYTES_OF_ALL: Final = 64 * MIB
"""Bytes of them on all links of a node: beyond, the fullest link of the peer with most of them ends."""
CONTROL_PAUSE_BYTES: Final = 512 * KIB
"""Bytes of them above which requests and answers wait until the peer has taken some: on a slow path
a thousand small files are asked for at once, and nobody is to be dropped for that."""
WRITE_STALL_SECONDS: Final = 30.0
"""A link whose peer has not taken one record for so long is ended. The largest record in that time is
41 kB/s, and a path that slow is given short ones."""
STREAM_STALL_SECONDS: Final = 60.0
"""A stream whose receiver takes nothing of what waits for it for so long is ended."""
MAX_LINKS_PER_PEER: Final = 8
"""Links with one peer, direct ones and through proxies; one more ends the one that was idle longest."""
MAX_CIRCUITS_PER_NODE: Final = 512
"""Circuits that one node may have open through one proxy."""
HEAD_START_SECONDS: Final = 0.3
"""A direct attempt is alone for so long; then a circuit is asked for beside it."""
REVERSE_SECONDS: Final = 1.0
"""Who can be dialled waits so long until it dials who has opened a circuit to it."""
UPGRADE_FIRST: Final = 60.0
"""Seconds until a direct link is tried again beside a relayed one; twice as many each time."""
UPGRADE_MOST: Final = 960.0
"""Seconds of that at most."""
MAX_UPGRADES: Final = 16
"""Members that a node tries to reach directly at once, because a circuit leads to them."""
MAX_BAD_ROUTES: Final = 1_024
"""Addresses, and proxies, that a node remembers as not working; the oldest are forgotten first."""

# --- what peers make a node hold: see protocol/links/shares.py ------------------------------------
INCOMING_LEAST: Final = MAX_RECORD
"""Bytes of large records that may always come from one peer, over all its links: one whole record."""
INCOMING_GUARANTEED: Final = 128 * MIB
"""Bytes that these are for all peers together; of more than 109, who has nothing under way may still
send one."""
INCOMING_MOST: Final = 16 * MIB
"""Bytes of them from one peer that come or wait: two for each of its links, nearly."""
INCOMING_POOL: Final = 24 * MIB
"""Bytes of them from all peers beyond what each may always send."""
HELD_LEAST: Final = 3 * MIB
"""Bytes that a peer may always make a node hold: two of the largest frames, one of them on its way."""
HELD_GUARANTEED: Final = 136 * MIB
"""Bytes that these are for all peers together; of more than 45 each has less, and of a hundred still
room for the largest frame."""
HELD_MOST: Final = 48 * MIB
"""Bytes for one peer, over all its links and circuits: four circuits at full speed, or forty pieces."""
HELD_POOL: Final = 96 * MIB
"""Bytes for all peers beyond what each may always have."""
ANSWER_BYTES: Final = MAX_HEADER
"""Bytes that a request counts for until its answer is queued: no answer is larger."""
EXCHANGES_LEAST: Final = 64
"""Requests and streams of a peer that are always served."""
EXCHANGES_GUARANTEED: Final = 8_192
"""That many for all peers together; of more than 128 each has fewer."""
EXCHANGES_MOST: Final = 2_048
"""Of one peer, over all its links. Each costs up to 10 kB of memory."""
EXCHANGES_POOL: Final = 2_048
"""For all peers beyond what each may always have: 100 MB with the guaranteed ones."""
FILES_LEAST: Final = 4
"""Files that a node keeps open while it serves a peer; further reads wait for their turn."""
FILES_GUARANTEED: Final = 256
"""That many for all peers together."""
FILES_MOST: Final = 64
"""Of one peer."""
FILES_POOL: Final = 256
"""For all peers beyond that: with the guaranteed ones half of what a process may usually have open."""

# --- time -----------------------------------------------------------------------------------------
MAX_CLOCK_SKEW: Final = 600.0
"""Seconds. Expiry dates are worth nothing if clocks disagree by more."""
RECONNECT_FIRST: Final = 0.5
RECONNECT_MOST: Final = 60.0
"""Seconds. Backoff of a dialer: doubles from first to most, with full jitter."""
RETRY_FIRST: Final = 0.1
RETRY_MOST: Final = 10.0
"""Seconds. The same for what a node has to do and failed to, such as cutting a removed member."""
KEEP_SECONDS: Final = 15.0
"""Who changes a channel waits so long for its disk; the change counts all the same."""
WARN_AGAIN_SECONDS: Final = 60.0
"""Of one thing that goes on failing, the user is told again after so long."""
FAILURES_REMEMBERED: Final = 256
"""Things that fail of which it is remembered when the user was told; then the oldest are forgotten."""
DIAL_SECONDS: Final = 10.0
"""TCP, TLS, WebSocket and any HTTP proxy on the way, together."""
REQUEST_SECONDS: Final = 15.0
"""A node that does not answer a request within this is called silent."""
LOOKUP_SECONDS: Final = 5.0
"""A proxy that does not answer 'who has' within this is called silent."""
MAX_ONLINE: Final = 1_000
"""Members that a proxy names when it is asked who is linked to it."""
PRESENCE_SECONDS: Final = 3.0
"""For so long a node does not ask again who is online."""
PRESENCE_ASK_SECONDS: Final = 1.0
"""A proxy that does not say within this who is online is not waited for."""
LINK_GRACE_SECONDS: Final = 5.0
"""A look-up waits so long for a bootstrap link that is just being opened."""
STALL_SECONDS: Final = 30.0
"""A transfer without one new verified byte for so long is stalled."""
RESUME_SECONDS: Final = 90.0
"""The same for one of which something has come: a computer that slept for a minute goes on with it."""
IDLE_CIRCUIT_SECONDS: Final = 120.0
"""A relayed or direct on-demand link without traffic is closed after this."""
SHUTDOWN_SECONDS: Final = 5.0
"""From the order to stop until everything is closed."""
MAX_CALL_SECONDS: Final = 24 * 3600.0
"""No call of the local API lasts longer, however much progress it makes, but for those that are as
long as a task."""

# --- whose turn it is -----------------------------------------------------------------------------
TURN_SECONDS: Final = 0.001
"""What all peers together may use of one turn of the event loop before those that have used most of it
wait. Short, for whoever has just a few words to say waits as long for each hop."""
NEWCOMERS_TURN_SECONDS: Final = TURN_SECONDS / 4
"""The same for newcomers, while somebody needs the time who stays, and waits so long at each hop."""
USAGE_HALF_LIFE: Final = 5.0
"""After so many seconds half of what a peer has used of the processor is forgotten."""
MAX_USAGE_ACCOUNTS: Final = 4_096
"""Peers of which it is remembered; as many as MAX_LINKS."""
SETTLED_SECONDS: Final = 60.0
"""How long a link has lasted when its peer no longer counts as a newcomer."""
STANDING_SECONDS: Final = 3_600.0
"""For how long after that it does not either when it comes again, in seconds."""
WASTE_LEAST: Final = 32
"""So many exchanges that came to nothing, and more than came to an end, make a peer a newcomer."""
WASTE_HALF_LIFE: Final = 60.0
"""After so many seconds half of them are forgotten."""
SETTLED_WEIGHT: Final = 1 / 8
"""What a peer that is no newcomer pays for what it uses of the processor, compared with one."""
NEWCOMERS_LEAST: Final = 0.2
"""The part of the processor that newcomers have together, whatever those need who stay."""
OWN_USAGE_WEIGHT: Final = 0.1
"""What the work of the node's own user counts, where it waits for the same threads as that of peers."""
