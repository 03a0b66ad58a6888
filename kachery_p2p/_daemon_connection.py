"""Where kachery_p2p 0.8 had what scripts ask of the daemon before they ask anything else."""

from kachery_p2p.client.older_folders import (
    connected_to_daemon as _connected_to_daemon,
)
from kachery_p2p.client.older_folders import (
    kachery_storage_dir as _kachery_storage_dir,
)
from kachery_p2p.client.older_folders import (
    kachery_temp_dir as _kachery_temp_dir,
)
from kachery_p2p.client.sync import get_node_id as _get_node_id

__all__ = ["_connected_to_daemon", "_get_node_id", "_kachery_storage_dir", "_kachery_temp_dir"]
