"""Max-pooling without padding, by repeating the border.

Before: x -> max_pool2d(k, s, padding p) -> z
After:  x -> cat(first row p times, x, last row as often as the last window reaches beyond) -> the same for columns
          -> max_pool2d(k, s) -> z

A window that reaches over a border holds that border's row, so that a second copy of the row changes no maximum; minus
infinity, torch's padding, changes none either. What ``ceil_mode`` lets hang over is such a border, too.

Preconditions: form "repeated_border"; dilation 1 (a dilated window may step over the border's row); padding, or an
overhang of ``ceil_mode``, that some window reaches.

Exactness: bit-exact. TFLite needs it: litert-torch writes the padding as a PADV2 with minus infinity, which XNNPACK
does not take (0.6 ms of ENet's 26 at 256x512, and a second partition).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from mobileseg.converters.passes.base import Outcome, Pass, arguments_of, aten, is_call, pair, replace, value

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms


def _repeated(x: Tensor, axis: int, before: int, behind: int) -> Tensor:
    first, last = x.narrow(axis, 0, 1), x.narrow(axis, x.shape[axis] - 1, 1)
    return torch.cat([*[first] * before, x, *[last] * behind], axis) if before or behind else x


def _pooled(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], margins: list[tuple[int, int]]) -> Tensor:
    for axis, (before, behind) in zip((-2, -1), margins, strict=True):
        x = _repeated(x, axis, before, behind)
    pooled: Tensor = aten.max_pool2d.default(x, kernel, stride)
    return pooled


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    if forms.max_pooling == "native":
        return Outcome(0)
    count, left = 0, []
    for node in list(module.graph.nodes):
        if not is_call(node, aten.max_pool2d.default):
            continue
        a, x = arguments_of(node), cast("Node", node.args[0])
        kernel, padding, dilation = (pair(a[name]) for name in ("kernel_size", "padding", "dilation"))
        stride = pair(a["stride"]) if a["stride"] else kernel
        # Rows that the last window reaches beyond the plane.
        margins = [
            (p, max((out - 1) * s + (k - 1) * d + 1 - p - size, 0))
            for out, s, k, d, p, size in zip(
                value(node).shape[-2:], stride, kernel, dilation, padding, value(x).shape[-2:], strict=True
            )
        ]
        if not any(map(any, margins)):
            continue
        if dilation != (1, 1):
            left.append(f"{node.name}: its windows are dilated and padded")
            continue
        replace(node, lambda x, k=kernel, s=stride, m=margins: _pooled(x, k, s, m), x)
        count += 1
    return Outcome(count, tuple(left))


PASS = Pass(
    name="rewrite_max_pooling",
    exact="bit-exact",
    why="TFLite pads with minus infinity by an operator that no delegate takes",
    apply=_apply,
)
