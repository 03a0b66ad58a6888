"""As :mod:`kachery_p2p._exceptions`, under the name that scripts for kachery_client import."""

import kachery_p2p._exceptions as _same
from kachery_p2p._exceptions import *  # noqa: F403

__all__: list[str] = []
__all__ += _same.__all__
