"""Everything that people find in :mod:`kachery_p2p`, under the names by which they know it.

It is a module of its own because Python imports a package before any of its modules: the node's process
would load all of the client first. So the package fetches these names when somebody asks for one.
"""

from kachery_p2p._version import __version__
from kachery_p2p.client.channels.invitations import (
    achannel_authorise,
    achannel_invite,
    achannel_invites,
    achannel_revoke_invite,
    achannel_revoke_invites,
)
from kachery_p2p.client.channels.shares import alist_shares, arevoke_share, ashare
from kachery_p2p.client.display.progress import ProgressInfo
from kachery_p2p.client.feeds.feeds import (
    Feed,
    acreate_feed,
    adelete_feed,
    aget_feed_id,
    alist_feeds,
    aload_feed,
    aload_subfeed,
)
from kachery_p2p.client.feeds.subfeeds import Subfeed
from kachery_p2p.client.feeds.watches import awatch_for_new_messages
from kachery_p2p.client.files.finds import afind_file
from kachery_p2p.client.files.keeping import (
    acollect_garbage,
    adelete_file,
    alist_files,
    apin,
    aset_max_storage,
    astorage_usage,
    aunpin,
    aunshare_file,
    averify,
    list_files,
)
from kachery_p2p.client.files.loads import (
    aload_bytes,
    aload_file,
    aload_json,
    aload_npy,
    aload_pkl,
    aload_text,
)
from kachery_p2p.client.files.opened import File, aopen
from kachery_p2p.client.files.origins import aarchive, alist_origins, aset_origins
from kachery_p2p.client.files.pushing import (
    adrop_kept,
    aget_keepers,
    alist_kept,
    apush,
    arelease_kept,
    aset_keeping,
)
from kachery_p2p.client.files.stores import (
    alink_file,
    astore_bytes,
    astore_file,
    astore_json,
    astore_npy,
    astore_pkl,
    astore_text,
)
from kachery_p2p.client.files.tables import (
    aload_npz,
    aload_parquet,
    astore_npz,
    astore_parquet,
)
from kachery_p2p.client.files.uploads import (
    aupload_file,
    aupload_json,
    aupload_npy,
    aupload_pkl,
    aupload_text,
)
from kachery_p2p.client.folders.arrays import astore_zarr
from kachery_p2p.client.folders.directories import DirEntry, alist_dir, aload_dir, astore_dir
from kachery_p2p.client.folders.many import (
    LoadedFile,
    StoredFile,
    aload_many,
    astore_many,
    load_many,
    store_many,
)
from kachery_p2p.client.nodes import (
    achannel_add_node,
    achannel_create,
    achannel_export,
    achannel_join,
    achannel_leave,
    achannel_remove_node,
    achannel_set_roles,
    achannel_show,
    adelete,
    aget,
    aget_channels,
    aget_node_id,
    aget_string,
    anode_info,
    anode_status,
    aset,
    aset_rates,
    astop_node,
)
from kachery_p2p.client.older_folders import kachery_storage_dir as _kachery_storage_dir
from kachery_p2p.client.older_folders import kachery_temp_dir as _kachery_temp_dir
from kachery_p2p.client.shellscript import ShellScript
from kachery_p2p.client.sync import (
    archive,
    channel_add_node,
    channel_authorise,
    channel_create,
    channel_export,
    channel_invite,
    channel_invites,
    channel_join,
    channel_leave,
    channel_remove_node,
    channel_revoke_invite,
    channel_revoke_invites,
    channel_set_roles,
    channel_show,
    collect_garbage,
    create_feed,
    delete,
    delete_feed,
    delete_file,
    drop_kept,
    find_file,
    get,
    get_channels,
    get_feed_id,
    get_keepers,
    get_node_id,
    get_string,
    link_file,
    list_dir,
    list_feeds,
    list_kept,
    list_origins,
    list_shares,
    list_tasks,
    load_bytes,
    load_dir,
    load_feed,
    load_file,
    load_json,
    load_npy,
    load_npz,
    load_parquet,
    load_pkl,
    load_subfeed,
    load_text,
    node_info,
    node_status,
    pin,
    push,
    release_kept,
    request_task,
    revoke_share,
    set,
    set_keeping,
    set_max_storage,
    set_origins,
    set_rates,
    share,
    stop_node,
    storage_usage,
    store_bytes,
    store_dir,
    store_file,
    store_json,
    store_npy,
    store_npz,
    store_parquet,
    store_pkl,
    store_text,
    store_zarr,
    unpin,
    unshare_file,
    upload_file,
    upload_json,
    upload_npy,
    upload_pkl,
    upload_text,
    verify,
    view_table,
    view_timeseries,
    view_url,
    watch_for_new_messages,
)
from kachery_p2p.client.sync import (
    open as open,
)
from kachery_p2p.client.tasks.context import task_cancelled, task_progress
from kachery_p2p.client.tasks.functions import taskfunction
from kachery_p2p.client.tasks.requests import TaskRequest, arequest_task
from kachery_p2p.client.tasks.serving import arun_task_backend, run_task_backend, task_backend
from kachery_p2p.client.tasks.tasks import alist_tasks, arun_task, run_task
from kachery_p2p.client.temporary import TemporaryDirectory
from kachery_p2p.client.views.table import aview_table
from kachery_p2p.client.views.timeseries import aview_timeseries
from kachery_p2p.client.views.views import aview_url
from kachery_p2p.embedded import Node
from kachery_p2p.protocol import errors
from kachery_p2p.protocol.errors import KacheryError
from kachery_p2p.protocol.feeds.signed_message import check_signed_message
from kachery_p2p.protocol.limits import PROTOCOL_VERSION
from kachery_p2p.protocol.uri import KacheryUri, build_uri, parse_uri
from kachery_p2p.testdaemon import TestDaemon

# The names of before, for the same functions.
store_object, astore_object = store_json, astore_json
load_object, aload_object = load_json, aload_json
stop_daemon, astop_daemon = stop_node, astop_node
_run_task = run_task
LoadFileError = KacheryError
__protocol_version__ = str(PROTOCOL_VERSION)

# All but 'open': who imports * means Python's.
__all__ = [
    "DirEntry", "Feed", "File", "KacheryError", "KacheryUri", "LoadFileError", "LoadedFile",
    "Node", "ProgressInfo", "ShellScript", "StoredFile", "Subfeed", "TaskRequest",
    "TemporaryDirectory", "TestDaemon", "__protocol_version__", "__version__",
    "_kachery_storage_dir", "_kachery_temp_dir", "_run_task", "aarchive", "achannel_add_node",
    "achannel_authorise", "achannel_create", "achannel_export", "achannel_invite",
    "achannel_invites", "achannel_join", "achannel_leave", "achannel_remove_node",
    "achannel_revoke_invite", "achannel_revoke_invites", "achannel_set_roles", "achannel_show",
    "acollect_garbage", "acreate_feed", "adelete", "adelete_feed", "adelete_file", "adrop_kept",
    "afind_file", "aget", "aget_channels", "aget_feed_id", "aget_keepers", "aget_node_id",
    "aget_string", "alink_file", "alist_dir", "alist_feeds", "alist_files", "alist_kept",
    "alist_origins", "alist_shares", "alist_tasks", "aload_bytes", "aload_dir", "aload_feed",
    "aload_file", "aload_json", "aload_many", "aload_npy", "aload_npz", "aload_object",
    "aload_parquet", "aload_pkl", "aload_subfeed", "aload_text", "anode_info", "anode_status",
    "aopen", "apin", "apush", "archive", "arelease_kept", "arequest_task", "arevoke_share",
    "arun_task", "arun_task_backend", "aset", "aset_keeping", "aset_max_storage",
    "aset_origins", "aset_rates", "ashare", "astop_daemon", "astop_node", "astorage_usage",
    "astore_bytes", "astore_dir", "astore_file", "astore_json", "astore_many", "astore_npy",
    "astore_npz",
    "astore_object", "astore_parquet", "astore_pkl", "astore_text", "astore_zarr", "aunpin",
    "aunshare_file", "aupload_file", "aupload_json", "aupload_npy", "aupload_pkl",
    "aupload_text", "averify", "aview_table", "aview_timeseries", "aview_url",
    "awatch_for_new_messages", "build_uri", "channel_add_node", "channel_authorise",
    "channel_create", "channel_export", "channel_invite", "channel_invites", "channel_join",
    "channel_leave", "channel_remove_node", "channel_revoke_invite", "channel_revoke_invites",
    "channel_set_roles", "channel_show", "check_signed_message", "collect_garbage",
    "create_feed", "delete", "delete_feed", "delete_file", "drop_kept", "errors", "find_file",
    "get", "get_channels", "get_feed_id", "get_keepers", "get_node_id", "get_string",
    "link_file", "list_dir", "list_feeds", "list_files", "list_kept", "list_origins",
    "list_shares", "list_tasks", "load_bytes", "load_dir", "load_feed", "load_file",
    "load_json", "load_many", "load_npy", "load_npz", "load_object", "load_parquet", "load_pkl",
    "load_subfeed", "load_text", "node_info", "node_status", "parse_uri", "pin", "push",
    "release_kept", "request_task", "revoke_share", "run_task", "run_task_backend", "set",
    "set_keeping", "set_max_storage", "set_origins", "set_rates", "share", "stop_daemon", "stop_node",
    "storage_usage", "store_bytes", "store_dir", "store_file", "store_json", "store_many",
    "store_npy", "store_npz", "store_object", "store_parquet", "store_pkl", "store_text",
    "store_zarr", "task_backend", "task_cancelled", "task_progress", "taskfunction", "unpin",
    "unshare_file", "upload_file", "upload_json", "upload_npy", "upload_pkl", "upload_text",
    "verify", "view_table", "view_timeseries", "view_url", "watch_for_new_messages",
]  # fmt: skip


def _public() -> None:
    # What is pickled goes by its module and name, and so does what help() shows: both are to be those
    # under which people know it.
    for name in [*__all__, "open"]:
        value = globals()[name]
        module = getattr(value, "__module__", "")
        if module.startswith(f"{__package__}.") and getattr(value, "__qualname__", "") == name:
            value.__module__ = __package__


_public()
