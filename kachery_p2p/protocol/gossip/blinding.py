"""The keys under which availability is announced.

A blinded key is a keyed BLAKE2b of an identifier under the channel's secret. Who holds the secret
and already knows the identifier can compute it and ask for it; proxies, which have no secret, and
members who do not know the identifier learn nothing from the announcements they pass on.

The context is BLAKE2b's personalisation, so that the key of a file can never be that of a feed.
Blinding hides what a key stands for, not that two announcements are of the same content, nor how many
there are. It grants nothing: roles are checked on every request all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

from kachery_p2p.protocol.channels.document import SECRET_BYTES
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.limits import BLINDED_KEY_BYTES


def blinded_key(secret: bytes, context: bytes, identifier: bytes) -> bytes:
    """The blinded key of anything: 16 bytes, different for every secret, context and identifier.

    Raises:
        BadInput: the secret is not 32 bytes, or the context is empty or longer than 16 bytes.
    """
    return blinding(secret, context)(identifier)


def blinding(secret: bytes, context: bytes) -> Callable[[bytes], bytes]:
    """:func:`blinded_key` of very many identifiers of one context: what is the same for all of them is
    computed once.

    Raises:
        BadInput: as :func:`blinded_key`.
    """
    if len(secret) != SECRET_BYTES:
        raise BadInput(what="channel secret", reason=f"it is {SECRET_BYTES} bytes")
    if not 0 < len(context) <= blake2b.PERSON_SIZE:
        raise BadInput(what="blinding context", reason=f"1 to {blake2b.PERSON_SIZE} bytes")
    keyed = blake2b(digest_size=BLINDED_KEY_BYTES, key=secret, person=context)

    def blinded(identifier: bytes) -> bytes:
        state = keyed.copy()
        state.update(identifier)
        return state.digest()

    return blinded
