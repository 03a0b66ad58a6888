"""Values that this implementation computes, and that of the page must compute too: ``vectors.json``.

``python -m tests.web.vectors`` writes the file anew. :mod:`.test_vectors` compares it with the code,
and has the TypeScript code checked against it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha1
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from kachery_p2p.protocol import codec, limits, tree
from kachery_p2p.protocol.channels.admission import Admission, check_admission
from kachery_p2p.protocol.channels.document import Bootstrap, ChannelDocument
from kachery_p2p.protocol.channels.invitation import make_invitation, prove, to_line
from kachery_p2p.protocol.channels.membership import channel_tag
from kachery_p2p.protocol.channels.share_link import VERSION, ShareLink, to_url
from kachery_p2p.protocol.channels.signed_document import sign
from kachery_p2p.protocol.channels.visitor_pass import make_pass, prove_pass, secret_of
from kachery_p2p.protocol.feeds import feed
from kachery_p2p.protocol.feeds.feed import Run, Slice
from kachery_p2p.protocol.feeds.frontier import Frontier, right_proof
from kachery_p2p.protocol.feeds.messages import FeedPart
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.files.manifest import Chunk, Manifest, Tree
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.links.frames import (
    OPAQUE_TAIL,
    SEALED_TAIL,
    Data,
    Frame,
    Ping,
    encode_header,
)
from kachery_p2p.protocol.links.noise import TAG_BYTES, Handshake
from kachery_p2p.protocol.links.session import Session, prologue
from kachery_p2p.protocol.tasks.keys import task_backends_key, task_function_key
from kachery_p2p.protocol.tasks.result import sign_result
from kachery_p2p.protocol.tasks.task import Payload, canonical_kwargs, task_key
from tests.protocol.links.records import record_of

PLACE: Final = Path(__file__).parent / "vectors.json"
LIMITS: Final = (
    "PROTOCOL_VERSION", "MAX_LIST_ITEMS", "MAX_HEADER", "MAX_HEADERS", "MAX_RECORD_FRAMES", "MAX_BODY",
    "MIN_FRAGMENT",
    "MAX_RELAY_TAIL", "MAX_RECORD",
    "REKEY_RECORDS", "MAX_HANDSHAKE_MESSAGE", "HANDSHAKE_SECONDS", "PING_SECONDS", "DEAD_SECONDS",
    "STREAM_CREDIT", "CIRCUIT_CREDIT", "FRAME_OVERHEAD", "REQUEST_SECONDS", "LOOKUP_SECONDS",
    "LOOKUP_HOLD_SECONDS", "STALL_SECONDS", "MAX_LABEL", "MAX_HOLDERS", "MAX_ANSWER_NODES",
    "INLINE_FILE", "BLOCK", "MANIFEST_CHUNK", "MAX_FILE", "MAX_FEED_MESSAGES", "MAX_RUN",
    "MAX_SLICE_RUNS", "MAX_PROOF_HASHES", "MAX_PASS_SCOPE", "MAX_TASK_KWARGS", "SHORT_TASK_KWARGS",
    "MAX_TASK_LOG", "MAX_INLINE_RESULT", "MAX_TASK_PARAMETERS", "MAX_PARAMETER_CHOICES",
    "MAX_CHANNEL_DOCUMENT", "MAX_MEMBERS", "MAX_INVITATION_TEXT", "MAX_LINK_RUNNERS", "MAX_ONLINE",
)  # fmt: skip

OWNER, ALICE, PROXY, FEED = (NodeKey(bytes([n]) * 32) for n in (1, 2, 3, 14))
SECRET, SEED, H = bytes([8]) * 32, bytes([9]) * 32, bytes([15]) * 32
BLOCKS = [bytes(65_536), b"\x01" * 65_536, b"end"]


def compute() -> dict[str, Any]:
    """What is in the file: bytes as hex."""
    vectors = {
        "signatures": _signatures(),
        "handshake": _handshake(),
        "records": _records(),
        "task": _task(),
        "channel": _channel(),
        "invitation": _invitation(),
        "msgpack": _msgpack(),
        "hashes": _hashes(),
        "tree": _tree(),
        "share": _share(),
        "feed": _feed(),
    }
    as_text = {
        name: {field: value.hex() for field, value in fields.items()}
        for name, fields in vectors.items()
    }
    return {"limits": {name: getattr(limits, name) for name in LIMITS}, "vectors": as_text}


def _signatures() -> dict[str, bytes]:
    return {
        "seed": ALICE.seed,
        "public": ALICE.public,
        "message": b"a message",
        "signature": ALICE.sign(b"pass proof", b"a message"),
    }


def _handshake() -> dict[str, bytes]:
    ends = [
        Handshake(
            initiator=first,
            key=key,
            static=bytes([static]) * 32,
            ephemeral=bytes([ephemeral]) * 32,
            prologue=prologue(),
        )
        for first, key, static, ephemeral in ((True, ALICE, 4, 6), (False, PROXY, 5, 7))
    ]
    messages = []
    for step in range(3):
        messages.append(ends[step % 2].write())
        ends[1 - step % 2].read(messages[-1])
    send, receive = ends[0].split()
    return {
        "seed": ALICE.seed,
        "static": bytes([4]) * 32,
        "ephemeral": bytes([6]) * 32,
        "peer": PROXY.public,
        **{f"message {n}": prologue() + message for n, message in enumerate(messages, 1)},
        "h": ends[0].handshake_hash,
        "send": send,
        "receive": receive,
    }


def _records() -> dict[str, bytes]:
    key = bytes([10]) * 32

    def session() -> Session:
        return Session(send_key=key, receive_key=key, peer=key, handshake_hash=key)

    bodies = b"hello", bytes(range(256)) * 32
    writer = session()
    records = [record_of(writer.seal(), Ping(1))]
    for body in bodies:
        frame = Data(3, [0, []], SEALED_TAIL, len(body) + TAG_BYTES)
        records.append(record_of(writer.seal(), frame, body))
    other = session()
    for _ in range(limits.REKEY_RECORDS):
        other.seal()
    return {
        "key": key,
        "header 0": encode_header(Ping(1)),
        **{f"record {n}": bytes(record) for n, record in enumerate(records)},
        **{f"body {n}": body for n, body in enumerate(bodies, 1)},
        "record 65536": bytes(record_of(other.seal(), Ping(1))),
        **_records_of_several_frames(),
    }


def _records_of_several_frames() -> dict[str, bytes]:
    """One that is right, and some that authenticate and are wrong."""
    key, body = bytes([11]) * 32, b"hello"

    def record(*items: tuple[Frame, bytes], cut: int = 0, more: bytes = b"") -> bytes:
        session = Session(send_key=key, receive_key=key, peer=key, handshake_hash=key)
        headers = [encode_header(frame) for frame, _ in items]
        tails = [(frame, body) for frame, body in items if isinstance(frame, Data)]
        made = bytes(session.seal().record(headers, tails)) + more
        return made[: len(made) - cut]

    ping = Ping(1), b""
    opaque = Data(3, None, OPAQUE_TAIL, len(body)), body
    sealed = Data(5, None, SEALED_TAIL, len(body) + TAG_BYTES), body
    return {
        "key of three": key,
        "record of three": record(ping, opaque, sealed),
        "no frames": record(),
        "two sealed": record(sealed, sealed),
        "too long": record(ping, opaque, more=b"x"),
        "too short": record(ping, opaque, opaque, cut=1),
    }


def _msgpack() -> dict[str, bytes]:
    values = [0, 127, 128, 65_536, 4_294_967_296, -1, "text", b"\x01", True, None, {"a": 1}]
    return {
        "values": codec.pack(values),
        "tag": b"t" * 16,
        "hello": codec.pack([0, "s", 1.5, "", [], {b"t" * 16: [0, []]}, b""]),
        "huge list": bytes.fromhex("dd7fffffff"),
        "huge text": bytes.fromhex("db7fffffff"),
        "huge bytes": bytes.fromhex("c67fffffff"),
        "ext": bytes.fromhex("c7010501"),
        "cut": codec.pack(values)[:-1],
        "trailing": codec.pack(1) * 2,
    }


def _hashes() -> dict[str, bytes]:
    content = sha1(b"abc").digest()
    return {
        "h": H,
        "tagged": OWNER.public + ALICE.public,
        "tag": channel_tag(OWNER.public, ALICE.public, H),
        "secret": SECRET,
        "sha1": content,
        "blinded": file_key(content.hex()).blinded(SECRET),
        "seed": SEED,
        "pass secret": secret_of(SEED),
    }


def _tree() -> dict[str, bytes]:
    leaves = b"".join(tree.leaf_hash("blake3", block) for block in BLOCKS)
    data = b"".join(BLOCKS)
    name = sha1(data).hexdigest()
    root = tree.root("blake3", leaves)
    manifest = Manifest(len(data), name, (Chunk(0, len(data), name),), Tree("blake3", 65_536, root))
    return {
        "root": root,
        "manifest": manifest.to_json(),
        **{
            f"proof {start} {stop}": b"".join(
                tree.range_proof(_nodes("blake3", leaves), 3, start, stop)
            )
            for start in range(3)
            for stop in range(start + 1, 4)
        },
    }


def _nodes(algorithm: str, leaves: bytes) -> Callable[[int, int], bytes]:
    levels = tree.levels(algorithm, leaves)
    return lambda level, index: levels[level][32 * index : 32 * index + 32]


def _share() -> dict[str, bytes]:
    url = "wss://proxy.example.org"
    document = ChannelDocument.create(
        "lab", OWNER, SECRET, [(url, PROXY.node_id)], 1_700_000_000.0,
        members=[(ALICE.node_id, "alice", "all")],
    )  # fmt: skip
    contents = [file_key(sha1(b"abc").hexdigest())]
    made = make_pass(
        OWNER, document, home=ALICE.public, seed=SEED, contents=[x.blinded for x in contents],
        roles=frozenset({"request-files"}), uses=0, now=1_700_000_000.0, expires_at=1_800_000_000.0,
    )  # fmt: skip
    uri = f"sha1://{sha1(b'abc').hexdigest()}/my%20file.txt"
    keys = tuple(content.blinded(SECRET) for content in contents)
    link = ShareLink(VERSION, "lab", codec.encode(made), SEED, uri, keys, 1, PROXY.public)
    visitor = NodeKey(bytes([16]) * 32).public
    proof = prove_pass(
        NodeKey(SEED),
        channel=OWNER.public,
        verifier=PROXY.public,
        visitor=visitor,
        handshake_hash=H,
    )
    return {
        "fragment": to_url(link, "https://proxy.example.org/").partition("#")[2].encode(),
        "pass": codec.encode(made),
        "home": ALICE.public,
        "seed": SEED,
        "uri": uri.encode(),
        "verifier": PROXY.public,
        "visitor": visitor,
        "h": H,
        "proof": proof,
    }


def _feed() -> dict[str, bytes]:
    """Messages 3 to 5 of a log of 7."""
    texts = [b"0", b"1", b"2", b'{"a":1}', b'"two"', b"[3]", b"6"]
    first, later = 1_700_000_000_000, 1_700_000_000_005
    runs = [Run(5, first, None), Run(2, later, ALICE.public)]
    leaves = feed.leaf_hashes(Slice(0, runs, texts))
    whole = Frontier("sha256")
    whole.extend(leaves)
    begin, end = Frontier("sha256"), Frontier("sha256")
    begin.extend(leaves[:3])
    end.extend(leaves[:6])
    right = right_proof(_nodes("sha256", b"".join(leaves)), 7, 6)
    assert end.root_within(7, right) == whole.root()
    subfeed = feed.subfeed_hash("measurements")
    head = feed.sign_head(FEED, subfeed, 7, whole.root(), later)
    sent = [Run(2, first, None), Run(1, later, ALICE.public)]
    part = FeedPart(True, 0, 3, sent, list(begin.peaks), right, head)
    return {
        "feed": FEED.public,
        "subfeed": subfeed,
        "author": ALICE.public,
        "part": codec.encode(part),
        "body": feed.pack_texts(texts[3:6]),
        "leaves": b"".join(leaves),
        "root": whole.root(),
    }


def _task() -> dict[str, bytes]:
    """Arguments of all sorts, as one side writes them and the other must."""
    values: dict[str, Any] = {
        "text": 'é\n"\\ \x7f\u2028',
        "numbers": [
            0,
            -1,
            1.5,
            0.1,
            1e-4,
            9.9e-5,
            1.5e-7,
            5e-324,
            2**53 - 1,
            -(2**53),
            1e18,
            1e22,
            1.7e308,
        ],
        "\U0001f600": None,
        "\uffee": {"b": True, "a": [False, {}, []]},
        "": 1,
    }
    kwargs = canonical_kwargs(values)
    result = sign_result(
        ALICE,
        key=task_key("count.1", kwargs),
        function="count.1",
        type="query",
        timestamp=1_700_000_000_000,
        payload=Payload("json", b"5"),
    )
    return {
        "values": json.dumps(values).encode(),
        "kwargs": kwargs,
        "key": task_key("count.1", kwargs),
        "function key": task_function_key("count.1").blinded(SECRET),
        "backends key": task_backends_key().blinded(SECRET),
        "node": ALICE.public,
        "result": codec.encode(result),
    }


def _channel() -> dict[str, bytes]:
    """Sealed secrets differ each time; this one was sealed once, for alice."""
    sealed = bytes.fromhex(
        "ce352fbabd24239b0c93081f65ceeea112d9c19c3a8cd6a3c21bceca99045114aa5b772f219334e9e37032cc0a2d5c73"
        "787960f51a63134e8eaf0df40f8ebde96e140fff75600f035c7365065b304e54"
    )
    document = ChannelDocument.create(
        "lab", OWNER, SECRET, [("wss://proxy.example.org", PROXY.node_id)], now=1_700_000_000,
        members=[(ALICE.node_id, "alice", {"provide-tasks", "request-files"})],
    )  # fmt: skip
    members = tuple(
        replace(each, sealed=sealed) if each.public == ALICE.public else each
        for each in document.members
    )
    document = replace(document, members=members).with_admitter(
        ALICE.node_id, {"request-files"}, 1_700_000_000
    )
    signed = sign(document, OWNER)
    newcomer = NodeKey(bytes([17]) * 32)
    made = Admission(
        OWNER.public, ALICE.public, newcomer.public, "Ada", 2, 1, sealed, 1_700_000_000,
        bytes([18]) * 32, bytes(64),
    )  # fmt: skip
    message = codec.pack(codec.plain(made)[:-1])
    made = replace(made, signature=ALICE.sign(b"admission", message))
    assert check_admission(codec.encode(made), document) is not None
    assert ALICE.unseal(sealed) == SECRET
    return {
        "channel": OWNER.public,
        "seed": ALICE.seed,
        "node": ALICE.public,
        "sealed": sealed,
        "secret": SECRET,
        "document": signed.to_bytes(),
        "admission": codec.encode(made),
        "newcomer": newcomer.public,
    }


def _invitation() -> dict[str, bytes]:
    made = make_invitation(
        channel=OWNER.public,
        name="lab",
        admitter=PROXY.public,
        seed=SEED,
        expires_at=1_800_000_000,
        bootstraps=(Bootstrap("wss://proxy.example.org", PROXY.public),),
    )
    proof = prove(
        made.key,
        channel=OWNER.public,
        admitter=PROXY.public,
        newcomer=ALICE.public,
        handshake_hash=H,
    )
    return {"line": to_line(made).encode(), "newcomer": ALICE.public, "h": H, "proof": proof}


def to_text() -> str:
    return json.dumps(compute(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    PLACE.write_text(to_text(), encoding="ascii")
