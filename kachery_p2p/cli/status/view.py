"""Draws the dashboard with rich: at any width and height, for a terminal or for a pipe.

Colours are named ones of the terminal's own palette, and only those that both dark and light palettes
show on their background; nothing is said by colour alone, and nothing is dim.

This module is imported when something is drawn: importing rich takes as long as a whole command.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.console import Console, ConsoleOptions, OverflowMethod, RenderableType
from rich.rule import Rule
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from .cells import Cell, Column, Rates, Section
from .rows import facts, sections

_HEADING: Final = "bold cyan"
_STYLES: Final = {"good": "green", "bad": "bold red", "warning": "magenta", "plain": ""}
_SIDE_BY_SIDE: Final = 132
"""Columns from which on sections stand beside one another, and facts."""
_GAP: Final = 3
"""Columns between those."""
_BARS: Final = ((110, 20), (90, 14), (0, 8))
"""How long a bar is, by the width of what it is in."""

Lines = list[list[Segment]]


class View:
    """One picture of a node, as something that rich prints.

    Args:
        status: what the node says now.
        before: what it said a moment ago, for the rates, or None.
        now: Unix time.
        height: lines that there are; of what does not fit, it is said how much it is. None: as many
            as it takes.
        problem: why the status is an old one, if it is.
        footer: the last line.
        top: the line of all there is with which to begin, so that what does not fit can be scrolled to;
            None: a part of each section.
        plain: without rules and bars, for a pipe.
        ascii: draw with ASCII only; what names are made of is another matter.
    """

    def __init__(
        self,
        status: dict[str, Any],
        before: dict[str, Any] | None,
        *,
        now: float,
        height: int | None = None,
        problem: str = "",
        footer: str = "",
        top: int | None = None,
        plain: bool = False,
        ascii: bool = False,
    ) -> None:
        rates = Rates(status, before)
        self._facts = facts(status, rates)
        made = sections(status, rates, now)
        self._sections = [section for section in made if section.rows]
        missing = [
            section.title.lower() for section in made if section.expected and not section.rows
        ]
        if missing:
            self._facts.append(("none of", Cell(", ".join(missing))))
        self._height = height
        self._problem = problem
        self._footer = footer
        self._top = top
        self.last_top = 0
        """Once it is drawn: the ``top`` with which the end is seen."""
        self.room = 1
        """Once it is drawn: lines for what can be scrolled."""
        self._plain = plain
        self._ascii = ascii

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        for line in self.lines(console, options.max_width):
            yield from line
            yield Segment.line()

    def lines(self, console: Console, width: int) -> Lines:
        """All lines of it, none wider than ``width``, and ``height`` of them if that was given."""
        pen = _Pen(console, plain=self._plain, ascii=self._ascii)
        head = pen.lines(pen.facts(self._facts, width), width)
        if self._problem:
            text = Text(self._problem, style=_STYLES["bad"], overflow="fold")
            head = [*pen.lines(text, width), *head]
        foot = pen.lines(pen.text(self._footer), width) if self._footer else []
        if self._height is None:
            return [*head, *_body(pen, self._sections, width, None), *foot]
        room = max(0, self._height - len(head) - len(foot))
        body = _body(pen, self._sections, width, None)
        self.room, self.last_top = max(1, room), max(0, len(body) - room)
        if self._top is not None:
            top = min(self._top, self.last_top)
            body = body[top : top + room]
        elif len(body) > room:
            pen.spaced = False
            body = _body(pen, self._sections, width, room)
        lines = [*head, *body]
        space = max(0, self._height - len(foot))
        lines = lines[:space] + [[] for _ in range(space - len(lines))]
        return (lines + foot)[: self._height]


class _Pen:
    """Makes lines of one width, of one look."""

    def __init__(self, console: Console, *, plain: bool, ascii: bool) -> None:
        self.plain = plain
        self.spaced = True
        """With a line between sections."""
        self._console = console
        self._ascii = ascii

    def lines(self, drawn: RenderableType, width: int) -> Lines:
        options = self._console.options.update(width=width, height=None)
        return self._console.render_lines(drawn, options, pad=False)

    def text(self, text: str, style: str = "") -> Text:
        """On one line, cut at its end if need be."""
        # rich knows one sign for what was cut, and it is none of ASCII.
        cut: OverflowMethod = "crop" if self._ascii else "ellipsis"
        return Text(text, style=style, no_wrap=True, overflow=cut)

    def facts(self, facts: Sequence[tuple[str, Cell]], width: int) -> RenderableType:
        beside = 2 if width >= _SIDE_BY_SIDE and not self.plain else 1
        grid = Table.grid(padding=(0, 2, 0, 0))
        for start in range(0, len(facts), beside):
            cells: list[Text] = []
            for name, cell in facts[start : start + beside]:
                cells.append(self.text(name, _HEADING))
                cells.append(Text(cell.text, style=_STYLES[cell.tone], overflow="fold"))
            grid.add_row(*cells)
        return grid

    def block(self, section: Section, count: int, width: int, *, heads: bool = True) -> Lines:
        """A section with its first ``count`` rows, and with what its columns are if ``heads``."""
        total = section.total
        number = f"{count} of {total}" if count < total else str(total)
        heading: RenderableType
        if self.plain:
            heading = self.text(f"{section.title}: {number}")
        else:
            note = f" ({section.note})" if section.note else ""
            title = Text(f"{section.title} {number}{note}", style=_HEADING)
            line = "-" if self._ascii else "─"
            heading = Rule(title, characters=line, style="cyan", align="left")
        found = self.lines("", width) if self.spaced else []
        found += self.lines(heading, width)
        if count:
            found += self.lines(self._table(section, count, width, heads), width)
        return found

    def _table(self, section: Section, count: int, width: int, heads: bool) -> Table:
        places = [
            place
            for place, column in enumerate(section.columns)
            if width >= column.least and not (self.plain and column.bar)
        ]
        table = Table(
            box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=heads
        )
        for place in places:
            column = section.columns[place]
            table.add_column(
                self.text(column.head),
                justify="right" if column.right else "left",
                no_wrap=not (column.flexible or column.wraps),
            )
        for row in section.rows[:count]:
            table.add_row(
                *(self._cell(row[place], section.columns[place], width) for place in places)
            )
        return table

    def _cell(self, cell: Cell, column: Column, width: int) -> RenderableType:
        if cell.part is not None:
            return self._bar(cell.part, next(bar for least, bar in _BARS if width >= least))
        if column.wraps:
            return Text(cell.text, style=_STYLES[cell.tone], overflow="fold")
        return self.text(cell.text, _STYLES[cell.tone])

    def _bar(self, part: float, length: int) -> RenderableType:
        # Two signs, so that it can be read without colour.
        full, rest = ("#", ".") if self._ascii else ("█", "░")
        done = int(part * length)
        return self.text(full * done + rest * (length - done), "cyan")


def _body(pen: _Pen, all_of_it: Sequence[Section], width: int, room: int | None) -> Lines:
    """All sections: below one another, or in two columns with the widest ones below."""
    left = [section for section in all_of_it if section.side == "left"]
    right = [section for section in all_of_it if section.side == "right"]
    below = [section for section in all_of_it if section.side == "below"]
    if pen.plain or width < _SIDE_BY_SIDE or not (left and right):
        return _column(pen, [*left, *right, *below], width, room)
    lowest = _column(pen, below, width, None if room is None else room // 3)
    rest = None if room is None else room - len(lowest)
    each = (width - _GAP) // 2
    columns = [_column(pen, side, each, rest) for side in (left, right)]
    gap = Segment(" " * _GAP)
    found: Lines = []
    for number in range(max(map(len, columns))):
        one, other = (column[number] if number < len(column) else [] for column in columns)
        found.append([*Segment.adjust_line_length(one, each), gap, *other])
    return found + lowest


def _column(pen: _Pen, below_another: Sequence[Section], width: int, room: int | None) -> Lines:
    blocks = [pen.block(section, len(section.rows), width) for section in below_another]
    if room is not None:
        shares = share([len(block) for block in blocks], room)
        blocks = [
            block if len(block) <= most else _fitting(pen, section, width, most)
            for section, block, most in zip(below_another, blocks, shares, strict=True)
        ]
    return [line for block in blocks for line in block]


def _fitting(pen: _Pen, section: Section, width: int, most: int) -> Lines:
    """A section with as many rows as fit: rather one without heads than none."""
    for heads in (True, False):
        for count in range(min(len(section.rows), most), 0, -1):
            block = pen.block(section, count, width, heads=heads)
            if len(block) <= most:
                return block
    return pen.block(section, 0, width)[:most]


def share(wanted: Sequence[int], room: int) -> list[int]:
    """Divide ``room`` among those who want so much: nobody gets more than it wants, and nobody less
    than another that gets less than it wants; what is over goes to the first."""
    given = [0] * len(wanted)
    while True:
        hungry = [place for place, most in enumerate(wanted) if given[place] < most]
        left = room - sum(given)
        if not hungry or left <= 0:
            return given
        each = max(1, left // len(hungry))
        for place in hungry[: left // each]:
            given[place] += min(each, wanted[place] - given[place])
