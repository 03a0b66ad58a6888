"""Who a node is: its Ed25519 key, what it signs, and what is sealed so that only it can read.

Invariants

* A node id is the Ed25519 public key as 64 lowercase hex digits.
* Every signature names what it is for: ``context`` goes in front of the message, ended by a zero
  byte that no context may contain, so a signature made for one purpose is never valid for another.
* The seed is never part of a ``repr`` or of an error.

Non-goals: keeping the seed on disk (storage/ does that), and saying what a node may do.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import nacl.bindings
import nacl.exceptions
import nacl.signing

from .errors import BadInput, ProtocolViolation
from .json_values import one

SEED_BYTES: Final = 32
PUBLIC_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
SEAL_OVERHEAD: Final = int(nacl.bindings.crypto_box_SEALBYTES)
"""Bytes by which a sealed box is longer than what is in it."""

_DOMAIN: Final = b"kachery-p2p:"
_NODE_ID: Final = re.compile(r"[0-9a-f]{64}")

# PyNaCl's own ValueError and TypeError derive from CryptoError, but its argument checks also let
# the built-in ones through.
_NACL_ERRORS: Final = (nacl.exceptions.CryptoError, ValueError, TypeError)


class NodeKey:
    """A node's key pair. ``seed`` is the 32-byte Ed25519 seed; whoever has it is the node.

    Raises:
        BadInput: the seed is not 32 bytes.
    """

    def __init__(self, seed: bytes) -> None:
        if not isinstance(seed, bytes) or len(seed) != SEED_BYTES:
            raise BadInput(what="node key", reason=f"the seed must be {SEED_BYTES} bytes")
        self._signing = nacl.signing.SigningKey(seed)
        self._public = bytes(self._signing.verify_key)

    @classmethod
    def generate(cls, random_bytes: Callable[[int], bytes]) -> NodeKey:
        """A new key from ``random_bytes(n)``, which must be fit for keys (``os.urandom``)."""
        return cls(random_bytes(SEED_BYTES))

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes."""
        return bytes(self._signing)

    @property
    def public(self) -> bytes:
        """The 32 bytes of the Ed25519 public key."""
        return self._public

    @property
    def node_id(self) -> str:
        """The public key as 64 lowercase hex digits."""
        return self._public.hex()

    def sign(self, context: bytes, message: bytes) -> bytes:
        """The 64-byte signature of ``message`` for the purpose ``context``.

        Raises:
            BadInput: the context contains a zero byte.
        """
        if b"\0" in context:
            raise BadInput(what="signing context", reason="it contains a zero byte")
        return self._signing.sign(_signed_bytes(context, message)).signature

    def unseal(self, sealed: bytes) -> bytes:
        """What :func:`seal_to` sealed to this node.

        Raises:
            ProtocolViolation: it was sealed to another key, was changed, or is no sealed box.
        """
        secret = nacl.bindings.crypto_sign_ed25519_sk_to_curve25519(self.seed + self._public)
        public = nacl.bindings.crypto_scalarmult_base(secret)
        try:
            return nacl.bindings.crypto_box_seal_open(sealed, public, secret)
        except _NACL_ERRORS as error:
            raise ProtocolViolation(reason="a sealed box cannot be opened with our key") from error

    def __eq__(self, other: object) -> bool:
        # The public key stands for the pair, so the comparison needs no constant time.
        return self._public == other._public if isinstance(other, NodeKey) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._public)

    def __repr__(self) -> str:
        return f"<NodeKey {self.node_id}>"


def verify(public: bytes, context: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is that of ``public`` (32 bytes) over ``message`` for ``context``.

    Never raises: wrong lengths, wrong types, points of small order are all just False.
    """
    try:
        if b"\0" in context:
            return False
        nacl.signing.VerifyKey(public).verify(_signed_bytes(context, message), signature)
    except _NACL_ERRORS:
        return False
    return True


def seal_to(public: bytes, plaintext: bytes) -> bytes:
    """Encrypt so that only the node with the Ed25519 key ``public`` (32 bytes) can read it.

    A libsodium sealed box to the X25519 form of that key: anonymous, and :data:`SEAL_OVERHEAD`
    bytes longer than ``plaintext``. The one exception to this package's purity: libsodium draws the
    box's one-time key itself, so two calls give two different results.

    Raises:
        BadInput: ``public`` is not an Ed25519 public key.
    """
    try:
        curve = nacl.bindings.crypto_sign_ed25519_pk_to_curve25519(public)
    except _NACL_ERRORS as error:
        raise BadInput(what="public key", reason="not an Ed25519 public key") from error
    return nacl.bindings.crypto_box_seal(plaintext, curve)


def check_node_id(text: object) -> str:
    """``text`` itself if it has the form of a node id.

    Raises:
        BadInput: it is not 64 lowercase hex digits.
    """
    if isinstance(text, str) and _NODE_ID.fullmatch(text):
        return text
    shown = repr(text[:80]) if isinstance(text, str) else one(text)
    raise BadInput(what="node id", reason=f"{shown} is not 64 lowercase hex digits")


def _signed_bytes(context: bytes, message: bytes) -> bytes:
    return b"".join((_DOMAIN, context, b"\0", message))
