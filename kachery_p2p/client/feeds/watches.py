"""Waiting for new messages of many subfeeds at once, with one call of the node."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from kachery_p2p.client.session.connection import call
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.feeds.feed import parse_feed_uri, subfeed_hash
from kachery_p2p.protocol.json_values import one
from kachery_p2p.protocol.limits import MAX_FEED_WATCHES

from .arguments import NOBODY_HAS_IT, checked_count, seconds
from .feeds import FIRST_CONTACT_SECONDS, named_channel
from .live_logs import LiveLog, decode

Key = TypeVar("Key")

_KEYS: Final = frozenset({"feedId", "feed_uri", "subfeedName", "subfeedHash", "position"})


async def awatch_for_new_messages(
    subfeed_watches: Mapping[Key, Mapping[str, Any]],
    *,
    wait_msec: float,
    signed: bool = False,
    max_num_messages: int = 0,
    channel: str | None = None,
    strict: bool = False,
) -> dict[Key, list[Any]]:
    """Wait until at least one of several subfeeds has messages beyond a position.

    Args:
        subfeed_watches: for each key of yours a dict with ``feedId`` (64 hex digits) or ``feed_uri``,
            ``subfeedName`` or ``subfeedHash`` (not needed if the URI names the subfeed), and
            ``position``: the number of the first message wanted, 0 by default. 1,000 at most.
        wait_msec: milliseconds to wait if there is none.
        signed: each message as a dict that proves it, see :func:`check_signed_message`.
        max_num_messages: no more than so many of each; 0: as many as the node's answer holds.
        channel: name or id of the only channel on which they are looked for.
        strict: raise NotFound, or NotKnownYet, if it is one subfeed and nobody has it.

    Returns:
        The messages by key, only of those that have any; there may be more, from your position plus
        the length of the list on.

    Raises:
        BadInput, AccessDenied, FeedForked, Unreachable, DaemonNotRunning, NeedsNode
    """
    given: Any = subfeed_watches
    if not isinstance(given, Mapping):
        reason = f"{one(given)}; give a dict with one for each key of yours"
        raise BadInput(what="subfeed_watches", reason=reason)
    most, wait = checked_count("max_num_messages", max_num_messages), seconds(wait_msec)
    if len(subfeed_watches) > MAX_FEED_WATCHES:
        reason = f"{len(subfeed_watches)} of them, more than the {MAX_FEED_WATCHES} allowed"
        raise BadInput(what="subfeed_watches", reason=reason)
    if not subfeed_watches:
        return {}
    only = named_channel(channel)
    watches = [_parsed(key, watch, only) for key, watch in subfeed_watches.items()]
    params = {
        "watches": [[feed, log.subfeed, position] for feed, log, position in watches],
        "wait": wait,
        "most": most,
        "timeout": FIRST_CONTACT_SECONDS,
        "channel": only,
    }
    try:
        ready = (await call("watch_for_new_messages", "feed.watch", params))["ready"]
    except NOBODY_HAS_IT:
        if strict:
            raise
        return {}
    keys = list(subfeed_watches)
    if not signed:
        return {keys[index]: decode(data) for index, _, _, data in ready}
    reads = []
    for index, start, runs, _ in ready:
        count = sum(run[0] for run in runs)
        reads.append(watches[index][1].read(start, count, 0.0, signed=True))
    found = await asyncio.gather(*reads)
    return {keys[each[0]]: messages for each, messages in zip(ready, found, strict=True)}


def _parsed(key: Any, watch: Mapping[str, Any], channel: str | None) -> tuple[bytes, LiveLog, int]:
    """Feed id, log and position of one watch. Raises BadInput that names its key."""
    what = f"subfeed_watches[{key!r}]"
    if not isinstance(watch, Mapping):
        raise BadInput(what=what, reason=f"a {type(watch).__name__}, not a dict")
    unknown = [each for each in watch if each not in _KEYS]
    if unknown:
        raise BadInput(what=what, reason=f"{unknown[0]!r} is none of {', '.join(sorted(_KEYS))}")
    if ("feedId" in watch) == ("feed_uri" in watch):
        raise BadInput(what=what, reason="give either feedId or feed_uri")
    try:
        feed, name = parse_feed_uri(watch.get("feed_uri") or f"feed://{watch.get('feedId')}")
        names = [] if name is None else [name]
        names += [watch["subfeedName"]] if "subfeedName" in watch else []
        names += [f"~{watch['subfeedHash']}"] if "subfeedHash" in watch else []
        if len(set(map(subfeed_hash, names))) != 1:
            raise BadInput(what=what, reason="give one of subfeedName and subfeedHash")
        log = LiveLog(feed, names[0], timeout=FIRST_CONTACT_SECONDS, channel=channel)
        return feed, log, checked_count("position", watch.get("position", 0))
    except BadInput as error:
        if error.fields.get("what") == what:
            raise
        raise BadInput(what=what, reason=str(error)) from error
