"""Share files, feeds and tasks between scientists' computers.

>>> import kachery_p2p as kc
>>> uri = kc.store_text("some-random-text")     # on one computer   # doctest: +SKIP
>>> kc.load_text(uri)                           # on another        # doctest: +SKIP

Every function that asks the local node has an async twin with an ``a`` in front: in a program that
has an event loop, ``await kc.aload_npy(uri)``. Errors are in :mod:`kachery_p2p.errors`; the root is
:class:`KacheryError`.

What is here is listed in ``__all__``. Of the modules below, only ``testing``, ``embedded``,
``testdaemon`` and ``pytest_plugin`` are for other programs; the rest is how it is made, and changes.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from kachery_p2p._version import __version__ as __version__

_OWN_PROGRAMS = ("kachery_p2p", "kachery_p2p.cli", "kachery_p2p.node")


def _is_own_program() -> bool:
    # This runs before the program's module is looked for: then its arguments begin with -m.
    if sys.argv[:1] == ["-m"] and "-m" in sys.orig_argv:
        return sys.orig_argv[sys.orig_argv.index("-m") + 1] in _OWN_PROGRAMS
    return "_kachery_p2p_command" in sys.modules


if TYPE_CHECKING or not _is_own_program():
    from kachery_p2p import _public
    from kachery_p2p._public import *  # noqa: F403
    from kachery_p2p._public import open as open

    __all__: list[str] = []
    __all__ += _public.__all__
else:
    # The node needs none of these names, and the command line few: the rest is not imported, unless a
    # user's function that runs there asks for it.
    def __getattr__(name: str) -> Any:
        public = importlib.import_module(f"{__name__}._public")
        if name in {*public.__all__, "open", "__all__"}:
            return getattr(public, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What people use, rather than the rooms in which it is made."""
    public = importlib.import_module(f"{__name__}._public")
    return [name for name in globals() if name[:2] == "__"] + [*public.__all__, "open"]
