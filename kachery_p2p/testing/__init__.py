"""Networks of real nodes for tests.

>>> from kachery_p2p.testing import Network
>>> with Network(2) as network:
...     with network["A"].at():
...         uri = kachery_p2p.store_text("some text")

With pytest: the fixtures ``kachery_node`` and ``kachery_network`` (:mod:`kachery_p2p.pytest_plugin`).
"""

from .daemons import Daemon, free_port
from .network import PROXY, Network
from .nodes import AnyNode

__all__ = ["PROXY", "AnyNode", "Daemon", "Network", "free_port"]
