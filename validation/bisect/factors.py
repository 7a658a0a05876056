"""Channels of a file's values that are torch's times a power of two, or its negative.

Equalization before int8 (`quantization.recovery`) scales a network's channels so, and a rewriting turns signs; what
reads the values takes both back, and the network computes the same. The values themselves tell the factors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 4
"""The exponent: equalization goes up to 16."""


def factors(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> NDArray[np.float32]:
    """The factors by which ``expected`` comes nearest to ``actual``, both (N, C, ..., H, W) of one shape: one a
    channel, broadcasting to it. Of less than four dimensions: one for all."""
    shape = expected.shape
    lead = (1, *shape[1:-2], 1, 1) if len(shape) > 3 else (1,) * len(shape)
    rows = (shape[0], math.prod(lead), -1) if len(shape) > 3 else (1, 1, -1)
    inside = np.where(_inside(actual), expected, 0.0).reshape(rows)
    product, power = (
        np.einsum("ncp,ncp->c", inside, other.reshape(rows), dtype=np.float64) for other in (actual, inside)
    )
    return _nearest(product, power).astype(np.float32).reshape(lead)


def channel_at(positions: NDArray[np.int64], shape: Sequence[int]) -> NDArray[np.int64]:
    """Of positions in a flat value of this shape: the channels, counted as in `factors`."""
    if len(shape) <= 3:
        return np.zeros_like(positions)
    return positions // math.prod(shape[-2:]) % math.prod(shape[1:-2])


def factors_of(
    channels: NDArray[np.int64], expected: NDArray[np.float64], actual: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`factors` from samples of both, ``channels`` of each: the factor of each sample."""
    inside = np.where(_inside(actual), expected, 0.0)
    product, power = (np.bincount(channels, inside * other) for other in (actual, inside))
    return _nearest(product, power)[channels]


def _inside(actual: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a value is not at an end of its range, nor zero: there a limit (a ReLU taken in, saturation) may have cut
    off what would tell another factor."""
    inside: NDArray[np.bool_] = (actual != 0.0) & (actual != actual.max()) & (actual != actual.min())
    return inside


def _nearest(product: NDArray[Any], power: NDArray[Any]) -> NDArray[np.float64]:
    """The power of two nearest to each quotient, with its sign; 1 where there is none."""
    known = np.isfinite(product) & np.isfinite(power) & (product != 0.0) & (power > 0.0)
    quotient = np.where(known, product, 1.0) / np.where(known, power, 1.0)
    exponent = np.rint(np.log2(np.abs(quotient))).clip(-LARGEST, LARGEST)
    return np.asarray(np.sign(quotient) * np.exp2(exponent))
