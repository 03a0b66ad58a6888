"""Every method there is, collected from the rooms. A new noun is one more line here."""

from __future__ import annotations

from typing import Final

from .channels import messages as channels
from .feeds import messages as feeds
from .files import messages as files
from .gossip import messages as gossip
from .keepers import messages as keepers
from .links import messages as links
from .method import Method
from .tasks import messages as tasks

METHODS: Final[dict[str, Method]] = {
    method.name: method
    for room in (links, channels, gossip, files, feeds, tasks, keepers)
    for method in room.METHODS
}
"""By name."""
