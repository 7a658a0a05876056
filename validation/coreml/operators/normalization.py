"""Normalizations. Source: ``normalization.py`` of coremltools' MIL."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mobileseg.errors import UnavailableError
from mobileseg.validation.coreml.operators.base import axis_of, operator


def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    return functional.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)


def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    spatial = list(range(2, x.ndim))
    variance, mean = torch.var_mean(x, spatial, correction=0, keepdim=True)
    normalized = (x - mean) * torch.rsqrt(variance + epsilon)
    return _scaled(normalized, gamma, beta, [1])


def layer_norm(
    x: Tensor,
    axes: list[int] | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """``gamma``, ``beta``: of the lengths of the axes, in x's order."""
    over = sorted(range(x.ndim) if axes is None else (axis_of(axis, x.ndim) for axis in axes))
    if not over:
        raise ValueError("a normalization over no axes")  # torch would take all
    variance, mean = torch.var_mean(x, over, correction=0, keepdim=True)
    return _scaled((x - mean) * torch.rsqrt(variance + epsilon), gamma, beta, over)


def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Over the last three axes together."""
    return x / ((x * x).sum((-3, -2, -1), keepdim=True) + epsilon).sqrt()


def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Over ``size`` neighbouring channels, as many before as after: of an even number, which side has more is not
    defined. Of (n, C, D), coremltools' test has Core ML take the first axis for the channels, and its documentation the
    second."""
    if x.ndim != 4:
        raise UnavailableError(f"which of {x.ndim} axes are the channels is not defined")
    return functional.local_response_norm(x, size, alpha, beta, k)


def _even(size: int = 1) -> str | None:
    return f"{size} channels, an even number" if size % 2 == 0 else None


def _scaled(x: Tensor, gamma: Tensor | None, beta: Tensor | None, axes: list[int]) -> Tensor:
    shape = [n if axis in axes else 1 for axis, n in enumerate(x.shape)]
    scaled = x if gamma is None else x * gamma.reshape(shape)
    return scaled if beta is None else scaled + beta.reshape(shape)


OPERATORS = {
    "batch_norm": operator(batch_norm),
    "instance_norm": operator(instance_norm),
    "l2_norm": operator(l2_norm),
    "layer_norm": operator(layer_norm),
    "local_response_norm": operator(local_response_norm, _even),
}
