"""Which pass changed which node of a network's graph: where to look when a node's value is wrong in a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mobileseg.converters.forms import forms_for
from mobileseg.converters.passes import PASSES

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

    from mobileseg.converters.export import Exported


def touched(exported: Exported, target: str, precision: str) -> dict[str, tuple[str, ...]]:
    """Names of the exported graph's nodes, each with the passes that replaced it, or changed its operator or constants.

    ``target``: a backend of `converters.forms.TABLE`. Raises KeyError for one that is not there.
    """
    module = exported.program.module(check_guards=False)
    forms = forms_for(target, precision)
    names = {node: node.name for node in module.graph.nodes}
    found: dict[str, list[str]] = {}
    before = _states(module)
    for item in PASSES:
        item.apply(module, forms)
        after = _states(module)
        for node, state in before.items():
            if node in names and _differs(state, after.get(node)):
                found.setdefault(names[node], []).append(item.name)
        before = after
    return {name: tuple(passes) for name, passes in found.items()}


_State = tuple[Any, tuple[Any, ...], bool]
"""Operator, constants among the arguments, whether anything reads it."""


def _states(module: GraphModule) -> Mapping[Node, _State]:
    return {node: (node.target, _constants(node), bool(node.users)) for node in module.graph.nodes}


def _constants(node: Node) -> tuple[Any, ...]:
    from torch.fx import Node

    given = (*node.args, *node.kwargs.values())
    # Of what is computed from the picture another node may take the place; that is the other node's change.
    return tuple(
        str(value.target) if isinstance(value, Node) and value.op == "get_attr" else str(value)
        for value in given
        if not (isinstance(value, Node) and value.op != "get_attr") and not isinstance(value, (list, tuple))
    )


def _differs(before: _State, after: _State | None) -> bool:
    if after is None:
        return True
    return before[:2] != after[:2] or (before[2] and not after[2])
