"""Sizes and times as people write them."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.quantities import parse_seconds, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("17", 17), (17, 17), ("500G", 500 * 10**9), ("1.5 TB", 15 * 10**11),
        ("20GiB", 20 << 30), ("1ki", 1024), ("3k", 3000), ("2m", 2_000_000),
    ],
)  # fmt: skip
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "G", "-1", "1e9", "5X", "5i", "1 000", "99999P", "inf", "nan"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(BadInput):
        parse_size(text)


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("30d", 30 * 86_400.0), ("1.5h", 5_400.0), ("90s", 90.0), ("2w", 14 * 86_400.0),
        ("1y", 365 * 86_400.0), ("5m", 300.0), (60, 60.0), (timedelta(days=1), 86_400.0),
    ],
)  # fmt: skip
def test_times(time: str | float | timedelta, seconds: float) -> None:
    assert parse_seconds(time) == seconds


@pytest.mark.parametrize(
    "time", ["", "30", "d", "0d", 0, -1, "101y", float("nan"), float("inf"), True]
)
def test_what_is_no_time(time: str | float) -> None:
    with pytest.raises(BadInput):
        parse_seconds(time)


@given(st.text())
def test_any_text_is_a_quantity_or_refused(text: str) -> None:
    for parse in (parse_size, parse_seconds):
        with contextlib.suppress(BadInput):
            assert parse(text) >= 0  # type: ignore[operator]
