"""What people see."""

from __future__ import annotations

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
