"""What a delegate took of a program and what it left, as the JSON object that the file carries.

A delegate's payload is in its own format, from which ExecuTorch reads nothing back; here the operators still have their
names, and the constants theirs from the network.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

    from mobileseg.converters.executorch.delegates import Delegate
    from mobileseg.converters.executorch.delegates.base import Removed

_DELEGATE_CALL = "executorch_call_delegate"


def lowered_modules(program: ExportedProgram) -> list[Any]:
    """ExecuTorch's modules of a lowered program, in the order of their calls."""
    calls = (n for n in program.graph.nodes if _name(n) == _DELEGATE_CALL)
    return [getattr(program.graph_module, str(n.args[0].target)) for n in calls]


def describe(
    program: ExportedProgram,
    delegate: Delegate,
    reasons: Mapping[str, str],
    removed: Removed,
    rounded: Callable[[Node], Node | None] = lambda node: None,
) -> dict[str, Any]:
    """``calls``: for each call of the delegate the operators that it stands for, with counts, as ExecuTorch's edge
    dialect names them. ``removed``: how many operators of the delegate's own (transpositions between memory orders,
    which the edge dialect does not show) ExecuTorch would have written, and the file has not. ``left``: why each of the
    others is left. ``layers``: name, operator, type and bytes of the constants of each operator that has some.
    ``constants``: how many there are of each type. ``rounded``: the weights of an operator that the delegate's compiler
    makes int8, with a float32 scale for each of their first axis."""
    modules = lowered_modules(program)
    taken = [module.original_module for module in modules]
    fewer = sum((Counter(removed.get(module.processed_bytes, {})) for module in modules), Counter[str]())
    constants = [c for p in (*taken, program) for c in _constants(p)]
    int8 = frozenset(w for p in taken for call in _all_calls(p) if (w := rounded(call)) is not None)
    left = _operators(program) if delegate.otherwise else {}
    return {
        "delegate": delegate.name,
        "calls": [_operators(p) for p in taken],
        "removed": dict(sorted(fewer.items())),
        "left": {name: reasons.get(name, delegate.otherwise) for name in left},
        "layers": [list(layer) for p in (*taken, program) for layer in _layers(p, int8)],
        "constants": dict(sorted(Counter(_dtype(c, int8) for c in constants).items())),
    }


def _name(node: Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _all_calls(program: ExportedProgram) -> list[Node]:
    """The nodes that compute: operators, and the delegate's calls, which may be given constants, too."""
    return [n for n in program.graph.nodes if n.op == "call_function" and n.target is not operator.getitem]


def _operators(program: ExportedProgram) -> dict[str, int]:
    names = Counter(_name(n) for n in _all_calls(program))
    return {name: count for name, count in sorted(names.items()) if name != _DELEGATE_CALL}


def _names(program: ExportedProgram) -> dict[str, str]:
    """The network's name of each constant, by the name of its node."""
    signature = program.graph_signature
    tables = (
        signature.inputs_to_parameters,
        signature.inputs_to_buffers,
        signature.inputs_to_lifted_tensor_constants,
    )
    return {node: name for table in tables for node, name in table.items()}


def _constants(program: ExportedProgram) -> list[Node]:
    names, used = _names(program), {n for call in _all_calls(program) for n in call.all_input_nodes}
    return [n for n in program.graph.nodes if n.name in names and n in used]


def _layers(program: ExportedProgram, int8: Container[Node]) -> Iterator[tuple[str, str, str, int]]:
    names = _names(program)
    seen: set[Node] = set()
    for call in _all_calls(program):
        own = [n for n in call.all_input_nodes if n.name in names and n not in seen]
        seen.update(own)
        if own:
            largest = max(own, key=_bytes)
            yield names[largest.name], _name(call), _dtype(largest, int8), sum(_bytes(c, int8) for c in own)


def _dtype(constant: Node, int8: Container[Node] = ()) -> str:
    return "int8" if constant in int8 else str(constant.meta["val"].dtype).removeprefix("torch.")


def _bytes(constant: Node, int8: Container[Node] = ()) -> int:
    found = constant.meta["val"]
    return int(found.numel() + 4 * found.shape[0] if constant in int8 else found.numel() * found.itemsize)
