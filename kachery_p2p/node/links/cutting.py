"""Ending what is under way for those who may no longer have it, when a channel has changed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

from kachery_p2p.protocol.errors import InternalError, KacheryError

from .stream import Stream

log = logging.getLogger(__name__)
T = TypeVar("T")


def cut(streams: Mapping[Stream, T], check: Callable[[T], object]) -> None:
    """End each stream for which ``check`` raises, with that. Links need not end with it: they may share
    another channel, or have lost only a role. What cannot be checked is ended too. Never raises."""
    for stream, whose in list(streams.items()):
        try:
            check(whose)
        except KacheryError as error:
            stream.end(error)
        except Exception as error:  # a bug: then nobody knows whether it may go on
            log.exception("a right that cannot be told")
            stream.end(InternalError(reason=f"rights that cannot be told: {error}"))
