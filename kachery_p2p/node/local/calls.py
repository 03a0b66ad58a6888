"""Every call of the local API, collected from the nouns; finds what does a call, checks its parameters,
and bounds its time. A new noun is one more line in :class:`Calls`.

``channel.*`` is in :mod:`.channel_calls` and :mod:`.invitation_calls`, ``feed.*`` in
:mod:`.feed_calls`, ``task.*`` in :mod:`.task_calls`, ``doctor.*`` in :mod:`.doctor_calls`,
``share.*`` in :mod:`.share_calls`, ``status`` in :mod:`.status_calls`, files in
:mod:`.file_calls`, :mod:`.batch_calls` and :mod:`.storage_calls`, keepers in
:mod:`.keeper_calls`, the node itself and its mutables
in :mod:`.node_calls`.

A call that changes anything asks :meth:`Caller.require_write` first.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import Any, Final

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput, DeadlineExceeded, KacheryError
from kachery_p2p.protocol.limits import MAX_CALL_SECONDS

from .batch_calls import BatchCalls
from .call_table import CallTable
from .channel_calls import ChannelCalls
from .doctor_calls import DoctorCalls
from .feed_calls import FeedCalls
from .file_calls import FileCalls
from .invitation_calls import InvitationCalls
from .keeper_calls import KeeperCalls
from .live_call import DeferredResult, LiveCall
from .node_calls import NodeCalls
from .origin_calls import OriginCalls
from .services import Services
from .share_calls import ShareCalls
from .status_calls import StatusCalls
from .storage_calls import StorageCalls
from .task_calls import LASTING, TaskCalls

_PLACED: Final = re.compile(r"not a valid \w+: (?P<what>.*) - at `\$\.(?P<name>\w+)(?P<inside>.*)`")
_TYPES: Final = {"null": "None", "object": "dict", "array": "list"}
"""As the caller knows them."""


def unfit(method: str, reason: str) -> BadInput:
    """Why a call's parameters do not fit, of which the codec says where."""
    found = _PLACED.fullmatch(reason)
    if found is None:
        return BadInput(what=method, reason=reason)
    said = re.sub(r"\b(null|object|array)\b", lambda kind: _TYPES[kind[1]], found["what"])
    said = said[:1].lower() + said[1:].replace("`", "")
    return BadInput(what=found["name"] + found["inside"], reason=f"{said} ({method})")


class Calls:
    """One instance per node."""

    def __init__(self, services: Services) -> None:
        channels = ChannelCalls(services)
        node = NodeCalls(services, channels)
        files = FileCalls(services)
        self._calls: CallTable = {
            **node.calls(),
            **channels.calls(),
            **InvitationCalls(services, channels).calls(),
            **ShareCalls(services).calls(),
            **files.calls(),
            **StorageCalls(services).calls(),
            **KeeperCalls(services).calls(),
            **OriginCalls(services).calls(),
            **BatchCalls(services).calls(),
            **FeedCalls(services).calls(),
            **TaskCalls(services).calls(),
            **StatusCalls(services).calls(),
            **DoctorCalls(services, node, files).calls(),
        }

    def begin(
        self, method: str, params: dict[str, Any], live: LiveCall
    ) -> Coroutine[Any, Any, Any] | DeferredResult:
        """Begin a call: what to run, or what to wait for. Either, and this, may raise KacheryError;
        cancelling is safe."""
        entry = self._calls.get(method)
        if entry is None:
            raise BadInput(
                what=f"call {method[:40]!r}",
                reason="this node does not know it; is the node older than the client?",
            )
        try:
            typed = codec.convert(entry[0], params)
        except KacheryError as error:
            raise unfit(method, str(error.fields.get("reason"))) from error
        return entry[1](typed, live)

    async def wait(self, method: str, begun: Coroutine[Any, Any, Any] | DeferredResult) -> Any:
        """The result of what was begun. Raises KacheryError."""
        try:
            async with asyncio.timeout(None if method in LASTING else MAX_CALL_SECONDS):
                if isinstance(begun, DeferredResult):
                    return begun.finish(await begun.future)
                return await begun
        except TimeoutError as error:
            raise DeadlineExceeded(what=method, seconds=MAX_CALL_SECONDS) from error

    async def run(self, method: str, params: dict[str, Any], live: LiveCall) -> Any:
        """Do a call from beginning to end. Raises KacheryError."""
        return await self.wait(method, self.begin(method, params, live))
