"""Noise XX: public vectors, two other implementations, and peers that send anything at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from dissononce.cipher.aesgcm import AESGCMCipher
from dissononce.dh.x25519.private import PrivateKey as DissononcePrivateKey
from dissononce.dh.x25519.x25519 import X25519DH
from dissononce.hash.sha256 import SHA256Hash
from dissononce.processing.handshakepatterns.interactive.XX import XXHandshakePattern
from dissononce.processing.impl.cipherstate import CipherState as DissononceCipherState
from dissononce.processing.impl.handshakestate import HandshakeState as DissononceHandshakeState
from dissononce.processing.impl.symmetricstate import SymmetricState as DissononceSymmetricState
from hypothesis import given, settings
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection

from kachery_p2p.protocol import codec, limits
from kachery_p2p.protocol.errors import BadInput, ProtocolViolation
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.links import noise
from kachery_p2p.protocol.links.noise import CipherState, Handshake, HandshakeState, SymmetricState

FAST = settings(max_examples=60, deadline=None)
VECTORS = json.loads(Path(__file__).with_name("noise_vectors.json").read_text())

ALICE = NodeKey(b"\x01" * 32)
BOB = NodeKey(b"\x02" * 32)
MALLORY = NodeKey(b"\x03" * 32)
ALICE_STATIC, BOB_STATIC, MALLORY_STATIC = b"\x11" * 32, b"\x12" * 32, b"\x13" * 32
ALICE_EPHEMERAL, BOB_EPHEMERAL, OTHER_EPHEMERAL = b"\x21" * 32, b"\x22" * 32, b"\x23" * 32
PROLOGUE = b"kachery-p2p test 1"

_P = 2**255 - 19
SMALL_ORDER = [
    *(number.to_bytes(32, "little") for number in (0, 1, _P - 1, _P, _P + 1)),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]


def alice(**changes: Any) -> Handshake:
    arguments: dict[str, Any] = {
        "initiator": True,
        "key": ALICE,
        "static": ALICE_STATIC,
        "ephemeral": ALICE_EPHEMERAL,
        "prologue": PROLOGUE,
    }
    return Handshake(**(arguments | changes))


def bob(**changes: Any) -> Handshake:
    arguments: dict[str, Any] = {
        "initiator": False,
        "key": BOB,
        "static": BOB_STATIC,
        "ephemeral": BOB_EPHEMERAL,
        "prologue": PROLOGUE,
    }
    return Handshake(**(arguments | changes))


def raw(initiator: bool, static: bytes = MALLORY_STATIC) -> HandshakeState:
    return HandshakeState(
        initiator=initiator, static=static, ephemeral=OTHER_EPHEMERAL, prologue=PROLOGUE
    )


def run(
    initiator: Handshake,
    responder: Handshake,
    tamper: Callable[[int, bytes], bytes] = lambda step, message: message,
) -> list[bytes]:
    """Carry the three messages across; ``tamper`` sees each with its number (0 to 2)."""
    seen = []
    for step in range(3):
        sender, receiver = (initiator, responder) if step != 1 else (responder, initiator)
        message = sender.write()
        seen.append(message)
        receiver.read(tamper(step, message))
    return seen


def credentials(key: NodeKey, static: bytes) -> bytes:
    signature = key.sign(b"noise-static", public_of(static))
    return codec.pack({"id": key.public, "sig": signature})


def public_of(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


MESSAGES = run(alice(), bob())


# --- the algorithm -------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["source"])
def test_public_vectors_come_out_byte_for_byte(vector: dict[str, Any]) -> None:
    assert VECTORS["protocol_name"].encode() == noise.PROTOCOL_NAME
    sides = [
        HandshakeState(
            initiator=name == "init",
            static=bytes.fromhex(vector[f"{name}_static"]),
            ephemeral=bytes.fromhex(vector[f"{name}_ephemeral"]),
            prologue=bytes.fromhex(vector[f"{name}_prologue"]),
        )
        for name in ("init", "resp")
    ]
    messages = [
        (bytes.fromhex(message["payload"]), bytes.fromhex(message["ciphertext"]))
        for message in vector["messages"]
    ]
    for step, (payload, ciphertext) in enumerate(messages[:3]):
        sender, receiver = sides[step % 2], sides[1 - step % 2]
        assert sender.write_message(payload) == ciphertext
        assert receiver.read_message(ciphertext) == payload
    assert all(side.finished for side in sides)
    assert sides[0].symmetric.h == sides[1].symmetric.h
    if "handshake_hash" in vector:
        assert sides[0].symmetric.h.hex() == vector["handshake_hash"]

    keys = [side.split() for side in sides]
    assert keys[0] == keys[1][::-1]
    senders = [CipherState(send) for send, _ in keys]
    receivers = [CipherState(receive) for _, receive in keys]
    assert len(messages) > 4
    for step, (payload, ciphertext) in enumerate(messages[3:], start=3):
        assert senders[step % 2].encrypt_with_ad(b"", payload) == ciphertext
        assert receivers[1 - step % 2].decrypt_with_ad(b"", ciphertext) == payload


def test_nonce_is_four_zero_bytes_and_a_big_endian_count() -> None:
    assert noise.nonce(0) == bytes(12)
    assert noise.nonce(0x0102) == bytes(10) + b"\x01\x02"
    assert noise.nonce(2**64 - 1) == bytes(4) + b"\xff" * 8
    for outside in (-1, 2**64):
        with pytest.raises(OverflowError):
            noise.nonce(outside)


def test_rekey_agrees_with_both_other_implementations() -> None:
    key = bytes(range(32))
    ours = noise.rekey(key)
    assert len(ours) == 32
    assert ours != key
    # dissononce returns the ciphertext with its tag.
    assert ours == AESGCMCipher().rekey(key)[:32]
    theirs = NoiseConnection.from_name(noise.PROTOCOL_NAME).noise_protocol.cipher_class()
    theirs.initialize(key)
    assert ours == theirs.rekey(key)


def test_long_protocol_names_are_hashed_and_short_ones_padded() -> None:
    assert SymmetricState().h == noise.PROTOCOL_NAME + bytes(4)
    assert SymmetricState(b"n" * 32).h == b"n" * 32
    assert SymmetricState(b"n" * 33).h == hashlib.sha256(b"n" * 33).digest()


def test_failed_decryption_does_not_use_up_a_nonce() -> None:
    sender, receiver = CipherState(b"k" * 32), CipherState(b"k" * 32)
    message = sender.encrypt_with_ad(b"ad", b"text")
    for bad in (b"", message[:15], message[:-1], message + b"\0", bytes(len(message))):
        with pytest.raises(ProtocolViolation):
            receiver.decrypt_with_ad(b"ad", bad)
    with pytest.raises(ProtocolViolation):
        receiver.decrypt_with_ad(b"other", message)
    assert receiver.decrypt_with_ad(b"ad", message) == b"text"
    with pytest.raises(ProtocolViolation):
        receiver.decrypt_with_ad(b"ad", message)


def test_the_last_nonce_is_never_used_for_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_MAX_NONCE", 2)
    cipher, reader = CipherState(b"k" * 32), CipherState(b"k" * 32)
    for _ in range(2):
        reader.decrypt_with_ad(b"", cipher.encrypt_with_ad(b"", b"x"))
    with pytest.raises(RuntimeError):
        cipher.encrypt_with_ad(b"", b"x")
    third = AESGCM(b"k" * 32).encrypt(noise.nonce(2), b"x", b"")
    with pytest.raises(ProtocolViolation):
        reader.decrypt_with_ad(b"", third)


# --- two nodes -----------------------------------------------------------------------------------


def test_both_sides_learn_each_other_and_share_keys_and_hash() -> None:
    a, b = alice(expected_peer=BOB.public), bob(expected_peer=ALICE.public)
    run(a, b)
    assert a.finished
    assert b.finished
    assert a.peer == BOB.public
    assert b.peer == ALICE.public
    assert a.handshake_hash == b.handshake_hash
    assert a.split() == b.split()[::-1]
    send, receive = a.split()
    assert len(send) == len(receive) == 32
    assert send != receive


def test_equal_arguments_give_equal_bytes() -> None:
    assert run(alice(), bob()) == MESSAGES


def test_another_ephemeral_key_gives_another_session() -> None:
    a, b = alice(), bob()
    c, d = alice(), bob(ephemeral=OTHER_EPHEMERAL)
    run(a, b)
    run(c, d)
    assert a.handshake_hash != c.handshake_hash
    assert not set(a.split()) & set(c.split())


def test_messages_do_not_show_who_is_talking_and_stay_far_below_the_limit() -> None:
    for message in MESSAGES:
        assert len(message) <= 300 < limits.MAX_HANDSHAKE_MESSAGE
        for secret in (ALICE.public, BOB.public, public_of(ALICE_STATIC), public_of(BOB_STATIC)):
            assert secret not in message


def test_payloads_are_the_packed_id_and_signature() -> None:
    state = raw(initiator=True)
    b = bob()
    b.read(state.write_message(b""))
    payload = state.read_message(b.write())
    assert codec.unpack(payload) == {
        "id": BOB.public,
        "sig": BOB.sign(b"noise-static", public_of(BOB_STATIC)),
    }


def test_initiator_knows_its_peer_before_it_answers() -> None:
    a, b = alice(), bob()
    b.read(a.write())
    with pytest.raises(RuntimeError):
        _ = a.peer
    a.read(b.write())
    assert a.peer == BOB.public
    assert not a.finished
    with pytest.raises(RuntimeError):
        _ = b.peer
    b.read(a.write())
    assert b.peer == ALICE.public


# --- misuse by the caller ------------------------------------------------------------------------


def test_writing_out_of_turn_is_the_callers_error_and_harmless() -> None:
    a, b = alice(), bob()
    with pytest.raises(RuntimeError):
        b.write()
    first = a.write()
    with pytest.raises(RuntimeError):
        a.write()
    b.read(first)
    a.read(b.write())
    b.read(a.write())
    for side in (a, b):
        with pytest.raises(RuntimeError):
            side.write()
        assert side.finished


def test_results_before_the_end_are_the_callers_error() -> None:
    a = alice()
    a.write()
    for result in (lambda: a.split(), lambda: a.handshake_hash, lambda: a.peer):
        with pytest.raises(RuntimeError):
            result()
    with pytest.raises(RuntimeError):
        _ = raw(True).remote_static


@pytest.mark.parametrize("field", ["static", "ephemeral", "expected_peer"])
@pytest.mark.parametrize("value", [b"", b"x" * 31, b"x" * 33])
def test_keys_of_another_length_are_refused_at_once(field: str, value: bytes) -> None:
    with pytest.raises(BadInput):
        alice(**{field: value})


def test_payload_beyond_the_limit_is_not_written() -> None:
    with pytest.raises(RuntimeError):
        raw(True).write_message(bytes(limits.MAX_HANDSHAKE_MESSAGE))


# --- other implementations -----------------------------------------------------------------------


class WithNoiseprotocol:
    def __init__(self, initiator: bool, static: bytes) -> None:
        self.connection = NoiseConnection.from_name(noise.PROTOCOL_NAME)
        if initiator:
            self.connection.set_as_initiator()
        else:
            self.connection.set_as_responder()
        self.connection.set_prologue(PROLOGUE)
        self.connection.set_keypair_from_private_bytes(Keypair.STATIC, static)
        self.connection.start_handshake()

    def write(self, payload: bytes) -> bytes:
        return bytes(self.connection.write_message(payload))

    def read(self, message: bytes) -> bytes:
        return bytes(self.connection.read_message(message))

    def handshake_hash(self) -> bytes:
        return bytes(self.connection.get_handshake_hash())

    def encrypt(self, text: bytes) -> bytes:
        return self.connection.encrypt(text)

    def decrypt(self, text: bytes) -> bytes:
        return self.connection.decrypt(text)


class WithDissononce:
    def __init__(self, initiator: bool, static: bytes) -> None:
        dh = X25519DH()
        symmetric = DissononceSymmetricState(DissononceCipherState(AESGCMCipher()), SHA256Hash())
        self.symmetric = symmetric
        self.state = DissononceHandshakeState(symmetric, dh)
        pair = dh.generate_keypair(DissononcePrivateKey(static))
        self.state.initialize(XXHandshakePattern(), initiator, PROLOGUE, s=pair)
        self.initiator = initiator
        self.ciphers: tuple[Any, Any] | None = None

    def _note(self, result: tuple[Any, Any] | None) -> None:
        if result is not None:
            self.ciphers = result if self.initiator else (result[1], result[0])

    def write(self, payload: bytes) -> bytes:
        buffer = bytearray()
        self._note(self.state.write_message(payload, buffer))
        return bytes(buffer)

    def read(self, message: bytes) -> bytes:
        buffer = bytearray()
        self._note(self.state.read_message(message, buffer))
        return bytes(buffer)

    def handshake_hash(self) -> bytes:
        return bytes(self.symmetric.get_handshake_hash())

    def encrypt(self, text: bytes) -> bytes:
        assert self.ciphers is not None
        return self.ciphers[0].encrypt_with_ad(b"", text)

    def decrypt(self, text: bytes) -> bytes:
        assert self.ciphers is not None
        return self.ciphers[1].decrypt_with_ad(b"", text)


@pytest.mark.parametrize("we_initiate", [True, False])
@pytest.mark.parametrize("other", [WithNoiseprotocol, WithDissononce])
def test_link_with_another_implementation_works(
    other: type[WithNoiseprotocol] | type[WithDissononce], we_initiate: bool
) -> None:
    theirs = other(initiator=not we_initiate, static=MALLORY_STATIC)
    proof = credentials(MALLORY, MALLORY_STATIC)
    if we_initiate:
        ours, our_key = alice(expected_peer=MALLORY.public), ALICE
        assert theirs.read(ours.write()) == b""
        ours.read(theirs.write(proof))
        payload = theirs.read(ours.write())
    else:
        ours, our_key = bob(expected_peer=MALLORY.public), BOB
        ours.read(theirs.write(b""))
        payload = theirs.read(ours.write())
        ours.read(theirs.write(proof))
    assert codec.unpack(payload)["id"] == our_key.public
    assert ours.finished
    assert ours.peer == MALLORY.public
    assert ours.handshake_hash == theirs.handshake_hash()
    send, receive = (CipherState(key) for key in ours.split())
    for number in range(3):
        text = b"record %d" % number
        assert theirs.decrypt(send.encrypt_with_ad(b"", text)) == text
        assert receive.decrypt_with_ad(b"", theirs.encrypt(text)) == text


# --- peers that send anything --------------------------------------------------------------------


def reader_of(step: int) -> Handshake:
    """The side that is about to read message ``step`` (0 to 2) of MESSAGES."""
    side = alice() if step == 1 else bob()
    if step == 1:
        side.write()
    elif step == 2:
        side.read(MESSAGES[0])
        side.write()
    return side


def test_the_recorded_messages_are_what_the_readers_expect() -> None:
    for step in range(3):
        reader_of(step).read(MESSAGES[step])


@FAST
@given(step=st.integers(1, 2), garbage=st.binary(max_size=400))
def test_arbitrary_bytes_end_the_handshake_with_a_violation(step: int, garbage: bytes) -> None:
    side = reader_of(step)
    with pytest.raises(ProtocolViolation):
        side.read(garbage)
    assert not side.finished


@FAST
@given(garbage=st.binary(max_size=80) | st.binary(min_size=32, max_size=32))
def test_arbitrary_first_message_is_refused_or_can_be_answered(garbage: bytes) -> None:
    side = bob()
    try:
        side.read(garbage)
    except ProtocolViolation:
        return
    assert len(garbage) == 32
    side.write()
    with pytest.raises(ProtocolViolation):
        side.read(garbage)


@settings(max_examples=250, deadline=None)
@given(data=st.data(), step=st.integers(0, 2))
def test_any_flipped_bit_ends_the_handshake_with_a_violation(
    data: st.DataObject, step: int
) -> None:
    bit = data.draw(st.integers(0, len(MESSAGES[step]) * 8 - 1))

    def flip(at: int, message: bytes) -> bytes:
        changed = bytearray(message)
        if at == step:
            changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    a, b = alice(), bob()
    with pytest.raises(ProtocolViolation):
        run(a, b, flip)
    assert not b.finished
    assert a.finished == (step == 2)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_every_truncation_and_extension_is_a_violation(step: int) -> None:
    message = MESSAGES[step]
    for size in range(len(message)):
        with pytest.raises(ProtocolViolation):
            reader_of(step).read(message[:size])
    for extra in (b"\0", message, bytes(limits.MAX_HANDSHAKE_MESSAGE - len(message))):
        with pytest.raises(ProtocolViolation):
            reader_of(step).read(message + extra)


def test_message_beyond_the_limit_is_refused_before_anything_else() -> None:
    # At the raw layer message 1 may carry a payload of any allowed length.
    longest = MESSAGES[0] + bytes(limits.MAX_HANDSHAKE_MESSAGE - 32)
    assert len(raw(False).read_message(longest)) == limits.MAX_HANDSHAKE_MESSAGE - 32
    with pytest.raises(ProtocolViolation, match=str(limits.MAX_HANDSHAKE_MESSAGE + 1)):
        raw(False).read_message(longest + b"\0")


def test_payload_in_the_first_message_is_refused() -> None:
    with pytest.raises(ProtocolViolation, match="payload"):
        bob().read(raw(True).write_message(b"early"))


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_handshake_that_failed_stays_failed(step: int) -> None:
    side = reader_of(step)
    with pytest.raises(ProtocolViolation):
        side.read(b"")
    with pytest.raises(ProtocolViolation):
        side.read(MESSAGES[step])
    with pytest.raises(RuntimeError):
        side.write()
    with pytest.raises(RuntimeError):
        side.split()
    with pytest.raises(RuntimeError):
        _ = side.peer


def test_message_out_of_turn_is_the_peers_violation_and_ends_the_handshake() -> None:
    a, b = alice(), bob()
    # A fresh initiator could take this one for a message 1, were it not its own turn.
    with pytest.raises(ProtocolViolation, match="out of turn"):
        a.read(MESSAGES[0])
    b.read(MESSAGES[0])
    with pytest.raises(ProtocolViolation, match="out of turn"):
        b.read(MESSAGES[2])
    for side in (a, b):
        with pytest.raises(RuntimeError):
            side.write()


def test_message_after_the_last_is_a_violation_and_takes_everything_back() -> None:
    a, b = alice(), bob()
    last = run(a, b)[2]
    for side in (a, b):
        with pytest.raises(ProtocolViolation, match="out of turn"):
            side.read(last)
        assert not side.finished
        for result in (side.split, lambda side=side: side.peer):
            with pytest.raises(RuntimeError):
                result()


@pytest.mark.parametrize("point", SMALL_ORDER, ids=lambda point: point.hex()[:8])
def test_small_order_points_are_refused_while_reading(point: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="small order"):
        bob().read(point)
    with pytest.raises(ProtocolViolation, match="small order"):
        reader_of(1).read(point + MESSAGES[1][32:])

    # As a static key it travels encrypted, so its sender must play along up to there.
    ephemeral = X25519PrivateKey.from_private_bytes(OTHER_EPHEMERAL)
    initiator_ephemeral = X25519PrivateKey.from_private_bytes(ALICE_EPHEMERAL).public_key()
    symmetric = SymmetricState()
    for data in (PROLOGUE, MESSAGES[0], b"", public_of(OTHER_EPHEMERAL)):
        symmetric.mix_hash(data)
    symmetric.mix_key(ephemeral.exchange(initiator_ephemeral))
    message = public_of(OTHER_EPHEMERAL) + symmetric.encrypt_and_hash(point)
    with pytest.raises(ProtocolViolation, match="small order"):
        reader_of(1).read(message + bytes(16))

    attacker, b = raw(True), bob()
    b.read(attacker.write_message(b""))
    attacker.read_message(b.write())
    with pytest.raises(ProtocolViolation, match="small order"):
        b.read(attacker.symmetric.encrypt_and_hash(point) + bytes(16))


def send_payload(payload: bytes, to_initiator: bool, static: bytes = MALLORY_STATIC) -> Handshake:
    """Let a peer that does Noise right put ``payload`` where its credentials belong."""
    attacker = raw(initiator=not to_initiator, static=static)
    if to_initiator:
        side = alice()
        attacker.read_message(side.write())
    else:
        side = bob()
        side.read(attacker.write_message(b""))
        attacker.read_message(side.write())
    side.read(attacker.write_message(payload))
    return side


@pytest.mark.parametrize("to_initiator", [True, False])
def test_good_credentials_pass_and_prove_the_sender(to_initiator: bool) -> None:
    side = send_payload(credentials(MALLORY, MALLORY_STATIC), to_initiator)
    assert side.peer == MALLORY.public


_PROOF = codec.unpack(credentials(MALLORY, MALLORY_STATIC))


@pytest.mark.parametrize("to_initiator", [True, False])
@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        [_PROOF["id"], _PROOF["sig"]],
        {"id": _PROOF["id"]},
        {"sig": _PROOF["sig"]},
        {**_PROOF, "more": 1},
        {**_PROOF, "id": _PROOF["id"].hex()},
        {**_PROOF, "id": _PROOF["id"][:-1]},
        {**_PROOF, "id": _PROOF["id"] + b"\0"},
        {**_PROOF, "id": None},
        {**_PROOF, "sig": _PROOF["sig"][:-1]},
        {**_PROOF, "sig": b""},
        {**_PROOF, "sig": 7},
        {1: 2, b"id": b""},
    ],
    ids=repr,
)
def test_malformed_credentials_are_a_violation(value: object, to_initiator: bool) -> None:
    with pytest.raises(ProtocolViolation):
        send_payload(codec.pack(value), to_initiator)


@FAST
@given(payload=st.binary(max_size=200), to_initiator=st.booleans())
def test_arbitrary_authentic_payload_is_a_violation(payload: bytes, to_initiator: bool) -> None:
    with pytest.raises(ProtocolViolation):
        send_payload(payload, to_initiator)


@pytest.mark.parametrize("to_initiator", [True, False])
def test_signature_that_belongs_elsewhere_is_a_violation(to_initiator: bool) -> None:
    static = public_of(MALLORY_STATIC)
    swapped = {
        "another node's proof for its own static key": credentials(BOB, BOB_STATIC),
        "another node's id over our signature": codec.pack({**_PROOF, "id": BOB.public}),
        "another static key signed": credentials(MALLORY, BOB_STATIC),
        "another context": codec.pack({"id": MALLORY.public, "sig": MALLORY.sign(b"x", static)}),
    }
    for payload in swapped.values():
        with pytest.raises(ProtocolViolation, match="not signed"):
            send_payload(payload, to_initiator)


# --- the wrong party, the wrong session ----------------------------------------------------------


@pytest.mark.parametrize("prologue", [b"", PROLOGUE + b"\0", b"kachery-p2p test 2"])
def test_another_prologue_fails(prologue: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        run(alice(), bob(prologue=prologue))


def test_unexpected_peer_is_refused_by_either_side() -> None:
    a, b = alice(expected_peer=MALLORY.public), bob()
    with pytest.raises(ProtocolViolation, match=BOB.node_id):
        run(a, b)
    with pytest.raises(RuntimeError):
        a.write()
    a, b = alice(), bob(expected_peer=MALLORY.public)
    with pytest.raises(ProtocolViolation, match=ALICE.node_id):
        run(a, b)
    assert not b.finished


@pytest.mark.parametrize("step", [1, 2])
def test_message_of_another_session_is_refused(step: int) -> None:
    a, b = alice(ephemeral=OTHER_EPHEMERAL), bob(ephemeral=b"\x24" * 32)
    with pytest.raises(ProtocolViolation):
        run(a, b, lambda at, message: MESSAGES[at] if at == step else message)


def test_replaying_a_whole_session_to_the_responder_fails() -> None:
    b = bob(ephemeral=OTHER_EPHEMERAL)
    b.read(MESSAGES[0])
    b.write()
    with pytest.raises(ProtocolViolation):
        b.read(MESSAGES[2])


def test_a_message_reflected_to_its_sender_is_refused() -> None:
    a = alice()
    first = a.write()
    with pytest.raises(ProtocolViolation):
        a.read(first)
