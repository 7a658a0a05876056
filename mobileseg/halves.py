"""Which constants float16 can hold, and of which that makes an int8 file smaller."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST = 512
"""Of how many numbers on a constant is smaller in float16: the conversion in front of its readers, which a runtime
computes once, when it loads the file, takes some 150 bytes itself."""

_SMALLEST_NORMAL = float(np.finfo(np.float16).smallest_normal)


def fits_half(values: NDArray[np.float32]) -> bool:
    """Whether rounding to float16 keeps finite numbers finite and the tensor's largest number normal."""
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max(initial=0.0))
    return largest == 0.0 or (largest >= _SMALLEST_NORMAL and bool(np.isfinite(in_half(finite)).all()))


def pays_in_half(values: NDArray[np.float32]) -> bool:
    """Whether a constant of a float operator in an int8 file is to be stored in float16."""
    return values.size >= FEWEST and fits_half(values)


def in_half(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Rounded to nearest; what is too large becomes infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(np.float16)
