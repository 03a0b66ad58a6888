"""The handshake of every link: Noise_XX_25519_AESGCM_SHA256 (Noise specification, revision 34).

Three layers, all pure; the private keys of both the static and the ephemeral pair are arguments:

* :class:`CipherState` and :class:`SymmetricState` are sections 5.1 and 5.2 of the specification.
* :class:`HandshakeState` (section 5.3) runs pattern XX with any payloads.
* :class:`Handshake` adds who is who: messages 2 and 3 carry the sender's Ed25519 key and its
  signature over the sender's X25519 static key, so a finished handshake names the peer's node.

Invariants

* Whatever a peer sends, the only error is :class:`~.errors.ProtocolViolation`, and it is final: the
  handshake that raised it never finishes. It is raised while reading; writing cannot fail because
  of what the peer sent before. A mistake of our own caller is a ``RuntimeError``.
* An ephemeral key must be used for one handshake only; the caller draws it fresh each time.

Non-goals: framing and encrypting records after Split (the link does that, with :func:`nonce` and
:func:`rekey` from here), other patterns and ciphers, pre-shared keys, wiping memory.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kachery_p2p.protocol import codec, limits
from kachery_p2p.protocol.errors import BadInput, ProtocolViolation
from kachery_p2p.protocol.identity import PUBLIC_BYTES, NodeKey, verify

PROTOCOL_NAME: Final = b"Noise_XX_25519_AESGCM_SHA256"
KEY_BYTES: Final = 32
"""Bytes of a cipher key, of an X25519 key and of a SHA-256 hash (DHLEN and HASHLEN)."""
TAG_BYTES: Final = 16
STATIC_CONTEXT: Final = b"noise-static"
"""What the signature over a static key is for."""

_MAX_NONCE: Final = 2**64 - 1
_PATTERN: Final = (("e",), ("e", "ee", "s", "es"), ("s", "se"))


def nonce(n: int) -> bytes:
    """The 12-byte AES-GCM nonce of message ``n``: four zero bytes, then ``n`` big-endian.

    Raises:
        OverflowError: ``n`` is not in 0 .. 2**64 - 1.
    """
    return bytes(4) + n.to_bytes(8, "big")


def rekey(key: bytes) -> bytes:
    """REKEY(k): the 32-byte key that follows ``key``. The record counter goes on as it was."""
    return AESGCM(key).encrypt(nonce(_MAX_NONCE), bytes(KEY_BYTES), b"")[:KEY_BYTES]


class CipherState:
    """A key, or none yet, and the count of messages under it."""

    def __init__(self, key: bytes | None = None) -> None:
        self._aead = None if key is None else AESGCM(key)
        self._n = 0

    def encrypt_with_ad(self, ad: bytes, plaintext: bytes) -> bytes:
        """The ciphertext, 16 bytes longer; without a key, the plaintext.

        Raises:
            RuntimeError: 2**64 - 1 messages went under this key.
        """
        if self._aead is None:
            return plaintext
        if self._n == _MAX_NONCE:
            raise RuntimeError("a Noise key has run out of nonces")
        ciphertext = self._aead.encrypt(nonce(self._n), plaintext, ad)
        self._n += 1
        return ciphertext

    def decrypt_with_ad(self, ad: bytes, ciphertext: bytes) -> bytes:
        """The plaintext; without a key, the ciphertext as it is. A failure leaves the count alone.

        Raises:
            ProtocolViolation: the tag is wrong, there is no room for one, or nonces ran out.
        """
        if self._aead is None:
            return ciphertext
        if self._n == _MAX_NONCE:
            raise ProtocolViolation(reason="the peer used a key beyond its last nonce")
        try:
            plaintext = self._aead.decrypt(nonce(self._n), ciphertext, ad)
        except InvalidTag as error:
            raise ProtocolViolation(reason="a Noise message failed authentication") from error
        self._n += 1
        return plaintext


class SymmetricState:
    """The chaining key, the transcript hash ``h`` and the cipher of a handshake."""

    def __init__(self, protocol_name: bytes = PROTOCOL_NAME) -> None:
        if len(protocol_name) <= KEY_BYTES:
            self.h = protocol_name.ljust(KEY_BYTES, b"\0")
        else:
            self.h = hashlib.sha256(protocol_name).digest()
        self._chaining_key = self.h
        self._cipher = CipherState()

    def mix_key(self, input_key_material: bytes) -> None:
        self._chaining_key, key = _hkdf2(self._chaining_key, input_key_material)
        self._cipher = CipherState(key)

    def mix_hash(self, data: bytes) -> None:
        self.h = hashlib.sha256(self.h + data).digest()

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        ciphertext = self._cipher.encrypt_with_ad(self.h, plaintext)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        """Raises :class:`~.errors.ProtocolViolation` if the ciphertext is not authentic."""
        plaintext = self._cipher.decrypt_with_ad(self.h, ciphertext)
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """The two 32-byte transport keys: initiator to responder, responder to initiator."""
        return _hkdf2(self._chaining_key, b"")


class HandshakeState:
    """Pattern XX with any payloads: ``-> e``, ``<- e, ee, s, es``, ``-> s, se``.

    Args:
        initiator: whether this side sends the first message.
        static: 32 raw bytes of this side's X25519 static private key.
        ephemeral: 32 raw bytes of a private key that is used for this handshake only.
        prologue: what both sides must agree on before, any length.

    ``step`` counts the messages that were written or read; ``failed`` says that the handshake is
    over; ``symmetric.h`` is the transcript hash.

    Raises:
        BadInput: a key is not 32 bytes.
    """

    def __init__(
        self, *, initiator: bool, static: bytes, ephemeral: bytes, prologue: bytes
    ) -> None:
        self._initiator = initiator
        self._s = _private_key(static)
        self._e = _private_key(ephemeral)
        self._rs: X25519PublicKey | None = None
        self._re: X25519PublicKey | None = None
        self.step = 0
        self.failed = False
        self.symmetric = SymmetricState()
        self.symmetric.mix_hash(prologue)

    @property
    def finished(self) -> bool:
        """Whether all three messages went well."""
        return self.step == len(_PATTERN) and not self.failed

    @property
    def my_turn(self) -> bool:
        """Whether the next message is ours to write."""
        return self.step < len(_PATTERN) and self._initiator == (self.step % 2 == 0)

    @property
    def static_public(self) -> bytes:
        """This side's X25519 static public key, 32 bytes."""
        return self._s.public_key().public_bytes_raw()

    @property
    def remote_static(self) -> bytes:
        """The peer's X25519 static public key, 32 bytes.

        Raises:
            RuntimeError: its message was not read yet.
        """
        if self._rs is None:
            raise RuntimeError("the peer's static key is not known yet")
        return self._rs.public_bytes_raw()

    def write_message(self, payload: bytes) -> bytes:
        """The next handshake message, with ``payload`` in it (in the clear in message 1).

        Raises:
            RuntimeError: it is not our turn, the handshake failed, or the message would be longer
                than :data:`~.limits.MAX_HANDSHAKE_MESSAGE`.
        """
        if self.failed or not self.my_turn:
            raise RuntimeError("it is not our turn to write a handshake message")
        if len(payload) > limits.MAX_HANDSHAKE_MESSAGE - 2 * (KEY_BYTES + TAG_BYTES):
            raise RuntimeError("the payload is too long for a handshake message")
        parts = []
        for token in _PATTERN[self.step]:
            if token == "e":
                public = self._e.public_key().public_bytes_raw()
                self.symmetric.mix_hash(public)
                parts.append(public)
            elif token == "s":
                parts.append(self.symmetric.encrypt_and_hash(self.static_public))
            else:
                self._mix_dh(token)
        parts.append(self.symmetric.encrypt_and_hash(payload))
        self.step += 1
        return b"".join(parts)

    def read_message(self, message: bytes) -> bytes:
        """The payload of the peer's next message.

        Raises:
            ProtocolViolation: the message is wrong in any way, or not the peer's to send now.
        """
        if self.failed or self.my_turn or self.step == len(_PATTERN):
            self.failed = True
            raise ProtocolViolation(reason="a handshake message out of turn")
        # Lowered again only when the whole message was found right: a half-read one leaves the
        # transcript in a state that must not be used.
        self.failed = True
        if len(message) > limits.MAX_HANDSHAKE_MESSAGE:
            raise ProtocolViolation(reason=f"a handshake message of {len(message)} bytes")
        rest = message
        for token in _PATTERN[self.step]:
            if token == "e":
                public, rest = _take(rest, KEY_BYTES)
                self._re = X25519PublicKey.from_public_bytes(public)
                self.symmetric.mix_hash(public)
                # A point of small order must fail here and not when we answer; with it every
                # exchange is refused, whatever the private key.
                _exchange(self._e, self._re)
            elif token == "s":
                sealed, rest = _take(rest, KEY_BYTES + TAG_BYTES)
                self._rs = X25519PublicKey.from_public_bytes(
                    self.symmetric.decrypt_and_hash(sealed)
                )
            else:
                self._mix_dh(token)
        payload = self.symmetric.decrypt_and_hash(rest)
        self.step += 1
        self.failed = False
        return payload

    def split(self) -> tuple[bytes, bytes]:
        """This side's (send key, receive key), 32 bytes each.

        Raises:
            RuntimeError: the handshake is not finished.
        """
        if not self.finished:
            raise RuntimeError("the handshake is not finished")
        forward, backward = self.symmetric.split()
        return (forward, backward) if self._initiator else (backward, forward)

    def _mix_dh(self, token: str) -> None:
        # The first letter names the initiator's key, the second the responder's.
        mine, theirs = (0, 1) if self._initiator else (1, 0)
        private = self._e if token[mine] == "e" else self._s
        public = self._re if token[theirs] == "e" else self._rs
        assert public is not None  # the pattern sends every key before it is used
        self.symmetric.mix_key(_exchange(private, public))


class _Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Payload of messages 2 and 3."""

    id: bytes
    sig: bytes


class Handshake:
    """XX between two nodes: who the peer is comes out proven, or nothing does.

    Args:
        initiator: whether this side sends the first message.
        key: this node's identity.
        static: 32 raw bytes of this node's X25519 static private key.
        ephemeral: 32 fresh random bytes, for this handshake only.
        prologue: what both sides must agree on (protocol version, purpose of the link).
        expected_peer: the Ed25519 public key (32 bytes) that the peer must have, or None for any.

    Raises:
        BadInput: a key is not 32 bytes.
    """

    def __init__(
        self,
        *,
        initiator: bool,
        key: NodeKey,
        static: bytes,
        ephemeral: bytes,
        prologue: bytes,
        expected_peer: bytes | None = None,
    ) -> None:
        if expected_peer is not None and len(expected_peer) != PUBLIC_BYTES:
            raise BadInput(what="expected peer", reason=f"must be {PUBLIC_BYTES} bytes")
        self._state = HandshakeState(
            initiator=initiator, static=static, ephemeral=ephemeral, prologue=prologue
        )
        self._key = key
        self._expected_peer = expected_peer
        self._peer: bytes | None = None

    @property
    def finished(self) -> bool:
        """Whether the handshake is complete on this side and its keys may be used."""
        return self._state.finished

    @property
    def peer(self) -> bytes:
        """The peer's Ed25519 public key, 32 bytes, proven by message 2 or 3.

        Raises:
            RuntimeError: the peer has not proven it yet.
        """
        if self._peer is None or self._state.failed:
            raise RuntimeError("the peer has not proven who it is")
        return self._peer

    @property
    def handshake_hash(self) -> bytes:
        """32 bytes, equal on both sides and unique to this session.

        Raises:
            RuntimeError: the handshake is not finished.
        """
        if not self.finished:
            raise RuntimeError("the handshake is not finished")
        return self._state.symmetric.h

    def write(self) -> bytes:
        """The next handshake message.

        Raises:
            RuntimeError: it is not our turn, or the handshake failed.
        """
        return self._state.write_message(b"" if self._state.step == 0 else self._credentials())

    def read(self, message: bytes) -> None:
        """Take the peer's next message.

        Raises:
            ProtocolViolation: it is wrong in any way; the handshake is over.
        """
        first = self._state.step == 0
        payload = self._state.read_message(message)
        self._state.failed = True
        if first:
            if payload:
                raise ProtocolViolation(reason="handshake message 1 has a payload")
        else:
            self._peer = self._check_credentials(payload)
        self._state.failed = False

    def split(self) -> tuple[bytes, bytes]:
        """This side's (send key, receive key), 32 bytes each.

        Raises:
            RuntimeError: the handshake is not finished.
        """
        return self._state.split()

    def _credentials(self) -> bytes:
        signature = self._key.sign(STATIC_CONTEXT, self._state.static_public)
        return codec.encode(_Credentials(id=self._key.public, sig=signature))

    def _check_credentials(self, payload: bytes) -> bytes:
        credentials = codec.decode(_Credentials, payload)
        static = self._state.remote_static
        if not verify(credentials.id, STATIC_CONTEXT, static, credentials.sig):
            raise ProtocolViolation(reason="the peer's static key is not signed by its node key")
        if self._expected_peer is not None and credentials.id != self._expected_peer:
            reason = f"it is node {credentials.id.hex()}, not {self._expected_peer.hex()}"
            raise ProtocolViolation(reason=reason)
        return credentials.id


def _hkdf2(chaining_key: bytes, input_key_material: bytes) -> tuple[bytes, bytes]:
    """HKDF of section 4.3 with two outputs."""
    temp = hmac.digest(chaining_key, input_key_material, "sha256")
    first = hmac.digest(temp, b"\x01", "sha256")
    return first, hmac.digest(temp, first + b"\x02", "sha256")


def _private_key(raw: bytes) -> X25519PrivateKey:
    if len(raw) != KEY_BYTES:
        raise BadInput(what="X25519 private key", reason=f"must be {KEY_BYTES} bytes")
    return X25519PrivateKey.from_private_bytes(raw)


def _exchange(private: X25519PrivateKey, public: X25519PublicKey) -> bytes:
    try:
        return private.exchange(public)
    except ValueError as error:
        raise ProtocolViolation(reason="an X25519 key of small order") from error


def _take(data: bytes, size: int) -> tuple[bytes, bytes]:
    if len(data) < size:
        raise ProtocolViolation(reason="a handshake message is too short")
    return data[:size], data[size:]
