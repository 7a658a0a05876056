"""By which numbers a value is recognised in another form of the same program, wherever its elements lie in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mobileseg.quantization.ranges import BORDER

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobileseg.quantization.ranges import Range

TOLERANCE = 1e-3
"""Of a value's greatest magnitude: how far the figures of two forms of one computation may lie apart."""


@dataclass(frozen=True)
class Print:
    """``size``: how many elements; ``figures``: least, greatest, mean, mean magnitude, root of the mean square. The
    order of the elements does not change them."""

    size: int
    figures: tuple[float, ...]

    def distance(self, other: Print) -> float:
        """Greatest difference of two figures, relative to the greatest magnitude; infinite for other sizes."""
        if self.size != other.size:
            return float("inf")
        greatest = max(abs(self.figures[0]), abs(self.figures[1]), float(np.finfo(np.float32).tiny))
        return max(abs(a - b) for a, b in zip(self.figures, other.figures, strict=True)) / greatest


@dataclass(frozen=True)
class Known:
    """What a plan says of a value: its ``range`` (None: only float operators have to do with it; of a mask's zeros and
    ones, those), and whether what computes it stays in float."""

    print: Print
    range: Range | None
    is_float: bool


def print_of(values: NDArray[np.float32]) -> Print:
    """The print of an array of any shape. The borders of padded maximum poolings do not count."""
    flat = values.reshape(-1)
    if flat.size and float(flat.min()) <= -BORDER:
        flat = flat[flat > -BORDER]
    if not flat.size:
        return Print(values.size, (0.0,) * 5)
    square = float(np.sqrt(np.mean(np.square(flat, dtype=np.float64))))
    figures = (flat.min(), flat.max(), flat.mean(dtype=np.float64), np.abs(flat).mean(dtype=np.float64), square)
    return Print(values.size, tuple(float(f) for f in figures))
