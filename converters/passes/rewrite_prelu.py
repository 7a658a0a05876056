"""PReLU in the form that the backend runs fast.

Before: x -> prelu(slopes)                         (one slope, or one per channel)
After:  x -> leaky_relu(slope)                     one slope: the same function
        x -> maximum(x, slopes * x)                form "maximum", all slopes <= 1 (negative ones too), where
                                                   x > 0 gives x >= a x and x < 0 gives a x >= x
        x -> minimum(x, slopes * x)                form "maximum", all slopes >= 1
        x -> x + relu(-x) * (1 - slopes)           form "maximum", slopes on both sides of 1
        x -> maximum(x, slopes * x), slopes a row  form "rows", fewer than 12 channels, all slopes <= 1
        x -> prelu(slopes)                         form "native", and "rows" otherwise

Preconditions: constant slopes; for "maximum", finite x.

Exactness: bit-exact (each element is x or the one product a x, as in PReLU itself; zeros may differ in sign); with
slopes on both sides of 1, which `turn_signs` leaves seldom, two roundings more: 2^-23 of |x| (1 + |1 - a|). TFLite
needs the first form (litert-torch writes PReLU as RELU, SUB and two MULs otherwise: twice the time on ENet). int8 needs
the others: its PRELU runs on no fast kernel (3.1 ms for 16 channels at 128x256, a maximum 0.12). There the slopes are
rows below 64 channels, as memory has them, and so they are for XNNPACK in float: it runs a PReLU of few channels pixel
by pixel (four channels at 128x256: 0.12 ms, and 0.03 with a row of slopes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from mobileseg.converters.passes.base import Outcome, Pass, add_constant, aten, constant, is_call, replace, value
from mobileseg.converters.passes.rewrite_affine import FEW, row

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms


SOME, HIGH = 128, 64
"""In int8 a row of slopes pays below so many channels and from so many rows on (measured: MUL and MAXIMUM take 0.32 and
0.16 ms for 16 channels at 128x256, 0.16 and 0.13 for 64 at 64x128, 0.069 and 0.064 for 128 at 32x64). A row is bytes in
the file, which each row of the plane reads once."""


def _numbers(module: GraphModule, node: Node, numbers: Tensor, few: int, role: str = "") -> Node:
    """A weight (C,) of one number per channel, broadcast to the node's shape, as a row where that pays."""
    x = value(node)
    if x.ndim == 4 and (len(numbers) < FEW or (len(numbers) < few and x.shape[2] >= HIGH)):
        shaped = row(numbers, x.shape[3])
    else:
        shaped = numbers.reshape((1, -1) + (1,) * (x.ndim - 2))
    return add_constant(module, node, f"{node.name}_slopes", shaped, node.args[1], role)


def by_maximum(module: GraphModule, node: Node, slopes: Tensor, few: int = SOME) -> None:
    """max(x, a x), which is PReLU where a <= 1."""
    x = cast("Node", node.args[0])
    replace(node, lambda x, a: torch.maximum(x, x * a), x, _numbers(module, node, slopes, few))


def _by_extremes(module: GraphModule, node: Node, slopes: Tensor) -> None:
    x = cast("Node", node.args[0])
    if bool((slopes <= 1).all()):
        by_maximum(module, node, slopes)
    elif bool((slopes >= 1).all()):
        replace(node, lambda x, a: torch.minimum(x, x * a), x, _numbers(module, node, slopes, SOME))
    else:
        # A row of -1, not the number: TensorFlow's converter would make a NEG of it, which takes no limit in.
        turned = _numbers(module, node, torch.full_like(slopes, -1), SOME, "turned")
        rest = _numbers(module, node, 1 - slopes, SOME, "rest")
        replace(node, lambda x, turned, rest: x + torch.relu(x * turned) * rest, x, turned, rest)


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
            _by_extremes(module, node, slopes)
            count += 1
        elif forms.prelu == "rows" and value(x).ndim == 4 and slopes.numel() < FEW and bool((slopes <= 1).all()):
            by_maximum(module, node, slopes, FEW)
            count += 1
    return Outcome(count, tuple(left))


PASS = Pass(
    name="rewrite_prelu",
    exact="bit-exact (slopes on both sides of 1: 2^-23 of |x| (1 + |1 - slope|))",
    why="one slope is a LEAKY_RELU; slopes per channel have no fast quantized kernel",
    apply=_apply,
)
