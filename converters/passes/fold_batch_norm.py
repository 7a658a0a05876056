"""Batch normalization in inference is an affine map per channel; it disappears into the convolution in front of it.

Before: x -> convolution(W, b) -> batch_norm(gamma, beta, mean, var) -> z
After:  x -> convolution(W g, (b - mean) g + beta) -> z,   g = gamma / sqrt(var + eps) per output channel

Before: x -> (anything else) -> batch_norm -> z
After:  x -> mul(g) -> add(beta - mean g) -> z

Preconditions: constant weights and statistics; for the fold, a convolution (transposed ones too) that nothing but the
normalization uses.

Exactness: the products are made in float64 and rounded once to float32, so each weight carries at most 2^-24 relative
error; outputs agree to a few units in the last place of their largest term (tests hold 1e-5 of the largest output).
Every backend needs it: a normalization left alone costs a pass over memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from mobileseg.converters.passes.base import (
    Outcome,
    Pass,
    add_constant,
    arguments_of,
    aten,
    constant,
    is_call,
    replace,
    substitute,
    value,
)

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms

CONVOLUTIONS = (aten.conv2d.default, aten.conv2d.padding, aten.conv_transpose2d.input)


def affine(module: GraphModule, norm: Node) -> tuple[Tensor, Tensor] | None:
    """Gain and offset per channel in float64; None where a statistic is not a constant."""
    a = arguments_of(norm)
    mean, variance = constant(module, a["running_mean"]), constant(module, a["running_var"])
    if mean is None or variance is None:
        return None
    gain = 1.0 / torch.sqrt(variance.double() + a["eps"])
    if a["weight"] is not None:
        weight = constant(module, a["weight"])
        if weight is None:
            return None
        gain = gain * weight.double()
    offset = -mean.double() * gain
    if a["bias"] is not None:
        bias = constant(module, a["bias"])
        if bias is None:
            return None
        offset = offset + bias.double()
    return gain, offset


def fold(module: GraphModule, convolution: Node, gain: Tensor, offset: Tensor) -> bool:
    """Whether gain and offset (C,) float64 of a convolution's output are now in its weights and bias."""
    a = arguments_of(convolution)
    weight, bias = constant(module, a["weight"]), constant(module, a["bias"])
    if weight is None or (a["bias"] is not None and bias is None):
        return False
    if is_call(convolution, aten.conv_transpose2d.input):
        # (C_in, C_out / groups, kh, kw): the output channels of group g belong to the g-th run of input channels.
        groups = a["groups"]
        per_group = gain.reshape(groups, 1, -1, 1, 1)
        scaled = (weight.double().reshape(groups, -1, *weight.shape[1:]) * per_group).reshape(weight.shape)
    else:
        scaled = weight.double() * gain.reshape(-1, 1, 1, 1)
    shifted = offset if bias is None else offset + bias.double() * gain
    name, dtype = convolution.name, weight.dtype
    new_weight = add_constant(module, convolution, f"{name}_weight", scaled.to(dtype), a["weight"])
    new_bias = add_constant(module, convolution, f"{name}_bias", shifted.to(dtype), a["weight"], "bias")
    convolution.args = (a["input"], new_weight, new_bias, *convolution.args[3:])
    return True


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    count, left = 0, []
    for norm in list(module.graph.nodes):
        if not is_call(norm, aten._native_batch_norm_legit_no_training.default):
            continue
        found = affine(module, norm)
        results = [u for u in norm.users if u.args[1] == 0]
        if found is None or len(results) != len(norm.users):
            left.append(f"{norm.name}: its statistics are not constants")
            continue
        gain, offset = found
        before = cast("Node", norm.args[0])
        if is_call(before, *CONVOLUTIONS) and len(before.users) == 1 and fold(module, before, gain, offset):
            for result in results:
                substitute(result, before)
        else:
            shape = (1, -1) + (1,) * (value(before).ndim - 2)
            dtype, source = value(before).dtype, arguments_of(norm)["weight"]
            g = add_constant(module, norm, f"{norm.name}_gain", gain.reshape(shape).to(dtype), source, "gain")
            o = add_constant(module, norm, f"{norm.name}_offset", offset.reshape(shape).to(dtype), source, "offset")
            for result in results:
                replace(result, lambda x, g, o: x * g + o, before, g, o)
        module.graph.erase_node(norm)
        count += 1
    return Outcome(count, tuple(left))


PASS = Pass(
    name="fold_batch_norm",
    exact="relative 2^-24 per weight",
    why="a normalization in inference is an affine map; alone it costs a pass over memory",
    apply=_apply,
)
