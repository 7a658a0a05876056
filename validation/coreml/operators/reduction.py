"""Reductions. Source: ``reduction.py`` of coremltools' MIL, iOS 15 and 17."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from mobileseg.validation.coreml.operators.base import axis_of, operator


def reduce_max(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    return x.amax(_axes(x, axes), keepdim=keep_dims)


def reduce_min(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    return x.amin(_axes(x, axes), keepdim=keep_dims)


def reduce_sum(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    return x.sum(_axes(x, axes), keepdim=keep_dims)


def reduce_mean(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    return _precise(x).mean(_axes(x, axes), keepdim=keep_dims)


def reduce_prod(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    """Axis by axis, the last first, so that the others keep their numbers."""
    for axis in sorted(_axes(x, axes), reverse=True):
        x = x.prod(axis, keepdim=keep_dims)
    return x


def reduce_sum_square(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    return reduce_sum(x * x, axes, keep_dims)


def reduce_l1_norm(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    return reduce_sum(x.abs(), axes, keep_dims)


def reduce_l2_norm(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    return _precise(reduce_sum_square(x, axes, keep_dims)).sqrt()


def reduce_log_sum(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    return _precise(reduce_sum(x, axes, keep_dims)).log()


def reduce_log_sum_exp(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    return _precise(x).logsumexp(_axes(x, axes), keepdim=keep_dims)


def reduce_argmax(
    x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: Literal["int32", "uint16"] = "int32"
) -> Tensor:
    """The first of equals, where MIL leaves it open."""
    return x.argmax(axis, keepdim=keep_dims)


def reduce_argmin(
    x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: Literal["int32", "uint16"] = "int32"
) -> Tensor:
    return x.argmin(axis, keepdim=keep_dims)


def _axes(x: Tensor, axes: list[int] | None) -> tuple[int, ...]:
    if axes is not None and not axes:
        raise ValueError("a reduction over no axes")  # torch would reduce all
    return tuple(range(x.ndim)) if axes is None else tuple(axis_of(axis, x.ndim) for axis in axes)


def _precise(x: Tensor) -> Tensor:
    """Integers as float64, which holds all of 32 bits."""
    return x if x.is_floating_point() else x.double()


OPERATORS = {
    "reduce_argmax": operator(reduce_argmax),
    "reduce_argmin": operator(reduce_argmin),
    "reduce_l1_norm": operator(reduce_l1_norm),
    "reduce_l2_norm": operator(reduce_l2_norm),
    "reduce_log_sum": operator(reduce_log_sum),
    "reduce_log_sum_exp": operator(reduce_log_sum_exp),
    "reduce_max": operator(reduce_max),
    "reduce_mean": operator(reduce_mean),
    "reduce_min": operator(reduce_min),
    "reduce_prod": operator(reduce_prod),
    "reduce_sum": operator(reduce_sum),
    "reduce_sum_square": operator(reduce_sum_square),
}
