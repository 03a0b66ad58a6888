"""As :mod:`kachery_p2p._preventkeyboardinterrupt`, under its name in kachery_client."""

import kachery_p2p._preventkeyboardinterrupt as _same
from kachery_p2p._preventkeyboardinterrupt import *  # noqa: F403

__all__: list[str] = []
__all__ += _same.__all__
