"""Operators that take elements by their number, order them, or make tensors of numbers. Source: ``scatter_gather.py``
and ``tensor_operation.py`` of coremltools' MIL, iOS 15 to 17.

A negative index counts from the end, as iOS 15 and 16 have it; for iOS 17 it is outside, and what happens undefined.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mobileseg.validation.coreml.operators.base import axis_of, operator

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def gather(x: Tensor, indices: Tensor, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    axis = axis_of(axis, x.ndim)
    if batch_dims:
        pairs = zip(x, indices, strict=True)
        return torch.stack([gather(one, places, axis - 1, batch_dims - 1) for one, places in pairs])
    taken = x.index_select(axis, _positive(indices, x.shape[axis]).reshape(-1))
    return taken.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def gather_along_axis(x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False) -> Tensor:
    return x.gather(axis, _positive(indices, x.shape[axis]))


def gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    if batch_dims:
        pairs = zip(x, indices, strict=True)
        return torch.stack([gather_nd(one, places, batch_dims - 1) for one, places in pairs])
    return x[indices.long().unbind(-1)]


def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    """``indices``: (K,); ``updates``: as ``data``, with K along the axis."""
    axis = axis_of(axis, data.ndim)
    spread = indices.reshape(-1, *[1] * (data.ndim - axis - 1)).expand(updates.shape)
    return scatter_along_axis(data, spread, updates, axis, mode)


def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    places = _positive(indices, data.shape[axis])
    if mode == "update":
        return data.scatter(axis, places, updates)
    if mode == "sub":
        return data.scatter_reduce(axis, places, -updates, "sum")
    if mode == "div":
        return data.scatter_reduce(axis, places, 1 / updates, "prod")
    return data.scatter_reduce(axis, places, updates, _REDUCTIONS[mode])


def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """``indices``: (..., K) of the first K axes; ``updates``: (..., the other axes)."""
    depth = indices.shape[-1]
    places = torch.zeros(indices.shape[:-1], dtype=torch.long)
    for n, index in zip(data.shape[:depth], indices.unbind(-1), strict=True):
        places = places * n + _positive(index, n)
    rows = data.reshape(-1, *data.shape[depth:])
    return scatter(rows, places.reshape(-1), updates.reshape(-1, *rows.shape[1:]), 0, mode).reshape(data.shape)


def topk(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> tuple[Tensor, ...]:
    """Of equals the first. Without ``sort`` any order is right; this one is sorted all the same."""
    values, indices = x.sort(dim=axis, descending=not ascending, stable=True)
    count = x.shape[axis] if k == -1 else k
    found = (values.narrow(axis, 0, count), indices.narrow(axis, 0, count))
    return found if return_indices else found[:1]


def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    """Equals keep their order."""
    return x.argsort(dim=axis, descending=not ascending, stable=True)


def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """``exclusive``: of the elements before each."""
    ordered = x.flip(axis) if reverse else x
    sums = ordered.cumsum(axis) - (ordered if exclusive else 0)
    return sums.flip(axis) if reverse else sums


def one_hot(
    indices: Tensor,
    one_hot_vector_size: int,
    axis: int = -1,
    on_value: Tensor | None = None,
    off_value: Tensor | None = None,
) -> Tensor:
    classes = torch.arange(one_hot_vector_size)
    hit = (indices[..., None] == classes).movedim(-1, axis)
    on = torch.tensor(1) if on_value is None else on_value
    return torch.where(hit, on, torch.zeros_like(on) if off_value is None else off_value)


def fill(shape: list[int], value: Tensor | None = None) -> Tensor:
    return (torch.zeros(()) if value is None else value).expand(shape)


def fill_like(ref_tensor: Tensor, value: Tensor | None = None) -> Tensor:
    return (torch.zeros(()) if value is None else value).expand(ref_tensor.shape)


def range_1d(end: Tensor, start: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), end.item(), step.item())


def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape)


def _positive(indices: Tensor, n: int) -> Tensor:
    return torch.where(indices < 0, indices + n, indices).long()


OPERATORS = {
    "argsort": operator(argsort),
    "cumsum": operator(cumsum),
    "fill": operator(fill),
    "fill_like": operator(fill_like),
    "gather": operator(gather),
    "gather_along_axis": operator(gather_along_axis),
    "gather_nd": operator(gather_nd),
    "one_hot": operator(one_hot),
    "range_1d": operator(range_1d),
    "scatter": operator(scatter),
    "scatter_along_axis": operator(scatter_along_axis),
    "scatter_nd": operator(scatter_nd),
    "shape": operator(shape),
    "topk": operator(topk),
}
