"""What static int8 does to a rewritten program: the scale of each rounded value, and what stays in float."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from mobileseg.quantization.params import CONCATENATION_LOSS, GREATEST, LARGEST_BIAS, LEAST, PICTURE, Params, params_of
from mobileseg.quantization.program.simulate import round_weights
from mobileseg.quantization.program.values import CONCATENATIONS, CONVOLUTIONS, constant, name_of, weight_axis

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

    from mobileseg.quantization.program.values import Values
    from mobileseg.quantization.ranges import Range, Statistics


@dataclass(frozen=True)
class Plan:
    """``ranges``, ``scales``: of each value that an int8 operator writes or reads. ``floats``: operators that compute
    in float.

    What an int8 operator computes is rounded behind it; what a float one computes, where an int8 one reads it: the
    float readers of the same value have it whole.
    """

    values: Values
    ranges: Mapping[Node, Range]
    scales: Mapping[Node, Params]
    floats: frozenset[Node] = frozenset()

    def scale_behind(self, node: Node) -> Params | None:
        """By which an operator's result is rounded at once."""
        return None if node in self.floats else self.scales.get(node)

    def scale_held(self, node: Node) -> Params | None:
        """By which the numbers that a value holds are rounded; None for zeros, ones, and what stays in float."""
        return None if node in self.values.flags else self.scales.get(self.values.root(node))

    def read_rounded(self) -> dict[Node, dict[Node, Params]]:
        """An int8 operator -> those of its arguments that float operators computed, and by what it rounds them."""
        found: dict[Node, dict[Node, Params]] = {}
        for node in self.floats:
            scale = self.scale_held(node)
            if scale is None:
                continue
            for reader in node.users:
                if reader.op == "call_function" and reader not in self.floats and reader not in self.values.flags:
                    found.setdefault(reader, {})[node] = scale
        return found

    def is_int8(self, node: Node) -> bool:
        """Whether a convolution computes in int8: it is not kept in float, and both its ends are rounded."""
        ends = (self.values.root(cast("Node", node.args[0])), self.values.root(node))
        return node not in self.floats and all(n in self.scales or n in self.values.flags for n in ends)


def ranges_of(
    values: Values, statistics: Mapping[Node, Statistics], method: Callable[[Statistics], Range]
) -> dict[Node, Range]:
    """Each rounded value's range, those of values with one scale joined.

    The result's is not cut: its order counts, and what is cut off becomes equal. What a convolution reads has a scale
    beside which its biases are 32-bit numbers: next to nothing, times weights, counts for nothing beside such a bias.
    """
    least = _least_scales(values)
    found: dict[Node, Range] = {}
    for node in values.rounded:
        if node.op == "placeholder":
            found[node] = PICTURE
        elif node in statistics:
            seen = statistics[node]
            found[node] = (seen.low, seen.high) if node in values.outputs else method(seen)
            if node in least:
                found[node] = _widened(found[node], least[node])
    return _joined(values, found)


def _least_scales(values: Values) -> dict[Node, float]:
    """Of each value that convolutions read."""
    found: dict[Node, float] = {}
    graphs = {node.graph for node in values.rounded}
    for node in (n for graph in graphs for n in graph.nodes if name_of(n) in CONVOLUTIONS and len(n.args) > 2):
        module = cast("GraphModule", node.graph.owning_module)
        weights, bias = constant(module, node.args[1]), constant(module, node.args[2])
        if weights is None or bias is None:
            continue
        scales = round_weights(weights, weight_axis(node))[1].flatten()
        each = bias.abs() / scales if len(bias) == len(scales) else bias.abs() / scales.min()
        source = values.root(cast("Node", node.args[0]))
        found[source] = max(found.get(source, 0.0), float(each.max()) / LARGEST_BIAS)
    return found


def _widened(seen: Range, scale: float) -> Range:
    """A range of at least this scale."""
    low, high = min(seen[0], 0.0), max(seen[1], 0.0)
    needed = scale * (GREATEST - LEAST)
    if high - low >= needed:
        return seen
    return (0.0, needed) if high == low else (low * needed / (high - low), high * needed / (high - low))


def _joined(values: Values, ranges: Mapping[Node, Range]) -> dict[Node, Range]:
    groups = _Groups(ranges)
    pairs = [(result, values.root(source)) for result, source in values.alike]
    # Concatenations last: whether one would widen its inputs' scales shows once these are known.
    for result, source in sorted(pairs, key=lambda pair: name_of(pair[0]) in CONCATENATIONS):
        if result not in ranges or source not in ranges:
            continue
        if name_of(result) in CONCATENATIONS and groups.loses(source, result) and groups.is_read_elsewhere(source):
            continue
        groups.join(result, source)
    return {node: groups.range(node) for node in ranges}


class _Groups:
    """Disjoint sets of values with one range each. A group with the picture keeps the picture's."""

    def __init__(self, ranges: Mapping[Node, Range]) -> None:
        self._ranges = dict(ranges)
        self._parent = {node: node for node in ranges}
        self._size = dict.fromkeys(ranges, 1)

    def root(self, node: Node) -> Node:
        while self._parent[node] is not node:
            node = self._parent[node]
        return node

    def range(self, node: Node) -> Range:
        return self._ranges[self.root(node)]

    def join(self, a: Node, b: Node) -> None:
        ra, rb = self.root(a), self.root(b)
        if ra is rb:
            return
        (la, ha), (lb, hb) = self._ranges[ra], self._ranges[rb]
        keeper, other = (rb, ra) if rb.op == "placeholder" else (ra, rb)
        self._parent[other] = keeper
        self._size[keeper] += self._size[other]
        if keeper.op != "placeholder":
            self._ranges[keeper] = (min(la, lb), max(ha, hb))

    def is_read_elsewhere(self, node: Node) -> bool:
        return len(node.users) > 1 or self._size[self.root(node)] > 1

    def loses(self, source: Node, result: Node) -> bool:
        (low, high), (wide_low, wide_high) = self.range(source), self.range(result)
        return (wide_high - wide_low) > CONCATENATION_LOSS * (high - low)


def plan_for(values: Values, ranges: Mapping[Node, Range], floats: frozenset[Node] = frozenset()) -> Plan:
    """The plan in which the operators ``floats`` compute in float.

    A value between two of them is not rounded; one that an int8 operator writes or reads is.
    """
    kept = {node: r for node, r in ranges.items() if not _is_only_float(values, node, floats)}
    return Plan(values, kept, {node: params_of(*r) for node, r in kept.items()}, floats)


def _is_only_float(values: Values, node: Node, floats: frozenset[Node]) -> bool:
    if not floats:
        return False
    if node.op != "placeholder" and node not in floats:
        return False
    return all(reader in floats for reader in readers_of(values, node))


def readers_of(values: Values, node: Node) -> list[Node]:
    """The operators that read a value's numbers, wherever those are moved."""
    found, waiting, seen = [], [node], {node}
    while waiting:
        for reader in waiting.pop().users:
            if reader.op == "output" or reader in seen:
                continue
            seen.add(reader)
            if reader in values.origin:
                waiting.append(reader)
            else:
                found.append(reader)
    return found
