"""Every door through which foreign bytes come, with arbitrary bytes at it.

``DECODERS`` names each with the errors that its docstring promises. A new one is noticed: any public
function of the package that reads like a decoder, and any message type, must be in it.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import pkgutil
from base64 import urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kachery_p2p.protocol as package
from kachery_p2p.protocol import codec, errors, identity, quantities, uri
from kachery_p2p.protocol.channels import (
    admission,
    document,
    invitation,
    neighbours,
    roles,
    share_link,
    visitor_pass,
)
from kachery_p2p.protocol.channels import signed_document as channel
from kachery_p2p.protocol.channels import text_encoding as armour
from kachery_p2p.protocol.channels.document import ChannelDocument
from kachery_p2p.protocol.channels.membership import ChannelBook
from kachery_p2p.protocol.errors import KacheryError
from kachery_p2p.protocol.feeds import access as feed_access
from kachery_p2p.protocol.feeds import decision as feed_decision
from kachery_p2p.protocol.feeds import feed, signed_message
from kachery_p2p.protocol.feeds import fork as feed_fork
from kachery_p2p.protocol.files import directory, manifest, view_pack
from kachery_p2p.protocol.files.messages import FileRead, check_ranges
from kachery_p2p.protocol.gossip import announcements
from kachery_p2p.protocol.gossip import index as gossip
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.links import addresses, frames, knock, session, websocket
from kachery_p2p.protocol.links.noise import Handshake
from kachery_p2p.protocol.local import messages as local
from kachery_p2p.protocol.local import proof as local_proof
from kachery_p2p.protocol.tasks import result as task_result
from kachery_p2p.protocol.tasks import task

KEY = NodeKey(b"\x07" * 32)
DOCUMENT = ChannelDocument.create(
    "lab", KEY, b"s" * 32, [("ws://x", KEY.node_id)], 0.0, members=[(KEY.node_id, "", "all")]
).with_admitter(KEY.node_id, "request", 0.0)


def _handshake(*, initiator: bool, steps: int) -> Handshake:
    ends = [
        Handshake(
            initiator=role, key=KEY, static=bytes([role + 1]) * 32,
            ephemeral=bytes([role + 3]) * 32, prologue=b"",
        )
        for role in (True, False)
    ]  # fmt: skip
    for step in range(steps):
        ends[1 - step % 2].read(ends[step % 2].write())
    return ends[0 if initiator else 1]


def _record(data: bytes) -> object:
    one = session.Session(
        send_key=b"\x01" * 32, receive_key=b"\x02" * 32, peer=KEY.public, handshake_hash=b"h" * 32
    )
    return one.open(data)


def _sealed_body(data: bytes) -> object:
    seal = session.Session(
        send_key=b"\x01" * 32, receive_key=b"\x02" * 32, peer=KEY.public, handshake_hash=b"h" * 32
    ).seal()
    return session.SealedBody(seal.aead, seal.number, memoryview(data)).open()


def _sealed_body_into(data: bytes) -> object:
    seal = session.Session(
        send_key=b"\x01" * 32, receive_key=b"\x02" * 32, peer=KEY.public, handshake_hash=b"h" * 32
    ).seal()
    return session.SealedBody(seal.aead, seal.number, memoryview(data)).open_into(
        memoryview(bytearray(len(data)))
    )


def _local_stream(data: bytes) -> object:
    return [local.decode_message(value) for value in local.FrameReader().feed(data)]


def _batch(data: bytes) -> object:
    batch = codec.decode(announcements.Batch, data)
    announcements.check_batch(batch)
    return gossip.Index().apply(batch)


def _error(data: bytes) -> object:
    bye = codec.decode(frames.Bye, data)
    told = errors.from_wire(bye.code, bye.fields), errors.from_peer(bye.code, bye.fields)
    return str(told)


def _card(data: bytes) -> object:
    signed = {b"n": KEY.public, b"u": data, b"s": KEY.sign(b"neighbour", data)}
    return neighbours.read_card(signed), neighbours.read_card({b"u": data, b"s": data, b"n": data})


def _head(data: bytes) -> object:
    return feed.check_head(codec.decode(feed.Head, data))


def _decision(data: bytes) -> object:
    return feed_decision.check_decision(codec.decode(feed_decision.Decision, data))


def _fork(data: bytes) -> object:
    return feed_fork.check_fork(codec.decode(feed_fork.Fork, data))


def _messages(data: bytes) -> object:
    count = data.count(b"\n") + 1
    return feed.decode_messages(feed.unpack_texts(data, count))


def _rules(data: bytes) -> object:
    return feed_access.AccessRules.parse(codec.unpack(data))


def _signed_message(data: bytes) -> object:
    return signed_message.check_signed_message(codec.unpack(data))


def _result(data: bytes) -> object:
    return task_result.check_result(codec.decode(task_result.TaskResult, data))


def _text(decode: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: decode(data.decode("utf-8", "replace"))


def _view(data: bytes) -> object:
    view_pack.check_view(directory.parse(data), "a view")
    return None


def _line(data: bytes) -> object:
    """As text that it may be, and as what is in a line whose checksum is right."""
    packed = sha256(data).digest()[:4] + data
    line = invitation.PREFIX + urlsafe_b64encode(packed).decode().rstrip("=")
    with contextlib.suppress(errors.BadInvitation):
        invitation.parse_line(data.decode("utf-8", "replace"))
    return invitation.parse_line(line)


def _link(data: bytes) -> object:
    """As text that it may be, and as what is in a link whose checksum is right."""
    share_link.id_of(data.decode("utf-8", "replace"))
    packed = sha256(data).digest()[: share_link.CHECK_BYTES] + data
    return share_link.id_of("https://x/#" + urlsafe_b64encode(packed).decode())


def _ranges(data: bytes) -> object:
    read = codec.decode(FileRead, data)
    return check_ranges(read.ranges, 1_000, 64)


def _typed(kind: Any) -> Callable[[bytes], object]:
    return lambda data: codec.decode(kind, data)


V, B = errors.ProtocolViolation, errors.BadInput
DECODERS: dict[str, tuple[Callable[[bytes], object], tuple[type[KacheryError], ...]]] = {
    "links.addresses.parse_address": (_text(addresses.parse_address), ()),
    "links.addresses.parse_network": (_text(addresses.parse_network), (B,)),
    "channels.admission.check_admission": (
        lambda data: admission.check_admission(data, DOCUMENT),
        (V,),
    ),
    "gossip.announcements.check_batch": (_batch, (V,)),
    "gossip.announcements.unpack_entries": (_batch, (V,)),
    "channels.neighbours.read_card": (_card, (V,)),
    "channels.text_encoding.from_text": (_text(armour.from_text), (errors.BadChannelDocument,)),
    "channels.signed_document.parse": (
        lambda data: channel.parse(data, now=0.0),
        (errors.BadChannelDocument,),
    ),
    "channels.signed_document.peek": (channel.peek, (errors.BadChannelDocument,)),
    "codec.decode": (_typed(dict[bytes, list[int]]), (V,)),
    "codec.unpack": (codec.unpack, (V,)),
    "errors.from_wire": (_error, (V,)),
    "errors.from_peer": (_error, (V,)),
    "feeds.feed.check_head": (_head, (V, errors.ForgedFeed)),
    "feeds.feed.decode_messages": (_messages, (V,)),
    "feeds.feed.parse_feed_uri": (_text(feed.parse_feed_uri), (errors.BadUri,)),
    "feeds.feed.unpack_texts": (lambda data: feed.unpack_texts(data, 1), (V,)),
    "feeds.access.AccessRules.parse": (_rules, (V, B)),
    "feeds.decision.check_decision": (_decision, (V, errors.ForgedFeed)),
    "feeds.fork.check_fork": (_fork, (V, errors.ForgedFeed)),
    "links.frames.decode_headers": (frames.decode_headers, (V,)),
    "files.view_pack.check_view": (_view, (B,)),
    "channels.document.check_label": (_text(document.check_label), (B,)),
    "channels.document.check_url": (_text(document.check_url), (B,)),
    "identity.check_node_id": (_text(identity.check_node_id), (B,)),
    "identity.NodeKey.unseal": (KEY.unseal, (V,)),
    "channels.invitation.parse_line": (_line, (errors.BadInvitation,)),
    "channels.share_link.id_of": (_link, ()),
    "channels.visitor_pass.check_pass": (
        lambda data: visitor_pass.check_pass(data, DOCUMENT, 0.0),
        (V, errors.ShareRefused),
    ),
    "channels.visitor_pass.check_revocation": (visitor_pass.check_revocation, (V,)),
    "links.knock.Knocks.opens": (
        _text(lambda text: knock.Knocks(KEY.public).opens(text, [KEY.public], 0.0)),
        (),
    ),
    "local.proof.parse_token": (_text(lambda text: local_proof.parse_token(text, "full")), ()),
    "local.messages.decode_message": (_local_stream, (V,)),
    "local.messages.FrameReader.feed": (_local_stream, (V,)),
    "files.directory.parse": (directory.parse, (B,)),
    "files.directory.check_size": (directory.parse, (B,)),
    "files.manifest.Manifest.parse": (manifest.Manifest.parse, (B,)),
    "files.messages.check_ranges": (_ranges, (V, B)),
    "channels.membership.ChannelBook.offer": (
        lambda data: ChannelBook(KEY).offer(data, 0.0),
        (errors.BadChannelDocument,),
    ),
    "links.noise.Handshake.read 1": (lambda d: _handshake(initiator=False, steps=0).read(d), (V,)),
    "links.noise.Handshake.read 2": (lambda d: _handshake(initiator=True, steps=1).read(d), (V,)),
    "links.noise.Handshake.read 3": (lambda d: _handshake(initiator=False, steps=2).read(d), (V,)),
    "channels.roles.parse_roles": (_text(roles.parse_roles), (B,)),
    "links.session.Session.open": (_record, (V,)),
    "links.session.SealedBody.open": (_sealed_body, (V,)),
    "links.session.SealedBody.open_into": (_sealed_body_into, (V,)),
    "links.websocket.MessageReader.feed": (
        lambda data: websocket.MessageReader(most=1_000).feed(data),  # an offence is no error
        (),
    ),
    "links.session.unwrap_handshake": (session.unwrap_handshake, (V, errors.VersionMismatch)),
    "feeds.signed_message.check_signed_message": (_signed_message, (V, B, errors.ForgedFeed)),
    "tasks.task.check_function_id": (_text(task.check_function_id), (B,)),
    "tasks.task.check_task_type": (_text(task.check_task_type), (B,)),
    "tasks.task.check_key": (task.check_key, (B,)),
    "tasks.task.parse_kwargs": (task.parse_kwargs, (V,)),
    "tasks.result.check_result": (_result, (V, errors.ForgedResult)),
    "quantities.parse_seconds": (_text(quantities.parse_seconds), (B,)),
    "quantities.parse_size": (_text(quantities.parse_size), (B,)),
    "quantities.parse_rate": (_text(quantities.parse_rate), (B,)),
    "quantities.check_rate": (
        lambda data: quantities.check_rate(int.from_bytes(data, signed=True), "rate"),
        (B,),
    ),
    "uri.parse_uri": (_text(uri.parse_uri), (errors.BadUri,)),
}


def _within(module: Any) -> str:
    """The name of a module within the package, with its room: many rooms have messages."""
    return str(module.__name__.removeprefix(f"{package.__name__}."))


for _info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
    _module = importlib.import_module(_info.name)
    for _name, _kind in vars(_module).items():
        is_message = isinstance(_kind, type) and issubclass(_kind, msgspec.Struct)
        if is_message and _kind.__module__ == _module.__name__:
            DECODERS[f"{_within(_module)}.{_name}"] = (_typed(_kind), (V,))

VERBS = ("parse", "decode", "unpack", "unwrap", "peek", "open", "unseal", "feed", "from_", "check_")
NOT_DECODERS = {
    "gossip.announcements.check_shape", "gossip.announcements.check_signature",  # parts of check_batch
    "channels.document.check", "channels.document.check_name",  # of values; channel.parse calls them
    "channels.roles.from_bits",  # an int
    "links.noise.HandshakeState.read_message",  # Handshake.read is its only caller
}  # fmt: skip


def _functions() -> list[str]:
    found = []
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(info.name)
        name = _within(module)
        for node in ast.parse(inspect.getsource(module)).body:
            inner = [node] if isinstance(node, ast.FunctionDef) else []
            prefix = name
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                prefix = f"{name}.{node.name}"
                inner = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            found += [
                f"{prefix}.{part.name}"
                for part in inner
                if part.name.startswith(VERBS) and len(part.args.args) + len(part.args.kwonlyargs)
            ]
    return found


def test_every_decoder_of_the_package_is_listed_here() -> None:
    listed = {name.split(" ")[0] for name in DECODERS} | NOT_DECODERS
    listed |= {"links.mux.Mux.open", "channels.roles.to_bits"}  # opens a stream; packs
    # Of feeds: there it is no verb.
    listed |= {"feeds.feed.feed_uri", "feeds.keys.feed_owner_key"}
    assert {name for name in _functions() if name not in listed} == set()
    assert {
        *_functions(),
        "channels.document.check",
        "links.noise.HandshakeState.read_message",
    } >= NOT_DECODERS


shaped = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 1 << 40) | st.text(max_size=8)
    | st.floats() | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=6)
    | st.dictionaries(
        st.sampled_from(["channel", "keys", "node", "sha1", "size", "id", "sig", "chunks", "start"])
        | st.text(max_size=4),
        inner,
        max_size=6,
    ),
    max_leaves=12,
).map(codec.pack)  # fmt: skip
tagged = st.builds(
    lambda tag, rest: codec.pack([tag, *rest]),
    st.integers(0, 16),
    st.lists(st.integers(0, 9) | st.text(max_size=3) | st.binary(max_size=3), max_size=6),
)


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=120) | shaped | tagged)
def test_only_the_documented_errors_come_out(name: str, data: bytes) -> None:
    decode, allowed = DECODERS[name]
    with contextlib.suppress(*allowed):
        decode(data)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(
    "data",
    [b"", b"\x00" * 64, b"\xff" * 64, b"\x91" * 1_024 + b"\xc0", b"\x91" * 5_000, b"[" * 5_000,
     b'{"a":' * 3_000, b"\xdd\xff\xff\xff\xff" * 100, b"sha1://" + b"0" * 40, b"9" * 5_000,
     b'{"size":1e999}', b'{"size":NaN,"sha1":"","chunks":[]}', b'{"size":' + b"9" * 5_000 + b"}"],
    ids=lambda data: f"{data[:5].hex()}-{len(data)}",
)  # fmt: skip
def test_known_nasty_bytes_are_refused_in_the_documented_way(name: str, data: bytes) -> None:
    decode, allowed = DECODERS[name]
    with contextlib.suppress(*allowed):
        decode(data)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60) | st.lists(tagged, max_size=3).map(
    lambda bodies: b"".join(len(body).to_bytes(4, "big") + body for body in bodies)))  # fmt: skip
def test_a_stream_cut_into_single_bytes_means_the_same(data: bytes) -> None:
    def outcome(pieces: list[bytes]) -> list[Any]:
        reader, found = local.FrameReader(), []
        try:
            for piece in pieces:
                for value in reader.feed(piece):
                    found.append(repr(value))
        except errors.ProtocolViolation:
            found.append("violation")
        return found

    whole, bytewise = outcome([data]), outcome([data[i : i + 1] for i in range(len(data))])
    # Fed whole, a broken frame hides the good ones before it: the connection is lost either way.
    assert whole == bytewise or (whole == ["violation"] and bytewise[-1] == "violation")
