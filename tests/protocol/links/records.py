"""Records of one frame, as tests send them; a link puts several into one."""

from __future__ import annotations

from kachery_p2p.protocol.codec import Buffer
from kachery_p2p.protocol.links.frames import NO_TAIL, Data, Frame, encode_header
from kachery_p2p.protocol.links.session import Seal


def record_of(seal: Seal, frame: Frame, body: Buffer | None = None) -> bytes:
    """The record of a frame, with the plain body of a sealed tail or the whole of an opaque one."""
    tails = []
    if isinstance(frame, Data) and frame.tail != NO_TAIL:
        assert body is not None
        tails.append((frame, body))
    return bytes(seal.record([encode_header(frame)], tails))
