"""Where kachery_p2p 0.8 had :class:`PreventKeyboardInterrupt`."""

from kachery_p2p.client.interrupts import PreventKeyboardInterrupt

__all__ = ["PreventKeyboardInterrupt"]
