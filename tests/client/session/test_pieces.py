"""What is sent in pieces: exactly what was there, or an error."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from kachery_p2p.client.session.pieces import FilePieces, MemoryPieces, Pieces
from kachery_p2p.protocol.errors import BadInput


def read(pieces: Pieces, start: int, length: int) -> bytes:
    return asyncio.run(pieces.read(start, length))


def test_pieces_are_the_bytes_wherever_they_lie(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    with open(tmp_path / "f", "rb") as file:
        file.seek(5)
        parts = [memoryview(each) for each in (b"", b"01234", b"", b"5", b"6789", b"")]
        memory = MemoryPieces([memoryview(b"0123456789")]), MemoryPieces(parts)
        for pieces in (FilePieces(file.fileno()), *memory):
            assert pieces.size == 10
            assert read(pieces, 0, 4) == b"0123"
            assert read(pieces, 8, 2) == b"89"
            assert read(pieces, 3, 5) == b"34567"
            assert read(pieces, 0, 10) == b"0123456789"
        assert file.tell() == 5


def test_a_file_that_is_cut_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(3_000_000))
    with open(path, "rb") as file:
        pieces = FilePieces(file.fileno())
        assert len(read(pieces, 0, 1_000_000)) == 1_000_000
        os.truncate(path, 1_500_000)
        with pytest.raises(BadInput, match="cut to 1500000 bytes"):
            read(pieces, 1_000_000, 1_000_000)
        os.truncate(path, 0)
        with pytest.raises(BadInput, match="cut to"):
            read(pieces, 2_000_000, 1)


def test_of_a_file_that_grows_as_much_is_read_as_there_was(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    with open(path, "rb") as file:
        pieces = FilePieces(file.fileno())
        path.write_bytes(b"abcdef")
        assert (pieces.size, read(pieces, 0, 3)) == (3, b"abc")


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    descriptor = os.open(tmp_path / "f", os.O_WRONLY)
    try:
        with pytest.raises(BadInput, match="bad file descriptor"):
            read(FilePieces(descriptor), 0, 3)
    finally:
        os.close(descriptor)
