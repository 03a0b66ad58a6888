"""Large data of another node, opened by its own library: what is computed with is moved, and not the
rest. Counted at the node that has it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kachery_p2p as kc
from tests import forked
from tests.daemons import Lab, announced, at, short_folder, until

pytestmark = pytest.mark.processes

MB = 1_000_000


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with short_folder() as folder, Lab(folder) as made:
        yield made


class Moved:
    """Bytes of content that A has sent."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._before = self._served()

    def _served(self) -> int:
        with at(self._lab.a):
            return int(kc.node_info()["served_bytes"])

    def now(self) -> int:
        """Since it was asked last."""
        before, self._before = self._before, self._served()
        return self._before - before


def test_a_slice_of_zarr_moves_its_chunks_alone(lab: Lab, tmp_path: Path) -> None:
    zarr: Any = pytest.importorskip("zarr")
    da = pytest.importorskip("dask.array")
    values = np.random.default_rng(1).integers(0, 255, (2_000, 1_000), dtype="u1")
    stored = zarr.create_array(
        store=tmp_path / "r.zarr", shape=values.shape, chunks=(50, 20), dtype="u1", compressors=None
    )
    stored[:] = values
    with at(lab.a):
        uri = kc.store_dir(str(tmp_path / "r.zarr"))
    moved = Moved(lab)
    with at(lab.b):
        announced(uri)
        assert len(kc.list_dir(uri, recursive=True) or []) == 40 * 50 + 1
    of_listing = moved.now()
    with at(lab.b):
        opened = da.from_zarr(zarr.open(uri, mode="r"))
        part = opened[1_000:1_100, 200:300]
        assert (part.compute(scheduler="threads") == values[1_000:1_100, 200:300]).all()
    chunks = 2 * 5
    metadata = (tmp_path / "r.zarr" / "zarr.json").stat().st_size
    assert moved.now() <= chunks * 50 * 20 + metadata
    assert of_listing < MB


def test_what_hdf5_is_asked_for_is_moved(lab: Lab, tmp_path: Path) -> None:
    """The names and attributes of a file of 100 MB, and then a slice of a channel in it."""
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "recording.h5"
    samples, channels = 800_000, 64
    random = np.random.default_rng(2)
    block = random.integers(-500, 500, (8_000, channels), dtype="i2")
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "acquisition/ephys/data", (samples, channels), "i2", chunks=(8_000, 16)
        )
        for start in range(0, samples, len(block)):
            data[start : start + len(block)] = block + start // len(block)
        data.attrs["rate"] = 30_000.0
        for number in range(200):
            unit = file.create_group(f"units/{number:03}")
            unit.attrs["quality"] = "good"
            unit["spike_times"] = np.sort(random.random(500))
    size = path.stat().st_size
    assert size > 100 * MB
    with at(lab.a):
        uri = kc.store_file(str(path))
    moved = Moved(lab)
    with at(lab.b):
        announced(uri)
        with kc.open(uri) as opened, h5py.File(opened, "r") as file:
            names: list[str] = []
            file.visit(names.append)
            assert len(names) == 1 + 1 + 1 + 1 + 2 * 200
            assert file["units/007"].attrs["quality"] == "good"
            assert file["acquisition/ephys/data"].attrs["rate"] == 30_000.0
    assert moved.now() < 5 * MB
    with at(lab.b), kc.open(uri) as opened, h5py.File(opened, "r") as file:
        part = file["acquisition/ephys/data"][400_000:408_000, 16:32]
        assert (part == block[:, 16:32] + 50).all()
    assert moved.now() < 2 * MB, "a chunk has 256 kB, and what was there already is not moved again"


def test_columns_of_a_table_are_moved_alone(lab: Lab, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    random = np.random.default_rng(3)
    table = pyarrow.table({f"c{number}": random.random(100_000) for number in range(50)})
    path = tmp_path / "t.parquet"
    parquet.write_table(table, path, row_group_size=50_000)
    assert path.stat().st_size > 30 * MB
    with at(lab.a):
        uri = kc.store_file(str(path))
    moved = Moved(lab)
    with at(lab.b):
        announced(uri)
        some = pandas.read_parquet(uri, columns=["c3", "c41"])
        assert (some["c41"] == table["c41"].to_numpy()).all()
    assert moved.now() < path.stat().st_size / 5


HOLDS_RANGES = """
import asyncio, os, sys
import kachery_p2p as kc

async def main():
    file = await kc.aopen(sys.argv[1])
    places = [65_536 * number for number in range(300)]
    reads = [
        asyncio.create_task(file.aread_many([(at + n, at + n + 10) for at in places]))
        for n in range(34)
    ]
    await asyncio.sleep(0)
    print("asked", flush=True)
    await asyncio.gather(*reads)

asyncio.run(main())
"""


def test_a_reader_that_is_killed_holds_nothing(lab: Lab) -> None:
    """It has ten thousand ranges open, which come slowly: others read on, and nothing stays open."""
    data = np.random.default_rng(4).bytes(21 * MB)
    with at(lab.a):
        uri = kc.store_bytes(data)
    with at(lab.b):
        announced(uri)
        with kc.open(uri) as file:
            assert file.read_at(0, 10) == data[:10]

    def opened() -> int:
        return len(os.listdir(f"/proc/{lab.b.pid}/fd"))

    before = opened()
    os.kill(lab.a.pid, signal.SIGSTOP)
    try:
        reader = forked.Popen(
            [sys.executable, "-c", HOLDS_RANGES, uri],
            env=lab.b.env,
            stdout=subprocess.PIPE,
            text=True,
        )
        with reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "asked\n"
            reader.kill()
    finally:
        os.kill(lab.a.pid, signal.SIGCONT)
    with at(lab.b):
        with kc.open(uri) as file:
            assert file.read_at(20 * MB, 1_000) == data[20 * MB :][:1_000]
        assert kc.load_bytes(uri) == data
        kc.node_info()
    until(lambda: opened() <= before + 2, "what the killed reader had open is closed")
