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
the others: its PRELU runs on no fast kernel (3.1 ms for 16 channels at 128x256, a maximum 0.12). Products
are rows below 24 channels, as memory has them, depthwise convolutions below 64. XNNPACK needs the row in float, too: it
runs a PReLU of few channels pixel by pixel (four channels at 128x256: 0.12 ms, and 0.03 with a row of slopes).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mobileseg.converters.passes.base import Outcome, Pass, add_constant, aten, constant, is_call, replace, value
from mobileseg.converters.passes.rewrite_affine import FEW, row

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms


SOME, MANY = 24, 64
"""int8 multiplies by a row below SOME channels, by a depthwise 1x1 convolution below MANY, else by one number per
channel. Measured, MAXIMUM included, by row, convolution and channel: 0.12, 0.15 and 0.20 ms for 16 channels at 128x256;
0.12, 0.15, 0.15 for 64 at 64x128; 0.06, 0.07, 0.06 for 128 at 32x64. A row takes as many bytes in the file as a line of
the plane: of many channels, more than the network's weights."""

Scaled = Callable[[Tensor, Tensor], Tensor]


def _product(x: Tensor, a: Tensor) -> Tensor:
    return x * a


def _depthwise(x: Tensor, a: Tensor) -> Tensor:
    return F.conv2d(x, a, groups=x.shape[1])


def _scaling(module: GraphModule, node: Node, numbers: Tensor, role: str = "") -> tuple[Scaled, Node]:
    """What multiplies a tensor of the node's shape by one number per channel (C,), and the weight for it."""
    x, scaled = value(node), _product
    if x.ndim == 4 and len(numbers) < SOME:
        shaped = row(numbers, x.shape[3])
    elif x.ndim == 4 and len(numbers) < MANY:
        shaped, scaled = numbers.reshape(-1, 1, 1, 1), _depthwise
    else:
        shaped = numbers.reshape((1, -1) + (1,) * (x.ndim - 2))
    return scaled, add_constant(module, node, f"{node.name}_slopes", shaped, node.args[1], role)


def by_maximum(module: GraphModule, node: Node, slopes: Tensor) -> None:
    """max(x, a x), which is PReLU where a <= 1."""
    scaled, a = _scaling(module, node, slopes)
    replace(node, lambda x, a: torch.maximum(x, scaled(x, a)), cast("Node", node.args[0]), a)


def _by_extremes(module: GraphModule, node: Node, slopes: Tensor) -> None:
    x = cast("Node", node.args[0])
    if bool((slopes <= 1).all()):
        by_maximum(module, node, slopes)
    elif bool((slopes >= 1).all()):
        scaled, a = _scaling(module, node, slopes)
        replace(node, lambda x, a: torch.minimum(x, scaled(x, a)), x, a)
    else:
        # Weights of -1, not the number: TensorFlow's converter would make a NEG of it, which takes no limit in.
        scaled, turned = _scaling(module, node, torch.full_like(slopes, -1), "turned")
        _, rest = _scaling(module, node, 1 - slopes, "rest")
        replace(node, lambda x, turned, rest: x + scaled(torch.relu(scaled(x, turned)), rest), x, turned, rest)


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
            by_maximum(module, node, slopes)
            count += 1
    return Outcome(count, tuple(left))


PASS = Pass(
    name="rewrite_prelu",
    exact="bit-exact (slopes on both sides of 1: 2^-23 of |x| (1 + |1 - slope|))",
    why="one slope is a LEAKY_RELU; slopes per channel have no fast quantized kernel",
    apply=_apply,
)
