"""A program with int8 in it, as Core ML wants it: pairs of quantize and dequantize only where they do something.

Before: conv -> q -> dq -> slice -> q -> dq -> pixel_shuffle -> q -> dq -> conv -> q -> dq -> resize -> q -> dq -> out
After:  conv -> q -> dq -> slice -> pixel_shuffle -> q -> dq -> conv -> resize -> out

An int8 plan puts a pair behind each value, moved ones included, for backends whose operators take int8. Core ML's take
float16: a pair between two moves is work, and it hides patterns that coremltools makes one operator of. The one before
an operator that computes stays, since a device takes a convolution for int8 where a dequantize stands before it.

A picture's bytes are rounded numbers already: where no int8 convolution reads it, it needs no pair.

Exactness: a number of a grid that goes through a pair of that grid stays what it is, in float16, too: at most 255 steps
are told apart by 11 bits. What is left out before the result is a rounding.

Scales are float16 where what they scale is, which Core ML asks for. Of an activation whose scale would be subnormal,
both operators stay float32 (`half`). So does a convolution all of whose weights' scales would be; of another one a
channel gets the smallest normal scale and fewer steps, as exact as float16 weights are.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

import torch

from mobileseg.converters.export import operator_name

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

Grid = tuple[float, int]
"""Scale and zero point."""

QUANTIZE, DEQUANTIZE, WEIGHTS = "quantize_per_tensor", "dequantize_per_tensor", "dequantize_per_channel"

_EXCHANGE = (3, 3, 1, 1)
"""Weights that exchange red and blue: the preprocessing, which is computed in float32."""

_CONVOLUTIONS = frozenset({"conv2d", "conv_transpose2d", "linear"})
_SMALLEST = torch.finfo(torch.float16).smallest_normal

_MOVES = frozenset(
    [
        "_unsafe_view",
        "alias",
        "clone",
        "constant_pad_nd",
        "expand",
        "pad",
        "permute",
        "pixel_shuffle",
        "pixel_unshuffle",
        "repeat",
        "reshape",
        "select",
        "slice",
        "split_with_sizes",
        "squeeze",
        "transpose",
        "unsqueeze",
        "view",
    ]
)
_JOINS = frozenset({"cat", "stack"})
_POOLINGS = frozenset({"max_pool2d"})
_MASKS = frozenset({"sign"})
_LEADING = _MOVES | {
    QUANTIZE,
    DEQUANTIZE,
    "_softmax",
    "_to_copy",
    "argmax",
    "softmax",
    "upsample_bilinear2d",
    "upsample_nearest2d",
}
"""What turns the network's last value into the file's result."""


def has_int8(module: GraphModule) -> bool:
    return any(operator_name(node) in (QUANTIZE, DEQUANTIZE) for node in module.graph.nodes)


def fit_weights(module: GraphModule) -> None:
    """In place, without recompiling: scales that float16 holds, and an exchange of channels as float numbers."""
    for node in list(module.graph.nodes):
        if not _is(node, WEIGHTS):
            continue
        numbers, scales = (_constant(module, argument) for argument in node.args[:2])
        if tuple(numbers.shape) == _EXCHANGE:
            _write(module, node.args[0], numbers * scales.reshape(-1, 1, 1, 1))
            node.replace_all_uses_with(cast("Node", node.args[0]))
        elif float(scales.max()) >= _SMALLEST:
            shape = [-1 if axis == node.args[3] else 1 for axis in range(numbers.ndim)]
            normal = scales.clamp(min=_SMALLEST)
            _write(module, node.args[0], torch.round(numbers * (scales / normal).reshape(shape)).to(numbers.dtype))
            _write(module, node.args[1], normal)
    module.graph.eliminate_dead_code()


def _constant(module: GraphModule, node: Any) -> torch.Tensor:
    return cast("torch.Tensor", attrgetter(node.target)(module))


def _write(module: GraphModule, node: Any, tensor: torch.Tensor) -> None:
    owner, _, name = node.target.rpartition(".")
    setattr(module.get_submodule(owner), name, tensor)
    node.meta["val"] = tensor.to("meta")


def remove_idle_pairs(module: GraphModule) -> None:
    """In place, without recompiling."""
    flags = _flags(module)
    for node in list(module.graph.nodes):
        if operator_name(node) != DEQUANTIZE:
            continue
        source = _before_pair(node)
        if source is not None and _is_idle(node, source, flags):
            node.replace_all_uses_with(source)
    module.graph.eliminate_dead_code()


def _is_idle(node: Node, source: Node, flags: frozenset[Node]) -> bool:
    if source.op == "placeholder":
        return not any(_is(reader, *_CONVOLUTIONS) and _is(reader.args[1], WEIGHTS) for reader in node.users)
    moved = _grid(source, flags) == _figures(node)
    return (moved and all(_carries(reader, flags) for reader in node.users)) or _leads_to_result(node)


def _before_pair(node: Node) -> Node | None:
    """What is rounded by the pair that ends with this dequantize."""
    quantize = node.args[0]
    if operator_name(cast("Node", quantize)) != QUANTIZE:
        return None
    return cast("Node", cast("Node", quantize).args[0])


def _figures(node: Node) -> Grid:
    return cast("Grid", tuple(node.args[1:3]))


def _through_pairs(node: object) -> object:
    """The value before any pairs."""
    while _is(node, DEQUANTIZE) and (source := _before_pair(cast("Node", node))) is not None:
        node = source
    return node


def _is(node: object, *names: str) -> bool:
    return hasattr(node, "op") and operator_name(cast("Node", node)) in names


def _sources(node: Node) -> list[Node]:
    return [n for n in node.all_input_nodes if n.op != "get_attr"]


def _flags(module: GraphModule) -> frozenset[Node]:
    """Values that are zeros and ones, by way of a sign."""
    found: set[Node] = set()
    for node in module.graph.nodes:
        read = _sources(node)
        if operator_name(node) in _MASKS or (node.op != "output" and read and all(n in found for n in read)):
            found.add(node)
    return frozenset(found)


def _grid(node: Node, flags: frozenset[Node]) -> Grid | None:
    """The grid on which all of a value's numbers lie; None where that is not known."""
    if _is(node, DEQUANTIZE):
        return _figures(node)
    grids = {_grid(n, flags) for n in _carried(node, flags)}
    return grids.pop() if len(grids) == 1 else None


def _carried(node: Node, flags: frozenset[Node]) -> Iterable[Node]:
    """The values whose numbers, or zero, are this one's; none for a value that is computed."""
    if operator_name(node) in _MOVES | _POOLINGS | _JOINS:
        return _sources(node)
    if _selects(node, flags):
        return [n for n in _sources(node) if n not in flags]
    return _sources(node)[:1] if _takes_part_off(node, flags) else ()


def _selects(node: Node, flags: frozenset[Node]) -> bool:
    return _is(node, "mul") and len(_sources(node)) == 2 and len([n for n in _sources(node) if n in flags]) == 1


def _takes_part_off(node: Node, flags: frozenset[Node]) -> bool:
    """``rest - rest * flag``."""
    if not _is(node, "sub") or len(_sources(node)) != 2:
        return False
    rest, part = (_through_pairs(argument) for argument in node.args[:2])
    return _selects(cast("Node", part), flags) and rest in [_through_pairs(n) for n in _sources(cast("Node", part))]


def _carries(reader: Node, flags: frozenset[Node]) -> bool:
    """Whether an operator only moves or selects numbers, or compares them."""
    if reader.op == "output" or operator_name(reader) in _MOVES | _JOINS | _MASKS:
        return True
    if _is(reader, "sub") and all(_is(n, *_MASKS) for n in reader.users):
        return True
    return _selects(reader, flags) or _takes_part_off(reader, flags)


def _leads_to_result(node: Node) -> bool:
    return all(reader.op == "output" or (_is(reader, *_LEADING) and _leads_to_result(reader)) for reader in node.users)
