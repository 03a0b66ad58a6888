"""Members in the same local network, found by multicast DNS (the extra ``lan``, and ``--lan``).

A node says its id and its addresses there, signed (:mod:`~kachery_p2p.protocol.channels.neighbours`),
and hears what others say. Of members of its channels it keeps the addresses that lie in a network that
this computer is in itself, and :class:`~.reach.Reach` tries them first. Nothing else follows from a
card: who is there is proven by the handshake, and what it may is what the channel's document says.

Off unless the user says so: whoever is in that network, at a café say, hears which node is there.

Invariants: nothing that is heard ends in an error here; what is kept is bounded; of who is no member
nothing is kept. The network changing, or zeroconf failing, costs these addresses and nothing else.

Non-goals: look-ups without a proxy. Who has something is asked of proxies, as ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kachery_p2p.node.context import Context
from kachery_p2p.node.supervision import Supervisor
from kachery_p2p.protocol.channels.neighbours import SERVICE, make_card, read_card
from kachery_p2p.protocol.errors import BadInput, ProtocolViolation
from kachery_p2p.protocol.limits import (
    HOUSEKEEPING_SECONDS,
    MAX_NEIGHBOUR_SERVICES,
    MAX_NEIGHBOURS,
)
from kachery_p2p.protocol.links.addresses import (
    LINK_LOCAL,
    LOOPBACK,
    Address,
    parse_address,
    range_of,
)

from .reach import Reach

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

log = logging.getLogger(__name__)

_ASK_MILLISECONDS = 3_000


class Neighbours:
    """``found`` is called with a member's id when its addresses came or changed."""

    def __init__(self, context: Context, reach: Reach, found: Callable[[str], None]) -> None:
        self._context = context
        self._host, self._port = "", 0
        self._found = found
        reach.neighbours = self.urls
        self._urls: OrderedDict[str, list[str]] = OrderedDict()
        self._services: dict[str, asyncio.Task[None] | None] = {}
        self._zeroconf: AsyncZeroconf | None = None
        """None until it is started: nothing is known then."""
        self._info: AsyncServiceInfo | None = None
        self._said: list[str] = []

    def urls(self, node: str) -> list[str]:
        """Where a member is reached in a network that this computer is in now."""
        said = self._urls.get(node)
        if said is None:  # always, without the packages of --lan
            return []
        here = list(own_networks())
        return [each for each in said if _leads_to_one_of(each, here)]

    async def start(self, supervisor: Supervisor, *, listening: str | None) -> None:
        """``listening``: at which ``HOST:PORT``; None: nowhere, so that it only hears others.

        Raises:
            BadInput: the package is not installed, or there is no multicast here.
        """
        if listening is not None:
            host, _, port = listening.rpartition(":")
            self._host = host.strip("[]")
            self._port = int(port)
        try:
            from zeroconf import IPVersion
            from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf
        except ImportError as error:
            raise BadInput(
                what="--lan",
                reason="zeroconf is needed for it and not installed; 'pip install "
                '"kachery_p2p[lan]"\' installs it',
            ) from error
        try:
            self._zeroconf = AsyncZeroconf(ip_version=IPVersion.V4Only)
            await self._zeroconf.zeroconf.async_wait_for_start()
        except Exception as error:  # whatever a network without multicast makes of it
            raise BadInput(what="--lan", reason=f"there is no multicast here: {error}") from error
        AsyncServiceBrowser(self._zeroconf.zeroconf, SERVICE, handlers=[self._on_change])
        await self.say()
        supervisor.spawn(self._keep_saying(supervisor), name="telling neighbours")

    async def _keep_saying(self, supervisor: Supervisor) -> None:
        """As long as the node lives; then it says goodbye."""
        try:
            await supervisor.every(HOUSEKEEPING_SECONDS, "telling neighbours", self.say)
        finally:
            await self._close()

    async def say(self) -> None:
        """Say where this node is reached now; to be called every few seconds."""
        urls = [f"ws://{_in_url(each)}:{self._port}" for each in self._own_addresses()]
        if self._zeroconf is None or urls == self._said:
            return
        from zeroconf.asyncio import AsyncServiceInfo

        card: dict[Any, Any] = make_card(self._context.key, urls)
        name = f"{self._context.node_id[:32]}.{SERVICE}" if self._info is None else self._info.name
        info = AsyncServiceInfo(
            SERVICE, name, port=self._port, properties=card, server=name,
            addresses=[address.packed for address in self._own_addresses()],
        )  # fmt: skip
        try:
            if self._info is None:
                # Two nodes with one key, of which one is a copy, are told apart by a number.
                await self._zeroconf.async_register_service(info, allow_name_change=True)
            else:
                await self._zeroconf.async_update_service(info)
        except Exception as error:  # of a library, over a network that has just changed
            log.info("neighbours cannot be told: %s", error)
            return
        self._info, self._said = info, urls

    def _own_addresses(self) -> list[Address]:
        bound = parse_address(self._host)
        anywhere = bound is None or bound.is_unspecified
        mine = {ip for ip, _ in own_networks() if anywhere or ip == bound}
        return sorted(mine, key=str) if self._port else []

    def _on_change(self, zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
        if len(self._services) >= MAX_NEIGHBOUR_SERVICES and name not in self._services:
            return
        task = self._services.get(name)
        if task is None and getattr(state_change, "name", "") != "Removed":
            self._services[name] = asyncio.get_running_loop().create_task(self._ask(name))
        elif task is None:
            self._services.pop(name, None)

    async def _ask(self, name: str) -> None:
        from zeroconf.asyncio import AsyncServiceInfo

        assert self._zeroconf is not None
        try:
            info = AsyncServiceInfo(SERVICE, name)
            await info.async_request(self._zeroconf.zeroconf, _ASK_MILLISECONDS)
            if info.properties:
                self.hear(info.properties)
        except Exception as error:  # of a library that was fed by strangers
            log.info("a neighbour cannot be asked: %s", error)
        finally:
            self._services[name] = None

    def hear(self, card: Any) -> None:
        """Somebody in this network says this."""
        try:
            public, urls = read_card(card)
        except ProtocolViolation as error:
            log.debug("%s", error)
            return
        node, book = public.hex(), self._context.book
        if node == self._context.node_id or not any(book.is_member(each, node) for each in book):
            return
        if self._urls.get(node) != urls:
            self._urls[node] = urls
            self._found(node)
        self._urls.move_to_end(node)
        while len(self._urls) > MAX_NEIGHBOURS:
            self._urls.popitem(last=False)

    async def _close(self) -> None:
        tasks = [task for task in self._services.values() if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._zeroconf is not None:
            zeroconf, self._zeroconf = self._zeroconf, None
            with contextlib.suppress(Exception):  # it says goodbye, if anybody hears it
                async with asyncio.timeout(1.0):
                    await zeroconf.async_close()


def _in_url(address: Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)


def own_networks() -> Iterator[tuple[Address, Any]]:
    """This computer's addresses in local networks, each with the network."""
    import ifaddr

    for adapter in ifaddr.get_adapters():
        for each in adapter.ips:
            text = each.ip if isinstance(each.ip, str) else each.ip[0]
            with contextlib.suppress(ValueError):
                address = ip_address(text)
                if range_of(address) not in (LOOPBACK, LINK_LOCAL):
                    yield address, ip_interface(f"{text}/{each.network_prefix}").network


def _leads_to_one_of(url: str, here: list[tuple[Address, Any]]) -> bool:
    """Whether it names another computer in one of these networks."""
    address = parse_address(urlsplit(url).hostname or "")
    if address is None or any(address == own for own, _ in here):
        return False
    return any(address.version == net.version and address in net for _, net in here)
