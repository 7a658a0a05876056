"""Quantized activations. Source: iOS 17's ``quantization_ops.py`` of coremltools' MIL."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mobileseg.validation.coreml.operators.base import operator

_INTEGERS = {"int8": torch.int8, "uint8": torch.uint8}


def quantize(
    input: Tensor,
    scale: Tensor,
    output_dtype: Literal["int8", "uint8"],
    zero_point: Tensor | None = None,
    axis: int | None = None,
) -> Tensor:
    """Halves are rounded to even, before the zero point is added."""
    bounds = torch.iinfo(_INTEGERS[output_dtype])
    rounded = (input / _along(scale, input, axis)).round()
    shifted = rounded if zero_point is None else rounded + _along(zero_point.float(), input, axis)
    return shifted.clamp(bounds.min, bounds.max).to(_INTEGERS[output_dtype])


def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None) -> Tensor:
    values = input.float()
    shifted = values if zero_point is None else values - _along(zero_point.float(), input, axis)
    return shifted * _along(scale, input, axis)


def _along(parameter: Tensor, values: Tensor, axis: int | None) -> Tensor:
    """One number, or one for each position along ``axis``."""
    if parameter.ndim == 0 or axis is None:
        return parameter
    shape = [1] * values.ndim
    shape[axis] = -1
    return parameter.reshape(shape)


OPERATORS = {"dequantize": operator(dequantize), "quantize": operator(quantize)}
