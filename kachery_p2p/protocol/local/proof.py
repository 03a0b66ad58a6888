"""How client and daemon prove to each other, over loopback TCP, that they know the same token.

Any program of any user of the computer may connect to a TCP port, and may listen on one that nobody
uses. So the token is never sent. The client sends a nonce; the daemon answers with one of its own and
shows first that it knows the token, and that it is the node that the token file names; then the client
shows the same. Each side's proof is over both nonces, so that neither is of use to anybody else.

    proof     = HMAC-SHA256(token, side ‖ 0x00 ‖ right ‖ 0x00 ‖ client's nonce ‖ daemon's nonce)
    signature = of the node, context "local api", over right ‖ 0x00 ‖ client's nonce ‖ daemon's nonce

There is a token for each right, in a file of its own. Whoever may read a file knows its token, and
could pose as the daemon to others who may; the signature is there because of them.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from typing import Final

from kachery_p2p.protocol.identity import NodeKey, verify

FULL: Final = "full"
READ_ONLY: Final = "read-only"
RIGHTS: Final = (FULL, READ_ONLY)
NONCE_BYTES: Final = 32
TOKEN_BYTES: Final = 32
CONTEXT: Final = b"local api"
_DAEMON: Final = b"daemon"
_CLIENT: Final = b"client"
_FILE: Final = re.compile(r"([0-9a-f]{64})\n([0-9a-f]{64})\n", re.ASCII)


@dataclass(frozen=True)
class Token:
    """What is in a token file, and for which right it is. ``node``: the public key of the node."""

    secret: bytes
    node: bytes
    right: str

    def __repr__(self) -> str:
        return f"<Token {self.right} of {self.node.hex()[:8]}>"

    def to_text(self) -> str:
        """The content of the file."""
        return f"{self.secret.hex()}\n{self.node.hex()}\n"


def parse_token(text: str, right: str) -> Token | None:
    """The token in a file, or None if it holds none."""
    found = _FILE.fullmatch(text)
    if found is None:
        return None
    return Token(bytes.fromhex(found[1]), bytes.fromhex(found[2]), right)


@dataclass(frozen=True)
class Challenge:
    """One conversation: the nonces of both sides."""

    token: Token
    client: bytes
    daemon: bytes

    def daemon_proof(self) -> bytes:
        return self._proof(_DAEMON)

    def client_proof(self) -> bytes:
        return self._proof(_CLIENT)

    def sign(self, key: NodeKey) -> bytes:
        return key.sign(CONTEXT, self._message())

    def is_daemon(self, proof: bytes, signature: bytes) -> bool:
        """Whether the other side knows the token and is the node that the token file names."""
        return hmac.compare_digest(proof, self.daemon_proof()) and verify(
            self.token.node, CONTEXT, self._message(), signature
        )

    def is_client(self, proof: bytes) -> bool:
        """Whether the other side knows the token."""
        return hmac.compare_digest(proof, self.client_proof())

    def _message(self) -> bytes:
        return self.token.right.encode() + b"\0" + self.client + self.daemon

    def _proof(self, side: bytes) -> bytes:
        return hmac.digest(self.token.secret, side + b"\0" + self._message(), "sha256")
