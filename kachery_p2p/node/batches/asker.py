"""Asks those who gave a file a moment ago for the next one, before anybody is asked who has it.

Who loads one file of a member mostly loads the next one from there too. So a member that is linked is
asked at once, and a small file is here after one round trip. Whatever does not come so is left to the
:class:`~.downloader.Downloader`, which has the proxies asked: this way is quicker and nothing else.

A member that does not have the file must not learn which one it is, or it could have it of others. It
is told the blinded key that proxies are asked with, and the first three bytes of the hash, by which it
finds those of its files that the key may be of.

Bounds: ``ASKED_AT_ONCE`` members, each of which is asked less often the more often it had nothing; and
``FILES_ASKED_FOR`` files at once, for of many together each would wait for the others.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from kachery_p2p.node.files.progress import Progress
from kachery_p2p.node.files.sources import NodeSource
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import CorruptContent, KacheryError, LocalError
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.files.messages import FILE_ASK, FileAsk
from kachery_p2p.protocol.gossip.holders import Holder
from kachery_p2p.protocol.limits import (
    ASK_FILE,
    ASK_PREFIX_BYTES,
    ASK_SECONDS,
    ASKED_AT_ONCE,
    FILES_ASKED_FOR,
    MAX_ASK_SKIPS,
    MAX_GIVERS,
)

from .loader import BatchLoader, Wanted


@dataclass
class _Giver:
    """``skip``: so many files are loaded without asking it. ``misses``: how often in a row it had
    nothing."""

    misses: int = 0
    skip: int = 0


class Asker:
    def __init__(self, network: Network, loader: BatchLoader) -> None:
        self._network = network
        self._context = network.context
        self._loader = loader
        self._givers: OrderedDict[tuple[str, bytes], _Giver] = OrderedDict()
        """By node and channel; who gave something last is the last."""
        self._asking: dict[tuple[str, bytes | None], asyncio.Task[dict[str, Any] | None]] = {}

    def gave(self, holder: Holder) -> None:
        """It has just given some of a file: it may have the next one."""
        self._remember((holder.node, holder.channel))

    def _remember(self, who: tuple[str, bytes]) -> None:
        self._givers.setdefault(who, _Giver())
        self._givers.move_to_end(who)
        while len(self._givers) > MAX_GIVERS:
            self._givers.popitem(last=False)

    async def fetch(
        self, sha1: str, channel: bytes | None, label: str = ""
    ) -> dict[str, Any] | None:
        """Have a small file here, if somebody who was lately seen to give some has it: progress as of
        :meth:`.downloader.Downloader.load`; None if that is not so, for whatever reason."""
        key = (sha1, channel)
        task = self._asking.get(key)
        if task is None:
            # An answer cannot wait for the limit of downloads: then the downloader fetches it.
            busy = len(self._asking) >= FILES_ASKED_FOR or self._context.rates.download.is_behind
            links = [] if busy else self._likely(channel)
            if not links:
                return None
            work = self._ask_all(sha1, links, label)
            task = self._asking[key] = self._network.spawn(work, name=f"ask for {sha1[:8]}")
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)

    def _likely(self, channel: bytes | None) -> list[tuple[Link, bytes]]:
        """Links to whom it is worth asking, and the channels."""
        found: list[tuple[Link, bytes]] = []
        for node, where in reversed(self._givers):
            if channel not in (None, where) or not self._may(node, where):
                continue
            giver = self._givers[node, where]
            links = self._network.links_to(node, where)
            if links and giver.skip:
                giver.skip -= 1
            elif links:
                found.append((links[0], where))
            if len(found) == ASKED_AT_ONCE:
                break
        return found

    def _may(self, node: str, channel: bytes) -> bool:
        book = self._context.book
        if channel not in book or book.secret(channel) is None:
            return False
        return "provide-files" in book.effective(channel, node) and "request-files" in (
            self._network.own_roles(channel)
        )

    async def _ask_all(
        self, sha1: str, links: list[tuple[Link, bytes]], label: str
    ) -> dict[str, Any] | None:
        if len(links) == 1:
            return await self._ask(sha1, label, *links[0])
        tasks = {asyncio.create_task(self._ask(sha1, label, *each), name="ask") for each in links}
        try:
            while tasks:
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if (progress := task.result()) is not None:
                        return progress
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return None

    async def _ask(
        self, sha1: str, label: str, link: Link, channel: bytes
    ) -> dict[str, Any] | None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        secret = self._context.book.secret(channel)
        assert secret is not None
        name = bytes.fromhex(sha1)
        ask = FileAsk(channel, file_key(sha1).blinded(secret[1]), name[:ASK_PREFIX_BYTES])
        holder = Holder(link.peer, channel, label=link.hello.label if link.hello else "")
        sizes: list[int] = []

        def done(_: int, size: int, error: KacheryError | None) -> None:
            sizes.append(size)

        try:
            async with asyncio.timeout(max(ASK_SECONDS, 4 * (link.rtt or 0.0))):
                stream = link.open(FILE_ASK, codec.plain(ask))
                wanted = [Wanted(0, sha1, None)]
                await self._loader.read(
                    link,
                    stream,
                    holder,
                    wanted,
                    set(),
                    done,
                    most=ASK_FILE,
                    waits=False,
                    label=label,
                )
        except CorruptContent as error:
            self._context.warn(str(error))
            self._givers.pop((link.peer, channel), None)
        except LocalError:
            return None  # it is not the giver's fault
        except (KacheryError, TimeoutError):
            pass  # the downloader finds out what is the matter, if anything is
        self._learn((link.peer, channel), gave=bool(sizes))
        if not sizes:
            return None
        progress = Progress(size=sizes[0], verified=sizes[0], started=began)
        progress.credit(NodeSource(holder, link, self._network), sizes[0])
        return progress.plain(loop.time())

    def _learn(self, who: tuple[str, bytes], *, gave: bool) -> None:
        giver = self._givers.get(who)
        if giver is None:
            return
        if gave:
            giver.misses = 0
            self._remember(who)
        else:
            giver.misses += 1
            giver.skip = min(2**giver.misses - 1, MAX_ASK_SKIPS)
