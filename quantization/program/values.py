"""Which values of a rewritten program become 8-bit numbers, and which of them have one scale.

rounded     the result of an operator that computes: to 8 bits behind it
fused       the result of a convolution, an addition, ... that only a limit (ReLU) reads: the kernel applies both
            before it rounds
moved       elements of one value at other places (permutation, slice, padding, pooling's maxima): its numbers,
            nothing to round
flags       zeros and ones, and what leads to them: the masks of max-unpooling (`converters.passes.rewrite_unpooling`)
            are exact in 8 bits, and so are their products with a value
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch.fx import GraphModule, Node

CONVOLUTIONS = frozenset({"conv2d", "conv_transpose2d", "linear"})
"""Operators whose second argument is weights, the third a bias."""

MATRICES = frozenset({"matmul", "mm", "bmm"})

LIMITS = frozenset({"relu", "hardtanh", "relu6", "clamp"})
BEFORE_LIMITS = CONVOLUTIONS | {"add", "sub", "mul"}

MOVES = frozenset(
    {"alias", "clone", "contiguous", "permute", "transpose", "numpy_T", "t", "reshape", "view", "_unsafe_view"}
    | {"expand", "repeat", "unsqueeze", "squeeze", "slice", "select", "narrow", "split_with_sizes", "unbind", "getitem"}
    | {"pad", "constant_pad_nd", "max_pool2d", "space_to_depth", "depth_to_space", "pixel_shuffle", "pixel_unshuffle"}
    | {"upsample_nearest2d"}
)
"""The result holds elements of the one computed argument, and a constant border."""

CONCATENATIONS = frozenset({"cat", "stack"})
SHARED = frozenset({"maximum", "minimum", "upsample_bilinear2d"})
"""Kernels that compare or mix numbers without rescaling them: inputs and result have one scale."""

HEADS = frozenset({"softmax", "_softmax", "upsample_bilinear2d"})
"""What may follow the logits, beside an argmax."""

STEPS = frozenset({"ceil", "sign"})
"""With what a mask of zeros and ones begins."""


def name_of(node: Node) -> str:
    """The operator's bare name (``"conv2d"``); empty for a node that calls none."""
    if node.op != "call_function":
        return ""
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.name.split("::")[1]
    return getattr(node.target, "__name__", "")


def sources(node: Node) -> list[Node]:
    """The arguments that are computed from the picture, each once."""
    return [n for n in node.all_input_nodes if n.op != "get_attr"]


def weight_axis(node: Node) -> int:
    """The axis of output channels of a convolution's weights."""
    return 1 if name_of(node) == "conv_transpose2d" else 0


def constant(module: GraphModule, node: object) -> torch.Tensor | None:
    """The numbers of a weight node; None for what is computed."""
    if not isinstance(node, torch.fx.Node) or node.op != "get_attr":
        return None
    tensor = operator.attrgetter(str(node.target))(module)
    return tensor.detach() if isinstance(tensor, torch.Tensor) else None


@dataclass(frozen=True)
class Values:
    """``rounded``: in the program's order. ``fused``: a value -> the limit that alone reads it. ``origin``: a moved
    value -> the value whose numbers it holds. ``flags``: zeros, ones, and what leads to them. ``alike``: pairs with one
    scale. ``outputs``: rounded values whose numbers are the program's result.
    """

    rounded: tuple[Node, ...]
    fused: Mapping[Node, Node]
    origin: Mapping[Node, Node]
    flags: frozenset[Node]
    alike: tuple[tuple[Node, Node], ...]
    outputs: frozenset[Node]

    def root(self, node: Node) -> Node:
        """The rounded value whose numbers ``node`` holds, or, fused, will hold."""
        while node in self.origin or node in self.fused:
            node = self.origin.get(node) or self.fused[node]
        return node


def values_of(module: GraphModule) -> Values:
    """Sort the values of a rewritten program, an unlifted module whose nodes have ``meta["val"]``."""
    found = _Sorting()
    for node in module.graph.nodes:
        if node.op == "placeholder":
            found.rounded.append(node)
        elif node.op == "call_function" and is_float(node):
            found.take(node, module)
    outputs = frozenset(_results(module, found.origin))
    return Values(
        tuple(found.rounded),
        found.fused,
        found.origin,
        frozenset(found.flags),
        tuple(found.alike),
        outputs & frozenset(found.rounded),
    )


def is_float(node: Node) -> bool:
    """Whether a node's value is a tensor of floating-point numbers."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _results(module: GraphModule, origin: Mapping[Node, Node]) -> Iterator[Node]:
    """Values whose numbers, or whose order, are the program's result."""
    waiting = list(module.graph.output_node().all_input_nodes)
    while waiting:
        node = waiting.pop()
        if node in origin or name_of(node) in HEADS:
            waiting.extend([origin[node]] if node in origin else sources(node))
        elif node.op == "call_function" and not is_float(node):
            waiting.extend(sources(node))
        else:
            yield node


def _behind(node: Node, origin: Mapping[Node, Node]) -> Node:
    while node in origin:
        node = origin[node]
    return node


@dataclass
class _Sorting:
    rounded: list[Node] = field(default_factory=list)
    fused: dict[Node, Node] = field(default_factory=dict)
    origin: dict[Node, Node] = field(default_factory=dict)
    flags: set[Node] = field(default_factory=set)
    alike: list[tuple[Node, Node]] = field(default_factory=list)

    def take(self, node: Node, module: GraphModule) -> None:
        name, read = name_of(node), sources(node)
        flagged = [n for n in read if n in self.flags]
        if name in STEPS or self._leads_to_step(node) or (read and len(flagged) == len(read)):
            self.flags.add(node)
        elif flagged:
            self._select(node, name, read)
        elif self._moves(node, name, read):
            self.origin[node] = read[0]
        elif name in BEFORE_LIMITS and (limit := _only_reader(node, LIMITS)) is not None:
            self.fused[node] = limit
        elif (maximum := _is_scaled_for(node, name, read)) is not None:
            self.fused[node] = maximum
        else:
            self.rounded.append(node)
            if name in SHARED | CONCATENATIONS:
                self.alike.extend((node, n) for n in read if n not in self.fused)

    def _leads_to_step(self, node: Node) -> bool:
        name = name_of(node)
        if name not in {"sub", "clamp", "minimum"}:
            return False
        readers = list(node.users)
        return bool(readers) and all(
            name_of(n) in STEPS or (name != "clamp" and self._leads_to_step(n)) for n in readers
        )

    def _select(self, node: Node, name: str, read: list[Node]) -> None:
        """A value times a flag holds that value's numbers, or zero."""
        values = [n for n in read if n not in self.flags]
        if name == "mul" and len(values) == 1:
            self.origin[node] = values[0]
        else:
            self.rounded.append(node)

    def _moves(self, node: Node, name: str, read: list[Node]) -> bool:
        if name in MOVES and len(read) == 1:
            return True
        return self._takes_part_off(node, name, read) or self._joins_parts(name, read)

    def _takes_part_off(self, node: Node, name: str, read: list[Node]) -> bool:
        """Whether this is ``rest - rest * flag``."""
        if name != "sub" or len(read) != 2 or node.args[0] is not read[0]:
            return False
        rest, part = read
        return name_of(part) == "mul" and any(n in self.flags for n in sources(part)) and rest in sources(part)

    def _joins_parts(self, name: str, read: list[Node]) -> bool:
        """Whether this adds, or puts together, selections of one value that do not overlap."""
        if name not in {"add", *CONCATENATIONS} or len(read) < 2 or not all(n in self.origin for n in read):
            return False
        return all(self._is_selected(n) for n in read) and len({_behind(n, self.origin) for n in read}) == 1

    def _is_selected(self, node: Node) -> bool:
        """Whether a flag had a part in it."""
        while node in self.origin:
            if name_of(node) == "mul" or name_of(node) == "sub":
                return True
            node = self.origin[node]
        return False


def _only_reader(node: Node, names: frozenset[str]) -> Node | None:
    readers = list(node.users)
    return readers[0] if len(readers) == 1 and name_of(readers[0]) in names else None


def _is_scaled_for(node: Node, name: str, read: list[Node]) -> Node | None:
    """The ``max(x, a x)``, or minimum, of which this is the ``a x``."""
    maximum = _only_reader(node, SHARED) if name in {"mul", "conv2d"} and len(read) == 1 else None
    return maximum if maximum is not None and read[0] in maximum.all_input_nodes else None


def units_of(values: Values, module: GraphModule) -> Iterator[tuple[Node, ...]]:
    """The operators that computing one rounded value takes, in the program's order: what is kept in float together.

    Moves and flags belong to the unit before them.
    """
    unit: list[Node] = []
    ends = set(values.rounded)
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        if unit and any(n in ends for n in unit) and not (node in values.origin or node in values.flags):
            yield tuple(unit)
            unit = []
        unit.append(node)
    if unit:
        yield tuple(unit)
