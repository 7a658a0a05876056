"""Which constants float16 can hold, and of which it is worth it."""

from __future__ import annotations

import numpy as np
import pytest

from mobileseg.halves import FEWEST, fits_half, in_half, pays_in_half


@pytest.mark.parametrize(
    ("values", "fits"),
    [
        ([0.0, 1.0, -65504.0], True),
        ([0.0, 0.0], True),
        ([np.inf, 1.0], True),
        ([1.0, 70000.0], False),
        ([1e-6, -1e-7], False),  # subnormal throughout: next to no digits would be left
        ([1.0, 1e-7], True),
    ],
)
def test_what_float16_holds(values: list[float], fits: bool) -> None:
    assert fits_half(np.array(values, np.float32)) is fits


def test_a_normal_number_is_within_a_part_in_2048() -> None:
    values = np.geomspace(1e-4, 6e4, 999).astype(np.float32)
    assert (np.abs(in_half(values).astype(np.float32) - values) <= values * 2.0**-11).all()


@pytest.mark.parametrize("count", [FEWEST - 1, FEWEST])
def test_few_numbers_stay(count: int) -> None:
    assert pays_in_half(np.ones(count, np.float32)) is (count >= FEWEST)
    assert not pays_in_half(np.full(count, 1e6, np.float32))
