"""Adaptive average pooling at a fixed size: an average pooling where the sizes divide, else two constant matrix products.

Before: x (N, C, H, W) -> adaptive_avg_pool2d((h, w))
After:  x -> mean over H, W                               h = w = 1
        x -> avg_pool2d(kernel = stride = (H/h, W/w))     H, W divisible by h, w
        x -> A x B                                        otherwise; A (h, H), B (W, w) hold 1/length inside each bin [floor(i H/h), ceil((i+1) H/h)) and 0 outside

The pooling is linear and separable (a bin is a product of two intervals), so the matrices are exact. Sizes that stay as they are: nothing is done along that axis.

Exactness: 2^-22 of the mean absolute value of a bin, from the order of summation. Every backend needs it: left to the stock decompositions, sizes that do not divide
become hundreds of slices and additions (376 SLICE, 414 ADD in EdgeNets' ESPNetV2) and take minutes to convert.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mobileseg.converters.passes.base import Outcome, Pass, add_constant, aten, is_call, pair, replace, substitute, value

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms


def pooling_matrix(size: int, pooled: int) -> Tensor:
    """(pooled, size) float32: row i averages its bin, as `torch.nn.AdaptiveAvgPool2d` draws it."""
    matrix = torch.zeros(pooled, size, dtype=torch.float64)
    for i in range(pooled):
        start, end = i * size // pooled, -(-(i + 1) * size // pooled)
        matrix[i, start:end] = 1.0 / (end - start)
    return matrix.float()


def _channels_first(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return torch.matmul(torch.matmul(rows, x), columns.T)


def _channels_last(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    n, c, height, width = x.shape
    h, w = rows.shape[0], columns.shape[0]
    lines = x.permute(0, 2, 3, 1).reshape(n, height, width * c)
    pooled_rows = torch.matmul(rows, lines).reshape(n * h, width, c)
    return torch.matmul(columns, pooled_rows).reshape(n, h, w, c).permute(0, 3, 1, 2)


FORMS = {"channels_first": _channels_first, "channels_last": _channels_last}


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    count = 0
    for node in list(module.graph.nodes):
        if not is_call(node, aten.adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d.default) or value(node).ndim != 4:
            continue
        x = cast("Node", node.args[0])
        (height, width), (h, w) = value(x).shape[-2:], pair(node.args[1])
        if (height, width) == (h, w):
            substitute(node, x)
        elif (h, w) == (1, 1):
            replace(node, lambda x: x.mean((2, 3), keepdim=True), x)
        elif height % h == 0 and width % w == 0:
            kernel = (height // h, width // w)
            replace(node, lambda x, kernel=kernel: F.avg_pool2d(x, kernel, kernel), x)
        else:
            rows = add_constant(module, node, f"{node.name}_rows", pooling_matrix(height, h))
            columns = add_constant(module, node, f"{node.name}_columns", pooling_matrix(width, w))
            replace(node, FORMS[forms.adaptive_pooling], x, rows, columns)
        count += 1
    return Outcome(count)


PASS = Pass(
    name="rewrite_adaptive_pooling",
    exact="2^-22 of a bin's mean absolute value (order of summation)",
    why="stock lowering of sizes that do not divide leaves hundreds of slices and additions",
    apply=_apply,
)
