"""The files in which clients find what they need over loopback TCP: a token for each right.

The file for the full right is the node's own user's, and the group's that may use the node. Where
others may only read, the group, or everybody, has a file with another token, which gives that right
and no other. Files are made anew at each start; what a killed node left behind opens nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from kachery_p2p.local.places import token_name
from kachery_p2p.node.config import Config
from kachery_p2p.protocol.local.proof import FULL, READ_ONLY, RIGHTS, TOKEN_BYTES, Token
from kachery_p2p.storage.disk import disk_errors, write_all


class TokenFiles:
    """``tokens``: by right."""

    def __init__(self) -> None:
        self.tokens: dict[str, Token] = {}
        self._written: dict[Path, tuple[Token, int, int | None]] = {}

    def make(
        self, config: Config, port: int, node: bytes, random_bytes: Callable[[int], bytes]
    ) -> None:
        """Raises StorageDamaged, StorageFull."""
        group = config.group_id()
        shared = 0o040 if group is not None else 0
        # As the socket's mode: whoever may write to it is let in.
        readers = shared | (config.socket_mode & 0o022) << 1
        modes = {FULL: 0o600 if config.others_read_only else 0o600 | shared}
        if config.others_read_only and readers:
            modes[READ_ONLY] = 0o600 | readers
        for right, mode in modes.items():
            token = self.tokens[right] = Token(random_bytes(TOKEN_BYTES), node, right)
            self._write(config.runtime_dir / token_name(port, right), token, mode, group)

    def _write(self, path: Path, token: Token, mode: int, group: int | None) -> None:
        with disk_errors("a token", path):
            path.unlink(missing_ok=True)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            self._written[path] = (token, mode, group)
            try:
                write_all(fd, token.to_text().encode())
                if group is not None and mode & 0o040:
                    os.fchown(fd, -1, group)
                os.fchmod(fd, mode)
            finally:
                os.close(fd)

    def restore(self) -> None:
        """Write those anew that are no longer there. Raises as :meth:`make`."""
        for path, (token, mode, group) in list(self._written.items()):
            if not path.exists():
                self._write(path, token, mode, group)

    def remove(self) -> None:
        for path in self._written:
            with contextlib.suppress(OSError):  # the folder has gone, or is read-only by now
                path.unlink(missing_ok=True)
        self._written.clear()
        self.tokens.clear()


def remove_stale(folder: Path) -> None:
    """What a node that was killed left behind. For the one node that has the folder's socket."""
    for right in RIGHTS:
        for path in folder.glob(token_name("*", right)):
            with contextlib.suppress(OSError):  # somebody else's; it opens nothing
                path.unlink()
