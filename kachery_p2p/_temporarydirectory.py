"""Where kachery_p2p 0.8 had :class:`TemporaryDirectory`."""

from kachery_p2p.client.temporary import TemporaryDirectory

__all__ = ["TemporaryDirectory"]
