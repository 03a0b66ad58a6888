"""docs/protocol.md says what the code does: its examples are recomputed, its tables compared.

An example is a fenced block whose info string is ``example NAME``; its lines are ``name = hex``,
continued by indented lines. A table follows a comment ``<!-- table: NAME -->``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from pathlib import Path
from typing import Any

import blake3
import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kachery_p2p.protocol import codec, errors, identity, limits, tree
from kachery_p2p.protocol.channels import (
    admission,
    invitation,
    member_urls,
    neighbours,
    visitor_pass,
)
from kachery_p2p.protocol.channels import signed_document as channel
from kachery_p2p.protocol.channels.document import (
    SECRET_BYTES,
    Admitter,
    Bootstrap,
    ChannelDocument,
    Member,
)
from kachery_p2p.protocol.channels.membership import ChannelBook
from kachery_p2p.protocol.channels.messages import (
    Joined,
    Stamped,
    Visited,
)
from kachery_p2p.protocol.channels.roles import ROLES
from kachery_p2p.protocol.feeds import decision as feed_decision
from kachery_p2p.protocol.feeds import feed
from kachery_p2p.protocol.feeds import fork as feed_fork
from kachery_p2p.protocol.feeds.messages import (
    FeedLeaf,
    FeedNumbers,
    FeedPart,
    FeedTexts,
)
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.files.manifest import Chunk, Manifest, Tree
from kachery_p2p.protocol.files.messages import (
    FileInfo,
    Piece,
    Several,
)
from kachery_p2p.protocol.gossip import announcements, completeness
from kachery_p2p.protocol.gossip.keys import KINDS
from kachery_p2p.protocol.gossip.messages import (
    GOSSIP_BATCH,
    Holders,
    NodeInfo,
    OriginState,
)
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.keepers import messages as keeper_messages
from kachery_p2p.protocol.links import frames, knock, noise
from kachery_p2p.protocol.links.frames import cost_of
from kachery_p2p.protocol.links.noise import Handshake
from kachery_p2p.protocol.links.session import MAGIC, Session, prologue
from kachery_p2p.protocol.local import messages as local
from kachery_p2p.protocol.local import proof as local_proof
from kachery_p2p.protocol.methods import METHODS
from kachery_p2p.protocol.tasks import messages as task_messages
from kachery_p2p.protocol.tasks import result as task_result
from kachery_p2p.protocol.tasks import task
from kachery_p2p.protocol.tasks.keys import task_backends_key, task_function_key, task_result_key
from tests.node.harness import laboratory
from tests.protocol.links.records import record_of

TEXT = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text(encoding="utf-8")

OWNER, ALICE, PROXY = (NodeKey(bytes([n]) * 32) for n in (1, 2, 3))
SECRET = bytes([8]) * 32
BLOCKS = [bytes(65_536), b"\x01" * 65_536, b"end"]


def example(name: str) -> dict[str, bytes]:
    """The values of one example block."""
    found = re.findall(rf"^```example {re.escape(name)}\n(.*?)^```$", TEXT, re.M | re.S)
    assert len(found) == 1, f"{len(found)} examples called {name}"
    values: dict[str, bytes] = {}
    for match in re.finditer(r"^(\S[^=\n]*?) +=((?: .*| *)(?:\n +.*)*)", found[0], re.M):
        assert match[1] not in values
        values[match[1]] = bytes.fromhex(match[2])
    assert values
    return values


def table(name: str) -> list[list[str]]:
    """The body of one table, cells as plain text without backquotes."""
    found = re.findall(rf"^<!-- table: {re.escape(name)} -->\n\n((?:\|.*\n)+)", TEXT, re.M)
    assert len(found) == 1, f"{len(found)} tables called {name}"
    rows = [
        [cell.strip() for cell in line.strip("|\n").split("|")] for line in found[0].split("\n")
    ]
    return [[cell.replace("`", "") for cell in row] for row in rows[2:] if row != [""]]


def names(cell: str) -> list[str]:
    """The names in a cell that lists fields: ``id, method, params``; a dash for none."""
    return [] if cell in ("", "-") else [name.strip().rstrip("?") for name in cell.split(",")]


# --- examples ----------------------------------------------------------------------------------


def shaken_hands() -> tuple[list[bytes], Handshake, Handshake]:
    initiator, responder = (
        Handshake(
            initiator=first,
            key=key,
            static=bytes([static]) * 32,
            ephemeral=bytes([ephemeral]) * 32,
            prologue=prologue(),
        )
        for first, key, static, ephemeral in ((True, ALICE, 4, 6), (False, PROXY, 5, 7))
    )
    messages = []
    for writer, reader in ((initiator, responder), (responder, initiator), (initiator, responder)):
        messages.append(writer.write())
        reader.read(messages[-1])
    return messages, initiator, responder


def test_the_handshake_of_the_document_is_real() -> None:
    messages, initiator, responder = shaken_hands()
    forward, backward = initiator.split()
    assert responder.split() == (backward, forward)
    assert example("handshake") == {
        "prefix": b"kachery-p2p\x00\x03",
        **{f"message {n}": prologue() + m for n, m in enumerate(messages, 1)},
        "h": initiator.handshake_hash,
        "key i->r": forward,
        "key r->i": backward,
    }
    assert prologue() == MAGIC + limits.PROTOCOL_VERSION.to_bytes(2, "big")


def test_the_credentials_of_the_document_are_real() -> None:
    values = example("credentials")
    _, initiator, _ = shaken_hands()
    static = initiator._state.static_public
    assert values["static key"] == static
    assert values["signed"] == b"kachery-p2p:noise-static\0" + static
    assert values["signature"] == ALICE.sign(b"noise-static", static)
    payload = codec.unpack(values["payload"])
    assert payload == {"id": ALICE.public, "sig": values["signature"]}
    assert list(payload) == ["id", "sig"]


def test_the_invitation_of_the_document_is_real() -> None:
    _, initiator, _ = shaken_hands()
    made = invitation.make_invitation(
        channel=OWNER.public,
        name="lab",
        admitter=PROXY.public,
        seed=bytes([9]) * 32,
        expires_at=1_800_000_000,
        bootstraps=channel.parse(
            example("channel-document")["signed document"], now=0
        ).document.bootstraps,
    )
    packed = codec.encode(made)
    facts = [OWNER.public, PROXY.public, ALICE.public, initiator.handshake_hash]
    values = example("invitation")
    assert values == {
        "id": made.key.public,
        "packed": packed,
        "check": hashlib.sha256(packed).digest()[:4],
        "signed": b"kachery-p2p:invitation\0" + codec.pack(facts),
        "proof": invitation.prove(
            made.key,
            channel=OWNER.public,
            admitter=PROXY.public,
            newcomer=ALICE.public,
            handshake_hash=initiator.handshake_hash,
        ),
    }
    line = base64.urlsafe_b64encode(values["check"] + packed).decode().rstrip("=")
    assert invitation.parse_line(f"kachery-invite:{line}") == made


def test_the_addresses_of_the_document_are_real() -> None:
    urls = ["ws://h:1"]
    values = example("addresses")
    assert values["signed"] == b"kachery-p2p:addresses\0" + codec.pack(urls)
    assert values["signature"] == ALICE.sign(b"addresses", codec.pack(urls))
    assert member_urls.verify_urls(ALICE.public, urls, values["signature"])


def test_the_knock_of_the_document_is_real() -> None:
    packed = example("knock")["packed"]
    text = base64.urlsafe_b64encode(packed).decode().rstrip("=")
    random = bytes([10]) * knock.RANDOM_BYTES
    assert text == knock.make_knock([OWNER.public], PROXY.public, 1_700_000_000, random)
    assert knock.Knocks(PROXY.public).opens(text, [OWNER.public], 1_700_000_000)
    mark = hashlib.blake2b(
        PROXY.public + packed[:24], digest_size=16, key=OWNER.public, person=b"kachery-knock"
    ).digest()
    assert packed == (1_700_000_000).to_bytes(8, "big") + random[:16] + mark + random[32:]
    assert knock.HEADER in TEXT


def test_the_proofs_of_the_document_are_real() -> None:
    message = b"full\0" + bytes([12]) * 32 + bytes([13]) * 32
    token = bytes([11]) * 32
    assert example("local-proof") == {
        "daemon's proof": hmac.digest(token, b"daemon\0" + message, "sha256"),
        "signature": ALICE.sign(b"local api", message),
        "client's proof": hmac.digest(token, b"client\0" + message, "sha256"),
    }
    made = local_proof.Token(token, ALICE.public, local_proof.FULL)
    challenge = local_proof.Challenge(made, bytes([12]) * 32, bytes([13]) * 32)
    values = example("local-proof")
    assert challenge.is_daemon(values["daemon's proof"], values["signature"])
    assert challenge.is_client(values["client's proof"])


def test_the_records_of_the_document_are_real() -> None:
    _, initiator, _ = shaken_hands()
    keys = initiator.split()
    session = Session(
        send_key=keys[0],
        receive_key=keys[1],
        peer=initiator.peer,
        handshake_hash=initiator.handshake_hash,
    )
    ping = frames.Ping(1)
    data = frames.Data(3, [0, []], frames.SEALED_TAIL, len(b"hello") + 16)
    relayed = frames.Data(5, None, frames.OPAQUE_TAIL, len(b"opaque"))
    records = [record_of(session.seal(), ping), record_of(session.seal(), data, b"hello")]
    credit = frames.Credit(3, 262_144)
    two = [frames.encode_header(credit), frames.encode_header(relayed)]
    records.append(session.seal().record(two, [(relayed, b"opaque")]))
    for _ in range(len(records), limits.REKEY_RECORDS):
        session.seal()
    late = session.seal()
    assert late.number == 65_536
    assert example("records") == {
        "key": keys[0],
        "headers 0": frames.join_headers([frames.encode_header(ping)]),
        "record 0": records[0],
        "headers 1": frames.join_headers([frames.encode_header(data)]),
        "record 1": bytes(records[1]),
        "headers 2": frames.join_headers(two),
        "record 2": bytes(records[2]),
        "next key": noise.rekey(keys[0]),
        "record 65536": record_of(late, ping),
    }


def test_the_records_of_the_document_follow_from_its_words() -> None:
    values = example("records")

    def sealed(key: str, nonce: int, plain: bytes) -> bytes:
        return AESGCM(values[key]).encrypt(bytes(4) + nonce.to_bytes(8, "big"), plain, b"")

    header = sealed("key", 2, values["headers 1"])
    assert values["record 1"] == len(header).to_bytes(4, "big") + header + sealed(
        "key", 3, b"hello"
    )
    assert values["next key"] == sealed("key", 2**64 - 1, bytes(32))[:32]
    header = sealed("next key", 131_072, values["headers 0"])
    assert values["record 65536"] == len(header).to_bytes(4, "big") + header


def test_the_channel_document_of_the_document_is_real() -> None:
    values = example("channel-document")
    signed = channel.parse(values["signed document"], now=1_700_000_001)
    sealed = values["sealed for alice"]
    assert ALICE.unseal(sealed) == SECRET == values["secret"]
    members = (
        Member(ALICE.public, "alice", 3, sealed),
        Member(PROXY.public, "proxy", 64, b""),
    )
    body = ChannelDocument(
        format="kachery-channel",
        version_of_format=1,
        channel_id=OWNER.public,
        name="lab",
        version=1,
        issued_at=1_700_000_000,
        expires_at=None,
        open=False,
        default_bits=0,
        bootstraps=(Bootstrap("wss://proxy.example.org", PROXY.public),),
        members=tuple(sorted(members, key=lambda member: member.public)),
        secret_version=1,
    )
    assert signed.document == body
    assert channel.sign(body, OWNER).to_bytes() == values["signed document"]
    assert values["body"] == signed.body
    assert values["signature"] == OWNER.sign(b"channel", signed.body) == signed.signature
    assert values["digest"] == hashlib.blake2b(signed.body, digest_size=32).digest()


def test_the_tag_of_the_document_is_real() -> None:
    _, initiator, _ = shaken_hands()
    book = ChannelBook(ALICE)
    document = channel.parse(example("channel-document")["signed document"], now=0)
    book.join(document, "all")
    values = example("tag")
    assert book.tags(initiator.handshake_hash) == {values["tag"]: OWNER.public}
    assert values["message"] == OWNER.public + ALICE.public
    assert (
        values["tag"]
        == hashlib.blake2b(
            values["message"],
            digest_size=16,
            key=initiator.handshake_hash,
            person=b"kachery-channel",
        ).digest()
    )


def test_the_blinded_key_of_the_document_is_real() -> None:
    values = example("blinded-key")
    sha1 = hashlib.sha1(b"abc").digest()
    assert values["sha1"] == sha1
    assert values["blinded key"] == file_key(sha1.hex()).blinded(SECRET)
    assert (
        values["blinded key"]
        == hashlib.blake2b(sha1, digest_size=16, key=SECRET, person=b"kachery-file").digest()
    )


def test_the_batch_of_the_document_is_real() -> None:
    values = example("batch")
    key = file_key(hashlib.sha1(b"abc").hexdigest()).blinded(SECRET)
    entries = announcements.pack_entries([(announcements.PROVIDE, key)])
    batch = announcements.make_batch(ALICE, OWNER.public, 0, 1, entries)
    message = codec.pack([OWNER.public, ALICE.public, 0, 1, entries])
    note = frames.Note(GOSSIP_BATCH, codec.plain(batch))
    assert values == {
        "entries": entries,
        "signed": b"kachery-p2p:announcements\0" + message,
        "signature": batch.sig,
        "header": frames.encode_header(note),
    }


def test_the_tree_of_the_document_is_real() -> None:
    def leaf(data: bytes) -> bytes:
        return blake3.blake3(b"\0" + data).digest()

    def node(left: bytes, right: bytes) -> bytes:
        return blake3.blake3(b"\1" + left + right).digest()

    leaves = [leaf(block) for block in BLOCKS]
    low = node(leaves[0], leaves[1])
    values = example("merkle-tree")
    assert values == {
        **{f"leaf {at}": each for at, each in enumerate(leaves)},
        "node (1, 0)": low,
        "root": node(low, leaves[2]),
        "proof of [1, 2)": leaves[0] + leaves[2],
        "proof of [0, 2)": leaves[2],
    }
    levels = tree.levels("blake3", b"".join(leaves))
    assert levels[-1] == values["root"]
    for start, stop in ((1, 2), (0, 2)):
        proof = tree.range_proof(
            lambda level, at: levels[level][32 * at : 32 * at + 32], 3, start, stop
        )
        assert b"".join(proof) == values[f"proof of [{start}, {stop})"]
        tree.verify_range("blake3", values["root"], 3, start, leaves[start:stop], proof)


def test_the_manifest_of_the_document_is_real() -> None:
    content = b"".join(BLOCKS)
    sha1 = hashlib.sha1(content).hexdigest()
    root = example("merkle-tree")["root"]
    manifest = Manifest(
        len(content), sha1, (Chunk(0, len(content), sha1),), Tree("blake3", 65_536, root)
    )
    (found,) = re.findall(r"^```json manifest\n(.*?)^```$", TEXT, re.M | re.S)
    assert manifest.to_json().decode() == "".join(found.split())
    assert f"sha1://{sha1}/b?manifest={manifest.name}" in TEXT


def test_the_task_of_the_document_is_real() -> None:
    values = example("task")
    kwargs = {"text": "é", "most": 1000.0, "share": 0.1}
    text = '{"most":1000,"share":0.1,"text":"é"}'.encode()
    key = hashlib.sha256(b"kachery-p2p:task\0count.1\0" + text).digest()
    assert task.canonical_kwargs(kwargs) == text
    assert task.task_key("count.1", text) == key
    fields = [key, "count.1", "pure-calculation", ALICE.public, 1_700_000_000_000]
    message = codec.pack([*fields, ["json", b"5", None]])
    result = task_result.sign_result(
        ALICE, key=key, function="count.1", type="pure-calculation", timestamp=1_700_000_000_000,
        payload=task.Payload("json", b"5"),
    )  # fmt: skip

    def blinded(identifier: bytes, person: bytes) -> bytes:
        return hashlib.blake2b(identifier, digest_size=16, key=SECRET, person=person).digest()

    assert values == {
        "arguments": text,
        "key": key,
        "backend's blinded key": blinded(b"count.1", b"kachery-task"),
        "result's blinded key": blinded(key, b"kachery-result"),
        "signed": b"kachery-p2p:task result\0" + message,
        "signature": result.signature,
        "result": codec.encode(result),
    }
    assert task_function_key("count.1").blinded(SECRET) == values["backend's blinded key"]
    assert task_result_key(key).blinded(SECRET) == values["result's blinded key"]
    assert task_backends_key().blinded(SECRET) == blinded(b"", b"kachery-backend")
    task_result.check_result(codec.decode(task_result.TaskResult, values["result"]))


def test_the_local_frames_of_the_document_are_real() -> None:
    sha1 = hashlib.sha1(b"abc").hexdigest()
    assert example("local") == {
        "greeting": local.encode_message(local.Greeting(limits.PROTOCOL_VERSION, None, 4242)),
        "call": local.encode_message(local.Call(1, "find", {"sha1": sha1})),
        "finish": local.encode_message(local.Finish(1)),
    }


# --- tables ------------------------------------------------------------------------------------


def test_every_frame_is_in_the_table_with_its_tag_and_fields() -> None:
    told = {(int(row[0]), row[1], tuple(names(row[2]))) for row in table("frames")}
    assert told == {
        (kind.__struct_config__.tag, kind.__name__, kind.__struct_fields__)
        for kind in frames.Frame.__args__
    }


def test_every_method_is_in_the_table_with_its_parameters() -> None:
    rows = {row[0]: row for row in table("methods")}
    assert set(rows) == set(METHODS)
    for name, method in METHODS.items():
        if method.params is not None:
            assert tuple(names(rows[name][2])) == method.params.__struct_fields__, name


@pytest.mark.parametrize(
    "kind",
    [
        Holders,
        NodeInfo,
        FileInfo,
        Piece,
        Several,
        OriginState,
        Joined,
        Visited,
        Stamped,
        visitor_pass.VisitorPass,
        visitor_pass.Revocation,
        admission.Admission,
        FeedPart,
        FeedTexts,
        FeedNumbers,
        FeedLeaf,
        feed.Run,
        feed.Head,
        feed_fork.Fork,
        feed_decision.Decision,
        task.Payload,
        task_result.TaskResult,
        task_messages.TaskKwargs,
        task_messages.TaskWord,
        task_messages.TaskUpdate,
        task_messages.TaskOfferPage,
        task_messages.TaskOffer,
        task_messages.TaskResultReply,
        keeper_messages.KeepState,
        keeper_messages.KeptPage,
        keeper_messages.KeptThing,
        keeper_messages.Dropped,
        keeper_messages.LockedCopy,
    ],
    ids=lambda kind: kind.__name__,
)
def test_every_result_is_in_the_table_with_its_fields(kind: type[msgspec.Struct]) -> None:
    rows = {row[0]: row for row in table("results")}
    assert tuple(names(rows[kind.__name__][2])) == kind.__struct_fields__
    assert rows[kind.__name__][1] == ("array" if kind.__struct_config__.array_like else "map")


def test_every_error_is_in_the_table_with_its_fields() -> None:
    rows = {row[0]: set(names(row[1])) for row in table("errors")}
    assert rows == {code: set(kind.field_names()) for code, kind in errors.BY_CODE.items()}


def test_every_limit_in_the_table_has_the_value_of_the_code() -> None:
    rows = table("limits") + table("local limits")
    assert len(rows) > 40
    assert len({row[0] for row in rows}) == len(rows)
    for name, value, *_ in rows:
        assert float(value.replace(",", "")) == getattr(limits, name), name


def test_every_limit_that_the_text_names_is_in_a_table() -> None:
    told = {row[0] for row in table("limits") + table("local limits")}
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", TEXT))
    named -= {"KACHERY_P2P_API_PORT", "SCM_RIGHTS", "SO_PEERCRED"}
    assert named - told == set()


def test_every_reference_leads_to_a_heading() -> None:
    headings = re.findall(r"^#+ (.*)$", TEXT, re.M)
    anchors = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", TEXT)) - anchors == set()


def test_every_role_is_in_the_table_with_its_bit() -> None:
    assert [(int(row[0]), row[1]) for row in table("roles")] == list(enumerate(ROLES))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("document", ChannelDocument),
        ("bootstrap", Bootstrap),
        ("member", Member),
        ("admitter", Admitter),
    ],
)
def test_the_fields_of_channel_documents_are_in_order(name: str, kind: Any) -> None:
    assert tuple(row[0] for row in table(name)) == kind.__struct_encode_fields__


def test_every_signing_context_is_in_the_table() -> None:
    told = {row[0].encode() for row in table("contexts")}
    assert told == {noise.STATIC_CONTEXT, channel.CONTEXT, announcements.CONTEXT, feed.CONTEXT,
                    task_result.CONTEXT, admission.CONTEXT, invitation.CONTEXT,
                    member_urls.CONTEXT, neighbours.CONTEXT, local_proof.CONTEXT, visitor_pass.CONTEXT,
                    visitor_pass.PROOF_CONTEXT, visitor_pass.USE_CONTEXT,
                    visitor_pass.REVOCATION_CONTEXT}  # fmt: skip
    assert identity._signed_bytes(b"c", b"m") == b"kachery-p2p:c\0m"


def test_every_local_message_is_in_the_table_with_its_tag_and_fields() -> None:
    told = {(int(row[0]), row[1], row[2], tuple(names(row[3]))) for row in table("local messages")}
    assert told == {
        (
            kind.__struct_config__.tag,
            kind.__name__,
            "client" if kind in local.ClientMessage.__args__ else "daemon",
            kind.__struct_fields__,
        )
        for kind in local.Message.__args__
    }


async def test_every_local_call_is_in_the_table_with_parameters_that_it_takes() -> None:
    async with laboratory(channel=False) as lab:
        calls = lab["P"].calls._calls
    rows = {row[0]: names(row[1]) for row in table("calls")}
    assert set(rows) == set(calls)
    for name, fields in rows.items():
        assert set(fields) <= set(calls[name][0].__struct_fields__), name


def test_the_sums_of_the_document_are_right() -> None:
    assert cost_of(0) == limits.FRAME_OVERHEAD == 64
    assert (noise.PROTOCOL_NAME, noise.TAG_BYTES) == (b"Noise_XX_25519_AESGCM_SHA256", 16)
    assert identity.SEAL_OVERHEAD + SECRET_BYTES == 80
    assert announcements.ENTRY_BYTES == 17
    assert (announcements.PROVIDE, announcements.WITHDRAW, announcements.MARK) == (1, 2, 3)
    assert completeness.pack_mark(5, KINDS) == b"\x07" + bytes(14) + b"\x05"
    assert (frames.NO_TAIL, frames.SEALED_TAIL, frames.OPAQUE_TAIL) == (0, 1, 2)
    assert errors.MAX_FIELD_CHARS == 2_000
    assert errors.MAX_FIELDS_CHARS == 8_000
    assert errors.MAX_FIELD_DEPTH == 4
