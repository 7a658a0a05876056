"""Adaptive pooling at a fixed size. Of averages: by one pooling where the bins are alike, by a few depthwise
convolutions where they repeat, else by two constant matrix products. Of maxima: by one pooling, or bin by bin.

Before: x (N, C, H, W) -> adaptive_avg_pool2d((h, w))
After:  x -> mean over H, W                               h = w = 1
        x -> avg_pool2d(kernel = stride = (H/h, W/w))     H, W divisible by h, w
        x -> depthwise conv2d of each phase -> merge      bins that repeat after p_h x p_w <= 4 of them (see below)
        x -> A x B                                        otherwise; A (h, H), B (W, w) hold 1/length inside each bin
                                                          [floor(i H/h), ceil((i+1) H/h)) and 0 outside

Before: x -> adaptive_max_pool2d((h, w)), its indices unused
After:  x -> max_pool2d(kernel = stride = (H/h, W/w))     H, W divisible by h, w
        x -> max_pool2d of each bin of rows -> cat -> max_pool2d of each bin of columns -> cat

The average is linear and separable (a bin is a product of two intervals), so the matrices are exact. Sizes that stay
as they are: nothing is done along that axis. With g = gcd(H, h), the bins repeat every P = H/g rows with p = h/g bins
in each period: bin r of all periods is one depthwise convolution with stride P and 1/length inside that bin (an average
pooling whose stride exceeds its kernel is refused by XNNPACK). (384 -> 256 rows: P = 3, p = 2, bins {0, 1} and {1, 2};
as a product it would cost 384 multiplications a number instead of 3.)

Exactness: 2^-22 of the mean absolute value of a bin, from the order of summation; maxima are bit-exact. Every backend
needs it: left to the stock decompositions, sizes that do not divide become hundreds of slices and additions (376 SLICE,
414 ADD in EdgeNets' ESPNetV2) and take minutes to convert. In form "linear" each product is a linear layer along the
last axis, whose constant XNNPACK packs once; of a product of two tensors it leaves the constant's expansion outside.
"""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mobileseg.converters.passes.base import (
    Outcome,
    Pass,
    add_constant,
    aten,
    inline,
    is_call,
    pair,
    replace,
    substitute,
    value,
)
from mobileseg.converters.passes.blocks import BLOCKS, BlockForm
from mobileseg.converters.passes.separable import replace_by_products

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms


Bin = tuple[int, int]
_MOST_PHASES = 4


def bins(size: int, pooled: int) -> list[Bin]:
    """Start and end of each bin, as `torch.nn.AdaptiveAvgPool2d` draws them."""
    return [(i * size // pooled, -(-(i + 1) * size // pooled)) for i in range(pooled)]


def one_period(size: int, pooled: int) -> tuple[int, list[Bin]]:
    """After how many rows the bins repeat, and the bins up to there."""
    period = size // gcd(size, pooled)
    return period, bins(period, pooled // gcd(size, pooled))


def phase_weights(channels: int, period: tuple[int, int], row: Bin, column: Bin) -> Tensor:
    """Depthwise weights (C, 1, P_h, P_w) that average one bin of each period."""
    (top, bottom), (left, right) = row, column
    weights = torch.zeros(channels, 1, *period)
    weights[:, :, top:bottom, left:right] = 1.0 / ((bottom - top) * (right - left))
    return weights


def _replace_by_phases(module: GraphModule, node: Node, x: Node, size: tuple[int, int], blocks: BlockForm) -> None:
    height, width = value(x).shape[-2:]
    (p_h, rows), (p_w, columns) = one_period(height, size[0]), one_period(width, size[1])
    weights = [
        add_constant(module, node, f"{node.name}_phase", phase_weights(value(x).shape[1], (p_h, p_w), row, column))
        for row in rows
        for column in columns
    ]

    def pooled(x: Tensor, *weights: Tensor) -> Tensor:
        phases = [blocks.enter(F.conv2d(x, w, stride=(p_h, p_w), groups=x.shape[1])) for w in weights]
        rows_of_phases = [phases[i : i + len(columns)] for i in range(0, len(phases), len(columns))]
        return blocks.leave(blocks.merge(rows_of_phases))

    replace(node, pooled, x, *weights)


def pooling_matrix(size: int, pooled: int) -> Tensor:
    """(pooled, size) float32: row i averages its bin, as `torch.nn.AdaptiveAvgPool2d` draws it."""
    matrix = torch.zeros(pooled, size, dtype=torch.float64)
    for i, (start, end) in enumerate(bins(size, pooled)):
        matrix[i, start:end] = 1.0 / (end - start)
    return matrix.float()


def _bin_by_bin(x: Tensor, size: tuple[int, int]) -> Tensor:
    # Poolings, not amax: XNNPACK's partitioner takes an amax that its compiler then refuses.
    for dim, pooled in zip((2, 3), size, strict=True):
        if x.shape[dim] != pooled:
            parts = [x.narrow(dim, start, end - start) for start, end in bins(x.shape[dim], pooled)]
            x = torch.cat([aten.max_pool2d.default(p, _line(p, dim), _line(p, dim)) for p in parts], dim)
    return x


def _line(x: Tensor, dim: int) -> list[int]:
    """The kernel that spans x along one axis of its plane."""
    return [x.shape[2], 1] if dim == 2 else [1, x.shape[3]]


def _replace_maxima(node: Node) -> None:
    x = cast("Node", node.args[0])
    (height, width), (h, w) = value(x).shape[-2:], pair(node.args[1])

    def pooled(x: Tensor) -> Tensor:
        if height % h == 0 and width % w == 0:
            kernel = [height // h, width // w]
            return cast("Tensor", aten.max_pool2d.default(x, kernel, kernel))
        return _bin_by_bin(x, (h, w))

    (new,) = inline(node, pooled, x)
    for user in list(node.users):
        substitute(user, new)
    node.graph.erase_node(node)


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    count, blocks, left = 0, BLOCKS[forms.blocks], []
    for node in list(module.graph.nodes):
        if is_call(node, aten.adaptive_max_pool2d.default) and node.meta["val"][0].ndim == 4:
            if all(user.args[1] == 0 for user in node.users):
                _replace_maxima(node)
                count += 1
            else:
                left.append(f"{node.name}: the indices of its maxima are used")
            continue
        if (
            not is_call(node, aten.adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d.default)
            or value(node).ndim != 4
        ):
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
        elif len(one_period(height, h)[1]) * len(one_period(width, w)[1]) <= _MOST_PHASES:
            _replace_by_phases(module, node, x, (h, w), blocks)
        else:
            sizes = {"rows": (height, h), "columns": (width, w)}
            matrices = {axis: pooling_matrix(size, pooled) for axis, (size, pooled) in sizes.items() if size != pooled}
            replace_by_products(module, node, x, forms.adaptive_pooling, matrices)
        count += 1
    return Outcome(count, tuple(left))


PASS = Pass(
    name="rewrite_adaptive_pooling",
    exact="2^-22 of a bin's mean absolute value (order of summation)",
    why="stock lowering of sizes that do not divide leaves hundreds of slices and additions",
    apply=_apply,
)
