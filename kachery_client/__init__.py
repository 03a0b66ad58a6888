"""``import kachery_client as kc`` keeps working: everything here is kachery_p2p."""

import kachery_p2p
from kachery_p2p import *  # noqa: F403
from kachery_p2p import __dir__ as __dir__

__all__: list[str] = []
__all__ += kachery_p2p.__all__
