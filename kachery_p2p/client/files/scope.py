"""On whose behalf files are loaded: where a program works for members of a channel (a task function
does), it loads what they may have, whatever else this computer has from others.

Invariant: the scope holds for everything that runs inside it, threads of a worker process included.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

_scope: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "kachery_p2p_scope", default=None
)
_of_process: str | None = None
"""In a process that does one thing at a time: the scope of all its threads."""


def scope() -> str | None:
    """The channel whose members the caller works for; None for nobody but its own user."""
    return _scope.get() or _of_process


def only_within(channel: str | None) -> str | None:
    """The channel on which anything must be, if the caller works for others: they must not come by what
    this computer has from elsewhere. None if it does not. ``channel``: what it asked for."""
    behalf = scope()
    return None if behalf is None else channel or behalf


@contextlib.contextmanager
def on_behalf_of(channel: str | None, *, whole_process: bool = False) -> Iterator[None]:
    """What runs in here works for the members of a channel, by name or id."""
    global _of_process
    token = _scope.set(channel)
    if whole_process:
        _of_process = channel
    try:
        yield
    finally:
        _scope.reset(token)
        if whole_process:
            _of_process = None
