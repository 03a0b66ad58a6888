"""Whatever the file system, alignment or length: what was written is what the file holds."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kachery_p2p.storage.direct import ALIGNMENT, CACHED_BEGIN, DirectFile, aligned_buffer

KIB = 1024
FROM = -(-CACHED_BEGIN // ALIGNMENT) * ALIGNMENT
"""The first place at which a write may go past the cache."""
lengths = st.one_of(
    st.integers(0, 300 * KIB), st.sampled_from([64 * KIB, 128 * KIB, 1024 * KIB, 2048 * KIB + 1])
)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    path = tmp_path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    yield path, fd
    os.close(fd)


def uses_o_direct() -> bool:
    """Whether this process has a file open past the cache."""
    for entry in Path("/proc/self/fdinfo").iterdir():
        try:
            flags = entry.read_text().split("flags:")[1].split()[0]
        except FileNotFoundError:
            continue
        if int(flags, 8) & os.O_DIRECT:
            return True
    return False


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    begin=st.sampled_from([0, FROM - 64 * KIB, FROM, FROM + 1]),
    pieces=st.lists(st.tuples(lengths, st.booleans()), min_size=1, max_size=6),
)
def test_pieces_in_a_row_are_what_the_file_holds(
    opened: tuple[Path, int], begin: int, pieces: list[tuple[int, bool]]
) -> None:
    path, fd = opened
    os.ftruncate(fd, 0)
    file = DirectFile(path, fd)
    wanted, offset = bytearray(), begin
    for number, (length, aligned) in enumerate(pieces):
        data = bytes((number + at) % 251 for at in range(min(length, 251))) * (length // 251 + 1)
        if aligned and length:
            view = aligned_buffer(length)
            view[:] = data[:length]
            file.write(view, offset, aligned=True)
        else:
            file.write(data[:length], offset)
        wanted += data[:length]
        offset += length
    file.close()
    assert os.pread(fd, len(wanted) + 1, begin) == wanted


def test_the_beginning_of_a_file_is_cached_and_the_rest_is_not(opened: tuple[Path, int]) -> None:
    path, fd = opened
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("this file system has no O_DIRECT")
    file = DirectFile(path, fd)
    file.write(b"a" * FROM, 0)
    assert not uses_o_direct()
    file.write(b"b" * 1024 * KIB, FROM)
    assert uses_o_direct()
    file.close()
    assert not uses_o_direct()


def test_where_the_file_cannot_be_opened_again_it_is_written_the_usual_way(
    opened: tuple[Path, int],
) -> None:
    path, fd = opened
    path.unlink()
    file = DirectFile(path, fd)
    file.write(b"x" * 1024 * KIB, FROM)
    file.close()
    assert os.pread(fd, 2048 * KIB, FROM) == b"x" * 1024 * KIB


def test_a_descriptor_that_refuses_these_bytes_is_given_up(opened: tuple[Path, int]) -> None:
    path, fd = opened
    file = DirectFile(path, fd)
    data = aligned_buffer(128 * KIB + 1)
    data[:] = b"y" * len(data)
    # It is said to be aligned, and is not: what some file systems answer to more than this.
    file.write(data[1:], FROM, aligned=True)
    file.close()
    assert os.pread(fd, 256 * KIB, FROM) == b"y" * 128 * KIB


def test_a_full_disk_is_said(small_disk: Path) -> None:
    path = small_disk / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    file = DirectFile(path, fd)
    try:
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            file.write(b"z" * 8 * 1024 * KIB, FROM)
    finally:
        file.close()
        os.close(fd)
