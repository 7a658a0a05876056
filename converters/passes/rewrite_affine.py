"""A gain and an offset per channel as one depthwise 1x1 convolution.

Before: x -> mul(g) -> add(t) -> z                     After:  x -> conv2d(g (C, 1, 1, 1), t, groups C) -> z

Preconditions: form "depthwise"; constants of one number per channel, the gain read by the offset alone.

Exactness: the product and the sum may be fused into one rounding: 2^-24 of their larger term. XNNPACK, under TFLite and
ExecuTorch, needs it: it runs such a convolution as one pass over memory, and a limit behind it is free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

from mobileseg.converters.passes.base import Outcome, Pass, add_constant, aten, is_call, replace, value
from mobileseg.converters.passes.move_affine import per_channel

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from mobileseg.converters.forms import Forms


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    if forms.affine == "native":
        return Outcome(0)
    count = 0
    for node in list(module.graph.nodes):
        outer = per_channel(module, node) if is_call(node, aten.add.Tensor) else None
        if outer is None:
            continue
        scaled, offset = outer
        inner = per_channel(module, scaled) if is_call(scaled, aten.mul.Tensor) and len(scaled.users) == 1 else None
        if inner is None:
            continue
        x, gain = inner
        dtype = value(x).dtype
        weight = add_constant(module, node, f"{node.name}_gain", gain.reshape(-1, 1, 1, 1).to(dtype))
        bias = add_constant(module, node, f"{node.name}_offset", offset.to(dtype))
        replace(node, lambda x, weight, bias: F.conv2d(x, weight, bias, groups=x.shape[1]), x, weight, bias)
        module.graph.erase_node(scaled)
        count += 1
    return Outcome(count)


PASS = Pass(
    name="rewrite_affine",
    exact="2^-24 of the larger term (one rounding in place of two)",
    why="XNNPACK runs a depthwise 1x1 convolution as one pass over memory",
    apply=_apply,
)
