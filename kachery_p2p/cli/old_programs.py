"""The programs of kachery_client, of kachery_daemon and of kachery_p2p 0.8, such as ``kachery-store``
and ``kachery-p2p-store``: entry points of the package, each one command of ``kachery-p2p``."""

from __future__ import annotations

import sys

from .main import main


def _program(*command: str) -> int:
    return main([*command, *sys.argv[1:]])


def cat() -> int:
    """The program ``kachery-cat``, and ``kachery-p2p-cat``."""
    return _program("cat")


def load() -> int:
    """The program ``kachery-load``, and ``kachery-p2p-load``."""
    return _program("load")


def store() -> int:
    """The program ``kachery-store``, and ``kachery-p2p-store``."""
    return _program("store-file")


def link() -> int:
    """The program ``kachery-link``, and ``kachery-p2p-link``."""
    return _program("link")


def describe() -> int:
    """The program ``kachery-info``, ``kachery-daemon-info`` and ``kachery-p2p-node-info``."""
    return _program("info")


def find() -> int:
    """The program ``kachery-p2p-find``."""
    return _program("find")


def get_channels() -> int:
    """The program ``kachery-p2p-get-channels``."""
    return _program("channel", "list")


def join_channel() -> int:
    """The program ``kachery-p2p-join-channel``."""
    return _program("channel", "join")


def leave_channel() -> int:
    """The program ``kachery-p2p-leave-channel``."""
    return _program("channel", "leave")


def print_messages() -> int:
    """The program ``kachery-p2p-print-messages``."""
    return _program("print-messages")


def start_daemon() -> int:
    """The program ``kachery-p2p-start-daemon``, and ``kachery-daemon-start``."""
    return _program("start-daemon")


def stop_daemon() -> int:
    """The program ``kachery-p2p-stop-daemon``."""
    return _program("daemon", "stop")


def kachery_daemon() -> int:
    """The program ``kachery-daemon``, whose commands are ``start``, ``info`` and ``version``."""
    first, *rest = sys.argv[1:] or ["--help"]
    return main(["start-daemon" if first == "start" else first, *rest])
