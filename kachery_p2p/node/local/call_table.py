"""What the rooms of the local API have in common: each has a table of the calls that it answers, and
some calls have the same parameters."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from .live_call import DeferredResult, LiveCall

Call = Callable[[Any, LiveCall], Coroutine[Any, Any, Any] | DeferredResult]
"""Does one call: its parameters, and who waits for it."""
CallTable = dict[str, tuple[type[Any], Call]]
"""By method: what its parameters are, and who does it."""


class Nothing(msgspec.Struct, frozen=True):
    """No parameters."""


class OnChannel(msgspec.Struct, frozen=True):
    """A channel, by name or id."""

    channel: str
