"""What a sync call shows of an error: the caller's line and the sentence, not how it was found out.

Non-goals: the async functions, whose frames are those of the user's own tasks.
"""

from __future__ import annotations

import functools
import os
import sys
import types
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

from kachery_p2p.protocol.errors import InternalError, KacheryError

P = ParamSpec("P")
R = TypeVar("R")

_OURS: Final = "kachery_p2p."
TRACEBACK_VARIABLE: Final = "KACHERY_P2P_TRACEBACK"
"""``full``: errors of sync calls keep the frames and the causes that lie inside this package."""


def trimmed(error: KacheryError) -> KacheryError:
    """The same error without our frames and without what caused it, unless it is a fault of ours or
    ``KACHERY_P2P_TRACEBACK`` is ``full``. To be raised by the function that the user called, which has
    a local variable ``__tracebackhide__``: pytest and IPython go by it."""
    if isinstance(error, InternalError) or os.environ.get(TRACEBACK_VARIABLE) == "full":
        return error
    error.__cause__, error.__suppress_context__ = None, True
    if "IPython" in sys.modules:
        # It asks for this, and shows the last frame otherwise, hidden or not.
        error._render_traceback_ = functools.partial(  # type: ignore[attr-defined]
            _in_ipython, error
        )
    return error.with_traceback(None)


def _in_ipython(error: KacheryError) -> list[str]:
    """The lines that IPython shows of an error, without our frame at the end."""
    shell: Any = sys.modules["IPython"].get_ipython()
    shown: list[str] = shell.InteractiveTB.structured_traceback(
        type(error), error, _without_end(error.__traceback__), tb_offset=1
    )
    return shown


def _without_end(found: types.TracebackType | None) -> types.TracebackType | None:
    if found is None:
        return None
    rest = _without_end(found.tb_next)
    ours = found.tb_frame.f_locals.get("__tracebackhide__") is True
    if rest is None and ours and found.tb_frame.f_globals.get("__name__", "").startswith(_OURS):
        return None
    return types.TracebackType(rest, found.tb_frame, found.tb_lasti, found.tb_lineno)


def without_our_frames(function: Callable[P, R]) -> Callable[P, R]:
    """The function, its errors :func:`trimmed`. Not for one that calls the user's own functions: their
    frames are not ours to hide."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        __tracebackhide__ = True
        try:
            return function(*args, **kwargs)
        except KacheryError as error:
            raise trimmed(error)  # noqa: B904

    return call
