"""The ``upload_*`` functions of kachery_client: what is stored here is pushed to a keeper, a member of
the channel that keeps things for this node. If there is none within reach, it is provided while this
node runs, or any other that loaded it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kachery_p2p.client.session import offline
from kachery_p2p.client.session.connection import call
from kachery_p2p.protocol.errors import NotFound

from . import loads, stores
from .pushing import pushed_if_kept
from .uris import PathLike, is_uri, parse_file_uri

if TYPE_CHECKING:
    from numpy.typing import NDArray


async def aupload_file(
    path_or_uri: PathLike, *, channel: str | None = None, single_chunk: bool = False
) -> str:
    """Provide a file on a channel, have it kept by a keeper if one can be reached, and return its URI.

    Args:
        path_or_uri: a file, which is stored; or the ``sha1://`` URI of one that is on this computer.
        channel: provide it on this channel only; on all by default.
        single_chunk: ignored; it was about the cloud's storage.

    Raises:
        NotFound: what the URI names is not on this computer.
        KeepRefused: no keeper takes it; it is stored, and provided while this node runs.
        NeedsNode, others as :func:`store_file`.
    """
    offline.require_node("upload_file")
    if not is_uri(path_or_uri):
        return await pushed_if_kept(await stores.astore_file(path_or_uri, channel=channel), channel)
    uri = str(path_or_uri)
    path = await loads.aload_file(uri, local_only=True, progress=False)
    if path is None:
        detail = "upload_file provides what is on this computer; load_file fetches it"
        raise NotFound(what=uri, detail=detail)
    if channel is not None:
        content = {"sha1": parse_file_uri(uri).hash, "channel": channel}
        if not (await call("upload_file", "here", content))["here"]:
            # It came from another channel. Stored, for that one, it is this node's to give there.
            await stores.astore_file(path, channel=channel)
    return await pushed_if_kept(uri, channel)


async def aupload_text(
    x: str, *, channel: str | None = None, basename: str | None = None, single_chunk: bool = False
) -> str:
    """:func:`store_text` on a channel. Arguments and errors as :func:`upload_file`."""
    offline.require_node("upload_text")
    uri = await stores.astore_text(x, basename, channel=channel)
    return await pushed_if_kept(uri, channel)


async def aupload_json(
    x: Any, *, channel: str | None = None, basename: str | None = None, single_chunk: bool = False
) -> str:
    """:func:`store_json` on a channel. Arguments and errors as :func:`upload_file`."""
    offline.require_node("upload_json")
    uri = await stores.astore_json(x, basename, channel=channel)
    return await pushed_if_kept(uri, channel)


async def aupload_npy(
    x: NDArray[Any],
    *,
    channel: str | None = None,
    basename: str | None = None,
    single_chunk: bool = False,
) -> str:
    """:func:`store_npy` on a channel. Arguments and errors as :func:`upload_file`."""
    offline.require_node("upload_npy")
    uri = await stores.astore_npy(x, basename, channel=channel)
    return await pushed_if_kept(uri, channel)


async def aupload_pkl(
    x: Any, *, channel: str | None = None, basename: str | None = None, single_chunk: bool = False
) -> str:
    """:func:`store_pkl` on a channel. Arguments and errors as :func:`upload_file`."""
    offline.require_node("upload_pkl")
    uri = await stores.astore_pkl(x, basename, channel=channel)
    return await pushed_if_kept(uri, channel)
