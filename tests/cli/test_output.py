"""What people see."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.cli.output import clean, columns, size_text


@settings(deadline=None, max_examples=100)
@given(st.text())
def test_clean_text_is_printable_and_on_one_line(text: str) -> None:
    assert clean(text).isprintable()
    if text.isprintable():
        assert clean(text) == text


def test_columns_stand_below_one_another() -> None:
    assert columns([("a", "bb", "c"), ("aaa", "b\n", "")]) == ["a    bb   c", "aaa  b\\n"]
    assert columns([]) == []


def test_sizes_are_in_the_unit_that_fits() -> None:
    assert [size_text(n) for n in (0, 1023, 1024, 1536 * 1024, 3 << 60)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 MiB",
        "3145728.0 TiB",
    ]


PROGRESS = """
import sys
from kachery_p2p.cli.output import Output, Progress
with Progress("loading \\x1b[31m", None, delay={delay}) as progress:
    if progress._timer is not None:
        progress._timer.join()
    progress.on_progress({{"verified": 1 << 20, "size": 3 << 20, "sources": [1, 2]}})
print("rich" in sys.modules)
"""


def on_a_terminal(code: str) -> tuple[str, str]:
    """(standard output, what the terminal that is standard error got)."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    drawn = b""
    try:
        while piece := os.read(ours, 65_536):
            drawn += piece
    except OSError:  # what a terminal says at its end
        pass
    os.close(ours)
    out, _ = process.communicate()
    assert process.returncode == 0, drawn
    return out.decode().strip(), drawn.decode()


def test_the_progress_bar_shows_bytes_and_sources() -> None:
    out, drawn = on_a_terminal(PROGRESS.format(delay=0))
    assert out == "True"
    assert "1.0/3.0 MiB" in drawn
    assert "2 sources" in drawn
    assert "\\x1b[31m" in drawn


def test_without_a_bar_rich_is_not_imported() -> None:
    assert on_a_terminal(PROGRESS.format(delay=None)) == ("False", "")


def test_what_is_quick_shows_no_bar() -> None:
    code = "from kachery_p2p.cli.output import Output\nwith Output().progress('x'): pass"
    assert on_a_terminal(code) == ("", "")


def test_quiet_means_no_bar() -> None:
    code = (
        "from kachery_p2p.cli.output import Output\n"
        "output = Output(); print(output.progress('x')._timer is not None)\n"
        "output.quiet = True; print(output.progress('x')._timer is not None)"
    )
    assert on_a_terminal(code)[0].split() == ["True", "False"]
