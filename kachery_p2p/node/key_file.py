"""The folder of the node's state, and the key in it: made at the first start, the key by rename, so
that there is never half a key."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from kachery_p2p.protocol.errors import StorageDamaged
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.storage.disk import disk_errors, sync_folder, write_all


def make_state_folder(path: Path) -> None:
    """The folder of the node's state, there after a power cut as well."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    for folder in missing:
        sync_folder(folder.parent)


def load_key(path: Path, random_bytes: Callable[[int], bytes]) -> NodeKey:
    """The node's key, made at the first start. Mode 0600, and refused if others can read it."""
    with disk_errors("the node's key", path):
        try:
            seed = path.read_bytes()
        except FileNotFoundError:
            return _make_key(path, random_bytes)
        mode = path.stat().st_mode
    if mode & 0o077:
        raise StorageDamaged(
            path=str(path), reason="others can read the node's key; run 'chmod 600' on it"
        )
    try:
        return NodeKey(bytes.fromhex(seed.decode("ascii").strip()))
    except ValueError as error:
        raise StorageDamaged(path=str(path), reason=f"it is not a node key: {error}") from error


def _make_key(path: Path, random_bytes: Callable[[int], bytes]) -> NodeKey:
    key = NodeKey.generate(random_bytes)
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write_all(fd, key.seed.hex().encode() + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    # By rename, so that a crash or a full disk never leaves half a key.
    temporary.rename(path)
    # Whoever adds this node to a channel adds this key: its name must be there after a power cut.
    sync_folder(path.parent)
    return key
