"""Weights rounded to 8 bits by channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mobileseg.channel_rounding import along, round_channels

WEIGHTS = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)), elements=st.floats(-9, 9, width=32)
)


@given(weights=WEIGHTS, axis=st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_each_weight_is_within_half_a_step_of_its_channel(weights: Any, axis: int) -> None:
    numbers, scales = round_channels(weights, axis)
    assert (numbers.dtype, scales.dtype, scales.shape) == (np.int8, np.float32, (weights.shape[axis],))
    assert numbers.min() >= -127, "symmetric"
    steps = along(scales, axis, weights.ndim).astype(np.float64)
    assert (np.abs(numbers * steps - weights) <= steps * 0.50001).all()


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, 3e38])
def test_a_channel_of_any_magnitude_has_a_finite_scale(value: float) -> None:
    numbers, scales = round_channels(np.full((2, 3), value, np.float32), 0)
    assert (scales > 0).all()
    assert np.isfinite(numbers * scales[:, None]).all()
