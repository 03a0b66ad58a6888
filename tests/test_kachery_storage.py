"""docs/howto-move.md: a storage folder as kachery left it is shared by a node as it is."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path

import pytest

from kachery_p2p.protocol.limits import MANIFEST_CHUNK
from tests.daemons import Lab

LOADS = """
import hashlib, json, sys
import kachery_client as kc

for uri in sys.argv[1:]:
    data = kc.load_bytes(uri)
    print(json.dumps(data if data is None else hashlib.sha1(data).hexdigest()))
"""


def sha1(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def place(storage: Path, digest: str, suffix: str = "") -> Path:
    """Where kachery keeps what has this hash."""
    folder = storage / "sha1" / digest[:2] / digest[2:4] / digest[4:6]
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{digest}{suffix}"


def put(storage: Path, data: bytes) -> str:
    place(storage, sha1(data)).write_bytes(data)
    return sha1(data)


def manifest_of(data: bytes) -> bytes:
    """As kachery wrote them: without the tree that is in those of today."""
    starts = range(0, len(data), MANIFEST_CHUNK)
    pieces = [(start, data[start : start + MANIFEST_CHUNK]) for start in starts]
    chunks = [
        {"start": start, "end": start + len(piece), "sha1": sha1(piece)} for start, piece in pieces
    ]
    return json.dumps({"size": len(data), "sha1": sha1(data), "chunks": chunks}).encode()


@pytest.mark.processes
def test_what_kachery_left_is_loaded_here_and_elsewhere(short_folder: Path) -> None:
    storage = short_folder / "a" / "kachery-storage"
    storage.mkdir(parents=True)
    for name in ("feeds.db", "kachery-node-id", "client-auth", "owner"):
        (storage / name).write_text("kachery's own")

    small = put(storage, b"some-random-text")
    large_data = bytes(range(256)) * 100_000
    large = put(storage, large_data)
    manifest = put(storage, manifest_of(large_data))
    linked_file = short_folder / "linked.dat"
    linked_file.write_bytes(b"linked content")
    linked = sha1(b"linked content")
    told = linked_file.stat()
    link = {
        "path": str(linked_file),
        "manifestSha1": None,
        "stat": {"size": told.st_size, "mtime": told.st_mtime},
        "_writingProcess": "daemon",
    }
    place(storage, linked, ".link").write_text(json.dumps(link))

    with sqlite3.connect(storage / "mutables.db") as db:
        db.execute("CREATE TABLE mutables (sha1 TEXT PRIMARY KEY, key TEXT, value TEXT)")
        row = (sha1(b'{"a":[1]}'), '{"a":[1]}', '"as it was"')
        db.execute("INSERT INTO mutables VALUES (?, ?, ?)", row)
    db.close()

    uris = [
        f"sha1://{small}/file.txt",
        f"sha1://{large}/recording.dat?manifest={manifest}",
        f"sha1://{linked}/linked.dat",
    ]
    wanted = [small, large, linked]
    with Lab(short_folder) as lab:
        for node in (lab.a, lab.b):
            assert [json.loads(line) for line in node.python(LOADS, *uris).splitlines()] == wanted
        assert (
            lab.a.python("import kachery_client as kc; print(kc.get({'a': [1]}))") == "as it was\n"
        )
    for name in ("feeds.db", "kachery-node-id", "client-auth", "owner"):
        assert (storage / name).read_text() == "kachery's own"
