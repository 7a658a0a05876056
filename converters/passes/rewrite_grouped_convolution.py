"""Grouped convolutions of small groups, by depthwise ones or by one of all channels.

Before: x -> conv2d(W (G r, m, kh, kw), groups G) -> z, m channels in and r out of each group
After:  one out (r = 1):  x -> depthwise conv2d, all G m channels -> 1x1 conv2d of ones, the sum of each group's m -> z
        one in (m = 1):   x -> 1x1 conv2d of ones, each channel r times -> depthwise conv2d of G r channels -> z
        few:              x -> conv2d(W and zeros (G r, G m, kh, kw)) -> z

A channel shuffle in front is a permutation of the weights' channels, and disappears into them.

Preconditions: form "depthwise": constant weights, more than one group, a kernel larger than one pixel, and one channel
in or out, but not both. Form "dense": the last where a group's padding costs more than the zeros, else the others.

Exactness: the same products; ones and zeros add none, and sums are taken in another order (tests hold 1e-6 of the
largest output). XNNPACK needs it: it runs each group as a small matrix product, padded to 16 channels. EdgeNets' last
merging layer (50 channels in 10 groups, 3x3, 128x256) takes 5.5 ms so, and its shuffle 0.7; depthwise 1.6 together.
In int8 products are cheap and a sum between two operators is rounded: 16 to 4 channels in 4 groups, 1x1, 128x256, take
0.66 ms in groups and 0.36 in one; 32 to 48 in 16 groups, 3x3, 64x128, 1.09 and 0.58; 64 to 64 in 4 groups, 1x1, 32x64,
0.03 and 0.05 (`benchmarks/int8_forms.py`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F

from mobileseg.converters.passes.base import Outcome, Pass, add_constant, arguments_of, aten, constant, is_call, replace
from mobileseg.converters.passes.rewrite_channel_shuffle import shuffle_ending_at

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms


def _unshuffled(x: Node, channels: int) -> tuple[Node, Tensor]:
    """What a channel shuffle of ``x`` reads, and for each of that's channels the place it has in ``x`` (C,)."""
    places = torch.arange(channels)
    found = shuffle_ending_at(x) if len(x.users) == 1 else None
    if found is None:
        return x, places
    source, groups = found
    return source, places.reshape(-1, groups).T.reshape(-1)


def _is_small(a: dict[str, object], weight: Tensor) -> bool:
    groups, (outputs, inputs, *kernel) = cast("int", a["groups"]), weight.shape
    one_in, one_out = inputs == 1, outputs == groups
    return groups > 1 and one_in != one_out and max(kernel) > 1


def _widened(module: GraphModule, node: Node, a: dict[str, Any], weight: Tensor, bias: list[Node]) -> None:
    """One channel in, several out: each channel as often as its group has outputs, then depthwise."""
    groups, outputs = a["groups"], weight.shape[0]
    each = torch.eye(groups).repeat_interleave(outputs // groups, 0)[:, :, None, None]
    expansion = add_constant(module, node, f"{node.name}_expansion", each, a["weight"], "expansion")

    def convolved(x: Tensor, expansion: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
        given = bias[0] if bias else None
        return F.conv2d(F.conv2d(x, expansion), weight, given, a["stride"], a["padding"], a["dilation"], outputs)

    replace(node, convolved, a["input"], expansion, a["weight"], *bias)


def _narrowed(module: GraphModule, node: Node, a: dict[str, Any], weight: Tensor, bias: list[Node]) -> None:
    """Several channels in, one out: depthwise, then the sum of each group's."""
    groups = a["groups"]
    source, places = _unshuffled(a["input"], groups * weight.shape[1])
    own = weight.reshape(-1, 1, *weight.shape[2:])[places]
    sums = torch.eye(groups).repeat_interleave(weight.shape[1], 1)[:, places][:, :, None, None]
    depthwise = add_constant(module, node, f"{node.name}_weight", own, a["weight"])
    summation = add_constant(module, node, f"{node.name}_summation", sums, a["weight"], "summation")

    def convolved(x: Tensor, depthwise: Tensor, summation: Tensor, *bias: Tensor) -> Tensor:
        parts = F.conv2d(x, depthwise, None, a["stride"], a["padding"], a["dilation"], depthwise.shape[0])
        return F.conv2d(parts, summation, bias[0] if bias else None)

    replace(node, convolved, source, depthwise, summation, *bias)


def _padded(number: int, to: int) -> int:
    return -(-number // to) * to


def _costs_less_dense(a: dict[str, Any], weight: Tensor) -> bool:
    """Whether all products, zeros included, take less time than the groups' own: XNNPACK pads the outputs of a matrix
    product to 16 and the inputs to 4, and each group takes as long as some 8 inputs more and 8 for each pixel of the
    kernel (fitted to a dozen layers of `benchmarks/int8_forms.py`)."""
    groups, (outputs, inputs, *kernel) = cast("int", a["groups"]), weight.shape
    if groups == 1 or (inputs == 1 and outputs == groups):
        return False
    pixels = math.prod(kernel)
    of_group = _padded(outputs // groups, 16) * (_padded(inputs * pixels, 4) + 8 * (1 + pixels))
    return _padded(outputs, 16) * _padded(groups * inputs * pixels, 4) <= groups * of_group


def _filled(module: GraphModule, node: Node, a: dict[str, Any], weight: Tensor, bias: list[Node]) -> None:
    """One convolution of all channels, zero where a group has none of another's."""
    groups, inputs = a["groups"], weight.shape[1]
    source, places = _unshuffled(a["input"], groups * inputs)
    own = torch.eye(groups).repeat_interleave(weight.shape[0] // groups, 0)
    blocks = torch.einsum("og,oikl->ogikl", own.to(weight.dtype), weight).flatten(1, 2)[:, places]
    dense = add_constant(module, node, f"{node.name}_weight", blocks, a["weight"])

    def convolved(x: Tensor, dense: Tensor, *bias: Tensor) -> Tensor:
        return F.conv2d(x, dense, bias[0] if bias else None, a["stride"], a["padding"], a["dilation"])

    replace(node, convolved, source, dense, *bias)


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    if forms.grouped_convolution == "native":
        return Outcome(0)
    count = 0
    for node in list(module.graph.nodes):
        if not is_call(node, aten.conv2d.default):
            continue
        a = arguments_of(node)
        weight, bias = constant(module, a["weight"]), constant(module, a["bias"])
        if weight is None or (a["bias"] is not None and bias is None):
            continue
        if forms.grouped_convolution == "dense" and _costs_less_dense(a, weight):
            rewrite = _filled
        elif _is_small(a, weight):
            rewrite = _widened if weight.shape[1] == 1 else _narrowed
        else:
            continue
        rewrite(module, node, a, weight, [] if bias is None else [a["bias"]])
        count += 1
    module.graph.eliminate_dead_code()
    return Outcome(count)


PASS = Pass(
    name="rewrite_grouped_convolution",
    exact="1e-6 of the largest output (the same products in another order)",
    why="XNNPACK pads each group of a grouped convolution to 16 channels",
    apply=_apply,
)
