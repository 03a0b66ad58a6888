"""What counts as a number."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.numbers import real, whole

FIVES = [
    5, 5.0, np.int64(5), np.uint8(5), np.float32(5), np.float64(5), np.array(5), Decimal(5),
    Fraction(5),
]  # fmt: skip


@pytest.mark.parametrize("value", FIVES, ids=lambda value: type(value).__name__)
def test_numbers_of_any_kind(value: Any) -> None:
    assert (whole("x", value), type(whole("x", value))) == (5, int)
    assert (real("x", value), type(real("x", value))) == (5.0, float)


@pytest.mark.parametrize("value", [True, np.bool_(True)])
def test_booleans_are_numbers(value: Any) -> None:
    assert (whole("x", value), real("x", value)) == (1, 1.0)


@pytest.mark.parametrize("value", ["5", b"5", None, [5], np.array([5]), 1j, object()])
def test_what_is_no_number_is_refused_by_name(value: Any) -> None:
    for taken in (whole, real):
        with pytest.raises(BadInput, match=r"x: an? .*, not a number"):
            taken("x", value)


@pytest.mark.parametrize(
    "value", [0.5, float("nan"), float("inf"), np.float32(1.5), Decimal("0.1")]
)
def test_what_is_not_whole_is_refused(value: Any) -> None:
    with pytest.raises(BadInput, match="whole"):
        whole("x", value)


def test_numpy_numbers_travel_as_what_they_are() -> None:
    sent = {"a": np.int64(5), "b": [np.float32(0.5), np.bool_(True)]}
    assert codec.unpack(codec.encode(sent)) == {"a": 5, "b": [0.5, True]}
    with pytest.raises(TypeError):
        codec.encode({"a": np.zeros(3)})
