"""Compressed constants (``constexpr_*``). Source: iOS 16's ``constexpr_ops.py`` and iOS 18's ``compression.py``.

Up to iOS 17 the elements are packed and ``shape`` says of what tensor; from iOS 18 on they are tensors themselves.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mobileseg.validation.coreml.blobs import unpack
from mobileseg.validation.coreml.operators.base import axis_of, operator

_PALETTES = (2, 4, 16, 64, 256)


def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int) -> Tensor:
    """``scale``, ``zero_point``: one number, or one for each position along ``axis``."""
    shape = [1] * quantized_data.ndim
    shape[axis] = -1
    offset, factor = (p.reshape(shape) if p.ndim else p for p in (zero_point.float(), scale))
    return (quantized_data.float() - offset) * factor


def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """``scale``, ``offset``: one number for each block; a block's size is how often they fit."""
    shifted = data.float() if offset is None else data.float() - _spread(offset.float(), data.shape)
    return shifted * _spread(scale, data.shape)


def constexpr_cast(source_val: Tensor, output_dtype: Literal["fp32"]) -> Tensor:
    return source_val


def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: list[int] | None = None, vector_axis: int | None = None
) -> Tensor:
    """With ``shape``: ``indices`` are packed bytes, ``lut`` one palette. Without: ``lut`` is (blocks of each axis...,
    palette, vector), and a vector is laid out along ``vector_axis``."""
    if shape is not None:
        bits = lut.numel().bit_length() - 1
        if lut.numel() not in _PALETTES:
            raise ValueError(f"a palette of {lut.numel()}")
        return lut[_unpacked(indices, bits, math.prod(shape)).long()].reshape(shape)
    palettes, vector = lut.shape[-2:]
    spread = _spread(lut, (*indices.shape, palettes, vector))
    chosen = indices.long()[..., None, None].expand(*indices.shape, 1, vector)
    found = spread.gather(-2, chosen)[..., 0, :]
    if vector == 1:
        return found[..., 0]
    if vector_axis is None:
        raise ValueError(f"a palette of vectors of {vector} and no vector_axis")
    axis = axis_of(vector_axis, indices.ndim)
    return found.movedim(-1, axis + 1).flatten(axis, axis + 1)


def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: list[int] | None = None) -> Tensor:
    """``mask``: one bit an element, packed where there is a ``shape``; the data fill its ones in order."""
    kept = mask if shape is None else _unpacked(mask, 1, math.prod(shape)).reshape(shape)
    return _filled(kept != 0, nonzero_data)


def constexpr_lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: int | None = None
) -> tuple[Tensor, Tensor]:
    """The mask of the elements, and those elements that it keeps."""
    indices = _filled(indices_mask != 0, indices_nonzero_data)
    dense = constexpr_lut_to_dense(indices, lut, None, vector_axis)
    mask = indices_mask
    if lut.shape[-1] > 1 and vector_axis is not None:  # without an axis, `dense` has been refused
        mask = mask.repeat_interleave(lut.shape[-1], vector_axis)
    return mask, dense[mask != 0]


def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    dense = constexpr_blockwise_shift_scale(_filled(data_mask != 0, nonzero_data), scale, offset)
    return data_mask, dense[data_mask != 0]


def _filled(kept: Tensor, values: Tensor) -> Tensor:
    if int(kept.sum()) != values.numel():
        raise ValueError(f"a mask of {int(kept.sum())} ones and {values.numel()} values")
    return torch.zeros(kept.shape, dtype=values.dtype).masked_scatter(kept, values)


def _spread(blocks: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Each element of ``blocks`` repeated over its block of ``shape``."""
    for axis, (n, count) in enumerate(zip(shape, blocks.shape, strict=True)):
        if n % count:
            raise ValueError(f"{n} elements do not divide into {count} blocks")
        blocks = blocks.repeat_interleave(n // count, axis)
    return blocks


def _unpacked(data: Tensor, bits: int, count: int) -> Tensor:
    if data.numel() != -(-bits * count // 8):
        raise ValueError(f"{data.numel()} bytes for {count} elements of {bits} bits")
    return torch.from_numpy(np.ascontiguousarray(unpack(data.numpy(), bits, count)))


OPERATORS = {
    "constexpr_affine_dequantize": operator(constexpr_affine_dequantize),
    "constexpr_blockwise_shift_scale": operator(constexpr_blockwise_shift_scale),
    "constexpr_cast": operator(constexpr_cast),
    "constexpr_lut_to_dense": operator(constexpr_lut_to_dense),
    "constexpr_lut_to_sparse": operator(constexpr_lut_to_sparse),
    "constexpr_sparse_blockwise_shift_scale": operator(constexpr_sparse_blockwise_shift_scale),
    "constexpr_sparse_to_dense": operator(constexpr_sparse_to_dense),
}
