"""As :mod:`kachery_p2p._daemon_connection`, under the name that scripts for kachery_client import."""

import kachery_p2p._daemon_connection as _same
from kachery_p2p._daemon_connection import *  # noqa: F403

__all__: list[str] = []
__all__ += _same.__all__
