"""What the commands write: results, notes, errors and progress.

Invariants: results are bytes on standard output, so that they can be piped and a file name of any
bytes comes out as it is; notes, errors and progress are on standard error. Text that may come from
another computer (labels, messages) passes :func:`clean` before a person sees it, so that it cannot
steer the terminal or fake a second line. With ``--json`` a result is one JSON value on one line.
Rich is imported only when something is drawn on a terminal.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from kachery_p2p.protocol.errors import BadPath, KacheryError, StorageFull, to_wire

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

Command = TypeVar("Command", bound=Callable[..., Any])

_PROGRESS_DELAY = 0.5
"""Seconds. What is done sooner needs no progress bar."""


def clean(text: object) -> str:
    """Text on one line, with everything that is not printable written as an escape."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in str(text)
    )


class ReaderGone(Exception):
    """Nobody reads standard output any more. Not an OSError, since click has ideas about those."""


def write(data: bytes | memoryview) -> None:
    """Bytes to standard output.

    Raises:
        ReaderGone: as with ``| head``.
        StorageFull, BadPath: the file or device behind it does not take them.
    """
    if sys.stdout is None:
        raise BadPath(path="standard output", reason="it is closed")
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        _forget_unwritten()
        if error.errno == errno.EPIPE:
            raise ReaderGone from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(what="the output", path="standard output") from error
        raise BadPath(path="standard output", reason=(error.strerror or "?").lower()) from error


def _forget_unwritten() -> None:
    """Point standard output elsewhere, or Python fails on the same bytes once more at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def show_error(error: KacheryError) -> None:
    """The error's sentence, on one line of standard error."""
    click.echo(f"kachery-p2p: {clean(error)}", err=True)


def show_error_json(error: KacheryError) -> None:
    """The error for programs, on one line of standard error."""
    code, fields = to_wire(error)
    described = {"code": code, "fields": fields, "message": str(error)}
    click.echo(json.dumps({"error": described}), err=True)


class Output:
    """How this run of the command writes; set by the options of :func:`with_output`."""

    def __init__(self) -> None:
        self.json = False
        self.quiet = False

    def result(self, value: Any, lines: Iterable[str]) -> None:
        """A result: ``value`` as JSON, or ``lines`` for people and pipes."""
        if self.json:
            write(json.dumps(value).encode() + b"\n")
        else:
            for line in lines:
                write(os.fsencode(line) + b"\n")

    def note(self, text: str) -> None:
        """Something worth knowing that is no result."""
        if not self.quiet:
            click.echo(clean(text), err=True)

    def progress(self, what: str, size: int | None = None, *, bar: bool = True) -> Progress:
        """A progress bar, if a person is looking and it takes long enough.

        Args:
            size: bytes, if they are known from the start.
            bar: False if the bar would be in the way.
        """
        wanted = bar and not self.quiet and sys.stderr is not None and sys.stderr.isatty()
        return Progress(what, size, delay=_PROGRESS_DELAY if wanted else None)


class Progress(AbstractContextManager["Progress"]):
    """A bar on standard error that appears after ``delay`` seconds; None: never.

    It may be told from any thread.
    """

    def __init__(self, what: str, size: int | None, *, delay: float | None) -> None:
        self._what = what
        self._size = size
        self._done = 0
        self._sources = ""
        self._bar: RichProgress | None = None
        self._lock = threading.Lock()
        self._ended = False
        self._timer = None if delay is None else threading.Timer(delay, self._show)

    def __enter__(self) -> Self:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._ended = True
            if self._bar is not None:
                self._bar.stop()

    def advance(self, size: int) -> None:
        """So many bytes more are done."""
        self.tell(done=self._done + size)

    def on_progress(self, info: dict[str, Any]) -> None:
        """What the client reports while it loads."""
        sources = len(info.get("sources") or ())
        named = f"{sources} source{'s' if sources != 1 else ''}"
        self.tell(done=info["verified"], size=info["size"] or None, sources=named)

    def tell(self, *, done: int, size: int | None = None, sources: str | None = None) -> None:
        with self._lock:
            self._done = done
            self._size = self._size if size is None else size
            self._sources = self._sources if sources is None else sources
            self._draw()

    def _draw(self) -> None:
        if self._bar is not None and not self._ended:
            self._bar.update(
                self._bar.task_ids[0],
                completed=self._done,
                total=self._size,
                sources=self._sources,
            )

    def _show(self) -> None:
        from rich import progress
        from rich.console import Console

        with self._lock:
            if self._ended:
                return
            self._bar = progress.Progress(
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(),
                progress.DownloadColumn(binary_units=True),
                progress.TransferSpeedColumn(),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.fields[sources]}", markup=False),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.add_task(
                clean(self._what), total=self._size, completed=self._done, sources=self._sources
            )
            self._bar.start()


pass_output = click.make_pass_decorator(Output, ensure=True)


def with_output(command: Command) -> Command:
    """The options that every command has: ``--json`` and ``--quiet``."""

    def remember(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        setattr(context.ensure_object(Output), str(parameter.name), value)

    as_json = click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=remember,
        help="Print results, and errors, as JSON.",
    )
    quiet = click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=remember,
        help="No notes and no progress; errors are shown.",
    )
    return quiet(as_json(command))


def size_text(size: float) -> str:
    """A number of bytes for people: ``1.5 MiB``."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.0f} B" if units[0] == "B" else f"{size:.1f} {units[0]}"


def columns(rows: Sequence[Sequence[object]]) -> list[str]:
    """Rows as lines whose cells stand below one another, two spaces apart."""
    texts = [[clean(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in texts
    ]
