"""What a person calls the values of a rewritten program: the checkpoint's layers, as far as tracing told them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobileseg.quantization.program.values import CONVOLUTIONS, MATRICES, name_of, sources

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.fx import GraphModule, Node

    from mobileseg.quantization.program.values import Values

WRITTEN_FOR = "mobileseg_module"
"""A node's metadata: the module that a rewriting wrote it for."""

_DEPLOYED, _REDUCED = "network.", "mobileseg.foreign.Logits"
"""Under which name `converters.export.Deployed` has the network, and what may stand between the two."""


def layers_of(module: GraphModule) -> dict[Node, str]:
    """Each node's layer in the checkpoint, ``"encoder.stage1.conv"``: for what a rewrite made anew that of what it
    reads, or, at the beginning, of what reads it; empty for the picture and where there is none."""
    found: dict[Node, str] = {}
    for node in module.graph.nodes:
        found[node] = _own_layer(node) or next((found[s] for s in sources(node) if found[s]), "")
    for node in reversed(module.graph.nodes):
        if node.op == "call_function" and not found[node]:
            found[node] = next((found[reader] for reader in node.users if found[reader]), "")
    return found


def _own_layer(node: Node) -> str:
    """Of the module that a rewriting wrote the node for (`converters.passes.base.written_for`), or whose forward called
    it."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = node.meta[WRITTEN_FOR] if WRITTEN_FOR in node.meta else stack[-1][0] if stack else ""
    path = f"{path}.".removeprefix(_DEPLOYED)
    if any(str(kind).endswith(_REDUCED) for _, kind in stack):
        path = path.removeprefix(_DEPLOYED)
    return path.rstrip(".")


def named(node: Node, layers: Mapping[Node, str]) -> str:
    """A value's layer, or its own name in the program."""
    return layers.get(node) or node.name


def head_of(unit: Sequence[Node], values: Values) -> Node:
    """The operator that a unit is called after: its convolution, else what computes its value."""
    weighted = (n for n in unit if name_of(n) in CONVOLUTIONS | MATRICES and n not in values.flags)
    computing = (n for n in unit if n in values.rounded)
    return next(weighted, None) or next(computing, unit[0])
