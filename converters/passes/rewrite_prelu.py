"""PReLU in the form that the backend runs fast.

Before: x -> prelu(slopes)                         (one slope, or one per channel)
After:  x -> leaky_relu(slope)                     one slope: the same function
        x -> maximum(x, slopes * x)                form "maximum", all slopes <= 1 (negative ones too), where
                                                   x > 0 gives x >= a x and x < 0 gives a x >= x
        x -> minimum(x, slopes * x)                form "maximum", all slopes >= 1
        x -> maximum(x, 0) + slopes * minimum(x, 0)
                                                   form "maximum", slopes on both sides of 1: one of the terms is 0
        x -> maximum(x, slopes * x), slopes a row  form "rows", fewer than 12 channels, all slopes <= 1
        x -> prelu(slopes)                         form "native", and "rows" otherwise

Preconditions: constant slopes; for "maximum", finite x.

Exactness: bit-exact (each element is x or the one product a x, as in PReLU itself; zeros may differ in sign). TFLite
needs the first form (litert-torch writes PReLU as RELU, SUB and two MULs otherwise: twice the time on ENet), int8
needs the second (no fast quantized PRELU), and XNNPACK the row: it runs a PReLU of few channels pixel by pixel (four
channels at 128x256: 0.12 ms, and 0.03 with a row of slopes).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from mobileseg.converters.passes.base import Outcome, Pass, add_constant, aten, constant, is_call, replace, value
from mobileseg.converters.passes.rewrite_affine import FEW, row

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms


def _of_both(x: Tensor, slopes: Tensor) -> Tensor:
    zero = x.new_zeros(())
    return torch.maximum(x, zero) + torch.minimum(x, zero) * slopes


def _by_extremes(slopes: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    if bool((slopes <= 1).all()):
        return lambda x, a: torch.maximum(x, x * a)
    if bool((slopes >= 1).all()):
        return lambda x, a: torch.minimum(x, x * a)
    return _of_both


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    count, left = 0, []
    for node in list(module.graph.nodes):
        if not is_call(node, aten.prelu.default):
            continue
        x = cast("Node", node.args[0])
        slopes = constant(module, node.args[1])
        if slopes is None:
            left.append(f"{node.name}: its slopes are computed, not constant")
        elif slopes.numel() == 1:
            slope = float(slopes)
            replace(node, lambda x, a=slope: aten.leaky_relu.default(x, a), x)
            count += 1
        elif forms.prelu == "maximum":
            shape = (1, -1) + (1,) * (value(x).ndim - 2)
            a = add_constant(module, node, f"{node.name}_slopes", slopes.reshape(shape), node.args[1])
            replace(node, _by_extremes(slopes), x, a)
            count += 1
        elif forms.prelu == "rows" and value(x).ndim == 4 and slopes.numel() < FEW and bool((slopes <= 1).all()):
            a = add_constant(module, node, f"{node.name}_slopes", row(slopes, value(x).shape[3]), node.args[1])
            replace(node, _by_extremes(slopes), x, a)
            count += 1
    return Outcome(count, tuple(left))


PASS = Pass(
    name="rewrite_prelu",
    exact="bit-exact",
    why="one slope is a LEAKY_RELU; slopes per channel have no fast quantized kernel",
    apply=_apply,
)
