"""Activations. Source: ``activation.py`` of coremltools' MIL, iOS 15 and 17."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mobileseg.validation.coreml.operators.base import channelwise, operator


def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    return functional.leaky_relu(x, alpha).clamp(max=beta)


def elu(x: Tensor, alpha: float) -> Tensor:
    return functional.elu(x, alpha)


def gelu(x: Tensor, mode: Literal["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"] = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return functional.gelu(x, approximate="none" if mode == "EXACT" else "tanh")


def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    return functional.leaky_relu(x, alpha)


def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    return x * alpha + beta


def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return functional.prelu(x, alpha)


def relu(x: Tensor) -> Tensor:
    return functional.relu(x)


def relu6(x: Tensor) -> Tensor:
    return functional.relu6(x)


def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * torch.tanh(beta * x)


def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


def silu(x: Tensor) -> Tensor:
    return functional.silu(x)


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


def softplus(x: Tensor) -> Tensor:
    return functional.softplus(x)


def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return channelwise(alpha, x.ndim) * functional.softplus(channelwise(beta, x.ndim) * x)


def softsign(x: Tensor) -> Tensor:
    return functional.softsign(x)


def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """No number stays none, as in coremltools' evaluation."""
    return torch.where(x < alpha, 0.0, x)


OPERATORS = {
    "clamped_relu": operator(clamped_relu),
    "elu": operator(elu),
    "gelu": operator(gelu),
    "leaky_relu": operator(leaky_relu),
    "linear_activation": operator(linear_activation),
    "prelu": operator(prelu),
    "relu": operator(relu),
    "relu6": operator(relu6),
    "scaled_tanh": operator(scaled_tanh),
    "sigmoid": operator(sigmoid),
    "sigmoid_hard": operator(sigmoid_hard),
    "silu": operator(silu),
    "softmax": operator(softmax),
    "softplus": operator(softplus),
    "softplus_parametric": operator(softplus_parametric),
    "softsign": operator(softsign),
    "thresholded_relu": operator(thresholded_relu),
}
