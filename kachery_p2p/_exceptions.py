"""Where kachery_p2p 0.8 had its error; today's are in :mod:`kachery_p2p.errors`."""

from kachery_p2p.protocol.errors import KacheryError as LoadFileError

__all__ = ["LoadFileError"]
