"""``import kachery_client as kc`` keeps working: everything here is kachery_p2p."""

from kachery_p2p import *  # noqa: F403
from kachery_p2p import __all__

__all__ = [*__all__]
