"""kachery's URIs as fsspec's users open them."""

from __future__ import annotations

import asyncio
import errno
import io
import random
from pathlib import Path

import pytest

import kachery_p2p as kc
from kachery_p2p.protocol.errors import NotFound
from kachery_p2p.protocol.limits import MANIFEST_CHUNK

fsspec = pytest.importorskip("fsspec")

DATA = random.Random(4).randbytes(MANIFEST_CHUNK + 1_000_000)
ABSENT = "sha1://" + "0" * 40 + "/absent.bin"


@pytest.fixture
def big(folder: Path) -> str:
    """The URI of a file with a manifest."""
    uri = kc.store_bytes(DATA, basename="big file.bin")
    assert "?manifest=" in uri
    return uri


def test_fsspec_finds_it_by_the_scheme(big: str) -> None:
    with fsspec.open(big) as file:
        assert file.read(10) == DATA[:10]
        file.seek(-5, io.SEEK_END)
        assert file.read() == DATA[-5:]
    with fsspec.open(kc.store_text("een\ntwee\n"), "rt", encoding="utf-8") as text:
        assert list(text) == ["een\n", "twee\n"]


def test_many_files_are_opened_and_the_manifest_is_no_pattern(big: str) -> None:
    uris = [big, kc.store_text("two"), kc.store_text("three")]
    found = []
    for each in fsspec.open_files(uris, "rb"):
        with each as file:
            found.append(file.read())
    assert found == [DATA, b"two", b"three"]


def test_a_file_is_described_and_read_in_part(big: str) -> None:
    fs, path = fsspec.url_to_fs(big)
    info = fs.info(path)
    assert (info["size"], info["type"]) == (len(DATA), "file")
    assert fs.ls(path, detail=False) == [path]
    assert fs.isfile(big)
    assert fs.exists(big)
    assert fs.unstrip_protocol(path) == big
    assert fs.ukey(big) == kc.parse_uri(big).hash
    assert fs.cat_file(big, 10, 20) == DATA[10:20]
    assert fs.cat_file(big, -10) == DATA[-10:]
    assert fs.cat_file(big, len(DATA) - 3, len(DATA) + 50) == DATA[-3:]
    assert fs.head(big, 7) == DATA[:7]
    assert fs.tail(big, 7) == DATA[-7:]
    assert fs.cat(big) == DATA


def test_ranges_of_many_files_come_in_the_order_in_which_they_were_asked(big: str) -> None:
    fs, path = fsspec.url_to_fs(big)
    other = kc.store_text("other content")
    got = fs.cat_ranges([path, other, path, ABSENT], [5, 0, -4, 0], [9, 5, None, 3])
    assert got[:3] == [DATA[5:9], b"other", DATA[-4:]]
    assert isinstance(got[3], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges([ABSENT], [0], [1], on_error="raise")


def test_a_file_is_copied_out(big: str, tmp_path: Path) -> None:
    fs, path = fsspec.url_to_fs(big)
    fs.get(path, str(tmp_path / "copy.bin"))
    assert (tmp_path / "copy.bin").read_bytes() == DATA
    with fsspec.open(
        f"simplecache::{big}", simplecache={"cache_storage": str(tmp_path / "c")}
    ) as f:
        assert f.read(5) == DATA[:5]


def test_what_nobody_has_is_not_found_as_python_says(folder: Path) -> None:
    fs = fsspec.filesystem("sha1")
    assert not fs.exists(ABSENT)
    for read in (fs.info, fs.cat_file, fs.open, fs.ls, lambda uri: fs.cat_file(uri, 0, 5)):
        with pytest.raises(FileNotFoundError) as caught:
            read(ABSENT)
        assert caught.value.errno == errno.ENOENT


def test_nothing_can_be_written(big: str, tmp_path: Path) -> None:
    fs = fsspec.filesystem("sha1")
    for write in (
        lambda: fs.open(big, "wb"),
        lambda: fs.pipe_file(big, b"x"),
        lambda: fs.rm_file(big),
        lambda: fs.cp_file(big, ABSENT),
        lambda: fs.mkdir(ABSENT),
        lambda: fs.put_file(str(tmp_path), big),
    ):
        with pytest.raises(OSError, match="cannot be changed"):
            write()
    assert fs.cat_file(big, 0, 3) == DATA[:3]


async def test_async_programs_use_it_without_threads(big: str) -> None:
    fs = fsspec.filesystem("sha1", asynchronous=True, skip_instance_cache=True)
    parts = await asyncio.gather(*(fs._cat_file(big, at, at + 9) for at in range(0, 90, 9)))
    assert b"".join(parts) == DATA[:90]
    assert (await fs._info(big))["size"] == len(DATA)


def test_it_can_be_sent_to_another_process(big: str) -> None:
    import pickle

    fs, path = fsspec.url_to_fs(big)
    again = pickle.loads(pickle.dumps(fs))
    assert again.cat_file(path, 0, 5) == DATA[:5]
    with fsspec.open(big) as file, pickle.loads(pickle.dumps(file)) as other:
        assert other.read(5) == DATA[:5]


# --- folders ---------------------------------------------------------------------------------


@pytest.fixture
def stored_folder(folder: Path, tmp_path: Path) -> str:
    """The URI of a folder with files, folders, and a name that needs quoting."""
    top = tmp_path / "experiment"
    (top / "raw" / "day 1").mkdir(parents=True)
    (top / "notes.txt").write_text("some notes")
    (top / "raw" / "a.bin").write_bytes(b"0123456789")
    (top / "raw" / "day 1" / "b?.csv").write_text("x,y\n1,2\n")
    return str(kc.store_dir(str(top)))


def test_a_folder_is_walked_and_its_files_are_read(stored_folder: str) -> None:
    fs, path = fsspec.url_to_fs(stored_folder)
    assert fs.info(path)["type"] == "directory"
    assert fs.isdir(stored_folder)
    assert [(each["name"].rpartition("/")[2], each["type"]) for each in fs.ls(path)] == [
        ("raw", "directory"),
        ("notes.txt", "file"),
    ]
    found = fs.find(path)
    assert sorted(name.removeprefix(path) for name in found) == [
        "/notes.txt",
        "/raw/a.bin",
        "/raw/day 1/b?.csv",
    ]
    assert sorted(fs.cat(found).values()) == [b"0123456789", b"some notes", b"x,y\n1,2\n"]
    assert fs.glob(f"{path}/raw/*.bin") == [f"{path}/raw/a.bin"]
    assert fs.info(f"{path}/raw/a.bin")["size"] == 10
    assert fs.cat_ranges([f"{path}/raw/a.bin"] * 2, [0, 5], [2, 9]) == [b"01", b"5678"]
    with fsspec.open(f"{stored_folder}/notes.txt", "rt") as text:
        assert text.read() == "some notes"


def test_what_is_not_in_a_folder_is_not_found_without_asking_anybody(stored_folder: str) -> None:
    fs, path = fsspec.url_to_fs(stored_folder)
    for name in ("nothing", "raw/nothing", "notes.txt/below"):
        assert not fs.exists(f"{path}/{name}")
        with pytest.raises(FileNotFoundError):
            fs.cat_file(f"{path}/{name}")
    with pytest.raises(FileNotFoundError):
        fs.ls("sha1dir://" + "0" * 40 + ".gone")


@pytest.fixture
def torn(folder: Path, tmp_path: Path) -> str:
    """The URI of a folder one of whose files is nowhere any more."""
    top = tmp_path / "torn"
    (top / "c").mkdir(parents=True)
    (top / "c" / "here").write_bytes(b"here")
    (top / "c" / "gone").write_bytes(b"gone")
    uri = kc.store_dir(str(top))
    path = kc.load_file(f"{uri}/c/gone", local_only=True)
    assert path is not None
    Path(path).unlink()
    return str(uri)


def test_what_a_folder_has_and_nobody_gives_is_no_file_that_does_not_exist(torn: str) -> None:
    """zarr takes FileNotFoundError for a chunk that was never written, and puts fill values in its
    place. Then a computer that is switched off would change what is computed."""
    fs, path = fsspec.url_to_fs(torn)
    assert fs.exists(f"{path}/c/gone"), "its listing has it"
    for read in (
        lambda: fs.cat_file(f"{path}/c/gone"),
        lambda: fs.cat_file(f"{path}/c/gone", 1, 2),
        lambda: fs.open(f"{path}/c/gone").read(),
        lambda: fs.cat_ranges([f"{path}/c/gone"], [0], [2], on_error="raise"),
        lambda: fs.get_file(f"{path}/c/gone", "/dev/null/never"),
        lambda: fsspec.get_mapper(torn)["c/gone"],
        lambda: fsspec.get_mapper(torn).getitems(["c/here", "c/gone"], on_error="raise"),
    ):
        with pytest.raises(NotFound):
            read()
    came, error = fs.cat_ranges([f"{path}/c/here", f"{path}/c/gone"], [0, 0], [2, 2])
    assert came == b"he"
    assert isinstance(error, NotFound)
    with pytest.raises(FileNotFoundError):
        fs.cat_file(f"{path}/c/never")
    lost = "sha1dir://" + "0" * 40 + ".lost/c/0"
    with pytest.raises(NotFound):
        fs.cat_file(lost)
    assert not fs.exists(lost)


def test_zarr_puts_no_fill_values_where_nobody_gives_a_chunk(folder: Path, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    stored = zarr.create_array(
        store=tmp_path / "r.zarr",
        shape=(8,),
        chunks=(2,),
        dtype="u1",
        compressors=None,
        fill_value=9,
    )
    stored[:6] = range(1, 7)
    uri = kc.store_dir(str(tmp_path / "r.zarr"))
    array = zarr.open(uri, mode="r")
    assert array[:].tolist() == [1, 2, 3, 4, 5, 6, 9, 9], "the last chunk was never written"
    path = kc.load_file(f"{uri}/c/1", local_only=True)
    assert path is not None
    Path(path).unlink()
    assert array[4:].tolist() == [5, 6, 9, 9]
    with pytest.raises(NotFound):
        array[:]


def test_a_folder_is_a_mapping_as_zarr_uses_it(stored_folder: str) -> None:
    mapping = fsspec.get_mapper(stored_folder)
    assert mapping["raw/a.bin"] == b"0123456789"
    assert "raw/.zarray" not in mapping
    assert mapping.getitems(["notes.txt", "absent"], on_error="omit") == {
        "notes.txt": b"some notes"
    }
