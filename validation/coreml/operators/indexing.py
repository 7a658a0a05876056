"""Operators that take elements by their number, order them, or make tensors of numbers. Source: ``scatter_gather.py``
and ``tensor_operation.py`` of coremltools' MIL, iOS 15 to 17.

A negative index counts from the end in the operator sets of iOS 15 and 16. From iOS 17 on it is outside, and what an
index outside does is not defined.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mobileseg.errors import UnavailableError
from mobileseg.validation.coreml.operators.base import axis_of, operator

Mode = Literal["add", "div", "max", "min", "mul", "sub", "update"]

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
_COUNTS_FROM_THE_END = 16
"""The last iOS for which a negative index does."""


def gather(
    x: Tensor, indices: Tensor, ios: int, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False
) -> Tensor:
    axis = axis_of(axis, x.ndim)
    if batch_dims:
        pairs = zip(x, indices, strict=True)
        return torch.stack([gather(one, places, ios, axis - 1, batch_dims - 1) for one, places in pairs])
    taken = x.index_select(axis, _inside(indices, x.shape[axis], ios).reshape(-1))
    return taken.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def gather_along_axis(x: Tensor, indices: Tensor, ios: int, axis: int = 0, validate_indices: bool = False) -> Tensor:
    return x.gather(axis, _inside(indices, x.shape[axis], ios))


def gather_nd(x: Tensor, indices: Tensor, ios: int, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    if batch_dims:
        pairs = zip(x, indices, strict=True)
        return torch.stack([gather_nd(one, places, ios, batch_dims - 1) for one, places in pairs])
    sizes = x.shape[: indices.shape[-1]]
    return x[tuple(_inside(index, n, ios) for index, n in zip(indices.unbind(-1), sizes, strict=True))]


def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    ios: int,
    axis: int = 0,
    mode: Mode = "add",
    validate_indices: bool = False,
) -> Tensor:
    """``indices``: (K,); ``updates``: as ``data``, with K along the axis."""
    axis = axis_of(axis, data.ndim)
    spread = indices.reshape(-1, *[1] * (data.ndim - axis - 1)).expand(updates.shape)
    return scatter_along_axis(data, spread, updates, ios, axis, mode)


def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    ios: int,
    axis: int = 0,
    mode: Mode = "add",
    validate_indices: bool = False,
) -> Tensor:
    """Of several updates of one element the last stays, as in coremltools' tests. An integer is divided by the product
    of all that it is divided by, and the quotient loses its fraction."""
    places = _inside(indices, data.shape[axis], ios)
    if mode == "update":
        order = torch.arange(updates.shape[axis]).reshape(-1, *[1] * (data.ndim - 1 - axis_of(axis, data.ndim)))
        last = torch.full(data.shape, -1).scatter_reduce(axis, places, order.expand(updates.shape), "amax")
        return torch.where(last < 0, data, updates.gather(axis, last.clamp(min=0)))
    if mode == "sub":
        return data.scatter_reduce(axis, places, -updates, "sum")
    if mode == "div":
        return _divided(data, torch.ones_like(data).scatter_reduce(axis, places, updates, "prod"))
    return data.scatter_reduce(axis, places, updates, _REDUCTIONS[mode])


def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, ios: int, mode: Mode = "add", validate_indices: bool = False
) -> Tensor:
    """``indices``: (..., K) of the first K axes; ``updates``: (..., the other axes)."""
    depth = indices.shape[-1]
    places = torch.zeros(indices.shape[:-1], dtype=torch.long)
    for n, index in zip(data.shape[:depth], indices.unbind(-1), strict=True):
        places = places * n + _inside(index, n, ios)
    rows = data.reshape(-1, *data.shape[depth:])
    return scatter(rows, places.reshape(-1), updates.reshape(-1, *rows.shape[1:]), ios, 0, mode).reshape(data.shape)


def topk(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: Literal["int32", "uint16"] = "int32",
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
    sums = ordered.cumsum(axis)
    if exclusive:
        sums = torch.cat([torch.zeros_like(sums.narrow(axis, 0, 1)), sums.narrow(axis, 0, x.shape[axis] - 1)], axis)
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


def _inside(indices: Tensor, n: int, ios: int) -> Tensor:
    """As int64, counted from the front."""
    places = indices.long()
    if ios <= _COUNTS_FROM_THE_END:
        places = torch.where(places < 0, places + n, places)
    outside = places[(places < 0) | (places >= n)]
    if outside.numel():
        raise UnavailableError(f"an index of {int(outside[0])} into {n} elements is not defined for iOS {ios}")
    return places


def _divided(values: Tensor, divisors: Tensor) -> Tensor:
    return values / divisors if values.is_floating_point() else torch.div(values, divisors, rounding_mode="trunc")


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
