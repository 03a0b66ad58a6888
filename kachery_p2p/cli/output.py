"""What the commands write: results, notes, errors and progress.

Invariants: results are bytes on standard output, so that they can be piped and a file name of any
bytes comes out as it is; notes, errors and progress are on standard error. Text that may come from
another computer (labels, messages) passes :func:`clean` before a person sees it, so that it cannot
steer the terminal or fake a second line. With ``--json`` a result is one JSON value on one line,
of what every reader of JSON takes.
Rich is imported only when something is drawn on a terminal.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Self, TypeVar

import click

from kachery_p2p.client.display.progress_display import display
from kachery_p2p.client.display.texts import clean as clean
from kachery_p2p.client.display.texts import delay_text as delay_text
from kachery_p2p.client.display.texts import size_text as size_text
from kachery_p2p.protocol.errors import (
    BadInput,
    BadPath,
    KacheryError,
    NotFound,
    StorageFull,
    TaskFailed,
    to_wire,
)

FULL: Final = (errno.ENOSPC, errno.EDQUOT)

Command = TypeVar("Command", bound=Callable[..., Any])


class Shown(Exception):
    """Something failed that was said already. ``status`` is the exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class ReaderGone(Exception):
    """Nobody reads standard output any more. Not an OSError, since click has ideas about those."""


def open_standard_streams() -> None:
    """Let /dev/null lie where standard input, output and error should be, if the command was started
    without them (``<&- >&-``): the next file that is opened would lie there."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # It gets the lowest number that is free, which is this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115  # it stays
            setattr(sys, name, stream)


def write(data: bytes | memoryview) -> None:
    """Bytes to standard output.

    Raises:
        ReaderGone: as with ``| head``.
        StorageFull, BadPath: the file or device behind it does not take them.
    """
    if sys.stdout is None:
        raise BadPath(path="standard output", reason="it is closed")
    try:
        with display.aside():
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    except OSError as error:
        forget_unwritten()
        if error.errno == errno.EPIPE:
            raise ReaderGone from error
        if error.errno in FULL:
            raise output_full() from error
        raise BadPath(path="standard output", reason=(error.strerror or "?").lower()) from error


def output_full() -> StorageFull:
    return StorageFull(what="the output", path="standard output")


def forget_unwritten() -> None:
    """Point standard output elsewhere, or Python fails on the same bytes once more at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def for_shell(uri: str) -> str:
    """A URI as somebody who reads it on a terminal can paste it into a shell: in quotes where it takes
    them, since zsh refuses a bare ``?``. Into a pipe it goes as it is."""
    terminal = sys.stdout is not None and sys.stdout.isatty()
    return shlex.quote(uri) if terminal else uri


def quoted(name: object) -> str:
    """A name from elsewhere as one word of a command that is proposed. In double quotes if it can be:
    the command itself often stands in single ones."""
    text = clean(name)
    word = shlex.quote(text)
    return f'"{text}"' if word != text and not set(text) & set('"$`\\!') else word


def say(text: str, *, end: bool = True) -> None:
    """Text to standard error. Where that is full or gone nobody hears it, and the exit status counts
    all the same."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True, nl=end)


def show_error(error: KacheryError) -> None:
    """The error's sentence, on one line of standard error; below it, further in, the traceback that
    another computer sent with it."""
    told = str(error.fields.get("traceback") or "") if isinstance(error, TaskFailed) else ""
    sentence = str(error).partition("\n\n")[0] if told else error
    say(f"kachery-p2p: {clean(sentence)}")
    for line in told.splitlines():
        say(f"  {clean(line)}")


def show_error_json(error: KacheryError) -> None:
    """The error for programs, on one line of standard error."""
    code, fields = to_wire(error)
    described = {"code": code, "fields": fields, "message": str(error)}
    say(json_text({"error": described}))


def json_text(value: Any) -> str:
    """A value as JSON on one line. JSON has no NaN and no infinity: they are ``null``, as JavaScript
    writes them."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            _finite(key) if isinstance(key, float) else key: _finite(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Output:
    """How this run of the command writes; set by the options of :func:`with_output`."""

    def __init__(self) -> None:
        self.json = False
        self.quiet = False

    def result(self, value: Any, lines: Iterable[str]) -> None:
        """A result: ``value`` as JSON, or ``lines`` for people and pipes."""
        if self.json:
            write(json_text(value).encode() + b"\n")
        else:
            for line in lines:
                write(as_bytes(line) + b"\n")

    def note(self, text: str) -> None:
        """Something worth knowing that is no result."""
        if not self.quiet:
            say(clean(text))

    @property
    def bar(self) -> bool:
        """The ``progress`` of the client's functions: a bar, if somebody is looking."""
        return not self.quiet


class Several:
    """Does the same for each of several things: what fails for one, by its own fault, is said at once,
    and the others are done. Afterwards it raises :class:`Shown` if one failed."""

    def __init__(self, output: Output, count: int) -> None:
        self._output = output
        self._alone = count == 1
        self._failure: KacheryError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._failure is not None:
            raise Shown(self._failure.exit_status)

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """One of them."""
        try:
            yield
        except (BadInput, NotFound) as error:  # anything else would be the same for the next
            if self._alone:
                raise
            show_error(error)
            if self._output.json:
                show_error_json(error)
            self._failure = self._failure or error


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


def as_bytes(line: str) -> bytes:
    """A line as this computer writes text and names of files, whatever bytes those are. A letter that
    its locale does not have is written in UTF-8, as the file names of others are."""
    try:
        return os.fsencode(line)
    except UnicodeEncodeError:
        return line.encode("utf-8", "surrogateescape")


def columns(rows: Sequence[Sequence[object]]) -> list[str]:
    """Rows as lines whose cells stand below one another, two spaces apart."""
    texts = [[clean(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in texts
    ]


def rates_text(rates: dict[str, int | None]) -> str:
    """The limits of what goes out and comes in, for people."""
    texts = {
        what: "without a limit" if rate is None else f"{size_text(rate)}/s at most"
        for what, rate in rates.items()
    }
    return f"files go out {texts['upload']}, come in {texts['download']}"
