"""Which units of a partial download are on disk: the small file beside it.

A fixed header of JSON, padded to HEADER bytes, says what is downloaded and how it is verified;
then comes one byte per unit, 1 if its bytes are verified and on disk. (A byte and not a bit: a unit
is at least 64 KiB, and plain bytes are searched at memory speed.) A download without a manifest has
one unit, and its header is followed by the length of the prefix that is on disk.

Invariant: what the file says is true, whenever the machine stops. It is the caller's part to make
data durable before :meth:`PartialMap.save` and to pass what had been marked before that began.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from kachery_p2p.storage.disk import create, pread_up_to, pwrite_all

HEADER: Final = 512
"""Bytes before the marks."""

_VERSION: Final = 1
_RUNS_LOOKED_AT: Final = 4_096
_WATERMARK: Final = struct.Struct("<Q")


class PartialMap:
    """The marks in memory and the file that remembers them. OSErrors are the caller's to name."""

    def __init__(self, fd: int, marks: bytearray, watermark: int) -> None:
        self.marks = marks
        self.watermark = watermark
        self._fd = fd
        self._changed = (len(marks), 0)

    @classmethod
    def create(cls, path: Path, what: dict[str, Any], units: int) -> PartialMap:
        """A new file with nothing marked, for a download that ``what`` describes."""
        fd = create(path)
        try:
            pwrite_all(fd, _header(what) + bytes(max(units, _WATERMARK.size)), 0)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, bytearray(units), 0)

    @classmethod
    def load(cls, path: Path, what: dict[str, Any], units: int) -> PartialMap | None:
        """The file at ``path`` if it is there, whole and about the same download."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            length = HEADER + max(units, _WATERMARK.size)
            data = pread_up_to(fd, length + 1, 0)
            marks = bytearray(data[HEADER : HEADER + units])
            if len(data) == length and data[:HEADER] == _header(what) and max(marks, default=0) < 2:
                whole = what["kind"] == "whole"
                watermark = _WATERMARK.unpack_from(data, HEADER)[0] if whole else 0
                if watermark <= what["size"]:
                    return cls(fd, bytearray(units) if whole else marks, watermark)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def mark(self, start: int, stop: int, value: int = 1) -> None:
        """Set the marks of units [start, stop), in memory."""
        self.marks[start:stop] = bytes([value]) * (stop - start)
        self._changed = (min(start, self._changed[0]), max(stop, self._changed[1]))

    def first_missing(self, start: int = 0) -> int:
        """The first unit from ``start`` on that is not marked; the number of units if all are."""
        found = self.marks.find(0, start)
        return len(self.marks) if found < 0 else found

    def gaps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Runs of units that are not marked, within [start, stop)."""
        while (start := self.marks.find(0, start, stop)) >= 0:
            end = self.marks.find(1, start, stop)
            yield start, end if end >= 0 else stop
            if end < 0:
                return
            start = end

    def runs(self, most: int) -> list[tuple[int, int]]:
        """Runs of units that are marked, in order: the longest of the first thousands, ``most``."""
        found: list[tuple[int, int]] = []
        start = 0
        while len(found) < _RUNS_LOOKED_AT and (start := self.marks.find(1, start)) >= 0:
            end = self.first_missing(start)
            found.append((start, end))
            start = end
        longest = sorted(found, key=lambda run: run[0] - run[1])[:most]
        return sorted(longest)

    def changes(self) -> tuple[int, bytes, int]:
        """What :meth:`save` is to write: first unit, marks from there, watermark."""
        start, stop = self._changed
        self._changed = (len(self.marks), 0)
        return start, bytes(self.marks[start:stop]), self.watermark

    def save(self, changes: tuple[int, bytes, int], durable: bool) -> None:
        """Write what :meth:`changes` returned earlier, whatever was marked since."""
        start, marks, watermark = changes
        if watermark:
            pwrite_all(self._fd, _WATERMARK.pack(watermark), HEADER)
        elif marks:
            pwrite_all(self._fd, marks, HEADER + start)
        if durable:
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _header(what: dict[str, Any]) -> bytes:
    text = json.dumps({"version": _VERSION, **what}, sort_keys=True, separators=(",", ":"))
    return text.encode().ljust(HEADER - 1) + b"\n"
