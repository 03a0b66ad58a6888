"""Limits of keeping things for other nodes, and of asking them for their copies."""

from __future__ import annotations

from typing import Final

from .units import MIB

MAX_KEPT_EACH: Final = 10_000
"""Things that a keeper keeps for one node on one channel. A directory is one, whatever is in it."""
MAX_KEEP_FOR: Final = 1_000
"""Nodes that one channel's offer names."""
KEEPING_EACH: Final = 4
"""Pushes that a keeper takes from one node at once."""
KEEPING_AT_ONCE: Final = 32
"""Those it takes from all."""
MAX_KEPT_LABEL: Final = 200
"""Characters of a kept thing's label that are remembered: a page of them fits a frame's header."""
MAX_KEPT_SUBFEEDS: Final = 1_000
"""Subfeeds of one pushed feed."""
KEPT_PAGE: Final = 100
"""Kept things in one answer."""
KEEP_TELL_SECONDS: Final = 1.0
"""A keeper says how far it is so often, also if nothing came meanwhile."""
KEEP_SILENCE_SECONDS: Final = 30.0
"""A keeper that has said nothing for so long is given up for another."""
KEEP_PROGRESS_SECONDS: Final = 300.0
"""A keeper that says that it goes on, and has not come on by ``KEEP_PROGRESS_BYTES`` or to the end in
so long, is given up for another: who says so need not do anything."""
KEEP_PROGRESS_BYTES: Final = 1 * MIB
"""In five minutes 3.5 kB/s: less than the slowest path that anything is pushed over."""
KEEP_UNFINISHED_SECONDS: Final = 24 * 3600.0
"""What came of a push that broke off stays for so long, and counts: it can be gone on with."""
KEPT_AFTER_REMOVAL_SECONDS: Final = 30 * 24 * 3600.0
"""What is kept for a node that is no member any more, or on a channel that was left, goes then."""
KEEP_SWEEP_SECONDS: Final = 30.0
"""Between two looks at what is over."""
KEEP_RELEASE_PAGE: Final = 500
"""Contents that are let go in one visit to the disk."""
KEEPERS_ASKED_SECONDS: Final = 5.0
"""For so long keepers are waited for that are asked what they keep."""

COPY_LOCK_SECONDS: Final = 300.0
"""A copy that another node relies on, which deletes its own, stays for so long."""
MAX_COPY_LOCKS_EACH: Final = 10_000
"""Copies that one node has locked at once."""
COPY_ASK_SECONDS: Final = 10.0
"""What asking for copies may take, before something is deleted."""
COPY_PATIENCE: Final = 1.0
"""For so long it is waited for nodes that have not said yet what they have."""
MAX_COPIES: Final = 20
"""Copies, and keepers, that one can ask for."""
