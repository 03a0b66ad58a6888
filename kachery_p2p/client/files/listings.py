"""The listing behind a ``sha1dir://`` URI: what is in a folder that was stored.

Listings are kept in memory for a while, since they never change: whoever opens ten thousand files of a
folder one after the other reads it once.
"""

from __future__ import annotations

from collections import OrderedDict

from kachery_p2p.client.display.progress import Progress, Transfer
from kachery_p2p.client.session import blocking
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.files.directory import Directory, parse
from kachery_p2p.protocol.limits import (
    LISTINGS_KEPT,
    LISTINGS_KEPT_BYTES,
    MAX_DIRECTORY_LISTING,
    MIB,
)
from kachery_p2p.protocol.uri import KacheryUri, parse_uri

from .content import Content
from .scope import scope

_kept: OrderedDict[str, tuple[Directory, int]] = OrderedDict()
"""By hash, with the bytes of each; what was used last is the last."""


async def load_listing(
    sha1: str, local_only: bool, channel: str | None, progress: Progress
) -> Directory | None:
    """A listing by its hash; None: nobody reachable has it.

    Raises:
        BadInput: it is none. Others as :func:`.loads.aload_file`.
    """
    # Where the caller works for others, the node says each time what they may have.
    shared = scope() is None and channel is None
    if shared and sha1 in _kept:
        _kept.move_to_end(sha1)
        return _kept[sha1][0]
    uri = parse_uri(f"sha1://{sha1}/folder.json")
    with Transfer("loading", uri.label, progress) as moving:
        data = await Content(uri, local_only, channel, moving).range(0, MAX_DIRECTORY_LISTING + 1)
    if data is None:
        return None
    try:
        listing = await blocking.beside(parse, data) if len(data) > MIB else parse(data)
    except BadInput as error:
        raise BadInput(what=f"sha1dir://{sha1}", reason=error.fields["reason"]) from None
    if shared and len(data) <= LISTINGS_KEPT_BYTES:
        _kept[sha1] = listing, len(data)
        while (
            len(_kept) > LISTINGS_KEPT
            or sum(size for _, size in _kept.values()) > LISTINGS_KEPT_BYTES
        ):
            _kept.popitem(last=False)
    return listing


def folder_uri(text: str) -> KacheryUri:
    """A ``sha1dir://`` URI. Raises BadUri, BadInput."""
    uri = parse_uri(text)
    if uri.kind != "sha1dir":
        reason = "it names no folder, as sha1dir://... does; a file is loaded with load_file"
        raise BadInput(what=text, reason=reason)
    return uri


async def load_folder(
    text: str, local_only: bool, channel: str | None, progress: Progress
) -> tuple[KacheryUri, Directory] | None:
    """The folder that a URI leads to; None: nobody reachable has the listing.

    Raises:
        BadInput: it leads to a file, or nowhere.
    """
    uri = folder_uri(text)
    listing = await load_listing(uri.hash, local_only, channel, progress)
    if listing is None:
        return None
    found = listing.at(uri.path)
    if isinstance(found, Directory):
        return uri, found
    if found is None:
        raise BadInput(
            what=text, reason=f"there is no {uri.path!r} in that folder; list_dir says what is"
        )
    raise BadInput(what=text, reason="this is a file of that folder; load it with load_file")


async def leads_to_folder(text: str, channel: str | None) -> bool:
    """Whether a URI leads to a folder; False too if nobody reachable has the listing that would say
    so."""
    uri = parse_uri(text)
    if uri.kind != "sha1dir":
        return False
    listing = await load_listing(uri.hash, False, channel, False)
    return listing is not None and isinstance(listing.at(uri.path), Directory)
