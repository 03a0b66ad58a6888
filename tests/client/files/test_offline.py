"""Offline mode: a folder and no node, until it is given to one; and folders that kachery made."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kachery_p2p as kc
from kachery_p2p.client.session import portal
from kachery_p2p.protocol import errors
from kachery_p2p.protocol.limits import MANIFEST_CHUNK
from tests import forked
from tests.daemons import Daemon, Lab

ABSENT = "sha1://" + "0" * 40


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of offline mode, which this process is in; it does not exist yet."""
    for name in [name for name in os.environ if "KACHERY" in name]:
        monkeypatch.delenv(name)
    # Whatever node there may be on this computer, it is not asked.
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("KACHERY_P2P_OFFLINE_STORAGE_DIR", str(tmp_path / "folder"))
    yield tmp_path / "folder"
    portal.shutdown()


def content(name: str, size: int) -> bytes:
    return hashlib.shake_128(name.encode()).digest(size)


def place(folder: Path, data: bytes, suffix: str = "", sha1: str | None = None) -> str:
    """Put a file into a storage folder by hand, as kachery did; its hash."""
    sha1 = sha1 or hashlib.sha1(data).hexdigest()
    path = folder / "sha1" / sha1[:2] / sha1[2:4] / sha1[4:6] / f"{sha1}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return sha1


def test_everything_is_stored_and_loaded_without_a_node(folder: Path, tmp_path: Path) -> None:
    array = np.arange(20.0).reshape(4, 5)
    path = tmp_path / "notes.txt"
    path.write_text("a file")
    uri = kc.store_text("some-random-text")
    assert uri == "sha1://6af826b3d648ccba6b4bbe58e93e22add640d728/file.txt"
    assert kc.load_text(uri) == "some-random-text"
    assert kc.load_json(kc.store_json({"a": [1, None]})) == {"a": [1, None]}
    np.testing.assert_equal(kc.load_npy(kc.store_npy(array)), array)
    assert kc.load_pkl(kc.store_pkl({"x": (1, b"2")})) == {"x": (1, b"2")}
    assert kc.load_bytes(kc.store_bytes(b"")) == b""
    stored = kc.load_file(kc.store_file(path))
    assert stored is not None
    assert Path(stored).is_relative_to(folder)
    assert kc.load_file(uri, tmp_path / "copy") == str(tmp_path / "copy")
    for load in (kc.load_text, kc.load_bytes, kc.load_file, kc.load_json, kc.load_npy, kc.load_pkl):
        assert load(ABSENT) is None
    assert not list((folder / "tmp").iterdir())


async def test_many_at_once(folder: Path) -> None:
    texts = [f"number {number}" for number in range(50)]
    uris = await asyncio.gather(*map(kc.astore_text, texts))
    assert await asyncio.gather(*map(kc.aload_text, uris)) == texts


def test_a_large_file_has_a_manifest_and_ranges(folder: Path, tmp_path: Path) -> None:
    data = content("large", MANIFEST_CHUNK + 70_000)
    path = tmp_path / "large.dat"
    path.write_bytes(data)
    uri = kc.store_file(path)
    manifest = kc.parse_uri(uri).manifest
    described = kc.load_json(f"sha1://{manifest}")
    assert (described["size"], described["sha1"]) == (len(data), kc.parse_uri(uri).hash)
    assert kc.store_bytes(data, "large.dat") == uri == kc.link_file(path)
    assert kc.load_bytes(uri) == data
    assert kc.load_bytes(uri, MANIFEST_CHUNK - 5, MANIFEST_CHUNK + 5) == data[19999995:20000005]
    assert kc.load_bytes(uri, len(data) - 1, len(data) + 9) == data[-1:]


def test_a_link_copies_nothing_and_a_changed_file_is_not_found(
    folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "linked.txt"
    path.write_text("linked content")
    uri = kc.link_file(path)
    assert kc.load_file(uri) == str(path)
    assert kc.load_text(uri) == "linked content"
    path.write_text("other content!")
    os.utime(path, ns=(0, 0))
    assert kc.load_text(uri) is None


def test_damage_cannot_be_mended_and_is_said(folder: Path) -> None:
    uri = kc.store_text("soon damaged")
    path = Path(kc.load_file(uri) or "")
    path.write_text("xoon damaged")
    with pytest.raises(errors.CorruptContent):
        kc.load_text(uri)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("get_node_id", ()),
        ("node_info", ()),
        ("get_channels", ()),
        ("stop_node", ()),
        ("find_file", (ABSENT,)),
        ("get", ("key",)),
        ("set", ("key", 1)),
        ("delete", ("key",)),
        ("channel_create", ("lab", [])),
        ("channel_join", ("text",)),
    ],
)
def test_what_needs_a_node_says_so(folder: Path, name: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(errors.NeedsNode, match="KACHERY_P2P_OFFLINE_STORAGE_DIR"):
        getattr(kc, name)(*arguments)


def test_a_folder_that_cannot_be_made_is_said(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KACHERY_P2P_OFFLINE_STORAGE_DIR", str(tmp_path / "file" / "x"))
    with pytest.raises(errors.StorageDamaged, match=str(tmp_path)):
        kc.store_text("x")
    with pytest.raises(errors.StorageDamaged, match=str(tmp_path)):
        kc.load_text(ABSENT)


async def test_a_cancelled_store_is_over_when_it_returns(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.dat"
    with path.open("wb") as file:
        file.truncate(400_000_000)
    storing = asyncio.create_task(kc.astore_file(path))
    while not (folder / "tmp").is_dir() or not os.listdir(folder / "tmp"):  # noqa: ASYNC110
        await asyncio.sleep(0)  # nothing tells of a file's appearance
    storing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await storing
    assert os.listdir(folder / "tmp") == []


# --- the folder is given to a node ---------------------------------------------------------------


@pytest.mark.processes
def test_a_node_serves_what_was_stored_offline_and_what_kachery_left(
    folder: Path, tmp_path: Path, short_folder: Path
) -> None:
    big = content("offline", MANIFEST_CHUNK + 1_000)
    texts = {kc.store_text("stored offline"): b"stored offline", kc.store_bytes(big): big}
    linked = tmp_path / "linked.dat"
    linked.write_bytes(content("linked", 50_000))
    texts[kc.link_file(linked)] = linked.read_bytes()

    texts[f"sha1://{place(folder, b'made by kachery')}/x.txt"] = b"made by kachery"
    target = tmp_path / "recording.dat"
    target.write_bytes(content("old link", 70_000))
    status = target.stat()
    fields = {"path": str(target), "size": status.st_size, "mtime": status.st_mtime}
    sha1 = hashlib.sha1(target.read_bytes()).hexdigest()
    place(folder, json.dumps(fields).encode(), ".link", sha1)
    texts[f"sha1://{sha1}/recording.dat"] = target.read_bytes()
    old = content("old", MANIFEST_CHUNK + 2_000)
    chunks = [
        {"start": start, "end": end, "sha1": hashlib.sha1(old[start:end]).hexdigest()}
        for start, end in ((0, MANIFEST_CHUNK), (MANIFEST_CHUNK, len(old)))
    ]
    sha1 = place(folder, old)
    manifest = place(
        folder, json.dumps({"size": len(old), "sha1": sha1, "chunks": chunks}).encode()
    )
    texts[f"sha1://{sha1}/old.dat?manifest={manifest}"] = old
    place(folder, b"", ".lock", "0" * 40)  # what it does not know stays as it is

    lab = Lab(short_folder)
    lab.a.options["storage_dir"] = folder
    with lab:
        assert lab.a.info()["storage_dir"] == str(folder)
        for uri, data in texts.items():
            assert load(lab.a, uri) == data
            # What was there before the channel is announced as soon as the storage is compared.
            assert any("relayed" in find(lab.b, uri) for _ in range(50)), uri
            assert load(lab.b, uri) == data
        left = list(folder.rglob("*.lock"))
    assert any(path.name == "0" * 40 + ".lock" for path in left)


def find(daemon: Daemon, uri: str) -> str:
    return daemon.cli("find", uri, check=False).stdout


def load(daemon: Daemon, uri: str) -> bytes:
    code = "import sys, kachery_p2p as kc; print(kc.load_file(sys.argv[1]))"
    return Path(daemon.python(code, uri).rstrip("\n")).read_bytes()


def place_chunks(folder: Path, data: bytes) -> str:
    """A file's chunks and its manifest of old, as kachery's daemon left them; the manifest's hash."""
    parts = [data[at : at + MANIFEST_CHUNK] for at in range(0, len(data), MANIFEST_CHUNK)]
    names = [place(folder, part) for part in parts]
    starts = [at * MANIFEST_CHUNK for at in range(len(parts))]
    chunks = [
        {"start": start, "end": start + len(part), "sha1": name}
        for start, part, name in zip(starts, parts, names, strict=True)
    ]
    whole = hashlib.sha1(data).hexdigest()
    manifest = json.dumps({"size": len(data), "sha1": whole, "chunks": chunks}).encode()
    return place(folder, manifest)


def test_a_file_of_which_only_the_chunks_are_there(folder: Path) -> None:
    data = content("chunked", MANIFEST_CHUNK + 1_000)
    sha1 = hashlib.sha1(data).hexdigest()
    manifest = place_chunks(folder, data)
    assert kc.load_bytes(f"sha1://{sha1}/rec.dat") is None
    uri = f"sha1://{sha1}/rec.dat?manifest={manifest}"
    assert kc.load_bytes(uri, MANIFEST_CHUNK - 5, MANIFEST_CHUNK + 5) == data[-1_005:-995]
    path = kc.load_file(uri)
    assert path is not None
    assert Path(path).read_bytes() == data


def test_a_chunk_of_a_file_that_is_there(folder: Path) -> None:
    whole, chunk = content("whole", 5_000), content("whole", 5_000)[1_000:3_000]
    uri = f"sha1://{hashlib.sha1(chunk).hexdigest()}?chunkOf={place(folder, whole)}~1000~3000"
    assert kc.load_bytes(uri, 10, 20) == chunk[10:20]
    path = kc.load_file(uri)
    assert path is not None
    assert Path(path).read_bytes() == chunk
    wrong = uri.replace("~1000~", "~1001~").replace(hashlib.sha1(chunk).hexdigest(), "0" * 40)
    assert kc.load_bytes(wrong) is None


def test_what_a_killed_store_left_goes_at_the_next(folder: Path, tmp_path: Path) -> None:
    code = """
import os, signal, kachery_p2p as kc
from kachery_p2p.storage.files.writer import ContentWriter
ContentWriter.finish = lambda self: os.kill(os.getpid(), signal.SIGKILL)
kc.store_bytes(bytes([1]) * 21_000_000)
"""
    forked.run([sys.executable, "-c", code], check=False)
    assert list((folder / "tmp").iterdir())
    kc.store_text("the next one")
    assert not list((folder / "tmp").iterdir())


def test_three_thousand_files_at_once_need_few_descriptors(folder: Path, tmp_path: Path) -> None:
    for number in range(3_000):
        (tmp_path / str(number)).write_text(f"file {number % 10}")
    code = """
import asyncio, resource, sys, kachery_p2p as kc
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
async def main():
    paths = [f"{sys.argv[1]}/{number}" for number in range(3000)]
    return await asyncio.gather(*(kc.astore_file(path, progress=False) for path in paths))
print(len(asyncio.run(main())))
"""
    done = forked.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "3000\n", done.stderr
