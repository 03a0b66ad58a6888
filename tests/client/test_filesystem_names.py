"""What names fsspec's users meet in folders that were stored: those that the files have, since others
make keys, columns and local files of them."""

from __future__ import annotations

import gzip
import io
import random
from pathlib import Path

import pytest

import kachery_p2p as kc
from kachery_p2p.protocol.limits import MANIFEST_CHUNK

fsspec = pytest.importorskip("fsspec")

NAMES = (
    *("plain.txt", "a+b", "a@b", "a:b", "x,y", "(1).txt", "year=2020", "[1].txt", "a*b", "what?"),
    *("a#b", "50%.txt", "a%20b", "a%41", "é", "日本.txt", "a'b", 'a"b', "a!b", "a&b", "a;b", "a|b"),
    *("a\\b", "-x", ".hidden", "~", "a b", " lead", "trail ", "tab\tname", "new\nline"),
)


@pytest.fixture
def odd(folder: Path, tmp_path: Path) -> str:
    """The URI of a folder with such names; in each file is its own."""
    top = tmp_path / "data [old]?"
    inside = top / "a folder=1 (é)"
    inside.mkdir(parents=True)
    for name in NAMES:
        (top / name).write_text(name)
        (inside / name).write_text(name)
    return str(kc.store_dir(str(top)))


def test_whatever_is_listed_can_be_read_by_the_name_that_it_has(odd: str) -> None:
    fs, path = fsspec.url_to_fs(odd)
    listed = fs.find(path)
    assert sorted(each.removeprefix(f"{path}/") for each in listed) == sorted(
        f"{folder}{name}" for name in NAMES for folder in ("", "a folder=1 (é)/")
    )
    for each in listed:
        name = each.rpartition("/")[2]
        assert fs.cat_file(each).decode() == name
        assert fs.cat_file(each, 0, 1) == name.encode()[:1]
        assert fs.info(each)["name"] == each
        with fs.open(each) as file:
            assert file.read().decode() == name
    assert {key: data.decode() for key, data in fs.cat(listed).items()} == {
        each: each.rpartition("/")[2] for each in listed
    }
    assert fs.glob(f"{path}/year=*") == [f"{path}/year=2020"]


def test_keys_of_a_mapping_are_names(odd: str) -> None:
    mapping = fsspec.get_mapper(odd)
    assert {name: mapping[name].decode() for name in NAMES} == {name: name for name in NAMES}
    assert set(NAMES) < set(mapping)


def test_local_copies_have_the_names(odd: str, tmp_path: Path) -> None:
    fs, path = fsspec.url_to_fs(odd)
    fs.get(f"{path}/", str(tmp_path / "out"), recursive=True)
    for name in NAMES:
        assert (tmp_path / "out" / name).read_text() == name
        assert (tmp_path / "out" / "a folder=1 (é)" / name).read_text() == name


def test_names_as_uris_have_them_are_found_too(odd: str) -> None:
    fs = fsspec.filesystem("sha1dir")
    for entry in kc.list_dir(odd) or []:
        if entry.is_dir:
            assert len(fs.ls(entry.uri)) == len(NAMES)
    assert fs.cat_file(f"{odd}/a%20folder=1%20(é)/a%20b") == b"a%20b", "there is one spelled so"
    assert fs.cat_file(f"{odd}/%20lead") == b" lead"
    assert fs.cat_file(f"{odd}/what%3F") == b"what?"
    assert fs.cat_file(f"{odd}/plain.txt?unknown=1") == b"plain.txt"
    assert kc.load_text(fs.unstrip_protocol(f"{odd}/a#b")) == "a#b"


def test_a_partitioned_table_is_read_whole(folder: Path, tmp_path: Path) -> None:
    """It was read as an empty one: what its folders were said to be called was not found."""
    pq = pytest.importorskip("pyarrow.parquet")
    pd = pytest.importorskip("pandas")
    import pyarrow as pa

    table = pa.table({"year": [2020, 2020, 2021], "who": ["a b", "c", "é"], "v": [1, 2, 3]})
    pq.write_to_dataset(table, tmp_path / "table", partition_cols=["year", "who"])
    uri = kc.store_dir(str(tmp_path / "table"))
    frame = pd.read_parquet(uri)
    assert frame["v"].tolist() == [1, 2, 3]
    assert frame["who"].tolist() == ["a b", "c", "é"]
    assert pd.read_parquet(uri, filters=[("year", "==", 2021)])["v"].tolist() == [3]


def test_arrays_in_zarr_are_called_what_they_are_called(folder: Path, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    for form in (2, 3):
        group = zarr.open_group(tmp_path / f"{form}.zarr", mode="w", zarr_format=form)
        for name in ("firing rate", "größe (mV)", "a=b"):
            group.create_array(name, shape=(4,), chunks=(2,), dtype="u1")[:] = 3
        stored = zarr.open_group(kc.store_dir(str(tmp_path / f"{form}.zarr")), mode="r")
        assert sorted(stored.keys()) == ["a=b", "firing rate", "größe (mV)"]
        assert all(array[:].tolist() == [3] * 4 for _, array in stored.arrays())


def test_a_folder_is_said_to_be_one(odd: str) -> None:
    fs, path = fsspec.url_to_fs(odd)
    for read in (fs.open, fs.cat_file, lambda at: fs.cat_file(at, 0, 1)):
        for at in (path, f"{path}/a folder=1 (é)"):
            with pytest.raises(IsADirectoryError):
                read(at)


@pytest.fixture
def packed(folder: Path) -> tuple[str, bytes]:
    """The URI of a compressed file with a manifest, and what is in it."""
    data = random.Random(2).randbytes(MANIFEST_CHUNK + 100)
    uri = kc.store_bytes(gzip.compress(data, 1), basename="r [1] *.csv.gz")
    assert "?manifest=" in uri
    return uri, data


def test_a_path_ends_with_what_the_file_is_called(
    packed: tuple[str, bytes], tmp_path: Path
) -> None:
    uri, data = packed
    with fsspec.open(uri, compression="infer") as file:
        assert file.read() == data
    fs, path = fsspec.url_to_fs(uri)
    assert fs.unstrip_protocol(path) == uri
    assert fs._strip_protocol(path) == path
    (tmp_path / "out").mkdir()
    fs.get(path, f"{tmp_path}/out/")
    (copy,) = (tmp_path / "out").iterdir()
    assert copy.name.endswith(".csv.gz")
    assert len(fs.cat(uri)) == fs.size(path)


# blockcache leaves its own file to be closed by whoever finds it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_caches_of_fsspec_and_open_files_take_it(packed: tuple[str, bytes], tmp_path: Path) -> None:
    uri, data = packed
    for cache in ("blockcache", "filecache", "simplecache"):
        options = {cache: {"cache_storage": str(tmp_path / cache)}}
        for _ in range(2):
            with fsspec.open(f"{cache}::{uri}", **options) as file:
                file.seek(-4, io.SEEK_END)
                assert int.from_bytes(file.read(), "little") == len(data)
    target = io.BytesIO()
    fs, path = fsspec.url_to_fs(uri)
    fs.get_file(path, target)
    assert gzip.decompress(target.getvalue()) == data
