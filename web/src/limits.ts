/**
 * Every bound of this implementation. Those of the wire have the names and values of docs/protocol.md,
 * which a test compares; the rest say how much the page holds.
 */

export const PROTOCOL_VERSION = 6;
/** Items of one list; more are refused before memory is taken for them. */
export const MAX_LIST_ITEMS = 8_192;
/** Bytes of a packed frame header. */
export const MAX_HEADER = 65_536;
/** Frames of one record, and bytes of their packed headers. */
export const MAX_RECORD_FRAMES = 64;
/** Bytes of headers and tails in a record up to which one more frame is put into it. */
export const JOINED_BYTES = 16_384;
export const MAX_HEADERS = 81_920;
/** Bytes of a body in a sealed tail. */
export const MAX_BODY = 1_048_576;
/** Bytes of a part of a body that comes in several. */
export const MIN_FRAGMENT = 16_384;
/** Bytes of an opaque tail. */
export const MAX_RELAY_TAIL = 1_130_560;
/** Bytes of a WebSocket message. */
export const MAX_RECORD = 1_228_928;
/** Records under one key. */
export const REKEY_RECORDS = 65_536;
/** Bytes of a Noise message. */
export const MAX_HANDSHAKE_MESSAGE = 4_096;
/** Seconds for the handshake, and then for the hello. */
export const HANDSHAKE_SECONDS = 10;
/** Seconds of silence before a ping, and until a link counts as dead. */
export const PING_SECONDS = 10;
export const DEAD_SECONDS = 25;
/** Bytes of cost that the other side may send on a stream at first. */
export const STREAM_CREDIT = 8_388_608;
/** The same on a circuit. */
export const CIRCUIT_CREDIT = 8_388_608;
/** Bytes that a data frame costs beyond its tail. */
export const FRAME_OVERHEAD = 64;
/** Seconds that a requester waits for an answer. */
export const REQUEST_SECONDS = 15;
/** Seconds that it waits for the answer to `who-has`, and for which that may be held back. */
export const LOOKUP_SECONDS = 5;
export const LOOKUP_HOLD_SECONDS = 4;
/** Seconds without a piece until a source is given up. */
export const STALL_SECONDS = 30;
/** Characters of a label. */
export const MAX_LABEL = 200;
/** Holders of one thing in an answer. */
export const MAX_HOLDERS = 64;
/** Nodes in one answer. */
export const MAX_ANSWER_NODES = 128;
/** Bytes of an inline content. */
export const INLINE_FILE = 32_768;
/** Bytes of a leaf of a file's tree. */
export const BLOCK = 65_536;
/** Ranges of one request. */
export const MAX_RANGES = 256;
/**
 * Bytes that the page asks for in one piece. Browsers have memory ready for what is shorter than 1 MiB, and get it
 * from the system, page by page, for what is not: that takes longer than to decrypt it.
 */
export const MAX_PIECE = 524_288;
/** Bytes of a file above which it has a manifest. */
export const MANIFEST_CHUNK = 20_000_000;
/** Bytes of a file. */
export const MAX_FILE = 1_125_899_906_842_624;
/** Messages of one subfeed, of one run, runs of one frame, hashes of one proof. */
export const MAX_FEED_MESSAGES = 1_099_511_627_776;
export const MAX_RUN = 256;
export const MAX_SLICE_RUNS = 1_000;
export const MAX_PROOF_HASHES = 64;
/** Contents that one pass is for, and bytes of its record. */
export const MAX_PASS_SCOPE = 16;
export const MAX_PASS_BYTES = 1_024;
/** Bytes of the JSON that a view is given, characters of its title, bytes of its files. */
export const MAX_VIEW_DATA = 4_096;
export const MAX_VIEW_TITLE = 200;
export const MAX_VIEW = 16_777_216;
/** Messages that are appended at once. */
export const MAX_VISITOR_MESSAGES = 1_000;

/** Nodes whose word for a result counts, of those that a link names. */
export const MAX_LINK_RUNNERS = 8;
/** Characters of a function's id and of why it failed, bytes of its arguments, of those that go with the
 * request, of what it printed in one update, and of a result that comes with the answer. */
export const MAX_FUNCTION_ID = 200;
export const MAX_TASK_REASON = 2_000;
export const MAX_TASK_KWARGS = 1_000_000;
export const SHORT_TASK_KWARGS = 16_000;
export const MAX_TASK_LOG = 8_000;
export const MAX_INLINE_RESULT = 32_000;
/** Tasks that wait in one node, arguments of a function that are described, functions of one answer. */
export const MAX_TASKS_QUEUED = 10_000;
export const MAX_TASK_PARAMETERS = 32;
export const MAX_PARAMETER_CHOICES = 20;
export const MAX_TASK_FUNCTIONS = 1_000;
/** Of a channel's document: bytes, members, proxies, characters of a URL. */
export const MAX_CHANNEL_DOCUMENT = 1_048_576;
export const MAX_MEMBERS = 5_000;
export const MAX_BOOTSTRAPS = 32;
export const MAX_URL = 2_000;
/** Of an invitation: characters around it, proxies in it. */
export const MAX_INVITATION_TEXT = 20_000;
export const MAX_INVITATION_BOOTSTRAPS = 4;
/** Nodes that are said to be online, and admissions that a node keeps, and those of one note. */
export const MAX_ONLINE = 1_000;
export const MAX_ADMISSIONS = 500;
export const ADMISSIONS_PER_NOTE = 30;

/** Characters of what follows `#` in a link. */
export const MAX_FRAGMENT = 16_384;
/** Bytes of a manifest that the page reads: 2,000,000 blocks are not described in more. */
export const MAX_PAGE_MANIFEST = 16_777_216;
/** Bytes of a file that can be verified as a whole only, which the page must hold at once. */
export const MAX_WHOLE_FILE = 67_108_864;
/** Holders that are tried for one thing. */
export const MAX_TRIES = 8;
/** Seconds until the page tries again to link with the proxy: the first time, and the longest. */
export const RETRY_FIRST = 0.5;
export const RETRY_MOST = 30;
/** Bytes of text, JSON or table that are shown; what is longer is shown in part. */
export const SHOWN_TEXT = 1_048_576;
/** Bytes of JSON that are made into a tree, and of a table that is read. */
export const SHOWN_JSON = 16_777_216;
/** Rows and columns of a table that are shown, entries of one level of a tree. */
export const SHOWN_ROWS = 1_000;
export const SHOWN_COLUMNS = 100;
export const SHOWN_ENTRIES = 500;
/** Levels of JSON that are shown. */
export const SHOWN_DEPTH = 64;
/** Bytes of an array whose statistics are computed: it is streamed, so this is time, not memory. */
export const SHOWN_ARRAY = 268_435_456;
/** Bytes of the header of an npy file. */
export const MAX_NPY_HEADER = 65_536;
/** Bytes of an image, sound or film that is shown. */
export const SHOWN_IMAGE = 67_108_864;
/** Bytes of sound or a film from which on the player gets ranges of it, and bytes of one of those. */
export const PLAYED_WHOLE = 1_048_576;
export const MEDIA_PIECE = 1_048_576;
/** Messages of a subfeed that are kept on the page, the newest ones, and characters shown of each. */
export const SHOWN_MESSAGES = 500;
export const SHOWN_MESSAGE = 10_000;
/** Calls of a view that are not answered yet, those of them that are worked on, and bytes that one asks for. */
export const VIEW_CALLS = 64;
export const VIEW_AT_ONCE = 6;
export const VIEW_BYTES = 67_108_864;
/** Seconds for which it is remembered who has what. */
export const HOLDERS_SECONDS = 10;
/** Seconds after which it is asked anew who is online and what is on offer. */
export const LOOK_AGAIN_SECONDS = 15;
/** Nodes that are asked what they run, and answers of one of them. */
export const OFFERING_NODES = 64;
export const OFFER_PAGES = 10;
/** Characters of what a function printed that are shown, the newest; runs that a page remembers. */
export const SHOWN_LOG = 100_000;
export const KEPT_RUNS = 50;
/** URIs that the page remembers of a channel. */
export const KEPT_URIS = 100;
/** Tasks that a view has run at once. */
export const VIEW_TASKS = 4;
/** Bytes that are written to a file of the browser at a time. */
export const WRITTEN_AT_ONCE = 4_194_304;
/** Bytes of a download that are gathered in memory; more goes to a file as it comes. */
export const SAVED_IN_MEMORY = 67_108_864;
