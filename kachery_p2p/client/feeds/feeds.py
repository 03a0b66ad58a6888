"""Feeds: the async API. The sync twins are in :mod:`.sync`, and beside each method.

A feed is a key pair; the node with the secret key appends, everybody else on a common channel reads.
It is named by its ``feed://`` URI, on its owner's node also by a name of its own, and a snapshot of
it by a ``sha1://`` URI. Making a :class:`Feed` or a :class:`.subfeeds.Subfeed` asks no other node:
the first read does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from kachery_p2p.client.display.notebook_html import table
from kachery_p2p.client.files import loads, stores
from kachery_p2p.client.session.connection import call
from kachery_p2p.client.session.portal import twin
from kachery_p2p.local import places
from kachery_p2p.protocol.arguments import several, text_or_none
from kachery_p2p.protocol.errors import BadInput, DeadlineExceeded, NotFound, UnknownFeed
from kachery_p2p.protocol.feeds.feed import feed_uri, parse_feed_uri, subfeed_hash
from kachery_p2p.protocol.json_values import one
from kachery_p2p.protocol.numbers import real

from .flag import Flag
from .info import described, described_snapshot
from .live_logs import LiveLog
from .snapshots import BASENAME, Snapshot, is_snapshot_uri, parse_snapshot_uri, snapshot_content
from .subfeeds import Subfeed

LOCAL_CHANNEL: Final = "*local*"
FIRST_CONTACT_SECONDS: Final = 10.0
"""For which the first read of a subfeed asks the channel, unless ``timeout_sec`` says otherwise."""


class Feed:
    """A feed: any number of subfeeds under one key, or a snapshot of some of them.

    Made by :func:`create_feed` and :func:`load_feed`.
    """

    def __init__(
        self,
        source: bytes | Snapshot,
        *,
        is_writeable: bool = False,
        timeout_sec: float | None = None,
        channel: str | None = None,
    ) -> None:
        """``source``: the feed id, 32 bytes, or the content of a snapshot. Raises BadInput."""
        given: Any = source
        if not isinstance(given, bytes | Snapshot):
            reason = f"made of {one(given)}; use load_feed(), which takes its URI or name"
            raise BadInput(what="a Feed", reason=reason)
        self._source = source
        self._writeable = is_writeable
        self._timeout = _checked_timeout(timeout_sec)
        self._channel = named_channel(channel)

    @property
    def uri(self) -> str:
        """``feed://<64 hex>``, or the ``sha1://`` URI of a snapshot."""
        return self._source.uri if isinstance(self._source, Snapshot) else feed_uri(self._source)

    @property
    def feed_id(self) -> str:
        """64 hex digits, the feed's public key. Raises BadInput for a snapshot, which has none."""
        return self._feed("has no feed id, it has its URI").hex()

    @property
    def is_writeable(self) -> Flag:
        """Whether this node has the feed's key, so that it can append."""
        return Flag(self._writeable)

    @property
    def is_snapshot(self) -> Flag:
        """Whether it is the constant content of a file."""
        return Flag(isinstance(self._source, Snapshot))

    def get_uri(self) -> str:
        """:attr:`uri`, under its name of before."""
        return self.uri

    def get_feed_id(self) -> str:
        """:attr:`feed_id`, under its name of before."""
        return self.feed_id

    def load_subfeed(
        self, subfeed_name: Any, position: int = 0, channel: str | None = None
    ) -> Subfeed:
        """A subfeed; on a live feed it need not exist yet. Nobody is asked.

        Args:
            subfeed_name: text, or any other JSON value; ``~`` and 40 hex digits stand for a name by
                its hash. Text counts as it is written: it is not normalised, so an accented letter as
                one character (NFC) and as two (NFD) make two names.
            position: the number of the message to read first.
            channel: name or id of the only channel on which it is looked for; by default that of
                the feed.

        Raises:
            BadInput: it is no name.
        """
        if isinstance(self._source, Snapshot):
            return Subfeed(self._source.log(subfeed_name), subfeed_name, position)
        only = named_channel(channel) or self._channel
        log = LiveLog(self._source, subfeed_name, timeout=self._timeout, channel=only)
        return Subfeed(log, subfeed_name, position, is_writeable=self._writeable)

    get_subfeed = load_subfeed

    async def acreate_snapshot(self, subfeed_names: Iterable[Any]) -> Feed:
        """Store all messages that some subfeeds have now as a file, and load that.

        Args:
            subfeed_names: names as for :meth:`load_subfeed`.

        Returns:
            A feed that never changes and is named by a ``sha1://`` URI; it needs no key to vouch
            for it.

        Raises:
            as :meth:`Subfeed.get_next_messages` and :func:`store_json`.
        """
        content: dict[bytes, list[Any]] = {}
        for name in several("subfeed_names", subfeed_names):
            messages = await self.load_subfeed(name).aget_next_messages(wait_msec=0)
            content[subfeed_hash(name)] = messages
        stored = snapshot_content(content)
        uri = await stores.astore_json(stored, basename=BASENAME)
        return Feed(Snapshot(uri, stored))

    async def adelete(self) -> bool:
        """Remove the feed from this node, with its key if that is here: then nobody can ever append
        to it again. Copies on other nodes stay.

        Returns:
            Whether there was anything to remove.

        Raises:
            BadInput (a snapshot), ReadOnlyUser, DaemonNotRunning, NeedsNode
        """
        feed = self._feed("is a file and has nothing that could be deleted here")
        deleted: bool = (await call("delete_feed", "feed.delete", {"feed": feed}))["deleted"]
        return deleted

    async def ashow(self, subfeed_name: Any = None) -> dict[str, Any]:
        """What is known of the feed, or of one subfeed: who holds how much of it, and forks.

        Returns:
            uri, feed_id, name, writeable, snapshot, subfeeds (as :func:`list_feeds` has them),
            holders (dicts with node, label, owner, size, route), followers, fork (None, or first and
            second head with size, root, timestamp), decision (None, or the head that the owner decided
            for after a fork), detail (who was asked, in words).

        Raises:
            as :meth:`Subfeed.get_next_messages`
        """
        if isinstance(self._source, Snapshot):
            return described_snapshot(self._source, subfeed_name)
        subfeed = None if subfeed_name is None else subfeed_hash(subfeed_name)
        params = {
            "feed": self._source, "subfeed": subfeed,
            "timeout": self._timeout, "channel": self._channel,
        }  # fmt: skip
        answer = await call("show", "feed.show", params)
        others = {
            key: answer[key] for key in ("holders", "followers", "fork", "decision", "detail")
        }
        shown = {**described(answer), **others}
        if subfeed is not None:
            shown["subfeeds"] = [s for s in shown["subfeeds"] if s["hash"] == subfeed.hex()]
        return shown

    create_snapshot = twin(acreate_snapshot)
    delete = twin(adelete)
    show = twin(ashow)

    def _feed(self, otherwise: str) -> bytes:
        if isinstance(self._source, Snapshot):
            raise BadInput(what=self.uri, reason=f"a snapshot {otherwise}")
        return self._source

    def __repr__(self) -> str:
        return f"<Feed {self.uri} ({self._kind})>"

    def _repr_html_(self) -> str:
        """What notebooks show. It asks nobody, so it is quick, and never fails."""
        return table("Feed", [("URI", self.uri), ("kind", self._kind), ("channel", self._channel)])

    @property
    def _kind(self) -> str:
        return "snapshot" if self.is_snapshot else "writeable" if self._writeable else "read-only"


async def acreate_feed(feed_name: str | None = None, *, replace: bool = True) -> Feed:
    """Make a feed, whose key stays on this node.

    Args:
        feed_name: a name that it has on this node only. The feed that had it keeps its URI and its
            messages, and has no name any more; ``load_feed(feed_name, create=True)`` takes the feed
            that has it.
        replace: whether the name may be taken from another feed.

    Raises:
        BadInput: there is a feed of that name, and ``replace`` is off.
        ReadOnlyUser, DaemonNotRunning, NeedsNode
    """
    if feed_name is not None:
        _check_name(feed_name)
    return Feed(await _create(feed_name, replace=replace), is_writeable=True)


async def aload_feed(
    feed_name_or_uri: str,
    *,
    timeout_sec: float | None = None,
    create: bool = False,
    channel: str | None = None,
) -> Feed:
    """A feed, by its URI or by the name that it has on this node.

    Args:
        feed_name_or_uri: ``feed://``, the ``sha1://`` of a snapshot, or a name.
        timeout_sec: for the first contact with the channel, 10 by default.
        create: make a feed of that name if there is none.
        channel: name or id of the only channel on which it is looked for.

    Raises:
        UnknownFeed: no feed has that name here.
        NotFound: nobody reachable has the snapshot.
        BadUri, BadInput, DaemonNotRunning, NeedsNode
    """
    timeout = _checked_timeout(timeout_sec)
    if _is_uri(feed_name_or_uri) and create:
        raise BadInput(
            what=feed_name_or_uri, reason="a feed is created under a name, not under a URI"
        )
    if is_snapshot_uri(feed_name_or_uri):
        return Feed(await _load_snapshot(feed_name_or_uri, timeout_sec, channel))
    feed = await _find(feed_name_or_uri, create)
    known = await call("load_feed", "feed.info", {"feed": feed})
    return Feed(feed, is_writeable=known["writable"], timeout_sec=timeout, channel=channel)


async def aget_feed_id(feed_name: str, *, create: bool = False) -> str:
    """The id (64 hex digits) of the feed that has this name on this node.

    Args:
        create: make it if there is none.

    Raises:
        UnknownFeed, BadInput, DaemonNotRunning, NeedsNode
    """
    return (await _named(feed_name, create)).hex()


async def adelete_feed(feed_name_or_uri: str) -> bool:
    """Remove a feed from this node, with its key; whether there was one. As :meth:`Feed.delete`.

    Raises:
        UnknownFeed: no feed has that name here.
        BadInput, ReadOnlyUser, DaemonNotRunning, NeedsNode
    """
    if _is_uri(feed_name_or_uri) and is_snapshot_uri(feed_name_or_uri):
        raise BadInput(what=feed_name_or_uri, reason="a snapshot is a file; nothing is deleted")
    return await Feed(await _find(feed_name_or_uri)).adelete()


async def aload_subfeed(subfeed_uri: str, channel: str | None = None) -> Subfeed:
    """A subfeed by its URI: ``feed://<64 hex>/<name>``, or that of a snapshot's subfeed.

    Args:
        channel: name or id of the only channel on which it is looked for.

    Raises:
        NotFound: nobody reachable has the snapshot.
        BadUri, BadInput, DaemonNotRunning, NeedsNode
    """
    if not _is_uri(subfeed_uri):
        reason = "it is no URI; use load_feed(...).load_subfeed(...)"
        raise BadInput(what=subfeed_uri, reason=reason)
    snapshot, name = (
        parse_snapshot_uri(subfeed_uri)
        if is_snapshot_uri(subfeed_uri)
        else (None, parse_feed_uri(subfeed_uri)[1])
    )
    if name is None:
        raise BadInput(what=subfeed_uri, reason="it names no subfeed; use load_feed")
    if snapshot is not None:
        return Feed(await _load_snapshot(snapshot, None, channel)).load_subfeed(name)
    feed = parse_feed_uri(subfeed_uri)[0]
    known = await call("load_subfeed", "feed.info", {"feed": feed})
    return Feed(feed, is_writeable=known["writable"], channel=channel).load_subfeed(name)


async def alist_feeds() -> list[dict[str, Any]]:
    """The feeds that this node has anything of.

    Returns:
        For each a dict with uri, feed_id, name (or None), writeable, snapshot, created (seconds since
        1970, or None) and subfeeds: uri, name (or None), hash, base (number of the first message
        that is here), size (one more than that of the last), timestamp (ms, or None), forked,
        channels.

    Raises:
        DaemonNotRunning, NeedsNode
    """
    return [described(each) for each in (await call("list_feeds", "feed.list", {}))["feeds"]]


# --- parts ---------------------------------------------------------------------------------------


def named_channel(channel: str | None) -> str | None:
    """The channel that is to be used alone. ``*local*``, which older scripts say where they mean this
    node, names none: what is here is read here in any case. Raises BadInput."""
    channel = text_or_none("channel", channel)
    return None if channel == LOCAL_CHANNEL else channel


async def _find(name_or_uri: str, create: bool = False) -> bytes:
    """The id of a live feed."""
    if not _is_uri(name_or_uri):
        return await _named(name_or_uri, create)
    feed, subfeed = parse_feed_uri(name_or_uri)
    if subfeed is not None:
        raise BadInput(what=name_or_uri, reason="this is a subfeed; give its feed")
    return feed


async def _named(name: str, create: bool) -> bytes:
    _check_name(name)
    feed = await _id_of(name)
    if feed is None and create:
        try:
            feed = await _create(name)
        except BadInput:
            feed = await _id_of(name)  # somebody else made it in the meantime
            if feed is None:
                raise
    if feed is None:
        raise UnknownFeed(feed=name)
    return feed


async def _id_of(name: str) -> bytes | None:
    feed: bytes | None = (await call("get_feed_id", "feed.named", {"name": name}))["feed"]
    return feed


async def _create(name: str | None, *, replace: bool = False) -> bytes:
    params = {"name": name, "replace": replace}
    feed: bytes = (await call("create_feed", "feed.create", params))["feed"]
    return feed


async def _load_snapshot(
    uri: str, timeout_sec: float | None, channel: str | None = None
) -> Snapshot:
    timeout_sec = None if timeout_sec is None else real("timeout_sec", timeout_sec)
    file, subfeed = parse_snapshot_uri(uri)
    if subfeed is not None:
        raise BadInput(what=uri, reason="this is a subfeed of a snapshot; use load_subfeed")
    try:
        # Without a limit of the caller's, the file's transfer has its own: no progress.
        async with asyncio.timeout(timeout_sec):
            content = await loads.aload_json(file, channel=channel)
    except TimeoutError as error:
        raise DeadlineExceeded(what=f"Loading {file}", seconds=timeout_sec) from error
    if content is None:
        folder = places.offline_dir()
        asked = "all who are on a common channel and could be asked were asked"
        detail = asked if folder is None else f"offline mode: only {folder} was looked in"
        raise NotFound(what=file, detail=detail)
    return Snapshot(file, content)


def _is_uri(text: str) -> bool:
    if not isinstance(text, str):
        raise BadInput(
            what="feed", reason=f"a {type(text).__name__}, not the text of a URI or name"
        )
    return "://" in text


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name or "://" in name:
        raise BadInput(what="feed name", reason=f"{name!r} is no name; give some text, no URI")


def _checked_timeout(seconds: float | None) -> float:
    if seconds is None:
        return FIRST_CONTACT_SECONDS
    number = real("timeout_sec", seconds)
    if not number >= 0:
        raise BadInput(what="timeout_sec", reason=f"{seconds!r} is not 0 or more seconds")
    return number
