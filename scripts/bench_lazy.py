"""``scripts/bench lazy``: large data of another node, opened by its own library over a road with a
round trip of ``--rtt`` ms: an HDF5 recording, beside remfile against nginx over the same road; a table
of parquet; a folder of zarr. What counts is the time until something is seen, and the bytes that moved.

It needs what ``EXTRAS=dev,dev-data`` installs, and remfile for the comparison; what is missing is said.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench_programs import STORE, STORE_DIR
from bench_report import Row, run, scratch
from bench_roads import Pair, far, nginx

import kachery_p2p as kc
from tests.daemons import Daemon, announced, at

MB = 1_000_000
CHANNELS = 384
UNITS = 300


def have(*modules: str) -> bool:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        print(f"({', '.join(missing)}: not installed, so this is not measured)")
    return not missing


class Moved:
    """Bytes of content that a node has sent since it was asked last."""

    def __init__(self, node: Daemon) -> None:
        self._node = node
        self._before = 0
        self.now()

    def now(self) -> float:
        """In 10^6 bytes."""
        with at(self._node):
            served = int(kc.node_info()["served_bytes"])
        before, self._before = self._before, served
        return (served - before) / MB


def recording(path: Path, megabytes: int, seed: int) -> Path:
    """An HDF5 file as recordings of neurons are kept: chunked data, many groups, attributes."""
    import h5py
    import numpy as np

    rng = np.random.default_rng(seed)
    rows = 7_500
    block = rng.integers(-500, 500, (rows, CHANNELS), dtype="i2")
    blocks = max(2, megabytes * MB // block.nbytes)
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "acquisition/ephys/data", (rows * blocks, CHANNELS), "i2", chunks=(rows, 64)
        )
        data.attrs["rate"] = 30_000.0
        for number in range(blocks):
            data[number * rows : (number + 1) * rows] = np.roll(block, number)
            if number % (blocks // 4 or 1) == 0:  # metadata all over the file, as programs write it
                for unit in range(UNITS // 4):
                    group = file.create_group(f"units/{number:05}-{unit:03}")
                    group.attrs["quality"] = "good"
                    group["spike_times"] = np.sort(rng.random(500))
    return path


def explore(open_file: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds until all names and attributes are known, and then until 1 MB of a channel group is."""
    import h5py

    began = time.perf_counter()
    with h5py.File(open_file(), "r") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(f"{name} {dict(item.attrs)}"))
        seen = time.perf_counter() - began
        assert len(names) > UNITS
        data = file["acquisition/ephys/data"]
        middle = data.shape[0] // 2 // 7_500 * 7_500
        began = time.perf_counter()
        part = data[middle : middle + 7_500, 64:128]
        return seen, time.perf_counter() - began, part


def hdf5(folder: Path, pair: Pair, url: str | None, options: argparse.Namespace) -> None:
    if "hdf5" not in options.rows or not have("h5py", "numpy"):
        return
    found: dict[str, list[float]] = {}
    for number in range(options.runs):
        path = recording(folder / "web" / f"{number}.h5", options.mb, number)
        uri = run(pair.a, STORE, str(path))["uri"]
        moved = Moved(pair.a)
        with at(pair.b):
            announced(uri)
            seen, sliced, ours = explore(partial(kc.open, uri))
        found.setdefault("kc.open: names and attributes", []).append(seen)
        found.setdefault("kc.open: a slice of 1 MB after that", []).append(sliced)
        found.setdefault("kc.open: moved", []).append(moved.now())
        if url is not None and importlib.util.find_spec("remfile") is not None:
            import remfile

            there = f"{url}/{number}.h5"
            seen_there, sliced_there, theirs = explore(partial(remfile.File, there))
            assert (theirs == ours).all()
            found.setdefault("remfile, nginx: names and attributes", []).append(seen_there)
            found.setdefault("remfile, nginx: a slice of 1 MB after that", []).append(sliced_there)
            ratio = (seen_there + sliced_there) / (seen + sliced)
            found.setdefault("remfile, nginx / kc.open, both together", []).append(ratio)
        path.unlink()
    asked = {
        "kc.open: names and attributes": "<= 2 asked",
        "kc.open: a slice of 1 MB after that": "<= 0.5 asked",
        "kc.open: moved": "< 20 asked",
        "remfile, nginx / kc.open, both together": ">= 2 asked",
    }
    for name, values in found.items():
        unit = "MB" if name.endswith("moved") else "x" if "/ kc.open" in name else "s"
        print(Row(f"HDF5 of {options.mb} MB, {name}", values, unit, asked.get(name, "")))


def parquet(folder: Path, pair: Pair, megabytes: int) -> None:
    if not have("pandas", "pyarrow"):
        return
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(2)
    columns = 60
    rows = megabytes * MB // 8 // columns
    frame = pd.DataFrame({f"c{number:02}": rng.random(rows) for number in range(columns)})
    path = folder / "table.parquet"
    frame.to_parquet(path, row_group_size=rows // 8 + 1)
    size = path.stat().st_size / MB
    wanted = [f"c{number:02}" for number in range(20, 30)]
    uri = run(pair.a, STORE, str(path))["uri"]
    moved = Moved(pair.a)
    with at(pair.b):
        announced(uri)
        began = time.perf_counter()
        part = pd.read_parquet(uri, columns=wanted)
        took = time.perf_counter() - began
    assert part.equals(frame[wanted])
    path.unlink()
    print(Row(f"parquet of {size:.0f} MB, 10 of {columns} columns", [took], "s"))
    print(Row("... moved, of all", [100 * moved.now() / size], "%", "< 20 asked"), flush=True)


def zarr_folder(folder: Path, pair: Pair, chunks: int) -> None:
    if not have("zarr", "dask"):
        return
    import dask.array as da
    import numpy as np
    import zarr

    side = int(chunks**0.5)
    values = np.random.default_rng(3).integers(0, 255, (side * 32, side * 32), dtype="u1")
    path = folder / "r.zarr"
    stored = zarr.create_array(
        store=path, shape=values.shape, chunks=(32, 32), dtype="u1", compressors=None
    )
    stored[:] = values
    uri = run(pair.a, STORE_DIR, str(path))["uri"]
    moved = Moved(pair.a)
    with at(pair.b):
        announced(uri)
        began = time.perf_counter()
        array = da.from_zarr(zarr.open(uri, mode="r"))
        opened = time.perf_counter() - began
        of_listing = moved.now()
    with at(pair.b):
        began = time.perf_counter()
        part = array[320:640, 640:1280].compute(scheduler="threads")
        took = time.perf_counter() - began
    assert (part == values[320:640, 640:1280]).all()
    name = f"zarr of {side * side} chunks"
    print(Row(f"{name}, opened", [opened], "s"))
    print(Row("... moved for that: its listing", [of_listing], "MB"))
    print(Row(f"{name}, 200 of them computed with", [took], "s"))
    print(Row("... moved, of their bytes", [moved.now() * MB / (200 * 1024)], "x", "<= 1.0"))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench lazy")
    parser.add_argument("--rtt", type=float, default=50.0, help="milliseconds of a round trip")
    parser.add_argument("--mb", type=int, default=2_000, help="of the HDF5 file, in 10^6 bytes")
    parser.add_argument("--table-mb", type=int, default=500, help="of the parquet file")
    parser.add_argument("--chunks", type=int, default=20_000, help="of the folder of zarr, about")
    parser.add_argument("--runs", type=int, default=2, help="of HDF5")
    rows = ["hdf5", "parquet", "zarr"]
    parser.add_argument("--rows", nargs="*", default=rows, choices=rows)
    options = parser.parse_args(arguments)
    folder = scratch()
    try:
        (folder / "web").mkdir()
        rtt = options.rtt / 1000
        with far(rtt) as there, Pair(folder / "lab", there) as pair:
            print(
                f"{os.cpu_count()} cores, round trip {options.rtt:g} ms ({there.kind})", flush=True
            )
            web = nginx(folder, folder / "web", there) if "hdf5" in options.rows else None
            try:
                hdf5(folder, pair, None if web is None else web.url, options)
            finally:
                if web is not None:
                    web.stop()
            if "parquet" in options.rows:
                parquet(folder, pair, options.table_mb)
            if "zarr" in options.rows:
                zarr_folder(folder, pair, options.chunks)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0
