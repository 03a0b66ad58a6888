"""The client's side of a greeting: what to say, and whether to believe who answers.

Over a Unix socket the folder and the kernel say who is there. Over TCP anybody may be: nothing is sent
but a nonce, and nothing is believed, before the other side has proved that it is the node that made the
token file (:mod:`kachery_p2p.protocol.local.proof`).
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from kachery_p2p.protocol.errors import (
    Busy,
    DaemonNotPermitted,
    KacheryError,
    VersionMismatch,
    from_wire,
)
from kachery_p2p.protocol.limits import PROTOCOL_VERSION
from kachery_p2p.protocol.local import messages as local
from kachery_p2p.protocol.local import proof as local_proof
from kachery_p2p.storage.files.marker import is_marked

_SAID_TO_ANYBODY = (Busy, DaemonNotPermitted, VersionMismatch)
"""What a node says before it proves anything; it leads to nothing but an error."""


class Greeter:
    """``token``: None over a Unix socket. ``owner``: the user as whom the node runs, as far as is known
    without its word."""

    def __init__(self, token: local_proof.Token | None, owner: int | None) -> None:
        self.welcome: local.Welcome | None = None
        self._token = token
        self._owner = owner
        self._nonce = None if token is None else os.urandom(local_proof.NONCE_BYTES)
        self._proved = token is None
        self._marked = False

    @property
    def by_token(self) -> bool:
        """Whether it is over TCP."""
        return self._token is not None

    def greeting(self) -> local.Greeting:
        right = local_proof.FULL if self._token is None else self._token.right
        return local.Greeting(PROTOCOL_VERSION, self._nonce, os.getpid(), right)

    def hear(self, message: local.Message) -> local.Proof | None:
        """What to answer; None when :attr:`welcome` is there.

        Raises:
            DaemonNotPermitted: it is somebody else.
            KacheryError: it is the node, and it says no.
        """
        match message:
            case local.Challenge() if self._token is not None and not self._proved:
                return self._check(message, self._token)
            case local.Welcome() if self._proved:
                self.welcome = message
                return None
            case local.Failure(id=0):
                error = from_wire(message.code, message.fields)
                if self._proved or isinstance(error, _SAID_TO_ANYBODY):
                    raise error
        raise self._impostor()

    def _check(self, message: local.Challenge, token: local_proof.Token) -> local.Proof:
        assert self._nonce is not None
        if len(message.nonce) != local_proof.NONCE_BYTES:
            raise self._impostor()
        challenge = local_proof.Challenge(token, self._nonce, message.nonce)
        if not challenge.is_daemon(message.proof, message.signature):
            raise self._impostor()
        self._proved = True
        return local.Proof(challenge.client_proof())

    def _impostor(self) -> KacheryError:
        if self._token is None:
            return DaemonNotPermitted(reason="what answers does not speak as a node does")
        return DaemonNotPermitted(
            reason="what answers there is not the node that made the token file: that node was killed "
            "and another program has its port, or the file is an old one; start the node again"
        )

    @property
    def storage_dir(self) -> Path:
        """The folder that the node names."""
        assert self.welcome is not None
        return Path(self.welcome.storage_dir)

    @property
    def owns_storage(self) -> bool:
        """Whether that folder, seen from here, is the node's: it may be another one of that name, out
        of reach, or a lie."""
        assert self.welcome is not None
        if not self._marked and self._owner is not None:
            self._marked = is_marked(self.storage_dir, self.welcome.marker, self._owner)
        return self._marked


def owner_of_peer(sock: socket.socket, path: Path | None = None) -> int | None:
    """The user as whom a process listens on a Unix socket: from the kernel where it can say, else whose
    the socket's file is."""
    if hasattr(socket, "SO_PEERCRED"):
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", raw)[1])
    try:
        return None if path is None else path.stat().st_uid
    except OSError:
        return None
