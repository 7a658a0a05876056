"""Scale and zero point of a tensor, and the figures that the quantizers of all targets share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mobileseg.quantization.ranges import Range

PICTURE: Range = (0.0, 255.0)
"""The input's range: the camera's bytes are then the int8 numbers, shifted by 128."""

LEAST, GREATEST = -128, 127

LARGEST_BIAS = 2.0**30
"""Of a bias in steps of its convolution's products, which are 32-bit numbers: half of these are left to the products.
"""

CONCATENATION_LOSS = 1.5
"""Where a concatenation's range is this much wider, an input on whose scale others rely keeps it and is requantized."""


@dataclass(frozen=True)
class Params:
    """Affine quantization of one tensor: ``real = scale * (q - zero_point)``, q int8."""

    scale: float
    zero_point: int


def params_of(low: float, high: float) -> Params:
    """Scale and zero point for a range, zero made exactly representable (padding writes it). Finite for any range: one
    of nothing but zero gets float32's smallest normal scale."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / (GREATEST - LEAST), float(np.finfo(np.float32).tiny))
    # Through float32: it is what the file holds and the kernels compute with.
    scale = float(np.float32(scale))
    return Params(scale, int(np.clip(round(LEAST - low / scale), LEAST, GREATEST)))
