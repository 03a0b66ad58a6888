"""The keys of the live dashboard: what does not fit on the screen can be scrolled to."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.live import Live

from kachery_p2p.cli.status.live import _KEY, _Dashboard

from .samples import sample

DOWN, UP, PAGE_DOWN, PAGE_UP, END, HOME = (
    b"\x1b[B", b"\x1b[A", b"\x1b[6~", b"\x1b[5~", b"\x1b[F", b"\x1b[H"
)  # fmt: skip


class Screen:
    """80 columns and 24 lines, and a dashboard on it."""

    def __init__(self, height: int = 24) -> None:
        self.file = io.StringIO()
        console = Console(
            file=self.file, width=80, height=height, force_terminal=True, color_system=None
        )
        self.dashboard = _Dashboard(Live(console=console), sample(), ascii=False)
        self.console = console
        self.footer = ""
        self.draw()

    def draw(self) -> list[str]:
        """The lines that are seen above the last one, which says the time."""
        self.dashboard.draw()
        view = self.dashboard._view
        assert view is not None
        found = ["".join(s.text for s in line).rstrip() for line in view.lines(self.console, 80)]
        assert len(found) == self.console.height
        self.footer = found.pop()
        return found

    def press(self, *keys: bytes) -> list[str]:
        """What is seen afterwards."""
        for key in keys:
            self.dashboard.pressed(key)
            self.draw()
        return self.draw()


def test_keys_are_told_apart_however_they_come() -> None:
    assert _KEY.findall(b"jk q\x1b[B\x1bOA\x1b[6~G") == [
        b"j", b"k", b" ", b"q", b"\x1b[B", b"\x1bOA", b"\x1b[6~", b"G"
    ]  # fmt: skip


def test_page_by_page_everything_is_seen() -> None:
    everything = set(Screen(height=400).press())
    screen = Screen()
    seen: set[str] = set()
    first = screen.press()
    lines = screen.press(PAGE_DOWN)
    while not set(lines) <= seen:
        seen |= set(lines)
        lines = screen.press(b" ")
    assert everything <= seen
    assert screen.press(HOME) == first


def test_line_by_line_down_and_back_up_to_the_first_picture() -> None:
    screen = Screen()
    first = screen.press()
    pictures = [screen.press(DOWN) for _ in range(5)]
    back = [screen.press(UP) for _ in range(5)]
    assert back == [*reversed(pictures[:-1]), first]
    assert screen.press(UP, PAGE_UP, b"k") == first


def test_the_end_is_the_end_and_one_up_from_there_is_one_line_up() -> None:
    screen = Screen()
    end = screen.press(END)
    assert screen.press(DOWN, PAGE_DOWN, b"G") == end
    assert screen.press(UP) != end
    assert screen.press(DOWN) == end


@pytest.mark.parametrize("key", [DOWN, PAGE_DOWN, END])
def test_where_all_fits_nothing_moves_and_no_key_is_proposed(key: bytes) -> None:
    screen = Screen(height=400)
    first = screen.press()
    assert screen.press(key) == first
    assert "scroll" not in screen.footer


def test_a_screen_that_grows_shows_no_more_than_there_is() -> None:
    screen = Screen()
    screen.press(END)
    screen.console.height = 30
    assert "" not in screen.draw()[-4:]
    assert "scroll" in screen.footer
    screen.console.height = 400
    everything = Screen(height=400).draw()
    assert screen.draw() == everything
