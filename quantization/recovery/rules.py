"""What each operator does with positive factors of the channels that it reads: lets them through, joins them, takes
them in and gives out new ones, or (None, and all operators that are not here) knows none."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from mobileseg.quantization.recovery.channels import Rule, Step, Use, Walk, arguments, mapped, shape
from mobileseg.quantization.recovery.classes import compressed

if TYPE_CHECKING:
    from torch.fx import Node

aten = torch.ops.aten

# What a positive factor goes through.


def _same(walk: Walk, node: Node) -> Step | None:
    ids = walk.ids(node.args[0])
    return None if ids is None else Step(ids)


def _prelu(walk: Walk, node: Node) -> Step | None:
    return _same(walk, node) if walk.weight(node.args[1]) is not None else None


def _limited(walk: Walk, node: Node) -> Step | None:
    """Limits that are none, zero or infinite."""
    a = arguments(node)
    limits = [a.get(name) for name in ("min", "max", "min_val", "max_val")]
    return _same(walk, node) if all(n is None or n == 0 or abs(n) == math.inf for n in limits) else None


def _of_planes(walk: Walk, node: Node) -> Step | None:
    """Poolings, resizing and mirrored borders: numbers of one plane make one plane."""
    ids = walk.ids(node.args[0])
    if ids is None or ids.ndim < 3:
        return None
    ids = walk.classes.merged(ids, (-2, -1))
    several = isinstance(node.meta["val"], (tuple, list))
    return Step((ids, walk.classes.pinned(ids.ndim)) if several else ids)


def _sum(walk: Walk, node: Node) -> Step | None:
    first, second = node.args[:2]
    for x, other in ((first, second), (second, first)):
        number = walk.weight(other)
        is_zero = other == 0 if isinstance(other, (int, float)) else number is not None and not bool(number.any())
        if is_zero and walk.weight(x) is None:
            return _aligned(walk, node, x)
    a, b = walk.ids(first), walk.ids(second)
    if a is None or b is None:
        return None
    return Step(walk.classes.join(a, b))


def _product(walk: Walk, node: Node) -> Step | None:
    """By a number, a constant or something that stays as it is, such as a gate."""
    x, other = node.args[:2]
    if _is_free(walk, other):
        return _aligned(walk, node, x)
    if node.target is aten.mul.Tensor and _is_free(walk, x):
        return _aligned(walk, node, other)
    return None


def _is_free(walk: Walk, argument: object) -> bool:
    if isinstance(argument, (int, float)):
        return True
    ids = walk.ids(argument)
    return ids is not None and walk.classes.are_pinned(ids)


def _aligned(walk: Walk, node: Node, argument: object) -> Step | None:
    """The argument's classes, with as many dimensions as the result."""
    ids = walk.ids(argument)
    if ids is None:
        return None
    return Step(ids.reshape((1,) * (len(shape(node)) - ids.ndim) + tuple(ids.shape)))


def _reduced(walk: Walk, node: Node) -> Step | None:
    """Means, sums and extremes over dimensions."""
    a = arguments(node)
    ids, dims = walk.ids(node.args[0]), a["dim"]
    if ids is None or dims is None or dims == []:
        return None
    places = sorted({d % ids.ndim for d in ([dims] if isinstance(dims, int) else dims)}, reverse=True)
    ids = walk.classes.merged(ids, places)
    for place in () if a["keepdim"] else places:
        ids = ids.squeeze(place)
    several = isinstance(node.meta["val"], (tuple, list))
    return Step((ids, walk.classes.pinned(ids.ndim)) if several else ids)


def _concatenated(walk: Walk, node: Node) -> Step | None:
    parts = cast("list[Node]", node.args[0])
    found = [walk.ids(part) for part in parts]
    ids = [i for i in found if i is not None]
    if len(ids) < len(found) or len({i.ndim for i in ids}) > 1:
        return None
    place = arguments(node)["dim"] % ids[0].ndim
    common = torch.broadcast_shapes(*(i.narrow(place, 0, 1).shape for i in ids))
    full = [
        i.expand(*common[:place], shape(part)[place], *common[place + 1 :]) for i, part in zip(ids, parts, strict=True)
    ]
    return Step(compressed(torch.cat(full, place)))


def _moved(walk: Walk, node: Node) -> Step | None:
    """What moves numbers and makes none moves their classes."""
    ids = walk.ids(node.args[0])
    if ids is None or len([n for n in node.all_input_nodes if n not in walk.constants]) > 1:
        return None
    others = [walk.constants.get(a, a) if isinstance(a, torch.fx.Node) else a for a in node.args[1:]]
    target = cast("Any", node.target)
    result = target(ids.expand(shape(node.args[0])).contiguous(), *others, **node.kwargs)
    return Step(mapped(result, compressed))


def _padded(walk: Walk, node: Node) -> Step | None:
    """Zeros and infinities can be scaled by anything; mirrored borders are of the plane."""
    a = arguments(node)
    if a.get("mode", "constant") != "constant":
        return _of_planes(walk, node) if len(a["pad"]) <= 4 else None
    ids, number = walk.ids(node.args[0]), a["value"] or 0.0
    if ids is None or not (number == 0 or abs(number) == math.inf):
        return None
    for i, (low, high) in enumerate(zip(a["pad"][::2], a["pad"][1::2], strict=True)):
        place = ids.ndim - 1 - i
        if ids.shape[place] == 1 and i < 2:
            continue
        size = shape(node.args[0])[place]
        body = ids.expand(*ids.shape[:place], size, *ids.shape[place + 1 :])
        body = body.narrow(place, max(0, -low), size - max(0, -low) - max(0, -high))
        borders = [
            walk.classes.new(*(max(0, n) if d == place else s for d, s in enumerate(ids.shape))) for n in (low, high)
        ]
        ids = torch.cat((borders[0], body, borders[1]), place)
    return Step(ids)


def _taken(walk: Walk, node: Node) -> Step | None:
    value = walk.values[cast("Node", node.args[0])]
    return Step(value[cast("int", node.args[1])]) if isinstance(value, tuple) else None


def _nothing(walk: Walk, node: Node) -> Step:
    return Step(None)


# Where factors are taken in and given out.


def _convolution(walk: Walk, node: Node) -> Step | None:
    a = arguments(node)
    source, weight = walk.by_channel(a["input"]), walk.weight(a["weight"])
    if source is None or weight is None or not len(shape(node)) == weight.ndim == 4 or not _fits(walk, a["bias"]):
        return None
    groups, channels = a["groups"], shape(node)[1]
    new = walk.classes.new(channels)
    if a.get("transposed", node.target is aten.conv_transpose2d.input):
        # (C_in, C_out / groups, kh, kw)
        losses = source.reshape(-1, 1, 1, 1)
        gains = _per_group(new, groups, len(source))
    else:
        # (C_out, C_in / groups, kh, kw)
        losses = _per_group(source, groups, channels)
        gains = new.reshape(-1, 1, 1, 1)
    uses = (Use(a["weight"], gains, losses), *_bias(walk, a["bias"], new))
    return Step(new.reshape(1, -1, 1, 1), uses)


def _per_group(ids: Tensor, groups: int, rows: int) -> Tensor:
    """(rows, C / groups, 1, 1): for each row of a weight, the channels (C,) of the group that it belongs to."""
    return ids.reshape(groups, 1, -1).expand(-1, rows // groups, -1).reshape(rows, -1, 1, 1)


def _linear(walk: Walk, node: Node) -> Step | None:
    a = arguments(node)
    ids, weight = walk.ids(a["input"]), walk.weight(a["weight"])
    if ids is None or weight is None or not _fits(walk, a["bias"]):
        return None
    source = walk.classes.merged(ids, range(ids.ndim - 1)).flatten()
    new = walk.classes.new(weight.shape[0])
    uses = (Use(a["weight"], new[:, None], source[None]), *_bias(walk, a["bias"], new))
    return Step(new.reshape(*(1,) * (ids.ndim - 1), -1), uses)


def _batch_norm(walk: Walk, node: Node) -> Step | None:
    """``(x - mean) / sqrt(var + eps) * weight + bias``: the variance stays, so that what is added to it weighs as much
    as before; the factor of x goes into the mean and out of the weight. Without a weight both factors are one."""
    a = arguments(node)
    source = walk.by_channel(a["input"])
    constants = [walk.weight(a[name]) for name in ("running_mean", "running_var")]
    if source is None or any(c is None for c in constants) or not (_fits(walk, a["weight"]) and _fits(walk, a["bias"])):
        return None
    one = walk.classes.pinned(1)
    new = source if a["weight"] is None else walk.classes.new(len(source))
    uses = [Use(a["running_mean"], source, one), *_bias(walk, a["bias"], new)]
    if a["weight"] is not None:
        uses.append(Use(a["weight"], new, source))
    return Step((new.reshape(1, -1, *(1,) * (len(shape(a["input"])) - 2)), None, None), tuple(uses))


def _fits(walk: Walk, argument: object) -> bool:
    return argument is None or walk.weight(argument) is not None


def _bias(walk: Walk, argument: Any, gains: Tensor) -> tuple[Use, ...]:
    return () if argument is None else (Use(argument, gains, walk.classes.pinned(1)),)


MOVES = frozenset(
    {
        aten.view.default,
        aten._unsafe_view.default,
        aten.reshape.default,
        aten.transpose.int,
        aten.permute.default,
        aten.clone.default,
        aten.alias.default,
        aten.detach.default,
        aten.expand.default,
        aten.unsqueeze.default,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.select.int,
        aten.slice.Tensor,
        aten.split.Tensor,
        aten.split_with_sizes.default,
        aten.chunk.default,
        aten.unbind.int,
        aten.index_select.default,
        aten.repeat.default,
        aten.flip.default,
        aten.pixel_shuffle.default,
        aten.pixel_unshuffle.default,
        aten.channel_shuffle.default,
    }
)
SELECTIONS = frozenset(
    {
        aten.max_pool2d.default,
        aten.max_pool2d_with_indices.default,
        aten.max_unpool2d.default,
        aten.upsample_nearest2d.vec,
        aten.reflection_pad2d.default,
        aten.replication_pad2d.default,
        aten.pad.default,
        aten.constant_pad_nd.default,
    }
)
"""What gives numbers of its input, and zeros."""
CONVOLUTIONS = frozenset(
    {aten.conv2d.default, aten.conv2d.padding, aten.conv_transpose2d.input, aten.convolution.default}
)
NORMALIZATION = aten._native_batch_norm_legit_no_training.default
LIMITS = frozenset({aten.relu.default, aten.clamp.default, aten.clamp_min.default, aten.hardtanh.default})
_PLANES = (
    aten.max_pool2d.default,
    aten.max_pool2d_with_indices.default,
    aten.max_unpool2d.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_max_pool2d.default,
    aten.upsample_bilinear2d.vec,
    aten.upsample_nearest2d.vec,
    aten.reflection_pad2d.default,
    aten.replication_pad2d.default,
)
RULES: Mapping[Any, Rule] = {
    operator.getitem: _taken,
    aten._assert_tensor_metadata.default: _nothing,
    **dict.fromkeys((aten.relu.default, aten.leaky_relu.default, aten.abs.default, aten.neg.default), _same),
    **dict.fromkeys((aten.clamp.default, aten.clamp_min.default, aten.hardtanh.default), _limited),
    aten.prelu.default: _prelu,
    **dict.fromkeys(_PLANES, _of_planes),
    **dict.fromkeys((aten.add.Tensor, aten.sub.Tensor), _sum),
    **dict.fromkeys((aten.maximum.default, aten.minimum.default), _sum),
    **dict.fromkeys((aten.mul.Tensor, aten.div.Tensor), _product),
    **dict.fromkeys((aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default), _reduced),
    **dict.fromkeys((aten.max.dim, aten.min.dim), _reduced),
    aten.cat.default: _concatenated,
    **dict.fromkeys(MOVES, _moved),
    **dict.fromkeys((aten.pad.default, aten.constant_pad_nd.default), _padded),
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    aten.linear.default: _linear,
    NORMALIZATION: _batch_norm,
}
