"""What the progress display says of loads and stores at any moment, and what of it is drawn how."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from kachery_p2p.client.display import progress
from kachery_p2p.client.display.progress import Transfer
from kachery_p2p.client.display.progress_bars import Bars, html
from kachery_p2p.client.display.progress_display import Display
from kachery_p2p.client.display.progress_rows import Past, Row, plain, rows

MB = 1_000_000


class Clock:
    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


def row_of(transfer: Transfer) -> Row:
    return next(iter(rows([transfer], Past())))


def heard(transfer: Transfer, done: int, fetched: int, size: int = 100 * MB) -> None:
    transfer.hear({"verified": done, "fetched": fetched, "size": size})


def test_the_rate_is_that_of_the_last_seconds(clock: Clock) -> None:
    with Transfer("loading", "a") as moving:
        for second in range(11):
            clock.now = 1_000.0 + second
            heard(moving, second * MB, second * MB)
        assert row_of(moving).rate == "1.0 MB/s"
        clock.now += 2.5
        assert moving.rate == pytest.approx(0.6 * MB), "some of the last five seconds is silence"


def test_a_stall_is_said_with_its_length_and_no_time_that_is_left(clock: Clock) -> None:
    with Transfer("loading", "a") as moving:
        heard(moving, 10 * MB, 10 * MB)
        clock.now += 5.5
        heard(moving, 10 * MB, 10 * MB)  # the node is there, and has nothing new to say
        row = row_of(moving)
        assert (row.rate, row.left, row.stalled) == ("stalled 0:06", "", True)
        assert moving.rate == 0
        clock.now += 1
        heard(moving, 11 * MB, 11 * MB)
        assert (row_of(moving).rate, row_of(moving).stalled) == ("200.0 kB/s", False)


def test_why_nothing_comes_stands_in_place_of_the_sources(clock: Clock) -> None:
    with Transfer("loading", "a") as moving:
        heard(moving, 10 * MB, 10 * MB)
        why = "alice (it went\x1b away); waiting for whoever has the file"
        moving.hear({"verified": 10 * MB, "fetched": 10 * MB, "size": 100 * MB, "waiting": why})
        row = row_of(moving)
        assert (row.rate, row.stalled) == ("waiting", True)
        assert row.sources == "alice (it went\\x1b away); waiting for whoever has the file"
        assert moving.info()["waiting"] == why
        heard(moving, 11 * MB, 11 * MB)
        assert not row_of(moving).stalled
        assert moving.info()["waiting"] == ""


def test_before_the_first_byte_it_waits(clock: Clock) -> None:
    with Transfer("loading", "a") as moving:
        clock.now += 7
        assert row_of(moving).rate == "waiting 0:07"


def test_what_was_here_already_is_no_speed(clock: Clock) -> None:
    with Transfer("loading", "a") as moving:
        heard(moving, 0, 0)
        clock.now += 1
        heard(moving, 90 * MB, 0)
        assert moving.rate == 0
        clock.now += 1
        heard(moving, 91 * MB, 1 * MB)
        assert moving.rate == pytest.approx(0.5 * MB)
        assert moving.left == pytest.approx(18.0)


def test_a_copy_that_follows_has_a_rate_of_its_own(clock: Clock) -> None:
    with Transfer("loading", "a") as moving:
        heard(moving, 10 * MB, 10 * MB)
        clock.now += 1
        moving.turn_to("copying", 10 * MB)
        clock.now += 1
        moving.tell(4 * MB)
        assert moving.rate == pytest.approx(4 * MB)


class Screen:
    """What is drawn last."""

    pause = 60.0

    def __init__(self, of: Display) -> None:
        self.of, self.last = of, [""]

    def open(self) -> None: ...

    def draw(self) -> None: ...

    def close(self) -> None:
        self.last[:] = list(map(plain, self.of.rows()))


def shown_last(*failing: bool) -> list[str]:
    """The last that is shown of so many loads, of which some fail."""
    display = Display()
    screen = Screen(display)
    transfers = [Transfer("loading", f"part{n}", False, total=MB) for n in range(len(failing))]
    display.shown, display._screen = tuple(transfers), screen  # type: ignore[assignment]
    for transfer, fails in zip(transfers, failing, strict=True):
        if not fails:
            transfer.complete(MB)
        transfer.over = True
        display.remove(transfer)
    return screen.last


def test_the_last_that_is_shown_counts_all() -> None:
    assert shown_last(False, False, False) == ["3 of 3 files done  3.0 MB of 3.0 MB"]
    assert shown_last(False, True, False) == ["2 of 3 files done, 1 not  2.0 MB of 2.0 MB"]
    assert shown_last(False) == ["loading part0  1.0 MB of 1.0 MB"]
    assert shown_last(True) == ["loading part0  0 B of 1.0 MB  stopped"]


@pytest.mark.parametrize("total", [None, 0, 2 * MB])
def test_in_a_notebook_the_bar_gives_way_and_then_the_name(total: int | None) -> None:
    made = html([Row(None, "<b>'\"", MB, total, "stalled 0:06", "0:05", "2 sources", True)])
    assert "<b>'" not in made, "what others name is no HTML"
    assert made.count("white-space:nowrap") == 5
    assert made.count("table-layout:auto") == 1
    assert f"width:{50.0 if total else 0.0}%" in made


def colours(row: Row) -> str:
    console = Console(force_terminal=True, color_system="truecolor", width=100)
    with console.capture() as drawn:
        console.print(Bars().render([row]))
    return drawn.get()


def test_what_goes_well_is_not_red(clock: Clock) -> None:
    row: dict[str, Any] = {"key": None, "label": "a", "left": "0:05", "sources": "1 source"}
    well = colours(Row(done=MB, total=2 * MB, rate="1.0 MB/s", **row))
    assert "\x1b[34m" in well
    assert "\x1b[33m" not in well
    done = colours(Row(done=MB, total=MB, rate="", **row))
    assert "\x1b[32m" in done
    stalled = colours(Row(done=MB, total=2 * MB, rate="stalled 0:06", stalled=True, **row))
    assert "\x1b[33mstalled 0:06" in stalled
    for each in (well, done, stalled):
        assert not any(red in each for red in ("\x1b[31m", "\x1b[35m", "249;38;114"))
