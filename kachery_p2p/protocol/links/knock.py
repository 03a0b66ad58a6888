"""The knock: how who knows a channel is told from strangers before anything is spent on them.

A dialler sends it with its WebSocket request. It says: I know the id of one of your channels. Channel
ids are in channel documents and invitations and are never sent in the open, so strangers do not know
them. It grants one thing: when a node has more connections that have not proved who they are than it
may, those that knocked right are not the first to go.

    knock = base64url( u64 time ‖ 16 bytes nonce ‖ KNOCK_MARKS marks of 16 bytes )
    mark  = BLAKE2b(node id ‖ time ‖ nonce)    key: the channel id, person "kachery-knock"

The node id is that of the node which is dialled. A mark that is not needed is random bytes, so that
nobody sees how many there are. Who does not know the channel learns nothing from it. Who heard it can
say it again to the same node, within KNOCK_SECONDS and until that node has heard it: each is good once.

Non-goals: proving anything. The handshake does that.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from collections import OrderedDict
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

from kachery_p2p.protocol.limits import KNOCK_MARKS, KNOCK_SECONDS, MAX_KNOCKS_KEPT

HEADER: Final = "Kachery-Knock"
NONCE_BYTES: Final = 16
MARK_BYTES: Final = 16
RANDOM_BYTES: Final = NONCE_BYTES + KNOCK_MARKS * MARK_BYTES
_TIME_BYTES: Final = 8
_PERSON: Final = b"kachery-knock"
_BYTES: Final = _TIME_BYTES + RANDOM_BYTES
_LETTERS: Final = -(-_BYTES * 4 // 3)


def make_knock(channels: Iterable[bytes], node: bytes, now: float, random: bytes) -> str:
    """The header's value.

    Args:
        channels: ids of channels that the dialled node may be on; of more than ``KNOCK_MARKS``, the
            first count.
        node: the public key of the node that is dialled.
        now: Unix time in seconds.
        random: ``RANDOM_BYTES`` fresh random bytes.
    """
    stamp, nonce = int(now).to_bytes(_TIME_BYTES, "big"), random[:NONCE_BYTES]
    marks = [_mark(channel, node, stamp + nonce) for channel in channels][:KNOCK_MARKS]
    rest = random[NONCE_BYTES + len(marks) * MARK_BYTES :]
    return urlsafe_b64encode(stamp + nonce + b"".join(marks) + rest).decode().rstrip("=")


def _mark(channel: bytes, node: bytes, fresh: bytes) -> bytes:
    return blake2b(node + fresh, digest_size=MARK_BYTES, key=channel, person=_PERSON).digest()


class Knocks:
    """What a node has heard. ``node``: its public key."""

    def __init__(self, node: bytes) -> None:
        self._node = node
        self._heard: OrderedDict[bytes, None] = OrderedDict()

    def opens(self, text: str, channels: Iterable[bytes], now: float) -> bool:
        """Whether this is a right knock for one of ``channels``, fresh, and heard for the first time.

        Never raises. One hash for each channel; none if it is malformed or not fresh.
        """
        data = _decoded(text)
        fresh, marks = data[: _TIME_BYTES + NONCE_BYTES], data[_TIME_BYTES + NONCE_BYTES :]
        if not data or abs(int.from_bytes(fresh[:_TIME_BYTES], "big") - now) > KNOCK_SECONDS:
            return False
        said = {marks[at : at + MARK_BYTES] for at in range(0, len(marks), MARK_BYTES)}
        if fresh in self._heard:
            return False
        if not any(_mark(channel, self._node, fresh) in said for channel in channels):
            return False
        self._heard[fresh] = None
        if len(self._heard) > MAX_KNOCKS_KEPT:
            self._heard.popitem(last=False)
        return True


def _decoded(text: str) -> bytes:
    if len(text) != _LETTERS:
        return b""
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (Error, ValueError):
        return b""
    return data if len(data) == _BYTES else b""
