"""Gains and offsets per channel go where they cost least: into convolutions, else behind the poolings.

Before: x -> mul(g) -> conv2d(W, b) -> z               After: x -> conv2d(W g, b) -> z           (g per input channel)
        x -> add(t) -> conv2d(W, b, no padding) -> z          x -> conv2d(W, b + W t) -> z
        x -> conv2d(W, b) -> mul(g) -> add(t) -> z            x -> conv2d(W g, b g + t) -> z
        cat(conv2d, y) -> mul(g) -> add(t) -> z               cat(conv2d -> mul -> add, y -> mul -> add) -> z
        conv2d -> bilinear resizing -> mul(g) -> add(t) -> z  conv2d -> mul -> add -> bilinear resizing -> z
        x -> mul(g > 0) -> max_pool2d -> z                    x -> max_pool2d -> mul(g) -> z
        x -> add(t) -> max_pool2d -> z                        x -> max_pool2d -> add(t) -> z
        x -> mul(g) -> avg_pool2d -> z                        x -> avg_pool2d -> mul(g) -> z
        x -> mul(g) -> mul(h) -> z                            x -> mul(g h) -> z                 (add alike)

So ENet's picture goes as it is into its first convolution and its first pooling, and the normalization behind their
concatenation is in the former's weights and three channels' gain and offset behind the latter. EdgeNets' pyramids of
convolutions, resized and pooled to one size and concatenated, have theirs in the weights of all of them: averages over
windows without padding, adaptive ones and bilinear resizing keep a constant what it is, and what is linear keeps gains.

Preconditions: constants of one number or one per channel, weights that are constants; whatever reads a gain or an
offset can take it (else it stays: it would be computed anyway), a pooling gets smaller than its input, and convolutions
make half or more of what is concatenated (but any share in form "parts": in int8 the parts have one scale, and what
makes their ranges alike must come before it; and, in form "rectified", no ReLU follows). A gain under a maximum must be
positive. A gain below ``forms.smallest_gain`` goes into no weights: halves of weights divided by 255 would be
subnormal, which phones flush to zero.

Exactness: past a maximum bit-exact (rounding is monotone); else the products are made in float64 and rounded once, and
sums are taken in another order: a few units in the last place of their largest term (tests hold 1e-5 of the largest
output). Every backend needs it: a gain or an offset left alone costs a pass over memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from mobileseg.converters.passes.base import (
    Outcome,
    Pass,
    add_constant,
    arguments_of,
    aten,
    constant,
    inline,
    is_call,
    pair,
    substitute,
    value,
)
from mobileseg.converters.passes.fold_batch_norm import CONVOLUTIONS, fold

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms

_GAIN, _OFFSET = aten.mul.Tensor, aten.add.Tensor
_POOLING = aten.avg_pool2d.default
_AVERAGING = (aten.upsample_bilinear2d.vec, aten.adaptive_avg_pool2d.default, aten.upsample_nearest2d.vec)


def per_channel(module: GraphModule, node: Node) -> tuple[Node, Tensor] | None:
    """Of a multiplication or an addition by a constant: what it works on, and the constant (C,) in float64."""
    if not is_call(node, _GAIN, _OFFSET) or node.kwargs or value(node).ndim != 4:
        return None
    for x, other in (node.args[:2], node.args[1::-1]):
        if not isinstance(x, torch.fx.Node) or constant(module, x) is not None:
            continue
        number = torch.tensor(other) if isinstance(other, (int, float)) else constant(module, other)
        channels = value(node).shape[1]
        if number is None or value(x).shape != value(node).shape or not value(x).is_floating_point():
            continue
        if number.numel() == 1 or (number.numel() == channels and number.shape[-3:] == (channels, 1, 1)):
            return x, number.double().reshape(-1).expand(channels)
    return None


def constant_of(module: GraphModule, node: Node) -> Node | None:
    """The weight that a gain or an offset is; None for a number of its own."""
    return next((n for n in node.all_input_nodes if constant(module, n) is not None), None)


def is_rectified(node: Node) -> bool:
    """Whether nothing but gains and offsets lies between here and a ReLU."""
    if len(node.users) != 1:
        return False
    (user,) = node.users
    return is_call(user, aten.relu.default) or (is_call(user, _GAIN, _OFFSET) and is_rectified(user))


def _with(module: GraphModule, before: Node, node: Node, x: Node, number: Tensor) -> Node:
    """A gain or offset of ``x``, made of ``node``'s, in front of ``before``."""
    shaped = number.reshape(1, -1, 1, 1).to(value(x).dtype)
    held = add_constant(module, before, f"{x.name}_affine", shaped, constant_of(module, node))
    (new,) = inline(before, cast("Any", node.target), x, held)
    return new


# Forwards: what stands before the gain or offset takes it.


def _source(node: Node) -> Node:
    """What stands before operators that read one plane and make weighted averages of its numbers, and nothing else
    reads what lies between."""
    while len(node.users) == 1 and (is_call(node, *_AVERAGING) or (is_call(node, _POOLING) and _is_unpadded(node))):
        node = cast("Node", node.args[0])
    return node


def _is_unpadded(pooling: Node) -> bool:
    a = arguments_of(pooling)
    return pair(a["padding"]) == (0, 0) and not a["ceil_mode"] and a["divisor_override"] is None


def _into_convolution(module: GraphModule, node: Node, x: Node, number: Tensor, _: Forms) -> bool:
    convolution = _source(x)
    if not is_call(convolution, *CONVOLUTIONS) or len(convolution.users) > 1:
        return False
    one, none = torch.ones_like(number), torch.zeros_like(number)
    is_gain = is_call(node, _GAIN)
    if not fold(module, convolution, number if is_gain else one, none if is_gain else number):
        return False
    substitute(node, x)
    return True


def _into_parts(module: GraphModule, node: Node, x: Node, number: Tensor, forms: Forms) -> bool:
    if forms.affine == "rectified" and is_rectified(node):
        return False
    if not is_call(x, aten.cat.default) or len(x.users) > 1 or arguments_of(x)["dim"] % 4 != 1:
        return False
    parts = cast("list[Node]", x.args[0])
    sources = [(part, _source(part)) for part in parts]
    foldable = sum(value(part).shape[1] for part, s in sources if is_call(s, *CONVOLUTIONS) and len(s.users) == 1)
    if (2 * foldable < number.numel() and forms.affine != "parts") or len(set(parts)) < len(parts):
        return False
    shares = number.split([value(p).shape[1] for p in parts])
    moved = [_with(module, x, node, part, share) for part, share in zip(parts, shares, strict=True)]
    x.args = (moved, *x.args[1:])
    substitute(node, x)
    return True


def _into_same(module: GraphModule, node: Node, x: Node, number: Tensor, _: Forms) -> bool:
    below = per_channel(module, x) if is_call(x, node.target) and len(x.users) == 1 else None
    if below is None:
        return False
    source, other = below
    together = other * number if is_call(node, _GAIN) else other + number
    substitute(node, _with(module, node, node, source, together))
    module.graph.erase_node(x)
    return True


# Backwards: everything that reads the gain or offset takes it.


def _is_smaller(pooling: Node) -> bool:
    return value(pooling).numel() < value(cast("Node", pooling.args[0])).numel()


def _takes(module: GraphModule, user: Node, source: Node, number: Tensor, is_gain: bool, forms: Forms) -> bool:
    """Whether ``user``, which reads ``source``, can take its gain (or offset) ``number``."""
    if is_call(user, aten.conv2d.default):
        a = arguments_of(user)
        bias = constant(module, a["bias"])
        if (
            a["input"] is not source
            or constant(module, a["weight"]) is None
            or (a["bias"] is not None and bias is None)
        ):
            return False
        return float(number.abs().min()) >= forms.smallest_gain if is_gain else pair(a["padding"]) == (0, 0)
    if is_call(user, aten.max_pool2d.default):
        return _is_smaller(user) and (not is_gain or bool((number > 0).all()))
    if is_call(user, _POOLING):
        return _is_smaller(user) and (is_gain or _is_unpadded(user))
    return False


def _give(module: GraphModule, user: Node, node: Node, x: Node, number: Tensor) -> None:
    if not is_call(user, aten.conv2d.default):
        (pooled,) = inline(user, lambda x: cast("Any", user.target)(x, *user.args[1:], **user.kwargs), x)
        substitute(user, _with(module, user, node, pooled, number))
        return
    a = arguments_of(user)
    weight, bias = cast("Tensor", constant(module, a["weight"])), constant(module, a["bias"])
    # (C_out, C_in / groups, kh, kw): the numbers of its own group's input channels, for each output channel.
    own = number.reshape(a["groups"], 1, -1).expand(-1, weight.shape[0] // a["groups"], -1).flatten(0, 1)
    own = own[:, :, None, None]
    if is_call(node, _GAIN):
        scaled = add_constant(
            module, user, f"{user.name}_weight", (weight.double() * own).to(weight.dtype), a["weight"]
        )
        user.args = (x, scaled, *user.args[2:])
    else:
        shift = (weight.double() * own).sum((1, 2, 3)) + (0 if bias is None else bias.double())
        shifted = add_constant(module, user, f"{user.name}_bias", shift.to(weight.dtype), a["weight"], "bias")
        user.args = (x, user.args[1], shifted, *user.args[3:])


def _into_users(module: GraphModule, node: Node, x: Node, number: Tensor, forms: Forms) -> bool:
    users, is_gain = list(node.users), is_call(node, _GAIN)
    if not users or not all(_takes(module, user, node, number, is_gain, forms) for user in users):
        return False
    for user in users:
        _give(module, user, node, x, number)
    module.graph.erase_node(node)
    return True


# What removes an operator comes before what only moves one.
_MOVES = (_into_same, _into_convolution, _into_parts, _into_users)


def _moved(module: GraphModule, forms: Forms) -> bool:
    """Whether one gain or offset found a better place."""
    for node in module.graph.nodes:
        found = per_channel(module, node)
        if found is not None and any(move(module, node, *found, forms) for move in _MOVES):
            return True
    return False


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    count = 0
    while _moved(module, forms):
        count += 1
    return Outcome(count)


PASS = Pass(
    name="move_affine",
    exact="relative 2^-24 per weight (bit-exact past a maximum)",
    why="a gain or an offset left alone costs a pass over memory",
    apply=_apply,
)
