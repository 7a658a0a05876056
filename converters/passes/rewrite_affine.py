"""A gain and an offset per channel in the form that XNNPACK and ONNX Runtime run fast.

Before: x -> mul(g) -> add(t) -> z        After:  x -> conv2d(g (C, 1, 1, 1), t, groups C) -> z     12 channels or more
        x -> mul(g) -> z                          x -> mul(g as (1, C, 1, W)) -> z                  fewer (add alike)

Preconditions: form "depthwise"; or "convolution", or "rectified" and a ReLU behind them, which then are convolutions at
any number of channels (in int8 a row would round once more, and its numbers have one scale); or "parts", where both
together are convolutions at any number of channels, except the picture's own, and rows otherwise. Constants of one
number per channel. For the convolution, the gain is read by the offset alone.

Exactness: of the convolution, the product and the sum may be fused into one rounding: 2^-24 of their larger term; of
the rows bit-exact. XNNPACK, under TFLite and ExecuTorch, needs it. It runs a depthwise 1x1 convolution as one pass over
memory, and a limit behind it is free. An operation with one number per channel it runs pixel by pixel: three channels
at 256x512 take 0.38 ms so, and 0.05 ms with the numbers repeated for a whole row, as memory has them. ONNX Runtime
needs it behind a concatenation and before a ReLU: what follows a convolution stays in its blocked memory order, and
ERFNet's residual sums run inside the convolutions (126.9 ms without, 124.5 with).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

from mobileseg.converters.passes.base import Outcome, Pass, add_constant, aten, constant, is_call, replace, value
from mobileseg.converters.passes.move_affine import constant_of, is_rectified, per_channel

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms


FEW = 12
"""Channels from which XNNPACK is as fast with one number per channel as with a row of them (measured: 0.03 to 0.12 ms
for 4 channels, 0.10 to 0.10 for 12, of a PReLU at 128x256)."""


def row(number: Tensor, width: int) -> Tensor:
    """(C,) -> (1, C, 1, W): in channels-last order a row as memory has it."""
    return number.reshape(1, -1, 1, 1).expand(-1, -1, -1, width)


def _as_rows(module: GraphModule, node: Node, x: Node, number: Tensor) -> None:
    numbers = row(number, value(x).shape[3]).to(value(x).dtype)
    rows = add_constant(module, node, f"{node.name}_row", numbers, constant_of(module, node))
    node.args = (x, rows)


def _is_of_picture(node: Node) -> bool:
    """Whether a gain or an offset, or one behind the other, reads the picture itself."""
    sources = [n for n in node.all_input_nodes if n.op != "get_attr"]
    return all(n.op == "placeholder" or (is_call(n, aten.mul.Tensor) and _is_of_picture(n)) for n in sources)


def _is_part_of_both(module: GraphModule, node: Node, forms: Forms) -> bool:
    """Whether form "parts" makes a convolution of this gain and the offset that follows."""
    if forms.affine != "parts" or _is_of_picture(node) or not is_call(node, aten.mul.Tensor) or len(node.users) != 1:
        return False
    (user,) = node.users
    return is_call(user, aten.add.Tensor) and per_channel(module, user) is not None


def _as_convolution(module: GraphModule, node: Node, scaled: Node, offset: Tensor) -> bool:
    inner = per_channel(module, scaled) if is_call(scaled, aten.mul.Tensor) and len(scaled.users) == 1 else None
    if inner is None or not is_call(node, aten.add.Tensor):
        return False
    x, gain = inner
    dtype = value(x).dtype
    gains = gain.reshape(-1, 1, 1, 1).to(dtype)
    weight = add_constant(module, node, f"{node.name}_gain", gains, constant_of(module, scaled))
    bias = add_constant(module, node, f"{node.name}_offset", offset.to(dtype), constant_of(module, node))
    replace(node, lambda x, weight, bias: F.conv2d(x, weight, bias, groups=x.shape[1]), x, weight, bias)
    module.graph.erase_node(scaled)
    return True


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    if forms.affine == "native":
        return Outcome(0)
    count = 0
    for node in list(module.graph.nodes):
        found = per_channel(module, node)
        # One number for all channels needs no row.
        if found is None or not any(value(a).numel() > 1 for a in _constants(module, node)):
            continue
        if forms.affine == "rectified" and not is_rectified(node):
            continue
        x, number = found
        if forms.affine == "parts" and not _is_of_picture(node) and _as_convolution(module, node, x, number):
            count += 1
        elif len(number) < FEW and forms.affine in {"depthwise", "parts"}:
            if not _is_part_of_both(module, node, forms):
                _as_rows(module, node, x, number)
                count += 1
        elif is_call(node, aten.add.Tensor):
            count += _as_convolution(module, node, x, number)
    return Outcome(count)


def _constants(module: GraphModule, node: Node) -> list[Node]:
    return [a for a in node.all_input_nodes if constant(module, a) is not None]


PASS = Pass(
    name="rewrite_affine",
    exact="2^-24 of the larger term (one rounding in place of two); rows bit-exact",
    why="XNNPACK runs a depthwise 1x1 convolution as one pass over memory, and one number per channel pixel by pixel",
    apply=_apply,
)
