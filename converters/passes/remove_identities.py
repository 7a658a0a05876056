"""What changes nothing goes; whole numbers among a float operator's limits become floats.

Before: x -> alias | detach -> z                               After:  x -> z
        x -> expand(x's own shape) -> z                                x -> z
        x -> hardtanh(0, 6) | clamp(0, 6) -> z                         x -> hardtanh(0.0, 6.0) | clamp(0.0, 6.0) -> z
        assertions of tracing about a tensor's type                    -

Preconditions: the limits are those of a floating-point tensor; a picture that comes out as it went in keeps its alias.
(A clone is no such operator: a view behind it may need its memory layout.)

Exactness: bit-exact. Core ML needs it: coremltools knows no alias, and refuses whole numbers beside a float tensor
(`torch.nn.functional.relu6` writes them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from mobileseg.converters.passes.base import Outcome, Pass, aten, is_call, substitute, value

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms

_IDENTITIES = (aten.alias.default, aten.detach.default)
_LIMITS = (aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default)


def _is_identity(node: Node) -> bool:
    if is_call(node, aten.expand.default):
        return value(node).shape == value(cast("Node", node.args[0])).shape
    return is_call(node, *_IDENTITIES)


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    count = 0
    for node in list(module.graph.nodes):
        if is_call(node, aten._assert_tensor_metadata.default):
            module.graph.erase_node(node)
        elif _is_identity(node):
            source = cast("Node", node.args[0])
            if source.op == "placeholder" and any(user.op == "output" for user in node.users):
                continue
            substitute(node, source)
            count += 1
        elif is_call(node, *_LIMITS) and value(node).is_floating_point():
            floats = tuple(float(a) if isinstance(a, int) else a for a in node.args[1:])
            count += int(any(isinstance(a, int) for a in node.args[1:]))
            node.args = (node.args[0], *floats)
    return Outcome(count)


PASS = Pass(
    name="remove_identities",
    exact="bit-exact",
    why="converters stumble over operators that do nothing, and over whole numbers beside floats",
    apply=_apply,
)
