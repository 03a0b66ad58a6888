"""The sync twins: each is the async function of the same name with an ``a`` in front, run on the
portal's loop (:mod:`.session.portal`). Nothing else is here, so the two cannot differ."""

from __future__ import annotations

from kachery_p2p.client.session.portal import twin

from . import nodes
from .channels import invitations, shares
from .feeds import feeds, watches
from .files import finds, keeping, loads, opened, origins, pushing, stores, tables, uploads
from .files.older import todays
from .folders import arrays, directories
from .tasks import requests as task_requests
from .tasks import tasks
from .views import table, timeseries, views

store_bytes = twin(stores.astore_bytes, asks_only=True)
store_text = twin(stores.astore_text, asks_only=True)
store_json = twin(stores.astore_json, asks_only=True)
store_npy = twin(stores.astore_npy)
store_pkl = twin(stores.astore_pkl)
store_npz = twin(tables.astore_npz)
store_parquet = twin(tables.astore_parquet)
store_file = twin(stores.astore_file)
link_file = twin(stores.alink_file)
store_dir = twin(directories.astore_dir)
store_zarr = twin(arrays.astore_zarr)
load_dir = twin(directories.aload_dir)
list_dir = twin(directories.alist_dir)
load_file = twin(loads.aload_file, older=todays)
load_bytes = twin(loads.aload_bytes, older=todays)
load_text = twin(loads.aload_text, older=todays)
load_json = twin(loads.aload_json, older=todays)
load_npy = twin(loads.aload_npy, older=todays)
load_pkl = twin(loads.aload_pkl, older=todays)
open = twin(opened.aopen)
load_npz = twin(tables.aload_npz)
load_parquet = twin(tables.aload_parquet)
find_file = twin(finds.afind_file, older=todays)
upload_file = twin(uploads.aupload_file)
upload_text = twin(uploads.aupload_text)
upload_json = twin(uploads.aupload_json)
upload_npy = twin(uploads.aupload_npy)
upload_pkl = twin(uploads.aupload_pkl)

storage_usage = twin(keeping.astorage_usage, asks_only=True)
delete_file = twin(keeping.adelete_file)
unshare_file = twin(keeping.aunshare_file)
pin = twin(keeping.apin)
unpin = twin(keeping.aunpin)
collect_garbage = twin(keeping.acollect_garbage)
set_max_storage = twin(keeping.aset_max_storage)
verify = twin(keeping.averify)
list_origins = twin(origins.alist_origins)
set_origins = twin(origins.aset_origins)
archive = twin(origins.aarchive)

push = twin(pushing.apush)
get_keepers = twin(pushing.aget_keepers)
list_kept = twin(pushing.alist_kept)
drop_kept = twin(pushing.adrop_kept)
release_kept = twin(pushing.arelease_kept)
set_keeping = twin(pushing.aset_keeping)

get_node_id = twin(nodes.aget_node_id, asks_only=True)
node_info = twin(nodes.anode_info, asks_only=True)
node_status = twin(nodes.anode_status, asks_only=True)
get_channels = twin(nodes.aget_channels, asks_only=True)
set_rates = twin(nodes.aset_rates)
stop_node = twin(nodes.astop_node)
set = twin(nodes.aset, asks_only=True)
get = twin(nodes.aget, asks_only=True)
get_string = twin(nodes.aget_string, asks_only=True)
delete = twin(nodes.adelete, asks_only=True)

channel_create = twin(nodes.achannel_create)
channel_join = twin(nodes.achannel_join)
channel_leave = twin(nodes.achannel_leave)
channel_show = twin(nodes.achannel_show)
channel_export = twin(nodes.achannel_export)
channel_add_node = twin(nodes.achannel_add_node)
channel_remove_node = twin(nodes.achannel_remove_node)
channel_set_roles = twin(nodes.achannel_set_roles)
find_member = twin(nodes.afind_member, asks_only=True)
channel_authorise = twin(invitations.achannel_authorise)
channel_invite = twin(invitations.achannel_invite)
channel_invites = twin(invitations.achannel_invites)
channel_revoke_invite = twin(invitations.achannel_revoke_invite)
channel_revoke_invites = twin(invitations.achannel_revoke_invites)
share = twin(shares.ashare)
share_info = twin(shares.ashare_info)
list_shares = twin(shares.alist_shares)
revoke_share = twin(shares.arevoke_share)
view_url = twin(views.aview_url)
view_info = twin(views.aview_info)
view_timeseries = twin(timeseries.aview_timeseries)
view_table = twin(table.aview_table)

create_feed = twin(feeds.acreate_feed, asks_only=True)
load_feed = twin(feeds.aload_feed)
get_feed_id = twin(feeds.aget_feed_id, asks_only=True)
delete_feed = twin(feeds.adelete_feed, asks_only=True)
list_feeds = twin(feeds.alist_feeds, asks_only=True)
load_subfeed = twin(feeds.aload_subfeed)
watch_for_new_messages = twin(watches.awatch_for_new_messages)

request_task = twin(task_requests.arequest_task)
list_tasks = twin(tasks.alist_tasks)
get_offers = twin(tasks.aget_offers)
show_tasks = twin(tasks.ashow_tasks)
cancel_task = twin(tasks.acancel_task)
