"""Weights in 8-bit integers with a scale per output channel, for files whose activations are float."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

GREATEST = 127
"""Of the numbers; the least is its negative."""

SMALLEST = 1024
"""Weights of fewer numbers stay in float: they save next to nothing (ENet: 4 kB of 510 in all), and the first and last
layers, to which a network is most sensitive, are among them."""


def round_channels(weights: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Nearest numbers of -127..127 steps of each channel's own scale, and the scales, (channels,) float32.

    ``axis``: of the output channels. A channel of zeros has float32's smallest normal scale.
    """
    others = tuple(i for i in range(weights.ndim) if i != axis)
    scales = np.maximum(np.abs(weights).max(axis=others) / np.float32(GREATEST), np.finfo(np.float32).tiny)
    steps = weights.astype(np.float64) / along(scales, axis, weights.ndim)
    return np.clip(np.round(steps), -GREATEST, GREATEST).astype(np.int8), scales.astype(np.float32)


def along(scales: NDArray[np.float32], axis: int, axes: int) -> NDArray[np.float32]:
    """The scales in a shape that broadcasts with weights of so many axes."""
    return scales.reshape([-1 if i == axis else 1 for i in range(axes)])
