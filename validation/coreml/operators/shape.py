"""Operators that move elements and leave them as they are. Source: ``tensor_transformation.py`` and
``tensor_operation.py`` of coremltools' MIL, iOS 15 to 18."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mobileseg.validation.coreml.operators.base import axis_of, not_negative, operator, pairs, torch_padding


def reshape(x: Tensor, shape: list[int]) -> Tensor:
    """0 stands for the length of x's axis, counted from the last (iOS 15 and 16 have it in equal ranks alone)."""
    lengths = [1] * max(len(shape) - x.ndim, 0) + list(x.shape[max(x.ndim - len(shape), 0) :])
    return x.reshape([n or old for n, old in zip(shape, lengths, strict=True)])


def reshape_like(
    x: Tensor, ref_tensors: list[Tensor], begins: list[Tensor], ends: list[Tensor], end_masks: list[Tensor]
) -> Tensor:
    shape: list[int] = []
    for reference, begin, end, whole in zip(ref_tensors, begins, ends, end_masks, strict=True):
        shape += reference.shape[int(begin) : None if whole else int(end)]
    return x.reshape(shape)


def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    if not -x.ndim <= axis <= x.ndim:
        raise ValueError(f"axis {axis} of {x.ndim} axes")
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def transpose(x: Tensor, perm: list[int]) -> Tensor:
    return x.permute(perm)


def expand_dims(x: Tensor, axes: list[int]) -> Tensor:
    for axis in sorted(axis_of(axis, x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, axes: list[int] | None = None) -> Tensor:
    """Axes longer than 1 stay."""
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def concat(values: list[Tensor], axis: int, interleave: bool = False) -> Tensor:
    if interleave:
        axis = axis_of(axis, values[0].ndim)
        return torch.stack(values, axis + 1).flatten(axis, axis + 1)
    return torch.stack(values) if values[0].ndim == 0 else torch.cat(values, axis)


def stack(values: list[Tensor], axis: int) -> Tensor:
    return torch.stack(values, axis)


def split(
    x: Tensor, axis: int, num_splits: int | None = None, split_sizes: list[int] | None = None
) -> tuple[Tensor, ...]:
    if split_sizes is None:
        if not num_splits or x.shape[axis] % num_splits:
            raise ValueError(f"{x.shape[axis]} elements do not split into {num_splits}")
        split_sizes = [x.shape[axis] // num_splits] * num_splits
    return torch.split(x, split_sizes, axis)


def slice_by_index(
    x: Tensor,
    begin: list[int],
    end: list[int],
    stride: list[int] | None = None,
    begin_mask: list[bool] | None = None,
    end_mask: list[bool] | None = None,
    squeeze_mask: list[bool] | None = None,
) -> Tensor:
    """Python's slices, axis by axis."""
    chosen = _chosen(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    for axis, positions in enumerate(chosen):
        x = _along(x, axis, positions)
    return x.squeeze(tuple(axis for axis, drop in enumerate(squeeze_mask or ()) if drop))


def slice_by_size(x: Tensor, begin: list[int], size: list[int]) -> Tensor:
    """-1 is the rest of an axis."""
    for axis, (first, count) in enumerate(zip(begin, size, strict=True)):
        start = axis_of(first, x.shape[axis]) if first < 0 else first
        x = x.narrow(axis, start, x.shape[axis] - start if count == -1 else count)
    return x


def slice_update(
    x: Tensor,
    update: Tensor,
    begin: list[int],
    end: list[int],
    stride: list[int] | None = None,
    begin_mask: list[bool] | None = None,
    end_mask: list[bool] | None = None,
    squeeze_mask: list[bool] | None = None,
) -> Tensor:
    chosen = _chosen(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    changed = x.clone()
    places = torch.meshgrid(*[torch.tensor(list(p), dtype=torch.long) for p in chosen], indexing="ij")
    changed[places] = update.reshape([len(positions) for positions in chosen])
    return changed


def tile(x: Tensor, reps: list[int]) -> Tensor:
    return x.repeat(reps)


def reverse(x: Tensor, axes: list[int] | None = None) -> Tensor:
    return x.flip(list(range(x.ndim)) if axes is None else axes)


def pad(
    x: Tensor,
    pad: list[int],
    mode: Literal["constant", "reflect", "replicate"] = "constant",
    constant_val: float = 0.0,
) -> Tensor:
    """``pad`` holds two numbers for each of the last axes. What is reflected is less than the whole axis."""
    padding = not_negative(pairs(pad))
    if mode == "constant":
        return functional.pad(x, torch_padding(padding), value=constant_val)
    source = _reflected if mode == "reflect" else _replicated
    for axis, (before, after) in zip(range(x.ndim - len(padding), x.ndim), padding, strict=True):
        if mode == "reflect" and max(before, after) >= x.shape[axis]:
            raise ValueError(f"a reflection of {max(before, after)} of {x.shape[axis]} elements")
        if before or after:
            x = x.index_select(axis, source(torch.arange(-before, x.shape[axis] + after), x.shape[axis] - 1))
    return x


def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """Channels are numbered (channel, row, column)."""
    return functional.pixel_shuffle(x, upscale_factor)


def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    return functional.pixel_unshuffle(x, downscale_factor)


def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """Channels are numbered (row, column, channel), as in TensorFlow."""
    n, c, h, w = x.shape
    b = block_size
    parts = x.reshape(n, b, b, c // (b * b), h, w)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(n, c // (b * b), h * b, w * b)


def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    n, c, h, w = x.shape
    b = block_size
    parts = x.reshape(n, c, h // b, b, w // b, b)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


def space_to_batch(x: Tensor, block_shape: list[int], paddings: list[int]) -> Tensor:
    x = functional.pad(x, torch_padding(pairs(paddings)))
    (n, c, h, w), (rows, columns) = x.shape, block_shape
    parts = x.reshape(n, c, h // rows, rows, w // columns, columns)
    return parts.permute(3, 5, 0, 1, 2, 4).reshape(n * rows * columns, c, h // rows, w // columns)


def batch_to_space(x: Tensor, block_shape: list[int], crops: list[int]) -> Tensor:
    (n, c, h, w), (rows, columns) = x.shape, block_shape
    parts = x.reshape(rows, columns, n // (rows * columns), c, h, w)
    joined = parts.permute(2, 3, 4, 0, 5, 1).reshape(n // (rows * columns), c, h * rows, w * columns)
    return functional.pad(joined, [-cut for cut in torch_padding(pairs(crops))])


def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    axis = axis_of(axis, x.ndim)
    return x.unfold(axis, size, stride).movedim(-1, axis + 1)


def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """Zero outside a band of the last two axes; a negative width leaves that side whole."""
    rows, columns = torch.arange(x.shape[-2])[:, None], torch.arange(x.shape[-1])
    kept = ((rows - columns <= lower) | (lower < 0)) & ((columns - rows <= upper) | (upper < 0))
    return torch.where(kept, x, torch.zeros((), dtype=x.dtype))


def _chosen(
    x: Tensor,
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int] | None,
    begin_mask: Sequence[bool] | None,
    end_mask: Sequence[bool] | None,
    squeeze_mask: Sequence[bool] | None,
) -> list[range]:
    """The positions that a slice takes of each axis."""
    no = [False] * x.ndim
    chosen = []
    for n, first, last, step, from_start, to_end, single in zip(
        x.shape,
        begin,
        end,
        stride or [1] * x.ndim,
        begin_mask or no,
        end_mask or no,
        squeeze_mask or no,
        strict=True,
    ):
        if single:
            position = 0 if from_start else axis_of(first, n) if first < 0 else first
            chosen.append(range(position, position + 1))
        else:
            chosen.append(range(n)[slice(None if from_start else first, None if to_end else last, step)])
    return chosen


def _along(x: Tensor, axis: int, positions: range) -> Tensor:
    if positions.step < 0:
        return x.index_select(axis, torch.tensor(list(positions), dtype=torch.long))
    if len(positions) == x.shape[axis]:
        return x
    if positions and positions[-1] >= x.shape[axis]:
        raise IndexError(f"position {positions[-1]} of an axis of {x.shape[axis]}")
    return x[(slice(None),) * axis + (slice(positions.start, positions.stop, positions.step),)]


def _reflected(positions: Tensor, last: int) -> Tensor:
    return last - (last - positions.abs()).abs()


def _replicated(positions: Tensor, last: int) -> Tensor:
    return positions.clamp(0, last)


OPERATORS = {
    "band_part": operator(band_part),
    "batch_to_space": operator(batch_to_space),
    "concat": operator(concat),
    "depth_to_space": operator(depth_to_space),
    "expand_dims": operator(expand_dims),
    "flatten2d": operator(flatten2d),
    "pad": operator(pad),
    "pixel_shuffle": operator(pixel_shuffle),
    "pixel_unshuffle": operator(pixel_unshuffle),
    "reshape": operator(reshape),
    "reshape_like": operator(reshape_like),
    "reverse": operator(reverse),
    "slice_by_index": operator(slice_by_index),
    "slice_by_size": operator(slice_by_size),
    "slice_update": operator(slice_update),
    "sliding_windows": operator(sliding_windows),
    "space_to_batch": operator(space_to_batch),
    "space_to_depth": operator(space_to_depth),
    "split": operator(split),
    "squeeze": operator(squeeze),
    "stack": operator(stack),
    "tile": operator(tile),
    "transpose": operator(transpose),
}
