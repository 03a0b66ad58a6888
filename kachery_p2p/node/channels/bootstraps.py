"""Keeps a link to every bootstrap node of every channel, for ever.

One task per address. A link that cannot be made or that ends is made anew after a jittered backoff;
what went wrong last is kept for ``info``. The set of addresses follows the channel documents.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from functools import partial
from typing import Final

from kachery_p2p.node.links.dialling import own_addresses
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.routes.reach import Reach
from kachery_p2p.node.routes.replacing import Tries, give_up
from kachery_p2p.protocol.backoff import Backoff
from kachery_p2p.protocol.errors import KacheryError, NotAMember, Unreachable
from kachery_p2p.protocol.limits import (
    RECONNECT_FIRST,
    RECONNECT_MOST,
    STOPPED_SECONDS,
    TICK_SECONDS,
)

_LOOK_SECONDS = 2.0
"""While there is no link it is looked so often whether this computer has come to another network."""
_STEADY_SECONDS = 10.0
"""A link that lasted this long was a good one: the backoff starts anew."""
_NOT_YET_SECONDS = 5.0
"""How long a node that does not know us as a member is left alone, at most."""


_JOIN_THERE: Final = (
    "type 'kachery-p2p channel join' there, with what 'kachery-p2p channel export' prints here."
)


@dataclass
class Bootstrap:
    """The state of one address, for people."""

    url: str
    node: str
    state: str = "connecting"
    trying: bool = True
    """An attempt is under way, or about to be."""
    error: str = ""
    code: str = ""


class Bootstraps:
    def __init__(self, network: Network, reach: Reach) -> None:
        self._network = network
        self._reach = reach
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._hurry = asyncio.Event()
        self.status: dict[tuple[str, str], Bootstrap] = {}

    def refresh(self) -> None:
        """Follow the channel documents; also retries at once whatever is waiting."""
        wanted = {
            (bootstrap.url, bootstrap.node_id)
            for channel in self._network.book
            for bootstrap in self._network.book.signed(channel).document.bootstraps
            if bootstrap.node_id != self._network.context.node_id
            and not self._network.book.signed(channel).document.expired(
                self._network.context.clock()
            )
        }
        for key in sorted(set(self._tasks) - wanted):
            self._tasks.pop(key).cancel()
            self.status.pop(key, None)
        for key in sorted(wanted - set(self._tasks)):
            self.status[key] = Bootstrap(*key)
            work = self._network.supervisor.for_ever(
                f"keeping a link to {key[0]}", partial(self._keep, *key)
            )
            self._tasks[key] = self._network.spawn(work, name=f"keep {key[0]}")
        self.hurry()

    def hurry(self) -> None:
        """Somebody needs the network now: do not wait out the backoff."""
        waiting = [status for status in self.status.values() if status.state == "waiting"]
        for status in waiting:
            status.trying = True
        if waiting:
            self._hurry.set()
            self._hurry = asyncio.Event()

    async def _keep(self, url: str, node: str) -> None:
        status = self.status[url, node]
        random = self._network.context.random
        backoff = Backoff(RECONNECT_FIRST, RECONNECT_MOST, random)
        not_yet = Backoff(RECONNECT_FIRST, _NOT_YET_SECONDS, random)
        loop = asyncio.get_running_loop()
        not_yet_there = ""
        while True:
            status.trying = True
            try:
                link = await self._reach.connect(url, node)
                self._reach.keep(link)
                status.state, status.error, status.code = "connected", "", ""
                status.trying = False
                self._network.context.take_back(not_yet_there)
                since = loop.time()
                link = await self._until_over(link, url, node)
                if loop.time() - since > _STEADY_SECONDS:
                    backoff.reset()
                    not_yet.reset()
                if link.closed_by is not None:
                    raise link.closed_by.again()
            except KacheryError as error:
                status.state, status.error, status.code = "waiting", str(error), error.code
                status.trying = False
                warning = f"{url}: {self._said(error, url, node)}"
                self._network.context.warn(warning)
                if isinstance(error, NotAMember):
                    not_yet_there = warning
            # Somebody is about to mend that, at one end or the other. It says nothing about how long
            # to wait after an error of another kind.
            pause = (not_yet if status.code == NotAMember.code else backoff).next()
            if not await self._wait(pause):
                backoff.reset()

    async def _wait(self, seconds: float) -> bool:
        """Wait so long, or until somebody is in a hurry. False: it was not waited to the end, for this
        computer has come to another network, or has slept."""
        loop = asyncio.get_running_loop()
        until, where = loop.time() + seconds, own_addresses()
        while (left := until - loop.time()) > 0:
            looks = loop.time() + min(left, _LOOK_SECONDS)
            try:
                async with asyncio.timeout_at(looks):
                    await self._hurry.wait()
                return True
            except TimeoutError:
                if own_addresses() != where or loop.time() > looks + STOPPED_SECONDS:
                    return False
        return True

    async def _until_over(self, link: Link, url: str, node: str) -> Link:
        """Wait until the link is over. When it falls silent another one is made beside it, and takes
        its place; returns the last one."""
        tries = Tries(self._network.context.random)
        while not link.closed.is_set():
            await link.heart.trouble.wait()
            if not link.heart.is_doubtful:
                tries = Tries(self._network.context.random)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK_SECONDS):
                        await link.closed.wait()
                continue
            try:
                async with asyncio.timeout(tries.seconds()):
                    fresh = await self._reach.connect(url, node)
            except (KacheryError, TimeoutError):
                await asyncio.sleep(tries.pause())
            else:
                link = self._better(link, fresh, url)
        return link

    def _better(self, link: Link, fresh: Link, url: str) -> Link:
        """Which of the two stays: the older one, if it is heard again."""
        if link.closed_by is None and not link.heart.is_doubtful:
            fresh.close(Unreachable(what=url, reason="the older link goes on"))
            return link
        give_up(link)
        self._reach.keep(fresh)
        return fresh

    def _said(self, error: KacheryError, url: str, node: str) -> str:
        """The error, and what to do, seen from the one who dialled."""
        if not isinstance(error, NotAMember):
            return str(error)
        if self._owns_one_with(url, node):  # who would add this node to it is this node
            return f"The bootstrap node has not joined the channel yet: {_JOIN_THERE}"
        return f"{error} Or the bootstrap node has not joined the channel itself: {_JOIN_THERE}"

    def _owns_one_with(self, url: str, node: str) -> bool:
        book = self._network.context.book
        return any(
            book.owner_key(channel) is not None
            and any(
                (each.url, each.node_id) == (url, node)
                for each in book.signed(channel).document.bootstraps
            )
            for channel in book
        )
