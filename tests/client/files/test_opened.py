"""Files that are read without being downloaded, with real nodes and without any."""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
import os
import pickle
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import kachery_p2p as kc
from kachery_p2p.client.files import opened as opened_module
from kachery_p2p.client.files import read_cache
from kachery_p2p.client.session import offline, portal
from kachery_p2p.protocol import errors
from kachery_p2p.protocol.limits import BLOCK
from tests.daemons import Lab, announced, at, short_folder

BIG = 25_000_000
DATA = random.Random(9).randbytes(BIG)
SMALL = b"one line\nanother one\n\nthe last"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with short_folder() as folder, Lab(folder) as made:
        yield made


@pytest.fixture(scope="module")
def uri(lab: Lab) -> str:
    """Of a large file that A has."""
    with at(lab.a):
        return str(kc.store_bytes(DATA, basename="big.bin"))


@pytest.fixture(params=["another node", "this node", "no node"])
def opened(
    request: pytest.FixtureRequest, lab: Lab, uri: str, folder: Path
) -> Iterator[Callable[[str], kc.File]]:
    """A function that opens what it stores, in each place where it can be."""
    if request.param == "no node":
        yield lambda text: kc.open(kc.store_bytes(DATA) if text == "big" else kc.store_text(text))
        return
    os.environ.pop("KACHERY_P2P_OFFLINE_STORAGE_DIR")
    where = lab.b if request.param == "another node" else lab.a

    def there(text: str) -> kc.File:
        with at(lab.a):
            stored = uri if text == "big" else kc.store_text(text)
        with at(where):
            if where is lab.b:
                announced(stored)
            return kc.open(stored)

    with at(where):
        yield there


# --- as a file object ------------------------------------------------------------------------


def test_it_is_what_pythons_own_files_are(opened: Callable[[str], kc.File]) -> None:
    ours, theirs = opened("big"), io.BytesIO(DATA)
    rng = random.Random(11)
    with ours:
        assert (ours.size, ours.readable(), ours.seekable(), ours.writable()) == (
            BIG,
            True,
            True,
            False,
        )
        for _ in range(60):
            match rng.randrange(6):
                case 0:
                    place = rng.randrange(BIG + BLOCK)
                    assert ours.seek(place) == theirs.seek(place)
                case 1:
                    back = rng.randrange(2 * BLOCK)
                    assert ours.seek(-back, os.SEEK_END) == theirs.seek(-back, os.SEEK_END)
                case 2:
                    forth = rng.randrange(BLOCK)
                    assert ours.seek(forth, os.SEEK_CUR) == theirs.seek(forth, os.SEEK_CUR)
                case 3:
                    size = rng.choice((0, 1, 100, BLOCK, 5 * BLOCK, 1_000_000))
                    assert ours.read(size) == theirs.read(size)
                case 4:
                    one, other = bytearray(5_000), bytearray(5_000)
                    assert ours.readinto(one) == theirs.readinto(other)
                    assert one == other
                case 5:
                    start = ours.tell()
                    piece = ours.read1()
                    assert len(piece) <= BLOCK
                    assert piece == DATA[start : start + len(piece)]
                    theirs.seek(start + len(piece))
            assert ours.tell() == theirs.tell()
        ours.seek(BIG - 5)
        assert ours.read() == DATA[-5:]
        assert ours.read() == b""
    with pytest.raises(ValueError, match="closed"):
        ours.read()


def test_text_is_read_line_by_line(opened: Callable[[str], kc.File]) -> None:
    with opened(SMALL.decode()) as file:
        assert list(file) == SMALL.splitlines(keepends=True)
    with io.TextIOWrapper(opened(SMALL.decode()), "utf-8") as text:
        assert text.read() == SMALL.decode()
    with opened("") as empty:
        assert (empty.size, empty.read(), list(empty)) == (0, b"", [])


def test_many_threads_read_at_once(opened: Callable[[str], kc.File]) -> None:
    with opened("big") as file, ThreadPoolExecutor(8) as threads:
        places = [random.Random(seed).randrange(BIG) for seed in range(200)]
        found = threads.map(lambda place: file.read_at(place, 3_000), places)
        assert list(found) == [DATA[place : place + 3_000] for place in places]


def test_a_pickled_file_goes_on_where_it_was(opened: Callable[[str], kc.File]) -> None:
    with opened("big") as file:
        file.seek(1_000_000)
        with pickle.loads(pickle.dumps(file)) as again:
            assert again.read(10) == DATA[1_000_000:1_000_010]


def test_more_than_memory_keeps_is_read_all_the_same(
    opened: Callable[[str], kc.File], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened_module, "READ_CACHE_BYTES", 30 * BLOCK)
    monkeypatch.setattr(read_cache, "READ_CACHE_BYTES", 30 * BLOCK)
    with opened("big") as file:
        assert hashlib.sha1(file.read()).digest() == hashlib.sha1(DATA).digest()
        ranges = [(start, start + 900_000) for start in range(0, BIG, 1_000_000)]
        assert file.read_many(ranges) == [DATA[a:b] for a, b in ranges]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda file: file.read_at(-1, 5),
        lambda file: file.read_at(0, -1),
        lambda file: file.read_many([(5, 4)]),
        lambda file: file.read_at(1.5, 5),
    ],
)
def test_ranges_that_make_no_sense_are_refused(
    wrong: Callable[[kc.File], object], opened: Callable[[str], kc.File]
) -> None:
    with opened("short") as file:
        with pytest.raises(errors.BadInput):
            wrong(file)
        with pytest.raises(ValueError, match="before the beginning"):
            file.seek(-1)
        assert file.read() == b"short"


# --- what is moved ---------------------------------------------------------------------------


async def test_async_readers_share_what_they_fetch(lab: Lab, uri: str) -> None:
    with at(lab.b):
        async with await kc.aopen(uri) as file:
            found = await asyncio.gather(*(file.aread_at(5 * BLOCK + n, 100) for n in range(50)))
            assert found == [DATA[5 * BLOCK + n :][:100] for n in range(50)]
            ranges = [(n * 3 * BLOCK, n * 3 * BLOCK + 10) for n in range(60)]
            assert await file.aread_many(ranges) == [DATA[a:b] for a, b in ranges]


async def test_a_reader_that_is_cancelled_costs_the_others_nothing(lab: Lab, uri: str) -> None:
    with at(lab.b):
        async with await kc.aopen(uri) as file:
            readers = [asyncio.create_task(file.aread_at(40 * BLOCK, 200)) for _ in range(5)]
            await asyncio.sleep(0)
            readers[0].cancel()
            others = await asyncio.gather(*readers[1:])
            assert others == [DATA[40 * BLOCK :][:200]] * 4


def test_reading_moves_little_and_what_was_read_is_kept_by_the_node(lab: Lab) -> None:
    data = random.Random(21).randbytes(BIG)
    with at(lab.a):
        uri = kc.store_bytes(data)
    with at(lab.b):
        announced(uri)
        with kc.open(uri) as file:
            assert file.read_at(17_000_000, 4_096) == data[17_000_000:17_004_096]
        lab.a.kill()
        try:
            with kc.open(uri, local_only=False) as again:
                assert again.read_at(17_000_001, 4_000) == data[17_000_001:17_004_001]
        finally:
            lab.a.start()


def test_reading_goes_on_when_the_node_was_restarted(lab: Lab, uri: str) -> None:
    with at(lab.b), kc.open(uri) as file:
        assert file.read_at(0, 10) == DATA[:10]
        lab.b.kill()
        lab.b.start()
        assert file.read_at(20_000_000, 10) == DATA[20_000_000:][:10]


def test_what_is_damaged_here_while_it_is_open_comes_from_another(lab: Lab) -> None:
    data = random.Random(31).randbytes(BIG)
    with at(lab.a):
        kc.store_bytes(data)
    with at(lab.b):
        uri = kc.store_bytes(data)
        path = kc.load_file(uri)
        assert path is not None
        with kc.open(uri) as file:
            assert file.read_at(0, 10) == data[:10]
            os.chmod(path, 0o644)
            with open(path, "r+b") as blob:
                blob.seek(10_000_000)
                blob.write(b"rubbish")
            assert file.read_at(10_000_000, 100) == data[10_000_000:][:100]


def test_what_was_deleted_here_while_it_is_open_comes_from_another(lab: Lab) -> None:
    data = random.Random(32).randbytes(3_000_000)
    with at(lab.a):
        kc.store_bytes(data)
    with at(lab.b):
        uri = kc.store_bytes(data)
        path = kc.load_file(uri)
        assert path is not None
        with kc.open(uri) as file:
            os.unlink(path)
            assert file.read_at(2_000_000, 100) == data[2_000_000:][:100]


@pytest.mark.parametrize("size", [1_000, BIG])
def test_a_file_that_is_changed_underneath_is_never_other_bytes(folder: Path, size: int) -> None:
    uri = kc.store_bytes(DATA[:size])
    path = kc.load_file(uri)
    assert path is not None
    with kc.open(uri) as file:
        os.chmod(path, 0o644)
        with open(path, "r+b") as blob:
            blob.seek(500)
            blob.write(b"rubbish")
        with pytest.raises(errors.KacheryError):
            file.read_at(500, 100)
    assert offline.places.offline_dir() == folder


# --- what cannot be opened -------------------------------------------------------------------


def test_what_nobody_has_cannot_be_opened(lab: Lab, folder: Path) -> None:
    absent = "sha1://" + "0" * 40 + "/absent.bin"
    with pytest.raises(errors.NotFound):
        kc.open(absent)
    os.environ.pop("KACHERY_P2P_OFFLINE_STORAGE_DIR")
    with at(lab.b):
        with pytest.raises(errors.NotFound):
            kc.open(absent)
        with pytest.raises(errors.NotFound):
            kc.open(absent, local_only=True)


def test_a_file_of_the_users_own_is_opened_as_it_is(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "mine.bin"
    path.write_bytes(b"0123456789")
    with kc.open(str(path)) as file:
        assert file.read_at(3, 4) == b"3456"
        assert file.read() == b"0123456789"
    with kc.open(str(path)) as file:
        path.write_bytes(b"0123")
        with pytest.raises(errors.BadInput, match="shorter"):
            file.read()


@pytest.mark.parametrize("mode", ["w", "r", "rb+", "a"])
def test_stored_content_is_opened_for_reading_bytes_only(mode: str, folder: Path) -> None:
    with pytest.raises(errors.BadInput):
        kc.open(kc.store_text("x"), mode)


def test_h5py_reads_it_as_it_stands(opened: Callable[[str], kc.File], tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    np = pytest.importorskip("numpy")
    made = tmp_path / "made.h5"
    values = np.arange(500_000, dtype="f8").reshape(-1, 100)
    with h5py.File(made, "w") as file:
        file.create_dataset("group/values", data=values, chunks=(50, 100))
        file["group"].attrs["rate"] = 30_000
    del opened
    with kc.open(kc.store_file(str(made))) as stored, h5py.File(stored, "r") as file:
        assert file["group"].attrs["rate"] == 30_000
        assert (file["group/values"][2_000:2_010] == values[2_000:2_010]).all()


# --- locks of others -------------------------------------------------------------------------


def test_who_holds_a_lock_that_our_own_thread_wants_can_read(
    opened: Callable[[str], kc.File],
) -> None:
    """h5py holds its lock while it reads, and wants it in whatever thread Python tidies up."""
    lock, waits = threading.Lock(), threading.Event()

    def tidy_up() -> None:
        waits.set()
        with lock:
            pass

    async def tidy_up_there() -> None:
        tidy_up()

    with opened("big") as file, lock:
        portal.start(tidy_up_there, name="tidying up")
        assert waits.wait(10)
        for place in range(0, BIG, 3_000_000):
            assert file.read_at(place, 1_000) == DATA[place:][:1_000]
        file.seek(1_000_000)
        assert file.read(3_000_000) == DATA[1_000_000:][:3_000_000]


FORKS = """
import os, sys, threading
import kachery_p2p as kc

with kc.open(sys.argv[1]) as file:
    stop = threading.Event()

    def go_on():
        while not stop.is_set():
            file.seek(0)
            file.read(300_000)

    threads = [threading.Thread(target=go_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        child = os.fork()
        if not child:
            file.seek(5_000_000)
            os._exit(file.read(100_000) != file.read_at(5_000_000, 100_000))
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    for thread in threads:
        thread.join()
"""


def test_forked_children_go_on_reading(lab: Lab, uri: str) -> None:
    for daemon in (lab.a, lab.b):
        daemon.python(FORKS, uri)


def test_what_is_fetched_ahead_has_a_connection_of_its_own(lab: Lab) -> None:
    """It is begun while a sync call reads, whose connection is its thread's alone."""
    data = random.Random(41).randbytes(BIG)
    with at(lab.a):
        uri = kc.store_bytes(data)
    with at(lab.b):
        announced(uri)
        for start in range(0, 20_000_000, 5_000_000):
            with kc.open(uri) as file:
                file.seek(start)
                pieces = iter(lambda file=file: file.read(65_536), b"")  # type: ignore[misc]
                assert b"".join(itertools.islice(pieces, 64)) == data[start:][: 64 * 65_536]


# --- numbers, memory, and files of the user's own ----------------------------------------------


def test_numbers_of_numpy_are_numbers(opened: Callable[[str], kc.File]) -> None:
    """With those of few bits the places in a file are not computed with: that was an endless loop."""
    np = pytest.importorskip("numpy")
    with opened("big") as file:
        assert file.seek(np.uint64(3)) == 3
        assert file.seek(np.int8(100), np.int8(os.SEEK_CUR)) == 103
        assert file.read(np.uint8(200)) == DATA[103:303]
        assert file.seek(np.int32(24_000_000)) == 24_000_000
        assert file.read(np.int16(30_000)) == DATA[24_000_000:24_030_000]
        assert file.read1(np.uint8(7)) == DATA[24_030_000:24_030_007]
        assert type(file.tell()) is int
        assert file.read_many(np.array([[1, 9], [200, 201]], "u1")) == [DATA[1:9], DATA[200:201]]
        for wrong in (1.5, "3", None):
            with pytest.raises(TypeError):
                file.seek(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            file.read(1.5)  # type: ignore[arg-type]
        assert file.tell() == 24_030_007


def test_memory_of_any_kind_is_read_into_or_refused_before_anything_is_read(
    opened: Callable[[str], kc.File],
) -> None:
    np = pytest.importorskip("numpy")
    with opened("big") as file:
        for form in (">i4", "<f8", "c16", [("a", ">u2"), ("b", "<f4")]):
            file.seek(0)
            array = np.empty(100, form)
            assert file.readinto(array) == array.nbytes
            assert array.tobytes() == DATA[: array.nbytes]
        file.seek(5)
        assert file.readinto(np.empty((0, 3))) == 0
        for refused in (b"read-only", np.empty((9, 9), "u1")[:, :3]):
            with pytest.raises(TypeError):
                file.readinto(refused)
        assert file.tell() == 5


def test_a_file_of_the_users_own_is_the_one_that_was_opened(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever becomes of its name, and wherever the program goes; it was read in part from another."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.bin"
    path.write_bytes(DATA[:3_000_000])
    with kc.open("x.bin") as file:
        assert file.read(10) == DATA[:10]
        monkeypatch.chdir("/")
        with pickle.loads(pickle.dumps(file)) as again:
            assert again.read(10) == DATA[10:20]
        (tmp_path / "other").write_bytes(bytes(3_000_000))
        os.replace(tmp_path / "other", path)
        assert file.read() == DATA[10:3_000_000]
        path.unlink()
        assert file.read_at(1_000_000, 5) == DATA[1_000_000:1_000_005]
    with pytest.raises(ValueError, match="closed"):
        file.read_at(0, 1)
    assert file.size == 3_000_000


def test_what_cannot_be_opened_where_it_is_unpickled_says_so_when_it_is_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of a pool died of what unpickling raised, and the pool waited for ever."""
    pickled = pickle.dumps(kc.open(kc.store_text("text")))
    monkeypatch.setenv("KACHERY_P2P_OFFLINE_STORAGE_DIR", str(folder / "another"))
    with pickle.loads(pickled) as file:
        for use in (
            file.read,
            file.tell,
            lambda: file.seek(0),
            lambda: file.read_at(0, 1),
            lambda: file.read_many([(0, 1)]),
            lambda: file.size,
            lambda: list(file),
        ):
            with pytest.raises(errors.NotFound):
                use()
        assert "could not be opened" in repr(file)
        again = pickle.dumps(file)
    monkeypatch.setenv("KACHERY_P2P_OFFLINE_STORAGE_DIR", str(folder))
    assert pickle.loads(again).read() == b"text"
