"""Channels whose PReLU slope exceeds 1 are computed with the other sign, so that one MAXIMUM computes all of them.

Before: x -> conv2d(W, b) -> y -> prelu(a) -> conv2d(V) -> z             some of the slopes a below 1, some above
After:  x -> conv2d(s W, s b) -> y -> maximum(y, a y) -> conv2d(V s) -> z   per channel s = -1 where a > 1, else 1

A PReLU is max(y, a y) where a <= 1 and min(y, a y) where a >= 1, which is -max(-y, a (-y)). Slopes on both sides of 1
in one PReLU take three operators more (`rewrite_prelu`).

What a sign passes unchanged holds channels of one class: additions, averages, bilinear and nearest resizings,
concatenations, shuffles, PReLUs, products with a gate. Convolutions and gains per channel begin new classes: they take
the signs of both sides into their weights. All else (ReLU, maxima, the picture, the result) wants the sign as it is.

Preconditions: form "maximum"; a class turns where some PReLU has a slope above 1 in it, none one below 1, and nothing
wants its sign as it is.

Exactness: bit-exact (rounding is the same on both sides of zero; zeros may differ in sign). int8 in TFLite needs it:
EdgeNets' ESPNetV2 has slopes on both sides of 1 in 33 of 61 PReLUs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from mobileseg.converters.passes.base import Outcome, Pass, add_constant, arguments_of, aten, constant, is_call, value
from mobileseg.converters.passes.fold_batch_norm import CONVOLUTIONS
from mobileseg.converters.passes.move_affine import constant_of, per_channel
from mobileseg.converters.passes.rewrite_prelu import by_maximum

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms

_TRANSPOSED = aten.conv_transpose2d.input
_LINEAR = (
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.upsample_bilinear2d.vec,
    aten.upsample_nearest2d.vec,
    aten.prelu.default,
)
"""They read one plane, and each channel of theirs is made of that one alone, linearly or by a PReLU."""

_MOVES = (
    aten.view.default,
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.clone.default,
    aten._unsafe_view.default,
    aten.slice.Tensor,
    aten.channel_shuffle.default,
)
_AS_IT_IS = 0
"""The class of what keeps its sign."""


class _Classes:
    """Classes of channels by number, joined as the graph is read."""

    def __init__(self) -> None:
        self.parent = [_AS_IT_IS]

    def new(self, count: int) -> Tensor:
        start = len(self.parent)
        self.parent += range(start, start + count)
        return torch.arange(start, start + count)

    def root(self, number: int) -> int:
        while self.parent[number] != number:
            self.parent[number] = number = self.parent[self.parent[number]]
        return number

    def join(self, a: Tensor, b: Tensor) -> None:
        pairs = torch.stack(torch.broadcast_tensors(a, b)).reshape(2, -1).unique(dim=1)
        for i, j in pairs.T.tolist():
            # The smaller number stays, so that what keeps its sign keeps its number.
            low, high = sorted((self.root(i), self.root(j)))
            self.parent[high] = low

    def keep(self, numbers: Tensor) -> None:
        self.join(numbers, torch.tensor(_AS_IT_IS))

    def are_kept(self, numbers: Tensor) -> bool:
        return all(self.root(i) == _AS_IT_IS for i in numbers.unique().tolist())


class _Reading:
    """The classes of a graph's numbers: for each node a tensor that broadcasts to its value."""

    def __init__(self, module: GraphModule) -> None:
        self.module, self.classes = module, _Classes()
        self.of: dict[Node, Tensor] = {}
        for node in module.graph.nodes:
            if node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor):
                self.of[node] = self._of(node)
            else:
                self._keep(node)
                self.of[node] = torch.tensor(_AS_IT_IS)

    def channels(self, node: Node) -> Tensor:
        """(C,) roots of a plane's classes."""
        numbers = self.of[node].expand(value(node).shape)[0, :, 0, 0]
        return torch.tensor([self.classes.root(i) for i in numbers.tolist()])

    def _keep(self, node: Node) -> Tensor:
        for x in node.all_input_nodes:
            self.classes.keep(self.of[x])
        return torch.tensor(_AS_IT_IS)

    def _of(self, node: Node) -> Tensor:
        computed = [x for x in node.all_input_nodes if constant(self.module, x) is None]
        if self._takes_signs(node):
            return self.classes.new(value(node).shape[1]).reshape(1, -1, 1, 1)
        if is_call(node, aten.add.Tensor) and per_channel(self.module, node) is not None:
            return self.of[computed[0]]
        if is_call(node, aten.add.Tensor, aten.sub.Tensor) and len(computed) == len(node.all_input_nodes) == 2:
            a, b = (self.of[x] for x in computed)
            self.classes.join(a, b)
            return a if a.numel() > b.numel() else b
        if is_call(node, aten.mul.Tensor) and len(computed) == len(node.all_input_nodes) == 2:
            for x, gate in (computed, computed[::-1]):
                if self.classes.are_kept(self.of[gate]):
                    return self.of[x]
        if value(node).ndim == 4 and (is_call(node, *_LINEAR) or self._is_mean(node) or self._is_border(node)):
            return self.of[computed[0]]
        if is_call(node, aten.cat.default):
            parts = self._whole(cast("list[Node]", node.args[0]))
            return self._folded(torch.cat(parts, arguments_of(node)["dim"]))
        if is_call(node, *_MOVES):
            (numbers,) = self._whole(computed)
            return self._folded(cast("Any", node.target)(numbers, *node.args[1:], **node.kwargs))
        return self._keep(node)

    def _whole(self, nodes: list[Node]) -> list[Tensor]:
        return [self.of[x].expand(value(x).shape).contiguous() for x in nodes]

    def _folded(self, numbers: Tensor) -> Tensor:
        """One number a channel again, where that says it all; a plane of unlike ones keeps its signs."""
        if numbers.ndim != 4:
            return numbers
        first = numbers[:1, :, :1, :1]
        if not bool((numbers == first).all()):
            self.classes.keep(numbers)
        return first

    def _takes_signs(self, node: Node) -> bool:
        """Whether its constants can turn its channels, both of what it reads and of what it gives."""
        if is_call(node, *CONVOLUTIONS):
            a = arguments_of(node)
            held = [a["weight"]] if a["bias"] is None else [a["weight"], a["bias"]]
            return a["input"] not in held and all(constant(self.module, n) is not None for n in held)
        return is_call(node, aten.mul.Tensor) and per_channel(self.module, node) is not None

    def _is_mean(self, node: Node) -> bool:
        if not is_call(node, aten.mean.dim):
            return False
        a = arguments_of(node)
        return sorted(d % 4 for d in a["dim"]) == [2, 3]

    def _is_border(self, node: Node) -> bool:
        """A padding of the plane with zeros."""
        if not is_call(node, aten.constant_pad_nd.default, aten.pad.default):
            return False
        a = arguments_of(node)
        return len(a["pad"]) <= 4 and a.get("mode", "constant") == "constant" and not a["value"]


def _turned(module: GraphModule, reading: _Reading) -> set[int]:
    """The classes that change their sign."""
    turned, kept = set[int](), {_AS_IT_IS}
    several = list[set[int]]()
    for node in module.graph.nodes:
        slopes = _slopes(module, node)
        if slopes is None:
            continue
        roots = reading.channels(node)
        kept |= set(roots[slopes < 1].tolist())
        several.append(set(roots[slopes > 1].tolist()))
        turned |= several[-1]
    turned -= kept
    # A PReLU turns as a whole or not at all.
    while any((above & turned) and not above <= turned for above in several):
        turned -= set().union(*(above for above in several if not above <= turned))
    return turned


def _slopes(module: GraphModule, node: Node) -> Tensor | None:
    """(C,) of a plane's PReLU; of one slope for all channels zeros, since a LEAKY_RELU is as good and keeps its
    sign."""
    slopes = constant(module, node.args[1]) if is_call(node, aten.prelu.default) else None
    if slopes is None or value(node).ndim != 4:
        return None
    return slopes if slopes.numel() > 1 else torch.zeros(value(node).shape[1])


def _turn_convolution(module: GraphModule, node: Node, before: Tensor, after: Tensor) -> None:
    """``before``, ``after``: the signs (C,) of what it reads and gives."""
    a = arguments_of(node)
    weight, bias, groups = cast("Tensor", constant(module, a["weight"])), constant(module, a["bias"]), a["groups"]
    if is_call(node, _TRANSPOSED):  # (C_in, C_out / groups, kh, kw)
        of_group = after.reshape(groups, 1, -1).expand(-1, len(before) // groups, -1).flatten(0, 1)
        signs = before[:, None] * of_group
    else:  # (C_out, C_in / groups, kh, kw)
        of_group = before.reshape(groups, 1, -1).expand(-1, len(after) // groups, -1).flatten(0, 1)
        signs = after[:, None] * of_group
    turned = add_constant(module, node, f"{node.name}_turned", weight * signs[:, :, None, None], a["weight"])
    node.args = (node.args[0], turned, *node.args[2:])
    if bias is not None:
        node.args = (*node.args[:2], add_constant(module, node, f"{node.name}_turned", bias * after, a["bias"]))
        node.args = (*node.args, *list(a.values())[3:])
        node.kwargs = {}


def _turn_affine(module: GraphModule, node: Node, x: Node, number: Tensor, signs: Tensor) -> None:
    shaped = (number * signs).reshape(1, -1, 1, 1).to(value(x).dtype)
    held = add_constant(module, node, f"{node.name}_turned", shaped, constant_of(module, node))
    node.args = (x, held)


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    if forms.prelu != "maximum":
        return Outcome(0)
    reading = _Reading(module)
    turned = _turned(module, reading)
    if not turned:
        return Outcome(0)
    changed: list[tuple[Node, Tensor]] = []

    def signs(node: Node) -> Tensor:
        return torch.tensor([-1.0 if i in turned else 1.0 for i in reading.channels(node).tolist()])

    for node in list(module.graph.nodes):
        found = per_channel(module, node)
        if is_call(node, *CONVOLUTIONS):
            before, after = signs(cast("Node", node.args[0])), signs(node)
            if bool((torch.cat([before, after]) < 0).any()):
                _turn_convolution(module, node, before, after)
        elif found is not None:
            of_both = signs(node) * signs(found[0]) if is_call(node, aten.mul.Tensor) else signs(node)
            if bool((of_both < 0).any()):
                _turn_affine(module, node, *found, of_both)
        else:
            slopes = _slopes(module, node)
            if slopes is not None and bool((signs(node)[slopes > 1] < 0).any()):
                changed.append((node, slopes))
    # Last: the signs are known of the nodes that were read.
    for node, slopes in changed:
        by_maximum(module, node, slopes)
    return Outcome(len(changed))


PASS = Pass(
    name="turn_signs",
    exact="bit-exact",
    why="slopes on both sides of 1 have no one operator in int8; with one sign turned they are a MAXIMUM",
    apply=_apply,
)
