"""``status``: the dashboard of the local node, live on a terminal or printed once.

The live view is in :mod:`.live`, what is drawn in :mod:`.view`; both, and rich with them,
are imported when they are needed.
"""

from __future__ import annotations

import io
import os
import sys
import time
from typing import Any, Final

import click

from kachery_p2p.cli.output import Output, pass_output, with_output, write
from kachery_p2p.client import sync

_APART_SECONDS: Final = 0.5
"""Between the two looks from whose difference rates are told."""
_UNBOUNDED: Final = 2_000
"""Columns of a pipe whose reader has not said how many there are: nothing is cut."""


@click.command()
@click.option("--once", is_flag=True, help="Print it and end; so does a pipe.")
@with_output
@pass_output
def status(output: Output, once: bool) -> None:
    """Show what goes on: links, transfers, feeds, tasks and warnings, anew every second.

    q or Ctrl-C quits; where not all fits, the arrow keys and Page Down show the rest. Where output or
    input is no terminal it is printed once.

    \b
    Example:
      kachery-p2p status
      kachery-p2p status --once
      kachery-p2p status --json | jq .links
    """
    if output.json:
        output.result(sync.node_status(), [])
    elif once or not _is_live():
        _print(sync.node_status)
    else:
        from .live import watch

        watch(ascii=_ascii_only())


def _is_live() -> bool:
    both = all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))
    return both and os.environ.get("TERM", "dumb") != "dumb"


def _ascii_only() -> bool:
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return not encoding.lower().startswith("utf")


def _print(look: Any) -> None:
    before = look()
    time.sleep(_APART_SECONDS)
    after = look()
    from rich.console import Console

    from .view import View

    terminal = sys.stdout is not None and sys.stdout.isatty()
    drawn = io.StringIO()
    console = Console(
        file=drawn,
        force_terminal=terminal,
        # In a pipe there is no terminal to ask; who set COLUMNS has said it.
        width=None if terminal or _columns() else _UNBOUNDED,
        highlight=False,
        soft_wrap=False,
    )
    view = View(after, before, now=time.time(), plain=not terminal, ascii=_ascii_only())
    console.print(view)
    lines = [line.rstrip() for line in drawn.getvalue().splitlines()]
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    write("".join(f"{line}\n" for line in lines).encode(encoding, "backslashreplace"))


def _columns() -> bool:
    return os.environ.get("COLUMNS", "").isdigit()
