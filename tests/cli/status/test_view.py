"""The dashboard, drawn from made-up statuses: every row, any width, any height, hostile names."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from kachery_p2p.cli.status.cells import Rates
from kachery_p2p.cli.status.rows import sections
from kachery_p2p.cli.status.view import View, share
from tests.cli.status.samples import EVIL, LONG, NOW, WARNING, WIDE, empty, feed, link, sample

WIDTHS = (1, 8, 20, 40, 60, 80, 100, 131, 132, 160, 200, 400)
COLOURS = {"cyan", "green", "red", "magenta"}
"""Both light and dark terminals show these."""


def drawn(
    status: dict[str, Any], width: int, before: dict[str, Any] | None = None, **how: Any
) -> list[str]:
    """Its lines, without styles."""
    console = Console(file=io.StringIO(), width=width, highlight=False)
    view = View(status, before, now=NOW, **how)
    return ["".join(s.text for s in line).rstrip() for line in view.lines(console, width)]


def words(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "how", [{}, {"plain": True}, {"ascii": True}, {"problem": EVIL * 9}], ids=str
)
def test_no_line_is_wider_than_the_terminal_or_steers_it(width: int, how: dict[str, Any]) -> None:
    clean = {name: value if name != "problem" else "gone. " * 40 for name, value in how.items()}
    for status in (sample(), empty()):
        lines = drawn(status, width, status | {"now": 99.0}, **clean)
        assert max(map(cell_len, lines)) <= width
        for line in lines:
            assert line.isprintable()


def test_what_rich_prints_is_what_was_laid_out() -> None:
    console = Console(file=io.StringIO(), width=80, highlight=False, color_system=None)
    console.print(View(sample(), None, now=NOW))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert [line.rstrip() for line in printed.splitlines()] == drawn(sample(), 80)


def test_names_are_not_taken_for_markup_or_lines() -> None:
    text = words(drawn(sample(), 2_000, plain=True))
    assert "[red]x[/red]" in text
    assert r"\x1b[2J" in text
    assert r"\nnode" in text
    assert WIDE in text
    assert LONG in text


def test_every_kind_of_row_is_told() -> None:
    before = sample(now=98.0)
    for each in before["links"]:
        each["received"] -= 1_024
    before["downloads"][0]["verified"] -= 1 << 21
    lines = drawn(sample(), 2_000, before, plain=True)
    text = words(lines)
    for part in (
        "1.0, up 1 d 1 h",
        "1.1 GB in 1,234 files, 1 link; 1.0 MB free",
        "up 0 B/s, down 1.0 kB/s",  # two direct links, half a KiB/s each
        "ws://here:80",
        "2 circuits, 2.0 kB so far",
        "Channels: 4",
        "lab (owner) provide-files, request-files 4 hub,",
        "and 9 more",
        "request-tasks; switched off: provide-files; not granted: request-files open, 4",
        "not a member",
        "nobody",
        "hub 11111111 direct 12 ms 0 B/s 512 B/s 1.0 kB 2.0 kB lab,",
        "22222222 via hub",
        "- 33333333 via 44444444 - ",
        "Not connected: 2",
        "ws://x 77777777 connecting ...",
        "88888888 unreachable; it is tried again",
        "1a1a1a1a 25% 1.1 GB 1.0 MB/s 12 min 48 s",
        "recording.dat",
        "via hub, 33333333",
        "2b2b2b2b looking - 0 B/s -",
        "12,345 own 1 node",
        "5f5f5f5f 7 followed 3 nodes, 2 here",
        "7 copy -",
        "7 forked -",
        "Tasks: 4",
        "spikesort.2 running 40% on b 1 min 15 s query lab fitting",
        "no backend yet - ",
        "running here, for 33333333",
        "queued here 1 min",
        "1 of 4 a.1,",
        "and 10 more",
        "another. Do something.",
    ):
        assert part in text, part
    assert "ws://ok" not in text
    assert all(title not in text for title in ("none ", "next "))


def test_a_fresh_node_says_what_is_missing_and_what_to_do_next() -> None:
    text = words(drawn(empty(), 80))
    assert "is being measured" in text
    assert "channel join" in text
    assert "none of channels, links, downloads, uploads, feeds, tasks, warnings" in text
    assert "up -, down -" in text


@pytest.mark.parametrize("width", [40, 80, 160, 200])
def test_a_warning_is_never_cut_and_the_same_one_is_told_once(width: int) -> None:
    letters = re.sub(r"\s", "", "".join(drawn(sample(), width)))
    whole = re.sub(r"\s", "", WARNING.strip().replace("\n", r"\n").replace("\x1b", r"\x1b"))
    assert letters.count(whole) == 1
    assert f"{whole}(2times)" in letters


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("height", [*range(1, 40), 80, 200])
def test_a_screen_is_filled_and_never_overflows(width: int, height: int) -> None:
    lines = drawn(sample(), width, height=height, footer="q quits")
    assert len(lines) == height
    if height > 1:
        assert lines[-1] == "q quits"


@pytest.mark.parametrize("height", [25, 30, 40, 60])
def test_what_does_not_fit_is_counted(height: int) -> None:
    status = empty(links=[link(f"{n:02x}", f"peer{n}") for n in range(50)])
    status["totals"]["links"] = 70
    lines = drawn(status, 80, height=height)
    shown = sum(line.startswith("peer") for line in lines)
    assert 0 < shown <= 50
    assert any(line.startswith(f"Links {shown} of 70 ") for line in lines)


def test_each_section_has_its_share_of_a_small_screen() -> None:
    links = [link(f"{n:02x}", f"peer{n}") for n in range(50)]
    status = empty(links=links, feeds=[feed(7) for _ in range(50)])
    status["totals"] |= {"links": 50, "feeds": 50}
    lines = drawn(status, 80, height=30)
    assert sum(line.startswith("peer") for line in lines) > 3
    assert sum(line.startswith("fefe") for line in lines) > 3


def test_on_the_smallest_of_usual_screens_each_section_still_shows_something() -> None:
    lines = drawn(sample(), 80, height=24, footer="q quits")
    titles = ("Channels 1 of 4", "Links 1 of 5", "Downloads 1 of 2", "Uploads 1 ", "Tasks 1 of 4")
    for title in titles:
        assert any(line.startswith(title) for line in lines), title
    for part in ("lab (owner)", "hub ", "recording.dat", WIDE[:3], "spikesort.2"):
        assert any(line.startswith(part) for line in lines), part


def test_wide_terminals_have_two_columns() -> None:
    assert any("Channels" in line and "Downloads" in line for line in drawn(sample(), 160))
    assert not any("Channels" in line and "Downloads" in line for line in drawn(sample(), 100))


def test_only_colours_that_every_terminal_shows_and_nothing_dim() -> None:
    console = Console(file=io.StringIO(), width=160, color_system="truecolor", force_terminal=True)
    styles = [
        segment.style
        for line in View(sample(), None, now=NOW, problem="gone").lines(console, 160)
        for segment in line
        if segment.style is not None
    ]
    assert {style.color.name for style in styles if style.color is not None} == COLOURS
    assert not any(style.dim or style.bgcolor is not None for style in styles)


def test_without_colour_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="standard")
    console.print(View(sample(), None, now=NOW))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    codes = {code for found in re.findall(r"\x1b\[([\d;]*)m", printed) for code in found.split(";")}
    assert codes <= {"0", "1"}  # bold and its end
    assert "█" in printed
    assert "25%" in printed


def test_ascii_means_that_nothing_drawn_is_anything_else() -> None:
    status = sample(channels=[], uploads=[], feeds=[], tasks=[], backends=[], warnings=[])
    status["links"] = [link("66", LONG, "11")]
    for width in (40, 80, 160):
        assert all(line.isascii() for line in drawn(status, width, ascii=True, footer="q quits"))


@given(st.lists(st.integers(0, 50), max_size=10), st.integers(0, 120))
def test_a_share_is_fair(wanted: list[int], room: int) -> None:
    given_ = share(wanted, room)
    assert sum(given_) == min(room, sum(wanted))
    assert all(0 <= got <= most for got, most in zip(given_, wanted, strict=True))
    for got, most in zip(given_, wanted, strict=True):
        if (
            got < most
        ):  # it wants more: nobody got more than it, but for a rest that is not divisible
            assert max(given_) <= got + 1


def test_rates_are_of_the_same_link_only_and_never_negative() -> None:
    before = sample(
        now=90.0, links=[link("11", "hub", sent=0), link("22", "x", "11", opened_at=4.0)]
    )
    after = sample(now=100.0)
    rates = Rates(after, before)
    assert rates.link(after["links"][0], "sent") == 100.0
    assert rates.link(after["links"][1], "sent") is None  # another link to the same node
    assert Rates(before, after).link(before["links"][0], "sent") is None  # time went back
    assert Rates(after, None).total(after["links"], "sent") is None
    fewer = sample(now=110.0, links=[link("11", "hub", sent=5)])
    assert Rates(fewer, after).link(fewer["links"][0], "sent") == 0.0


def test_what_is_sent_has_a_size_and_a_rate() -> None:
    before = sample(now=98.0)
    before["uploads"][0]["sent"] -= 3_000_000
    section = next(each for each in sections(sample(), Rates(sample(), before), NOW)
                   if each.title == "Uploads")  # fmt: skip
    cells = dict(zip((column.head for column in section.columns), section.rows[0], strict=True))
    assert (cells["SIZE"].text, cells["RATE"].text) == ("30.0 MB", "1.5 MB/s")
    assert Rates(sample(), None).upload(sample()["uploads"][0]) is None
    elsewhere = sample(now=110.0)
    elsewhere["uploads"][0]["node"] = "44" * 32
    assert Rates(elsewhere, sample()).upload(elsewhere["uploads"][0]) is None


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=60), st.integers(1, 170), st.integers(1, 40))
def test_any_name_at_any_size(name: str, width: int, height: int) -> None:
    status = sample(links=[link("11", name), link("22", "x", "33", via_label=name)])
    status["node"]["label"] = name
    status["channels"][0]["names"] = [name]
    for lines in (drawn(status, width), drawn(status, width, height=height)):
        assert max(map(cell_len, lines)) <= width
        assert all(line.isprintable() for line in lines)


def test_rows_fit_their_columns() -> None:
    for section in sections(sample(), Rates(sample(), None), NOW):
        assert section.rows
        assert {len(row) for row in section.rows} == {len(section.columns)}
