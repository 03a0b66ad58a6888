"""The Noise handshake over a fresh transport: who is there, and the keys of the session with them.

The rules are in :mod:`kachery_p2p.protocol.links.noise`. What a session is used for, and whether
its peer is welcome, is decided by others, after it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from kachery_p2p.protocol.errors import DeadlineExceeded, KacheryError
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import HANDSHAKE_SECONDS
from kachery_p2p.protocol.links.noise import Handshake
from kachery_p2p.protocol.links.session import Session, prologue, unwrap_handshake

from .transport import Transport


async def handshake(
    transport: Transport,
    *,
    initiator: bool,
    key: NodeKey,
    random_bytes: Callable[[int], bytes],
    expected_peer: bytes | None = None,
) -> Session:
    """Run the Noise handshake over a fresh transport.

    Raises:
        VersionMismatch, ProtocolViolation, LinkClosed, DeadlineExceeded
    """
    noise = Handshake(
        initiator=initiator,
        key=key,
        static=random_bytes(32),
        ephemeral=random_bytes(32),
        prologue=prologue(),
        expected_peer=expected_peer,
    )
    loop = asyncio.get_running_loop()
    rtt, said = 0.0, None
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            turn = initiator
            while not noise.finished:
                if turn:
                    said = loop.time()
                    await transport.send(prologue() + noise.write())
                else:
                    try:
                        message = unwrap_handshake(await transport.receive())
                    except KacheryError:
                        if not initiator:
                            # The initiator learns our version from this, if it is one of us.
                            with contextlib.suppress(KacheryError):
                                await transport.send(prologue())
                        raise
                    if said is not None:
                        rtt = loop.time() - said
                    noise.read(message)
                turn = not turn
    except TimeoutError as error:
        raise DeadlineExceeded(
            what=f"The handshake with {transport.name}", seconds=HANDSHAKE_SECONDS
        ) from error
    send_key, receive_key = noise.split()
    return Session(
        send_key=send_key,
        receive_key=receive_key,
        peer=noise.peer,
        handshake_hash=noise.handshake_hash,
        rtt=rtt,
    )
