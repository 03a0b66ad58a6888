"""The calls of the local API about the node itself, and about its mutables.

=========================  ====================  ======================================
method                     parameters            result
=========================  ====================  ======================================
``info``                                         everything about it
``get`` ``set`` ``delete``  key, value?, update?  found, value | written | deleted
``set_rates``              upload?, download?    the same (bytes a second; None: without a limit)
``stop``                                         pid (the node stops)
=========================  ====================  ======================================
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import msgspec

from kachery_p2p._version import __version__
from kachery_p2p.node.context import SOFTWARE
from kachery_p2p.node.links.link import Link
from kachery_p2p.protocol.limits import PROTOCOL_VERSION
from kachery_p2p.protocol.quantities import check_rate
from kachery_p2p.storage.rates import rates_of, set_rates

from .call_table import CallTable, Nothing
from .channel_calls import ChannelCalls
from .live_call import LiveCall
from .services import Services


class _Key(msgspec.Struct, frozen=True):
    key: str
    value: str = ""
    update: bool = True


class _Rates(msgspec.Struct, frozen=True):
    """0: without a limit; None: as it is."""

    upload: int | None = None
    download: int | None = None

    def __post_init__(self) -> None:
        check_rate(self.upload or 0, "upload")
        check_rate(self.download or 0, "download")


class NodeCalls:
    """A method per call, for :class:`~.calls.Calls`."""

    def __init__(self, services: Services, channels: ChannelCalls) -> None:
        self._services = services
        self._channels = channels
        self._started = asyncio.get_running_loop().time()

    def calls(self) -> CallTable:
        return {
            "info": (Nothing, self._info),
            "get": (_Key, self._get),
            "set": (_Key, self._set),
            "delete": (_Key, self._delete),
            "set_rates": (_Rates, self._set_rates),
            "stop": (Nothing, self._stop),
        }

    async def _info(self, params: Nothing, live: LiveCall) -> Any:
        return self.info()

    async def _stop(self, params: Nothing, live: LiveCall) -> Any:
        live.caller.require_write()
        asyncio.get_running_loop().call_later(0.05, self._services.stopping.set)
        return {"pid": os.getpid()}

    async def _get(self, params: _Key, live: LiveCall) -> Any:
        value = await self._services.context.workers.disk(self._services.state.get, params.key)
        return {"found": value is not None, "value": value}

    async def _set(self, params: _Key, live: LiveCall) -> Any:
        live.caller.require_write()
        written = await self._services.context.workers.disk(
            lambda: self._services.state.set(params.key, params.value, update=params.update)
        )
        return {"written": written}

    async def _delete(self, params: _Key, live: LiveCall) -> Any:
        live.caller.require_write()
        return {
            "deleted": await self._services.context.workers.disk(
                self._services.state.delete, params.key
            )
        }

    async def _set_rates(self, params: _Rates, live: LiveCall) -> Any:
        live.caller.require_write()
        context = self._services.context

        def work() -> tuple[int | None, int | None]:
            set_rates(context.state, params.upload, params.download)
            return rates_of(context.state)

        context.rates.set(*await context.workers.disk(work))
        return context.rates.plain()

    def info(self) -> dict[str, Any]:
        """What ``kachery-p2p info`` shows; plain values."""
        services = self._services
        return {
            "node_id": services.context.node_id,
            "label": services.config.label,
            "software": SOFTWARE,
            "version": __version__,
            "protocol": PROTOCOL_VERSION,
            "pid": os.getpid(),
            "uptime": asyncio.get_running_loop().time() - self._started,
            "storage_dir": str(services.store.root),
            "storage_used": services.context.inventory.used,
            "max_storage": services.context.quota.limit,
            "rates": services.context.rates.plain(),
            "state_dir": str(services.config.state_dir),
            "socket": str(services.config.socket_path),
            "listening": services.listening,
            "urls": list(services.context.urls),
            "channels": [self._channels.describe(channel) for channel in services.context.book],
            "links": [self._link(link) for link in services.network.links],
            "bootstraps": [
                {"url": b.url, "node": b.node, "state": b.state, "error": b.error, "code": b.code}
                for b in services.bootstraps.status.values()
            ],
            "circuits": len(services.relay),
            "relayed_bytes": services.relay.relayed_bytes,
            "served_bytes": services.provider.served_bytes,
            "announced": services.announcer.announced(),
            "warnings": [{"at": at, "text": text} for at, text in services.context.warnings],
        }

    def _link(self, link: Link) -> dict[str, Any]:
        return {
            "node": link.peer,
            "label": link.hello.label if link.hello else "",
            "via": link.via,
            "rtt": link.rtt,
            "sent": link.sent,
            "received": link.received,
            "channels": [
                self._services.network.name_of(c) for c in self._services.network.shared(link)
            ],
        }
