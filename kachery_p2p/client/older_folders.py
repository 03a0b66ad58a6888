"""Folders that older scripts ask for by name, and whether there is a node."""

from __future__ import annotations

import os
import tempfile

from kachery_p2p.local import places
from kachery_p2p.protocol.errors import DaemonNotRunning, NeedsNode

from . import nodes
from .session import portal


def kachery_storage_dir() -> str | None:
    """The folder in which content lies: of offline mode, else the node's; None without a node.

    Load with :func:`load_file`, which verifies, rather than from here.
    """
    folder = places.offline_dir()
    if folder is not None:
        return str(folder)
    try:
        return str(portal.run(nodes.anode_info, name="node_info")["storage_dir"])
    except DaemonNotRunning:
        return None


def connected_to_daemon() -> bool:
    """Whether a node of this computer answers."""
    try:
        portal.run(nodes.aget_node_id, name="get_node_id", asks_only=True)
    except (DaemonNotRunning, NeedsNode):
        return False
    return True


def kachery_temp_dir() -> str:
    """A folder for temporary files, which exists: ``KACHERY_TEMP_DIR``, else one of this user's own
    where the system keeps them."""
    folder = os.environ.get("KACHERY_TEMP_DIR")
    if not folder:
        folder = os.path.join(tempfile.gettempdir(), f"kachery-tmp-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return folder
