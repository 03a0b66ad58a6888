"""The programs of kachery_client: entry points of the package, each one command of ``kachery-p2p``."""

from __future__ import annotations

import sys

from .main import main


def _program(command: str) -> int:
    return main([command, *sys.argv[1:]])


def cat() -> int:
    """The program ``kachery-cat``."""
    return _program("cat")


def load() -> int:
    """The program ``kachery-load``."""
    return _program("load")


def store() -> int:
    """The program ``kachery-store``."""
    return _program("store")


def link() -> int:
    """The program ``kachery-link``."""
    return _program("link")


def describe() -> int:
    """The program ``kachery-info``."""
    return _program("info")
