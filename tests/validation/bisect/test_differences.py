"""What rounding explains of a value's error, and what it does not."""

from __future__ import annotations

import numpy as np
import pytest

from mobileseg.types import TensorSpec
from mobileseg.validation.bisect.differences import difference, tolerance_db

EXPECTED = np.linspace(-1, 1, 4001, dtype=np.float32)


def spec(dtype: str, scale: float | None) -> TensorSpec:
    return TensorSpec("x", EXPECTED.shape, dtype, "", scale=scale, zero_point=None if scale is None else 0)


def test_a_step_of_8_bits_everywhere_is_no_rounding() -> None:
    rounded = np.round(EXPECTED * 127) / 127
    assert difference(EXPECTED, rounded, spec("int8", 1 / 127)).within(20.0)
    assert not difference(EXPECTED, rounded + 1 / 127, spec("int8", 1 / 127)).within(20.0)


def test_some_steps_of_16_bits_are_less_than_weights_of_8_leave() -> None:
    wide = spec("int16", 1 / 32767)
    few = difference(EXPECTED, EXPECTED + np.float32(4 / 32767), wide)
    assert (few.bias_steps, few.rms_steps) == (None, None)
    assert few.within(tolerance_db("w8a16", wide))
    assert not difference(EXPECTED, EXPECTED * np.float32(0.9), wide).within(tolerance_db("w8a16", wide))


@pytest.mark.parametrize(("dtype", "scale"), [("int8", 1 / 256), ("int16", 1 / 65536)])
def test_what_a_type_cannot_hold_is_the_ranges_doing(dtype: str, scale: float) -> None:
    found = difference(EXPECTED, EXPECTED.clip(-0.5, 0.499), spec(dtype, scale))
    assert found.whole_db < 20.0 < found.sqnr_db
