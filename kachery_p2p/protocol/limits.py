"""Every bound of the system: its name, its unit, and why it is what it is.

A limit is checked before memory is allocated for what it bounds. Nothing else in the package holds
a number of this kind.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# --- version -----------------------------------------------------------------------------------
PROTOCOL_VERSION: Final = 2
"""Wire protocol. Two nodes talk only if it is equal; it is checked before the handshake."""

# --- records and frames ------------------------------------------------------------------------
MAX_HEADER: Final = 64 * KIB
"""Bytes of one packed frame header, so of one control message. Larger answers are streams."""
MAX_LIST_ITEMS: Final = 8_192
"""Items of one list in a message. Lists are allocated by what they claim to hold, before it is
there, and a small message can nest a thousand of them: this keeps such a lie below 64 MiB."""
MAX_BODY: Final = 1 * MIB
"""Bytes of bulk in one frame. Large enough to amortise a record, small enough to interleave."""
MIN_BODY: Final = 64 * KIB
"""Bytes of bulk in one frame on a slow link: 64 KiB is 50 ms at 10 Mbit/s."""
BULK_FRAME_SECONDS: Final = 0.05
"""A bulk frame is sized to occupy the link for about this long, between MIN_BODY and MAX_BODY."""
MAX_RELAY_TAIL: Final = MAX_BODY + MAX_HEADER + 64
"""Bytes of one relayed record: a whole inner record with its header, length and tags."""
MAX_RECORD: Final = MAX_RELAY_TAIL + MAX_HEADER + 64
"""Bytes of one WebSocket message, whatever is in it."""
REKEY_RECORDS: Final = 65_536
"""Records after which a direction's key is replaced (Noise REKEY): at most 64 GiB under one key."""

# --- link --------------------------------------------------------------------------------------
HANDSHAKE_SECONDS: Final = 10.0
"""From accepted connection to finished handshake and hello, else the connection is closed."""
MAX_HANDSHAKE_MESSAGE: Final = 4 * KIB
"""Bytes of one handshake message; XX with our payload needs about 250."""
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
DEAD_SECONDS: Final = 25.0
"""A link on which nothing was received for so long is dead (a ping went unanswered)."""
MAX_REQUESTS: Final = 1_024
"""Requests of one peer that are being served at once on one link, and that we have open."""
MAX_STREAMS: Final = 4_096
"""Streams open at once on one link, circuits included."""
STREAM_CREDIT: Final = 8 * MIB
"""Bytes that one stream's receiver lets its sender have under way."""
CIRCUIT_CREDIT: Final = 4 * MIB
"""Bytes of one circuit, each way, that a proxy holds at most: its whole memory for that user."""
CIRCUIT_CREDIT_LEAST: Final = 64 * KIB
"""The same for a node that has so many circuits that they hold all they may."""
CIRCUIT_WINDOW_LEAST: Final = 256 * KIB
"""Bytes that an end of a circuit may always have under way, however slow the path."""
CIRCUIT_CREDIT_BATCH: Final = 32 * KIB
"""Bytes of a circuit that are forwarded before their credit goes back: finer than the window."""
QUEUE_SECONDS: Final = 0.2
"""Seconds of bulk that an end of a circuit lets queue on the way: a control frame waits so long."""
FRAME_OVERHEAD: Final = 64
"""Bytes that a data frame costs in credit beyond its tail, so that empty frames are bounded."""
MAX_CONTROL_QUEUE: Final = 8_192
"""Control frames waiting for a slow link; a peer that lets so many pile up is dropped."""
MAX_CONTROL_BYTES: Final = 2 * MIB
"""Bytes of them, encoded. A hundred peers that read nothing cost 200 MiB."""
CONTROL_PAUSE_BYTES: Final = 512 * KIB
"""Bytes of them above which requests and answers wait until the peer has taken some: on a slow path
a thousand small files are asked for at once, and nobody is to be dropped for that."""
WRITE_STALL_SECONDS: Final = 30.0
"""A link whose peer has not taken one record for so long is ended. The largest record in that time is
35 kB/s, and a path that slow is given short ones."""
STREAM_STALL_SECONDS: Final = 60.0
"""A stream whose receiver takes nothing of what waits for it for so long is ended."""
MAX_LINKS_PER_PEER: Final = 8
"""Links with one peer, direct ones and through proxies; one more ends the one that was idle longest."""
MAX_CIRCUITS_PER_NODE: Final = 512
"""Circuits that one node may have open through one proxy."""
MAX_BAD_ROUTES: Final = 1_024
"""Addresses, and proxies, that a node remembers as not working; the oldest are forgotten first."""

# --- what peers make a node hold: see protocol/links/shares.py ------------------------------------
HELD_LEAST: Final = 3 * MIB
"""Bytes that a peer may always make a node hold: two of the largest frames, one of them on its way."""
HELD_GUARANTEED: Final = 300 * MIB
"""Bytes that these are for all peers together; of more than a hundred each has less."""
HELD_MOST: Final = 64 * MIB
"""Bytes for one peer, over all its links and circuits: five circuits at full speed, or sixty pieces."""
HELD_POOL: Final = 256 * MIB
"""Bytes for all peers beyond what each may always have."""
ANSWER_BYTES: Final = MAX_HEADER
"""Bytes that a request counts for until its answer is queued: no answer is larger."""
EXCHANGES_LEAST: Final = 64
"""Requests and streams of a peer that are always served."""
EXCHANGES_GUARANTEED: Final = 8_192
EXCHANGES_MOST: Final = 4_096
"""Of one peer, over all its links. Each costs about 5 kB of memory."""
EXCHANGES_POOL: Final = 8_192
FILES_LEAST: Final = 4
"""Files that a node keeps open while it serves a peer; further reads wait for their turn."""
FILES_GUARANTEED: Final = 256
FILES_MOST: Final = 64
FILES_POOL: Final = 256

# --- time --------------------------------------------------------------------------------------
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
IDLE_CIRCUIT_SECONDS: Final = 120.0
"""A relayed or direct on-demand link without traffic is closed after this."""
SHUTDOWN_SECONDS: Final = 5.0
"""From the order to stop until everything is closed."""
MAX_CALL_SECONDS: Final = 24 * 3600.0
"""No call of the local API lasts longer, however much progress it makes."""

# --- channels ----------------------------------------------------------------------------------
MAX_CHANNEL_DOCUMENT: Final = 1 * MIB
"""Bytes of one signed channel document: about 5,000 members."""
MAX_MEMBERS: Final = 5_000
MAX_BOOTSTRAPS: Final = 32
MAX_CHANNELS: Final = 256
"""Channels that one node is on."""
MAX_CHANNEL_NAME: Final = 100
"""Characters."""
MAX_URL: Final = 2_000
"""Characters."""
MAX_LABEL: Final = 200
"""Characters of a node's label."""
MAX_HELLO_URLS: Final = 8
"""Addresses at which a node says that it can be reached."""
MAX_FILE_LABEL: Final = 1_000
"""Characters of the label in a URI: a file name (255), or a whole path in URIs of old."""

MAX_INVITATION_TEXT: Final = 20_000
"""Characters of the text in which an invitation line comes."""
MAX_INVITATION_BOOTSTRAPS: Final = 4
"""Bootstraps that an invitation names: the line shall stay one that can be pasted."""
MAX_INVITATION_USES: Final = 1_000
"""Newcomers that one invitation lets in."""
MAX_INVITATIONS: Final = 1_000
"""Invitations to one channel that a node keeps, used up and revoked ones included."""
JOIN_SECONDS: Final = 10.0
"""A newcomer tries again for so long if the node that admits cannot be reached."""
INVITATION_SECONDS: Final = 7 * 24 * 3600.0
"""How long an invitation is good if nothing else is said."""
MAX_ADMISSIONS: Final = 500
"""Admissions that count next to one channel's document, until its owner takes them into it."""
ADMISSIONS_PER_NOTE: Final = 30
"""So that a note fits a header: an admission has at most 1.3 kB, if its label is in Chinese."""
MAX_GUESTS: Final = 64
"""Links of one node to those who hold an invitation and are not members yet. For one more, the one
that does nothing for longest makes room."""
GUEST_SECONDS: Final = 20.0
"""Such a link is closed if its guest has not become a member within this."""

# --- gossip ------------------------------------------------------------------------------------
BLINDED_KEY_BYTES: Final = 16
MAX_ANNOUNCE_ENTRIES: Final = 1_000
"""Entries of one signed announcement batch (about 17 kB)."""
ANNOUNCE_MERGE: Final = 10
"""So many small batches in a row are signed anew as one, and so many of those, up to a full one."""
MAX_KEYS_PER_ORIGIN: Final = 4_000_000
"""Live keys that an index holds for one node of one channel."""
MAX_LOG_ENTRIES: Final = 2 * (MAX_KEYS_PER_ORIGIN + MAX_ANNOUNCE_ENTRIES)
"""Entries that an index keeps of one announcement log: its owner compacts it before that."""
MAX_LOG_BATCHES: Final = 16_384
"""Batches in which it keeps them: MAX_LOG_ENTRIES in full ones, and as many smaller ones."""
MAX_DIGEST_ORIGINS: Final = 1_000
"""Origins in one digest note, so that it fits a header; more are sent in several."""
ANNOUNCE_DELAY: Final = 0.005
"""Seconds for which announcements are gathered before they are signed and sent together."""
ANNOUNCE_SPREAD: Final = 0.02
"""Seconds by which that is longer at most, at random, on each of several channels, so that they do not
all speak in the same instant and of the same things."""
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
LOOKUP_PATIENCE: Final = 30.0
"""A look-up that finds nobody waits so long for members that are still announcing what they have."""
MAX_ANSWER_NODES: Final = 128
"""Nodes described in one answer to 'who has'."""
MAX_QUERY_KEYS: Final = 512
"""Keys in one 'who has'."""
MAX_HOLDERS: Final = 64
"""Nodes named in one answer per key."""

# --- files -------------------------------------------------------------------------------------
MANIFEST_CHUNK: Final = 20_000_000
"""Bytes of a manifest's chunk, and the size above which a file has a manifest."""
BLOCK: Final = 64 * KIB
"""Bytes of a leaf of the file tree: the smallest range that can be verified by itself."""
MAX_MANIFEST: Final = 64 * MIB
"""Bytes of a manifest: enough for a file of 9 TB."""
SEGMENT: Final = 16 * MIB
"""Bytes asked of one source at a time."""
MAX_SOURCES: Final = 8
"""Nodes that one download reads from at once."""
DURABLE_WINDOW: Final = 64 * MIB
"""Bytes of verified blocks that a crash may cost a download, at most."""
SYNC_AFTER: Final = DURABLE_WINDOW // 4
"""Bytes of newly verified blocks after which a partial is to be synced. While that runs, at most
``DURABLE_WINDOW - SYNC_AFTER`` more may come: then the writer waits."""
MAX_DOWNLOADS: Final = 64
"""Downloads that run at once; more wait their turn."""
INLINE_FILE: Final = 32 * KIB
"""A file of at most so many bytes travels in the answer itself."""
MAX_FILE: Final = 1 << 50
"""Bytes (1 PiB). A size above this is a lie."""
VERIFY_ON_READ: Final = MANIFEST_CHUNK
"""Local blobs of at most this size are hashed whenever their content is decoded (0.1 s at most)."""

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
SWEEP_ROWS: Final = 500
"""Rows in a page: while such a page is forgotten, no store or download begins."""
SWEEP_PAUSE_SECONDS: Final = 3600.0
"""Between two rounds of tidying the storage."""

# --- feeds -------------------------------------------------------------------------------------
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

# --- tasks -------------------------------------------------------------------------------------
TASK_BYTES: Final = 16
"""Of the random number by which a request for a task is known."""
MAX_FUNCTION_ID: Final = 200
"""Characters of a task function's id."""
MAX_TASK_KWARGS: Final = 1_000_000
"""Bytes of the arguments of a task as JSON. Larger things are stored, and the arguments have their
URI. They travel in one frame."""
MAX_INLINE_RESULT: Final = 32_000
"""Bytes of a result that travels in the answer itself: half a header. A larger one is a file."""
MAX_TASK_MESSAGE: Final = 1_000
"""Characters of what a function says about its progress."""
MAX_TASK_LOG: Final = 8_000
"""Bytes of what a function printed, in one update."""
MAX_TASK_REASON: Final = 2_000
"""Characters of why a task failed."""
MAX_TASK_TRACEBACK: Final = 16_000
"""Characters of the traceback of a function that raised."""
MAX_TASK_UPDATE: Final = 60_000
"""Bytes of all texts and the result in one update, so that it fits a header whatever the script."""
MAX_TASK_OFFERS: Final = 48_000
"""Bytes, about, of one answer to what is on offer; of more there are several."""
MAX_TASK_FUNCTIONS: Final = 1_000
"""Functions that one backend offers."""
MAX_TASK_BACKENDS: Final = 100
"""Backends of one node."""
MAX_TASK_SLOTS: Final = 10_000
"""Tasks that one backend runs at once."""
MAX_TASKS_QUEUED: Final = 10_000
"""Tasks that wait in one node for a free slot."""
MAX_TASKS_KEPT: Final = 10_000
"""Tasks that ended and are remembered for who comes again."""
TASK_CANCEL_SECONDS: Final = 2.0
"""A function that was asked to stop and goes on for longer is ended with its worker process."""
MAX_TASK_LOG_KEPT: Final = 1_000_000
"""Characters of what a function printed that its requester keeps, the newest."""
TASK_KEEP_SECONDS: Final = 300.0
"""For so long they are."""
TASK_BACKEND_SECONDS: Final = 60.0
"""A request waits so long for a backend if the caller says nothing else."""
TASK_LOOK_SECONDS: Final = 3.0
"""What looking for a result that somebody holds, or asking a node for its load, may take."""
MAX_TASK_OFFERS_ASKED: Final = 10_000
"""Functions of one node that are looked at."""
MAX_TASK_RETRIES: Final = 100
"""How often a caller may have a run repeated that failed."""
MAX_TASK_RESULTS: Final = 100_000
"""Results that a node keeps; those that were not used for longest are forgotten first."""
MAX_TASK_RESULT_BYTES: Final = 1024 * MIB
"""Bytes of them; files that results lie in are not counted."""
ACTION_KEEP_SECONDS: Final = 30 * 24 * 3600.0
"""How an action ended is remembered for so long."""
ACTION_KEEP_LEAST: Final = 3600.0
"""It is remembered for so long in any case: whoever asks again within it is never told that the
action did not begin."""
MAX_ACTIONS: Final = 1_000_000
"""Actions that are remembered, run here and asked for each. If none may be forgotten, no further one
begins."""
MAX_ACTION_BYTES: Final = 1024 * MIB
"""Bytes of what came of them."""

# --- journal of small stores -------------------------------------------------------------------
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

# --- local API ---------------------------------------------------------------------------------
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
STORAGE_SCAN_SECONDS: Final = 5.0
"""The storage is measured for the status so often at most, and the less often the longer it takes."""
CONNECT_LOCAL_SECONDS: Final = 5.0
"""A daemon that does not greet within this is called not running."""
START_SECONDS: Final = 15.0
"""A daemon that was just started and does not answer within this is given up and ended."""
STOP_SECONDS: Final = 10.0
"""From the order to stop until the daemon's process is gone: SHUTDOWN_SECONDS, and as much again."""

# --- looking for what is wrong ------------------------------------------------------------------
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

# --- command line ------------------------------------------------------------------------------
CAT_PIECE: Final = 16 * MIB
"""Bytes that 'cat' loads at a time, so what it holds whatever the size of the file."""
MAX_CHANNEL_TEXT: Final = 2 * MAX_CHANNEL_DOCUMENT
"""Bytes of text in which a channel document comes: base64 adds a third, mail programs the rest."""

# --- what users hand in ------------------------------------------------------------------------
MAX_URI: Final = 4_000
"""Characters of a URI: a label of MAX_LABEL, all of it percent-encoded, fits several times."""
MAX_NPY_HEADER: Final = 128 * KIB
"""Bytes of an npy header: a structured type of some 5,000 fields. It is parsed as Python."""
MAX_PICKLE_DEPTH: Final = 300
"""Containers inside one another in a pickle: half of what Python's own pickler manages."""
MAX_PICKLE_KEY: Final = 100_000
"""Items of a dict key or set member with all that is inside it, since hashing visits each."""
MAX_PICKLE_ITEMS: Final = 1_000_000_000
"""Items that a pickle unfolds to if what is shared is counted as often as it is met."""
MAX_DTYPE_FIELDS: Final = 10_000
"""Fields of a pickled numpy dtype, those of its fields included."""
MAX_DTYPE_DEPTH: Final = 32
"""Dtypes inside one another; numpy walks them on the C stack."""
