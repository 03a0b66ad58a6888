"""Real nodes for tests: those of :mod:`kachery_p2p.testing`, and the names that these tests have for
them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from unittest import mock

import kachery_p2p as kc
from kachery_p2p.client.session import portal
from kachery_p2p.testing import AnyNode, Daemon, Network, free_port
from tests import forked
from tests.patience import patience

__all__ = [
    "ROOT",
    "Daemon",
    "Lab",
    "announced",
    "at",
    "free_port",
    "short_folder",
    "until",
]

ROOT = Path(__file__).resolve().parent.parent

# Hundreds of daemons and commands: each would import the package anew.
AnyNode.run_program = staticmethod(forked.run)


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder with a path short enough for the sockets below it."""
    folder = Path(tempfile.mkdtemp(prefix="kp", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def until(condition: Callable[[], Any], what: str) -> Any:
    """Ask again and again; each time costs a call to the node, so this is no busy loop."""
    begun = time.monotonic()
    while not (value := condition()):
        assert time.monotonic() < begun + patience(), f"never happened: {what}"
    return value


def announced(uri: str) -> None:
    """Wait until the proxy knows of it; called as a client of the node that wants it."""
    until(lambda: kc.find_file(uri)["holders"], f"somebody has {uri}")


@contextlib.contextmanager
def at(daemon: Daemon, **env: str) -> Iterator[None]:
    """In here this process is a client of ``daemon``, as far as its environment goes."""
    mine = {name: daemon.env[name] for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME")}
    others = {name: value for name, value in os.environ.items() if "KACHERY" not in name}
    with mock.patch.dict(os.environ, {**others, **mine, **env}, clear=True):
        portal.shutdown()
        try:
            yield
        finally:
            portal.shutdown()


class Lab(Network):
    """Three daemons on one channel: ``a``, its owner, and ``b``, neither of which listens, and
    ``proxy``, which does."""

    def __init__(self, folder: Path, channel: str = "lab", *, direct: bool = False) -> None:
        """``direct``: ``a`` listens too, so that ``b`` links to it without the proxy."""
        super().__init__(
            ["a", "b"],
            channel=channel,
            processes=True,
            listening=["a"] if direct else [],
            lines=False,
            folder=folder,
        )
        self.nodes = super()._make_all()

    def _make_all(self) -> dict[str, AnyNode]:
        """They are there before they are started, so that a test may change their options."""
        return self.nodes

    @property
    def a(self) -> Daemon:
        return cast(Daemon, self["a"])

    @property
    def b(self) -> Daemon:
        return cast(Daemon, self["b"])

    @property
    def proxy(self) -> Daemon:
        return cast(Daemon, super().proxy)
