"""Poolings over one to three spatial axes. Source: ``pool.py`` of coremltools' MIL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mobileseg.errors import UnavailableError
from mobileseg.validation.coreml.operators.base import PadType, operator, torch_padding, window_padding

_MAXIMA = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_MEANS = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


@dataclass(frozen=True)
class _Windows:
    """Along one axis of ``size`` elements. ``overhang``: how far the last window reaches beyond the padding."""

    size: int
    kernel: int
    stride: int
    before: int
    after: int
    count: int

    @property
    def overhang(self) -> int:
        return max((self.count - 1) * self.stride + self.kernel - self.size - self.before - self.after, 0)

    def elements(self, exclude_padding: bool) -> Tensor:
        """How many each window holds: of the picture, or of picture and padding. (count,) float32."""
        first, last = (0, self.size) if exclude_padding else (-self.before, self.size + self.after)
        starts = torch.arange(self.count) * self.stride - self.before
        return ((starts + self.kernel).clamp(max=last) - starts.clamp(min=first)).float()


def max_pool(
    x: Tensor,
    kernel_sizes: list[int],
    pad_type: PadType,
    strides: list[int] | None = None,
    pad: list[int] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    windows = _windows(x, kernel_sizes, pad_type, strides, pad, ceil_mode)
    return _MAXIMA[x.ndim - 2](_padded(x, windows, -math.inf), kernel_sizes, [w.stride for w in windows])


def avg_pool(
    x: Tensor,
    kernel_sizes: list[int],
    pad_type: PadType,
    strides: list[int] | None = None,
    pad: list[int] | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    """What ``ceil_mode`` reads beyond the padding never counts, as in torch."""
    windows = _windows(x, kernel_sizes, pad_type, strides, pad, ceil_mode)
    means = _means(x, windows)
    volume = math.prod(kernel_sizes)
    counts = torch.ones(())
    for window in windows:
        counts = counts[..., None] * window.elements(exclude_padding_from_average)
    return means if bool((counts == volume).all()) else means * (volume / counts)


def l2_pool(
    x: Tensor,
    kernel_sizes: list[int],
    pad_type: PadType,
    strides: list[int] | None = None,
    pad: list[int] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """The root of the sum of squares."""
    windows = _windows(x, kernel_sizes, pad_type, strides, pad, ceil_mode)
    return (_means(x * x, windows) * math.prod(kernel_sizes)).sqrt()


def _means(x: Tensor, windows: Sequence[_Windows]) -> Tensor:
    return _MEANS[x.ndim - 2](_padded(x, windows, 0.0), [w.kernel for w in windows], [w.stride for w in windows])


def _windows(
    x: Tensor,
    kernel: list[int],
    pad_type: PadType,
    strides: list[int] | None,
    pad: list[int] | None,
    ceil_mode: bool,
) -> list[_Windows]:
    strides = strides or [1] * len(kernel)
    padding = window_padding(pad_type, pad, x.shape[2:], kernel, strides)
    result = []
    for n, k, s, (before, after) in zip(x.shape[2:], kernel, strides, padding, strict=True):
        if before >= k or after >= k:
            raise ValueError(f"a padding of {max(before, after)} for windows of {k}")  # one would hold nothing
        count = (n + before + after - k + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (count - 1) * s >= n + before and before + after > 0:
            count -= 1  # a window that begins behind the picture
        if (count - 1) * s >= n + before:
            raise UnavailableError("ceil_mode with a window that lies behind the picture is not defined")
        result.append(_Windows(n, k, s, before, after, count))
    return result


def _padded(x: Tensor, windows: Sequence[_Windows], value: float) -> Tensor:
    padding = torch_padding([(w.before, w.after + w.overhang) for w in windows])
    return functional.pad(x, padding, value=value) if any(padding) else x


OPERATORS = {"avg_pool": operator(avg_pool), "l2_pool": operator(l2_pool), "max_pool": operator(max_pool)}
