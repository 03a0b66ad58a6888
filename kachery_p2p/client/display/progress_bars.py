"""The rows of the progress display as bars: rich's for a terminal, HTML for a notebook."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from .progress_rows import Row, Shown

if TYPE_CHECKING:
    from rich import progress as rich_progress
    from rich.console import RenderableType

_NAME_WIDTH: Final = 32


class Bars:
    """Rows as something that rich can draw."""

    def __init__(self) -> None:
        from rich import progress
        from rich.table import Column

        def text(name: str, **column: Any) -> rich_progress.TextColumn:
            # What others have named is no markup; a rate says by its own that there is none.
            return progress.TextColumn(
                f"{{task.fields[{name}]}}",
                markup=name == "rate",
                table_column=Column(no_wrap=True, **column),
            )

        # Rich's own colours are those of a warning: what goes well is blue, what is done green.
        bar = progress.BarColumn(
            bar_width=None,
            complete_style="blue",
            finished_style="green",
            pulse_style="blue",
            table_column=Column(ratio=1, min_width=4),
        )
        self._progress = progress.Progress(
            text("label", max_width=_NAME_WIDTH, overflow="ellipsis"),
            bar,
            text("bytes", justify="right"),
            text("rate", justify="right"),
            text("left", justify="right"),
            text("sources", overflow="ellipsis"),
            auto_refresh=False,
            expand=True,
        )
        self._tasks: dict[Shown | None, rich_progress.TaskID] = {}

    def render(self, rows: Iterable[Row]) -> RenderableType:
        """What to draw now."""
        wanted = {row.key: row for row in rows}
        if (None in wanted) != (None in self._tasks):
            self._keep(())  # the row of all is the first
        self._keep(wanted)
        for key, row in wanted.items():
            if key not in self._tasks:
                empty: Any = dict.fromkeys(("label", "bytes", "rate", "left", "sources"), "")
                self._tasks[key] = self._progress.add_task("", total=None, **empty)
            self._progress.update(
                self._tasks[key],
                completed=row.done,
                total=row.total,
                label=row.label,
                bytes=row.bytes,
                rate=f"[yellow]{row.rate}[/]" if row.stalled else row.rate,
                left=row.left,
                sources=row.sources,
            )
        return self._progress.get_renderable()

    def _keep(self, wanted: Iterable[Shown | None]) -> None:
        kept = set(wanted)
        for each in [each for each in self._tasks if each not in kept]:
            self._progress.remove_task(self._tasks.pop(each))


def html(rows: Iterable[Row]) -> str:
    """A table that is as wide as the cell, whatever that is: the bars give way, then the names."""
    # JupyterLab's own style has a fixed layout, which leaves nothing to columns without a width.
    style = "width:100%;table-layout:auto"
    shown = [_html_cells(row) for row in rows]
    # A column of which nothing is said would take some of the width.
    used = [any(text for _, text in column) for column in zip(*shown, strict=True)]
    lines = (
        "".join(cell for (cell, _), use in zip(row, used, strict=True) if use) for row in shown
    )
    return f"<table style='{style}'>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _html_cells(row: Row) -> list[tuple[str, str]]:
    """The cells of a row, each with what is in it."""
    from html import escape

    share = 100 * row.done / row.total if row.total else 0
    colour = "#2a7d2a" if row.total is not None and row.done >= row.total else "#2a6db0"
    bar = (
        "<div style='min-width:3em;height:.6em;background:#8884'>"
        f"<div style='width:{min(100, share):.1f}%;height:100%;background:{colour}'></div></div>"
    )
    label = escape(row.label)
    rate = f"<b>{escape(row.rate)}</b>" if row.stalled else escape(row.rate)
    line = "padding:1px 6px;white-space:nowrap"
    side = f"text-align:right;{line}"
    # As wide as is left to it, and its text does not count.
    name = f"text-align:left;width:35%;max-width:0;overflow:hidden;text-overflow:ellipsis;{line}"
    cells = [
        (f"title='{label}' style='{name}'", label),
        ("style='vertical-align:middle;padding:1px 6px'", bar),
    ]
    for text in (escape(row.bytes), rate, escape(row.left), escape(row.sources)):
        cells.append((f"style='{side}'", text))
    return [(f"<td {attributes}>{text}</td>", text) for attributes, text in cells]
