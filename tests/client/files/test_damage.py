"""A damaged file of the storage comes out of no function, and of no command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kachery_p2p as kc
from kachery_p2p.protocol import errors
from kachery_p2p.protocol.limits import BLOCK, MANIFEST_CHUNK
from tests import forked

SMALL = 300_000
LARGE = MANIFEST_CHUNK + 2 * BLOCK + 100


def changed(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(200)
        file.write(b"?!")


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10)


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


LOADS: dict[str, Callable[[str, Path], Any]] = {
    "load_file": lambda uri, to: kc.load_file(uri),
    "load_file(dest)": lambda uri, to: kc.load_file(uri, dest=to),
    "load_bytes": lambda uri, to: kc.load_bytes(uri),
    "load_bytes(range)": lambda uri, to: kc.load_bytes(uri, 198, 210),
    "load_bytes(over the end)": lambda uri, to: kc.load_bytes(uri, 100, LARGE + 500),
    "load_npy": lambda uri, to: kc.load_npy(uri),
    "load_npy(mmap)": lambda uri, to: kc.load_npy(uri, mmap_mode="r"),
}


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("damage", "linked"),
    # A link whose file has another size is none.
    [(changed, False), (emptied, False), (cut, False), (longer, False), (changed, True)],
)
def test_it_is_said_and_nothing_comes(
    folder: Path,
    tmp_path: Path,
    load: Callable[[str, Path], Any],
    damage: Callable[[Path], None],
    size: int,
    linked: bool,
) -> None:
    array = np.arange(size, dtype="u1")
    np.save(tmp_path / "a.npy", array)
    path = tmp_path / "a.npy"
    uri = kc.link_file(path) if linked else kc.store_npy(array)
    if not linked:
        path = Path(kc.load_file(uri) or "")
        path.chmod(0o644)
    status = path.stat()
    damage(path)
    if linked:
        os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    with pytest.raises(errors.CorruptContent):
        load(uri, tmp_path / "copy")
    if linked:
        assert load(uri, tmp_path / "copy") is None, "the file is another one"
    else:
        with pytest.raises(errors.CorruptContent):
            load(uri, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    if not linked:
        # It can be stored again, and is right then.
        assert kc.store_npy(array) == uri
        np.testing.assert_equal(kc.load_npy(uri), array)


def test_the_command_says_it_too(folder: Path, tmp_path: Path) -> None:
    uri = kc.store_text("a text of some length")
    path = Path(kc.load_file(uri) or "")
    path.chmod(0o644)
    path.write_text("another one, the same")
    for options in ([], ["--dest", str(tmp_path / "copy")]):
        done = forked.run(
            [sys.executable, "-m", "kachery_p2p.cli", "load", uri, *options],
            capture_output=True,
            text=True,
        )
        assert done.returncode == errors.CorruptContent.exit_status
        assert done.stdout == ""
        assert "does not match its hash" in done.stderr
    assert not (tmp_path / "copy").exists()


def test_a_folder_that_kachery_left_is_checked_and_needs_no_write_permission(
    folder: Path, tmp_path: Path
) -> None:
    """Its large files have no tree, and perhaps there is no right to write one."""
    data = os.urandom(LARGE)
    uri = kc.store_bytes(data)
    path = Path(kc.load_file(uri) or "")
    for helper in (".tree", ".checked"):
        path.with_name(path.name + helper).unlink()
    (folder / "tmp").rmdir()
    (folder / "tmp").write_bytes(b"no folder can be made, whoever we are")
    assert kc.load_bytes(uri, 5, 50) == data[5:50]
    assert kc.load_file(uri) == str(path)
    assert kc.load_bytes(uri) == data
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"!" + bytes([data[1] ^ 1]))
    with pytest.raises(errors.CorruptContent):
        kc.load_bytes(uri, 5, 50)
