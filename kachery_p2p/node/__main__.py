"""The daemon's process: ``python -m kachery_p2p.node``, started by ``kachery-p2p daemon start``.

Configuration comes as one JSON object on the command line; readiness is told by the socket answering
(:mod:`.local.server`), failure by one line of JSON on standard error and an exit status.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import logging.handlers
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from kachery_p2p.local import loops
from kachery_p2p.protocol.errors import KacheryError, LoopNotMade, to_wire
from kachery_p2p.protocol.limits import MAX_DESCRIPTORS, MIN_DESCRIPTORS
from kachery_p2p.storage.backing.setting import OriginSetting
from kachery_p2p.storage.disk import disk_errors
from kachery_p2p.storage.sharing import bits_to_read

from . import memory
from .config import Config
from .node import Node

log = logging.getLogger(__name__)

_SWITCH_SECONDS = 0.0001
"""A thread that only wants to start a call of the disk waits no longer for the interpreter. Others hash
and encrypt, which does not hold it."""
_LOG_BYTES = 5_000_000
_LOG_FILES = 3


class LogFile(logging.handlers.RotatingFileHandler):
    """The log, at its name: if somebody moves or removes the file, as logrotate does, there is a new
    one."""

    def emit(self, record: logging.LogRecord) -> None:
        if self.stream is not None and self._is_elsewhere():
            self.stream.close()
            self.stream = None  # the line that is written opens it
        super().emit(record)

    def _is_elsewhere(self) -> bool:
        try:
            there = os.stat(self.baseFilename)
        except OSError:
            return True
        return self.stream is not None and not os.path.samestat(
            there, os.fstat(self.stream.fileno())
        )


def config_from_json(text: str) -> Config:
    fields: dict[str, Any] = json.loads(text)
    for name in ("state_dir", "storage_dir", "runtime_dir", "tls_cert", "tls_key"):
        if fields.get(name) is not None:
            fields[name] = Path(fields[name])
    for name in ("allow_tasks", "trust_forwarded", "origins", "private_networks"):
        if fields.get(name) is not None:
            fields[name] = tuple(fields[name])
    if fields.get("backing") is not None:
        fields["backing"] = msgspec.convert(fields["backing"], tuple[OriginSetting, ...])
    return Config(**fields)


def set_up_log(config: Config, *, foreground: bool) -> None:
    """To ``<state>/node.log``, rotated; in the foreground to standard error too."""
    path = config.state_dir / "node.log"
    with disk_errors("the log", path):
        config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        handlers: list[logging.Handler] = [
            LogFile(path, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES)
        ]
    if foreground:
        handlers.append(logging.StreamHandler())
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=handlers,
    )
    logging.getLogger("websockets").setLevel(logging.CRITICAL)


async def serve(config: Config) -> None:
    """Run a node until a signal or the local API stops it."""
    node = Node(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.stopping.set)
    # Its terminal is gone; a node that has none is asked to reopen its log, which it does by itself.
    loop.add_signal_handler(signal.SIGHUP, node.stopping.set if _has_terminal() else lambda: None)
    await node.start()
    try:
        await node.stopping.wait()
    finally:
        await node.stop()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def main(arguments: list[str]) -> int:
    text, *rest = arguments
    try:
        memory.keep_freed()
        memory.collect_when_quiet()
        config = config_from_json(text)
        if config.is_shared:
            # Whose umask it was that it is started with: those who are let in read what it stores. What
            # is the node's own alone (key, database, log) says so itself.
            os.umask(os.umask(0o077) & ~bits_to_read(others=config.others_may_read))
        set_up_log(config, foreground="--foreground" in rest)
        raise_descriptor_limit()
        _check_descriptor_limit()
        _run(config)
    except KacheryError as error:
        return _failed(error)
    return 0


def _failed(error: KacheryError) -> int:
    """Say it to whoever started this process; its exit status."""
    code, fields = to_wire(error)
    log.error("%s", error)
    with contextlib.suppress(OSError):  # what it says may be that this very disk is full
        os.write(2, json.dumps({"code": code, "fields": fields}).encode() + b"\n")
    return error.exit_status


def raise_descriptor_limit() -> None:
    """Use as many descriptors as the system lets this process have, not as few as it has at first."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if most == resource.RLIM_INFINITY else most
    if now != resource.RLIM_INFINITY and now < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
        except (
            OSError,
            ValueError,
        ) as error:  # some systems have a lower bound that they do not say
            log.warning("the limit of open files stays at %s: %s", now, error)


def _check_descriptor_limit() -> None:
    """Raises LoopNotMade. A node that can open some files and not others fails anywhere."""
    now, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now != resource.RLIM_INFINITY and now < MIN_DESCRIPTORS:
        reason = (
            f"this process may open {now} files, and a node takes {MIN_DESCRIPTORS} at least "
            "('ulimit -n' shows and raises the limit)"
        )
        raise LoopNotMade(reason=reason)


def _run(config: Config) -> None:
    sys.setswitchinterval(_SWITCH_SECONDS)
    loops.run(lambda: serve(config))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
