"""How far a value of a file lies from what it should be, and whether that is what its arithmetic explains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mobileseg.decibels import power_ratio_db

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobileseg.types import TensorSpec

TOLERANCE_DB = {
    "fp32": 80.0,
    "fp16": 40.0,
    "int8": 20.0,
    "w8a16": 25.0,
    "w8": 25.0,
    "dynamic": 20.0,
    "w4": 10.0,
    "palette8": 25.0,
    "palette6": 15.0,
    "palette4": 4.0,
}
"""Least SQNR of one operator, its inputs taken from the file, by precision. Each lies well below what sound files have
(docs/measurements.md) and well above what a wrong operator leaves."""

BIAS_STEPS = 0.35
"""Of a value with a scale: the mean error that rounding does not explain. A zero point off by one is one step."""

ROUNDING_STEPS = 0.5
"""Of a value with a scale: the root mean square error that rounding explains, also where the value has few steps. One
rounding leaves 0.29 (a uniform error of half a step), two 0.41."""

ROUNDED_DB = 10.0
"""Below it, rounding has left too little of a value to tell it by: many others come as near."""


@dataclass(frozen=True)
class Difference:
    """``sqnr_db``: power of what was expected over that of the error, without what a quantized value cannot hold;
    ``whole_db``: with it. ``bias_steps``, ``rms_steps``: mean error and root mean square error in quantization steps;
    None where the value has none, or so fine ones that it is not they that explain an error."""

    sqnr_db: float
    whole_db: float
    bias_steps: float | None = None
    rms_steps: float | None = None

    def within(self, tolerance_db: float) -> bool:
        """Whether rounding explains it."""
        if self.bias_steps is None or self.rms_steps is None:
            return self.sqnr_db >= tolerance_db
        rounded = self.rms_steps <= ROUNDING_STEPS and self.sqnr_db >= ROUNDED_DB
        return (rounded or self.sqnr_db >= tolerance_db) and abs(self.bias_steps) <= BIAS_STEPS


def tolerance_db(precision: str, spec: TensorSpec) -> float:
    """Of a value in a file of this precision; where that is not known the value's own type tells."""
    kind = "int8" if spec.scale is not None else "fp16" if spec.dtype == "float16" else "fp32"
    return min(TOLERANCE_DB.get(precision, TOLERANCE_DB["fp32"]), TOLERANCE_DB[kind])


def difference(expected: NDArray[np.float32], actual: NDArray[np.float32], spec: TensorSpec) -> Difference:
    """Of two arrays of one shape. What a quantized value cannot hold is cut off from what was expected: saturation is
    the range's doing, not the operator's."""
    whole = _sqnr_db(expected, np.subtract(actual, expected, dtype=np.float64))
    if spec.scale is None:
        return Difference(whole, whole)
    # A step of 16 bits is far below what the rounding of weights to 8 leaves, and their zero point is always 0.
    fine = np.dtype(spec.dtype) == np.int16
    low, high = spec.range or _range(spec)
    expected = expected.clip(low, high)
    error = np.subtract(actual, expected, dtype=np.float64)
    noise = float(np.square(error).sum())
    if fine:
        return Difference(_sqnr_db(expected, error), whole)
    return Difference(
        _sqnr_db(expected, error), whole, float(error.mean()) / spec.scale, math.sqrt(noise / error.size) / spec.scale
    )


def _sqnr_db(expected: NDArray[np.float32], error: NDArray[np.float64]) -> float:
    return power_ratio_db(float(np.square(expected, dtype=np.float64).sum()), float(np.square(error).sum()))


def _range(spec: TensorSpec) -> tuple[float, float]:
    bounds, zero = np.iinfo(np.dtype(spec.dtype)), spec.zero_point or 0
    scale = spec.scale or 1.0
    return (int(bounds.min) - zero) * scale, (int(bounds.max) - zero) * scale
