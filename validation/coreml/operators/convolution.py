"""Convolutions over one to three spatial axes. Source: ``conv.py`` of coremltools' MIL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from torch.nn import functional

from mobileseg.validation.coreml.operators.base import (
    PadType,
    channelwise,
    not_negative,
    operator,
    pairs,
    torch_padding,
    window_padding,
)

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: list[int] | None = None,
    pad_type: PadType = "valid",
    pad: list[int] | None = None,
    dilations: list[int] | None = None,
    groups: int = 1,
) -> Tensor:
    """``weight``: (C', C / groups, *kernel)."""
    axes = x.ndim - 2
    strides, dilations = strides or [1] * axes, dilations or [1] * axes
    padding = window_padding(pad_type, pad, x.shape[2:], _spans(weight, dilations), strides)
    if all(before == after for before, after in padding):
        return _CONVOLUTIONS[axes](x, weight, bias, strides, [n for n, _ in padding], dilations, groups)
    return _CONVOLUTIONS[axes](functional.pad(x, torch_padding(padding)), weight, bias, strides, 0, dilations, groups)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: list[int] | None = None,
    output_shape: list[int] | None = None,
    pad_type: Literal["valid", "custom", "same"] = "valid",
    strides: list[int] | None = None,
    dilations: list[int] | None = None,
    groups: int = 1,
) -> Tensor:
    """``weight``: (C, C' / groups, *kernel). The whole result is computed, then padding is cut off it: the more of it
    behind where ``same`` has an odd number. Where ``output_shape`` reaches further, nothing but the bias stands."""
    axes = x.ndim - 2
    strides, dilations = strides or [1] * axes, dilations or [1] * axes
    whole = _TRANSPOSED[axes](x, weight, None, strides, 0, 0, groups, dilations)
    sizes = output_shape[2:] if output_shape else None
    if pad_type == "same":
        sizes = sizes or [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
        cut = [max(n - size, 0) // 2 for n, size in zip(whole.shape[2:], sizes, strict=True)]
    else:
        padding = not_negative(pairs(pad)) if pad and pad_type == "custom" else [(0, 0)] * axes
        sizes = sizes or [n - before - after for n, (before, after) in zip(whole.shape[2:], padding, strict=True)]
        cut = [before for before, _ in padding]
    behind = [size + before - n for n, size, before in zip(whole.shape[2:], sizes, cut, strict=True)]
    result = functional.pad(whole, torch_padding([(-before, after) for before, after in zip(cut, behind, strict=True)]))
    return result if bias is None else result + channelwise(bias, x.ndim)


def _spans(weight: Tensor, dilations: Sequence[int]) -> list[int]:
    return [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]


OPERATORS = {"conv": operator(conv), "conv_transpose": operator(conv_transpose)}
