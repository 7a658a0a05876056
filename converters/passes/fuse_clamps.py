"""Limits one behind the other become one.

Before: x -> relu -> hardtanh(-0.5, 0.5) -> z          After: x -> hardtanh(0.0, 0.5) -> z
        x -> relu -> relu -> z                                x -> relu -> z
        x -> clamp(min=-1) -> clamp_max(2) -> z               x -> hardtanh(-1.0, 2.0) -> z

The limits of the second, l and h, hold for those of the first: max(l, min(h, max(a, min(b, x)))) has the lower limit
max(l, min(h, a)) and the upper one max(l, min(h, b)).

Preconditions: floating point; limits that are numbers, the lower not above the upper; nobody else reads the first.

Exactness: bit-exact, the sign of a zero apart. ExecuTorch needs it: of two limits behind a convolution XNNPACK's
partitioner fuses both into it, and the second replaces the first (1.5.1: `relu` then `hardtanh(-0.5, 0.5)` gives
negative numbers).
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, cast

from mobileseg.converters.passes.base import Outcome, Pass, arguments_of, aten, value

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms

Limits = tuple[float, float]

_FIXED = {aten.relu.default: (0.0, inf), aten.relu6.default: (0.0, 6.0)}
# The names of an operator's lower and upper limit; an argument that is missing is no limit.
_NAMED = {
    aten.clamp.default: ("min", "max"),
    aten.clamp_min.default: ("min", ""),
    aten.clamp_max.default: ("", "max"),
    aten.hardtanh.default: ("min_val", "max_val"),
}


def limits_of(node: Node) -> Limits | None:
    """A node's lower and upper limit; None for a node that is none of these."""
    if node.op != "call_function" or node.target not in {**_FIXED, **_NAMED} or not value(node).is_floating_point():
        return None
    if node.target in _FIXED:
        return _FIXED[node.target]
    given = arguments_of(node)
    lower, upper = (given.get(name) for name in _NAMED[node.target])
    found = (-inf if lower is None else float(lower), inf if upper is None else float(upper))
    return found if found[0] <= found[1] else None


def composed(first: Limits, second: Limits) -> Limits:
    """Of ``second`` behind ``first``."""
    low, high = second
    return max(low, min(high, first[0])), max(low, min(high, first[1]))


def _write(node: Node, x: Node, limits: Limits) -> None:
    low, high = limits
    if limits in _FIXED.values():
        node.target = next(target for target, fixed in _FIXED.items() if fixed == limits)
        node.args = (x,)
    elif low == -inf or high == inf:
        node.target = aten.clamp.default
        node.args = (x, None if low == -inf else low, None if high == inf else high)
    else:
        node.target, node.args = aten.hardtanh.default, (x, low, high)
    node.kwargs = {}


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    count = 0
    for node in list(module.graph.nodes):
        second = limits_of(node)
        first = cast("Node", node.args[0]) if second else None
        if second is None or first is None or len(first.users) != 1:
            continue
        before = limits_of(first)
        if before is not None:
            _write(node, cast("Node", first.args[0]), composed(before, second))
            module.graph.erase_node(first)
            count += 1
    return Outcome(count)


PASS = Pass(
    name="fuse_clamps",
    exact="bit-exact",
    why="of two limits behind a convolution, ExecuTorch's partitioner for XNNPACK loses the first",
    apply=_apply,
)
