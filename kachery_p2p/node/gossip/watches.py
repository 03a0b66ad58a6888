"""Being told when somebody who has a content appears, at both ends.

:class:`WatchList` is the proxy's: who watches which key. :class:`Watches` is a member's: what it
watches for, said to each proxy of the channel, again whenever one is linked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.gossip.index import Index
from kachery_p2p.protocol.gossip.keys import KINDS, ContentKey, ContentKind, request_role
from kachery_p2p.protocol.gossip.messages import APPEARED, WATCH, Appeared, Watch
from kachery_p2p.protocol.limits import (
    MAX_QUERY_KEYS,
    MAX_WATCHED_KEYS,
    MAX_WATCHED_KEYS_OF_ALL,
)

from .several import Several

_Key = tuple[bytes, bytes]
"""(channel, blinded key)."""


class WatchList:
    """What a proxy was asked to watch for. ``index``: who has it."""

    def __init__(self, network: Network, index: Index) -> None:
        self._network = network
        self._index = index
        self._watchers: Several[_Key, Link] = Several()
        self._watched: dict[Link, dict[_Key, None]] = {}
        """In the order in which they were asked for."""
        network.on_note_of(WATCH, Watch, self._on_watch)
        network.on_lost.append(self._on_lost)
        network.on_shared.append(self._on_shared)

    def _on_watch(self, link: Link, note: Watch) -> None:
        network = self._network
        network.require_role(link, note.channel, theirs=request_role(note.kind), ours=None)
        if not network.is_proxy(note.channel):
            return
        mine = self._watched.setdefault(link, {})
        for key in note.keys:
            where = (note.channel, key)
            if note.on:
                mine[where] = None
                self._watchers.add(where, link)
            elif where in mine:
                del mine[where]
                self._watchers.discard(where, link)
        self._forget_oldest(link, len(mine) - MAX_WATCHED_KEYS)
        surplus = sum(map(len, self._watched.values())) - MAX_WATCHED_KEYS_OF_ALL
        if surplus > 0:
            fullest = max(self._watched, key=lambda each: len(self._watched[each]))
            self._forget_oldest(fullest, surplus)

    def _forget_oldest(self, link: Link, count: int) -> None:
        mine = self._watched[link]
        for where in list(islice(mine, max(count, 0))):
            del mine[where]
            self._watchers.discard(where, link)

    def _on_lost(self, link: Link) -> None:
        for where in self._watched.pop(link, ()):
            self._watchers.discard(where, link)

    def _on_shared(self, link: Link, channel: bytes) -> None:
        """Somebody is back: tell those who watch for what it has."""
        if self._watchers and self._index.provides_any(channel, bytes.fromhex(link.peer)):
            turns = self._network.context.turns
            self._network.spawn(
                turns.metered(lambda: link.party, partial(self._tell_all, link, channel)),
                name="telling who watches",
            )

    async def _tell_all(self, link: Link, channel: bytes) -> None:
        origin = bytes.fromhex(link.peer)
        watched = [key for where, key in self._watchers if where == channel]
        for start in range(0, len(watched), MAX_QUERY_KEYS):
            await self._network.context.turns.pause()
            if channel not in self._network.shared(link):
                return  # it is gone again
            some = watched[start : start + MAX_QUERY_KEYS]
            keys = [key for key in some if origin in self._index.holders(channel, key)]
            self.appeared(channel, keys, origin)

    def appeared(self, channel: bytes, keys: Iterable[bytes], origin: bytes) -> None:
        """``origin`` provides these keys now, and did not before."""
        found: dict[Link, list[bytes]] = {}
        for key in keys:
            for link in self._watchers.of((channel, key)):
                if link.peer != origin.hex():
                    found.setdefault(link, []).append(key)
        for link, theirs in found.items():
            if not self._may_ask(link, channel):
                continue
            for start in range(0, len(theirs), MAX_QUERY_KEYS):
                note = Appeared(channel, theirs[start : start + MAX_QUERY_KEYS])
                link.note(APPEARED, codec.plain(note))

    def _may_ask(self, link: Link, channel: bytes) -> bool:
        """Whether the peer may still ask for anything there: keys do not say of what kind they are."""
        roles = self._network.book.effective(channel, link.peer)
        asks = any(request_role(kind) in roles for kind in KINDS)
        return asks and channel in self._network.shared(link)


class Watches:
    """What this node watches for, on every channel where it may ask for it."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._book = network.book
        self._callbacks: dict[ContentKey, list[Callable[[], None]]] = {}
        self._contents: dict[_Key, ContentKey] = {}
        network.on_note_of(APPEARED, Appeared, self._on_appeared)
        network.on_shared.append(self._on_shared)

    def add(self, content: ContentKey, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` whenever somebody who has ``content`` appears. Returns what ends that."""
        callbacks = self._callbacks.setdefault(content, [])
        callbacks.append(callback)
        if len(callbacks) == 1:
            for channel in self._book:
                self._say(channel, content, True)

        def end() -> None:
            callbacks.remove(callback)
            if not callbacks and self._callbacks.get(content) is callbacks:
                del self._callbacks[content]
                for channel in self._book:
                    self._say(channel, content, False)
                for where in [where for where, other in self._contents.items() if other == content]:
                    del self._contents[where]

        return end

    def appeared(self, channel: bytes, keys: Iterable[bytes]) -> None:
        """Somebody has these keys now: called with a proxy's word, or our own index's."""
        for key in keys:
            content = self._contents.get((channel, key))
            for callback in list(self._callbacks.get(content, ())) if content is not None else ():
                callback()

    def _say(self, channel: bytes, content: ContentKey, on: bool) -> None:
        key = self._key(channel, content)
        if key is None:
            return
        for proxy in self._network.proxies_on(channel):
            self._note(proxy, channel, content.kind, [key], on)

    def _key(self, channel: bytes, content: ContentKey) -> bytes | None:
        secret = self._book.secret(channel)
        if secret is None or request_role(content.kind) not in self._network.own_roles(channel):
            return None
        key = content.blinded(secret[1])
        self._contents[channel, key] = content
        return key

    def _note(
        self, proxy: Link, channel: bytes, kind: ContentKind, keys: list[bytes], on: bool
    ) -> None:
        proxy.note(WATCH, codec.plain(Watch(channel, kind, keys, on)))

    def _on_shared(self, link: Link, channel: bytes) -> None:
        """A proxy may have come, which has been told nothing yet; or a node to us, the proxy."""
        if self._network.is_proxy(channel):
            self.appeared(channel, [key for where, key in self._contents if where == channel])
        if link.via is not None or "proxy" not in self._book.effective(channel, link.peer):
            return
        kinds: dict[ContentKind, list[bytes]] = {}
        for content in self._callbacks:
            key = self._key(channel, content)
            if key is not None:
                kinds.setdefault(content.kind, []).append(key)
        for kind, keys in kinds.items():
            for start in range(0, len(keys), MAX_QUERY_KEYS):
                self._note(link, channel, kind, keys[start : start + MAX_QUERY_KEYS], True)

    def on_change(self, channel: bytes) -> None:
        """The channel's document, its secret, or what we want on it, changed."""
        for link in self._network.links_on(channel) if channel in self._book else ():
            self._on_shared(link, channel)

    def _on_appeared(self, link: Link, note: Appeared) -> None:
        if note.channel in self._network.shared(link):
            self.appeared(note.channel, note.keys)
