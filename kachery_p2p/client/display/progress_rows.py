"""What the progress display says of each load and store, and of all together, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from .texts import clean, size_text, time_text

_ROWS: Final = 6
"""Transfers with a row of their own; if there are more, the first row counts them all."""


class Shown(Protocol):
    """What a row shows: a load or a store (:class:`~.progress.Transfer`)."""

    @property
    def what(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int | None: ...
    @property
    def rate(self) -> float: ...
    @property
    def left(self) -> float | None: ...
    @property
    def idle(self) -> float | None: ...
    @property
    def sources(self) -> list[dict[str, Any]]: ...
    @property
    def waiting(self) -> str: ...
    @property
    def over(self) -> bool: ...
    @property
    def failed(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Past:
    """What was shown and has ended since the display appeared."""

    files: int = 0
    done: int = 0
    failed: int = 0

    def plus(self, transfer: Shown) -> Past:
        failed = self.failed + transfer.failed
        return Past(self.files + 1, self.done + transfer.done, failed)


@dataclass(frozen=True, slots=True)
class Row:
    """``key``: whose row it is; none: all's. ``rate``: a rate, or that there is none."""

    key: Shown | None
    label: str
    done: int
    total: int | None
    rate: str
    left: str
    sources: str
    stalled: bool = False

    @property
    def bytes(self) -> str:
        done = size_text(self.done)
        return done if self.total is None else f"{done} of {size_text(self.total)}"


def rows(shown: Sequence[Shown], past: Past) -> Iterator[Row]:
    """All rows, the first for all together if there are or were several."""
    if len(shown) + past.files > 1:
        yield _of_all(shown, past)
    for each in shown[:_ROWS]:
        stalled = not each.over and (each.idle is not None or bool(each.waiting))
        yield Row(
            each,
            f"{each.what} {clean(each.name)}",
            each.done,
            each.total,
            _rate(each),
            "" if each.left is None or each.over or stalled else time_text(each.left),
            clean(each.waiting) if stalled and each.waiting else _sources(len(each.sources)),
            stalled,
        )


def plain(row: Row) -> str:
    """A row without a bar, where nothing can be drawn."""
    return "  ".join(x for x in (row.label, row.bytes, row.rate, row.left, row.sources) if x)


def _of_all(shown: Sequence[Shown], past: Past) -> Row:
    totals = [each.total for each in shown]
    total = None if None in totals else past.done + sum(each or 0 for each in totals)
    done = past.done + sum(each.done for each in shown)
    rate = sum(each.rate for each in shown)
    left = max(0, total - done) / rate if total is not None and rate else None
    givers = {source.get("node") for each in shown for source in each.sources}
    label = f"{past.files - past.failed} of {past.files + len(shown)} files done"
    if past.failed:
        label += f", {past.failed} not"
    text = f"{size_text(rate)}/s" if rate else ""
    return Row(
        None,
        label,
        done,
        total,
        text,
        "" if left is None else time_text(left),
        _sources(len(givers)),
    )


def _rate(each: Shown) -> str:
    if each.over:
        return "stopped" if each.failed else ""
    if each.idle is None and each.waiting:
        return "waiting"
    if each.idle is None:
        return f"{size_text(each.rate)}/s"
    return f"{'stalled' if each.done else 'waiting'} {time_text(each.idle)}"


def _sources(count: int) -> str:
    return f"{count} source{'s' if count != 1 else ''}" if count else ""
