"""The levels above a recording: no peak is lost, and nothing is there that the recording has not."""

from __future__ import annotations

import numpy as np
import pytest

from kachery_p2p.client.views.timeseries import FIRST, check_recording, make_pyramid
from kachery_p2p.protocol.errors import BadInput


@pytest.mark.parametrize("dtype", ["int16", "float32", "uint8", "bool", ">f8", "float16"])
@pytest.mark.parametrize("samples", [2_049, 70_001])
def test_each_entry_has_the_least_and_the_greatest_of_its_samples(dtype: str, samples: int) -> None:
    rng = np.random.default_rng(samples)
    array = (rng.standard_normal((samples, 3)) * 100).astype(dtype)
    pyramid, levels = make_pyramid(array)
    assert pyramid.dtype == array.dtype.newbyteorder("=")
    assert levels[0] == [FIRST, 0, -(-samples // FIRST)]
    assert sum(count for _, _, count in levels) == len(pyramid)
    for factor, start, count in levels:
        for entry in (0, count // 2, count - 1):
            part = array[entry * factor : (entry + 1) * factor]
            assert (pyramid[start + entry, 0] == part.min(axis=0)).all()
            assert (pyramid[start + entry, 1] == part.max(axis=0)).all()


def test_a_recording_that_fits_on_a_screen_needs_no_levels() -> None:
    pyramid, levels = make_pyramid(np.zeros((2_048, 2), "int16"))
    assert (len(pyramid), levels) == (0, [])


def test_values_that_are_no_numbers_hide_no_others() -> None:
    array = np.full(5_000, np.nan)
    array[7] = 3
    pyramid, _ = make_pyramid(array)
    assert pyramid[0].ravel().tolist() == [3, 3]
    assert np.isnan(pyramid[1]).all()


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 3, 4)), "samples x channels"),
        (np.zeros((0, 3)), "samples x channels"),
        (np.zeros(3, "complex64"), "dtype"),
        (np.zeros(3, "U4"), "dtype"),
        (np.asfortranarray(np.zeros((30, 4))), "ascontiguousarray"),
    ],
)
def test_what_is_no_recording_says_what_to_do(array: np.ndarray, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        check_recording(array, "recording")
