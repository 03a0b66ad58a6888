"""Origins for tests: content in kachery's layout, with what an archive puts beside it."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

from kachery_p2p.storage import paths
from kachery_p2p.storage.backing.objects import MANIFEST
from kachery_p2p.storage.files.blobs import BlobStore


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def put(root: Path, data: bytes, *, tree: bool = True) -> tuple[str, str | None]:
    """Content in an origin's folder, as an archive has it; the hash, and that of its manifest. Without
    ``tree``, as kachery left it."""
    store = BlobStore(root / "making", durable=False)
    store.open()
    try:
        stored = store.store_bytes(data)
    finally:
        store.close()
    for suffix in ("", paths.TREE) if tree else ("",):
        source = paths.path_of(root / "making", stored.sha1, suffix)
        if source.exists():
            _place(root, stored.sha1, suffix, source.read_bytes())
    if stored.manifest_sha1 is not None:
        manifest = paths.path_of(root / "making", stored.manifest_sha1).read_bytes()
        _place(root, stored.manifest_sha1, "", manifest)
        if tree:
            _place(root, stored.sha1, MANIFEST, stored.manifest_sha1.encode())
    return stored.sha1, stored.manifest_sha1


def _place(root: Path, sha1: str, suffix: str, data: bytes) -> None:
    path = paths.path_of(root, sha1, suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def put_many(root: Path, count: int) -> list[str]:
    """Many small contents; their hashes."""
    names = []
    for at in range(count):
        data = b"small %d" % at
        name = hashlib.sha1(data).hexdigest()
        _place(root, name, "", data)
        names.append(name)
    return names


def write_index(root: Path) -> None:
    """As ``find sha1 -type f -printf '%f %s\\n' > index.txt`` does."""
    files = (each for each in (root / "sha1").rglob("*") if each.is_file())
    lines = [f"{each.name} {each.stat().st_size}\n" for each in files]
    (root / "index.txt").write_text("".join(lines))
