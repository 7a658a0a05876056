"""What does not depend on the picture is computed once, by torch itself.

Before: linspace -> view -> expand -> cat(x, .) -> z           After:  constant -> cat(x, .) -> z
        weight -> norm -> div -> mul -> conv2d(x, .) -> z              constant -> conv2d(x, .) -> z
        full(v) of x's height and width -> cat(x, .) -> z              x -> pad(value v) -> z

Coordinates, position encodings, normalised weights and the like. A plane of one number that is concatenated before or
behind is a padding: as a constant it would stand in the file in full.

Preconditions: deterministic operators of constants alone, whose result is a tensor. A large tensor of one number that
is not concatenated is left to be made at run time.

Exactness: bit-exact, the same kernels compute the same numbers. TFLite needs it: litert-torch lowers some such
operators to ones that its runtime does not have (STABLEHLO_IOTA) or that fail to prepare (BROADCAST_TO); the passes
behind it see constant weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from mobileseg.converters.passes.base import (
    Outcome,
    Pass,
    add_constant,
    arguments_of,
    aten,
    constant,
    is_call,
    replace,
    substitute,
    value,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms

_LARGE = 4096
"""Numbers in a tensor of one number from which it is not worth its place in the file."""


_SHAPED = (
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
)
"""Operators that take no more from a tensor than its shape and type."""


def _values(module: GraphModule) -> dict[Node, Any]:
    """The values of all nodes that do not depend on the picture."""
    values: dict[Node, Any] = {}
    for node in module.graph.nodes:
        number = constant(module, node)
        if number is not None:
            values[node] = number
        elif is_call(node, *_SHAPED):
            values[node] = _called(
                node, {n: torch.empty(value(n).shape, dtype=value(n).dtype) for n in node.all_input_nodes}
            )
        elif node.op == "call_function" and _is_pure(node) and all(n in values for n in node.all_input_nodes):
            values[node] = _called(node, values)
    return values


def _called(node: Node, values: dict[Node, Any]) -> Any:
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: values[n])
    return cast("Callable[..., Any]", node.target)(*args, **kwargs)


def _is_pure(node: Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.target.__module__ == "_operator" if callable(node.target) else False
    return torch.Tag.nondeterministic_seeded not in node.target.tags and not node.target._schema.is_mutable


def _is_uniform(tensor: Tensor) -> bool:
    return tensor.numel() > 0 and bool((tensor == tensor.reshape(-1)[0]).all())


def _pad(cat: Node, values: dict[Node, Any]) -> bool:
    """Whether this concatenation of one tensor with planes of one number was rewritten as its padding."""
    a = arguments_of(cat)
    parts, dim = cast("list[Node]", a["tensors"]), a["dim"] % value(cat).ndim
    computed = [i for i, part in enumerate(parts) if part not in values]
    numbers = [values[part] for part in parts if part in values]
    if len(computed) != 1 or not numbers or value(parts[computed[0]]).dtype is not value(cat).dtype:
        return False
    if not _is_uniform(torch.cat([n.reshape(-1) for n in numbers])) or not numbers[0].is_floating_point():
        return False
    (i,), fill = computed, float(numbers[0].reshape(-1)[0])
    before, behind = (sum(value(part).shape[dim] for part in side) for side in (parts[:i], parts[i + 1 :]))
    margins = [0, 0] * (value(cat).ndim - dim - 1) + [before, behind]
    replace(cat, lambda x: torch.nn.functional.pad(x, margins, value=fill), parts[i])
    return True


def _only_weight(node: Node) -> Node | None:
    """The weight that a node is computed of, where it is one."""
    seen, found = {node}, {node}
    while found:
        found = {source for n in found for source in n.all_input_nodes} - seen
        seen |= found
    weights = [n for n in seen if n.op == "get_attr"]
    return weights[0] if len(weights) == 1 else None


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    values = _values(module)
    count = 0
    for node in list(module.graph.nodes):
        if is_call(node, aten.cat.default) and node not in values:
            count += _pad(node, values)
    module.graph.eliminate_dead_code()
    for node in list(module.graph.nodes):
        result = values.get(node)
        if node.op == "get_attr" or not isinstance(result, Tensor) or all(user in values for user in node.users):
            continue
        if result.numel() >= _LARGE and _is_uniform(result):
            continue
        substitute(node, add_constant(module, node, f"{node.name}_value", result, _only_weight(node)))
        count += 1
    module.graph.eliminate_dead_code()
    return Outcome(count)


PASS = Pass(
    name="fold_constants",
    exact="bit-exact",
    why="what does not depend on the picture needs no operators at run time",
    apply=_apply,
)
