"""The calls of the local API about origins and archives.

=====================  ==========================================  ====================================
method                 parameters                                  result
=====================  ==========================================  ====================================
``origins``            refresh?                                    origins: of each url, archive, own,
                                                                   state, error, listing, listed,
                                                                   objects, bytes, damaged
``set_origins``        origins (of each url, archive?, own?)       the same
``archive``            sha1 (None: all that is pinned), archive?;  archive, files, bytes, already
                       sends progress
=====================  ==========================================  ====================================

``refresh``: they are listed first. ``archive`` is the URL of one of several.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from kachery_p2p.protocol.errors import KacheryError
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.storage.backing.setting import OriginSetting

from .call_table import CallTable
from .live_call import LiveCall
from .services import Services


class _Origins(msgspec.Struct, frozen=True):
    refresh: bool = False


class _Set(msgspec.Struct, frozen=True):
    origins: list[OriginSetting]


class _Archive(msgspec.Struct, frozen=True):
    sha1: str | None = None
    archive: str | None = None

    def __post_init__(self) -> None:
        if self.sha1 is not None:
            file_key(self.sha1)


class OriginCalls:
    """A method per call, for :class:`~.calls.Calls`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def calls(self) -> CallTable:
        return {
            "origins": (_Origins, self._origins),
            "set_origins": (_Set, self._set),
            "archive": (_Archive, self._archive),
        }

    async def _origins(self, params: _Origins, live: LiveCall) -> Any:
        backing = self._services.backing
        if params.refresh:
            live.caller.require_write()
            await self._refresh()
        return {"origins": await backing.status()}

    async def _refresh(self) -> None:
        """List them all; what fails is in what is told of them."""
        backing = self._services.backing
        work = [backing.refresh(each) for each in list(backing.origins.values())]
        for outcome in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, KacheryError):
                raise outcome

    async def _set(self, params: _Set, live: LiveCall) -> Any:
        live.caller.require_write()
        await self._services.backing.set(params.origins)
        return {"origins": await self._services.backing.status()}

    async def _archive(self, params: _Archive, live: LiveCall) -> Any:
        live.caller.require_write()
        archiving = self._services.archiving
        if params.sha1 is None:
            return await archiving.archive_pinned(params.archive, live.progress)
        return await archiving.archive(params.sha1, params.archive, live.progress)
