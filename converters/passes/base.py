"""What a pass is, and the few graph edits that all passes share.

A pass works on the unlifted `torch.fx.GraphModule` of an ExportedProgram in canonical form (functional ATen, see
`mobileseg.converters.export`): weights are ``get_attr`` nodes, every node has its value's shape and dtype in
``meta["val"]``.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.fx.experimental.proxy_tensor import make_fx

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms

aten = torch.ops.aten

_NAME = "mobileseg_name"
_MODULE = "mobileseg_module"


@dataclass(frozen=True)
class Outcome:
    """How many places a pass rewrote, and which it left: one sentence each, naming the node and the reason."""

    count: int
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pass:
    """``apply`` edits the module in place. ``exact``: ``"bit-exact"`` or the tolerance; ``why``: which backend needs
    it."""

    name: str
    exact: str
    why: str
    apply: Callable[[GraphModule, Forms], Outcome]


def value(node: Node) -> torch.Tensor:
    """The (fake) tensor that a node computes: its shape and dtype, no numbers."""
    return cast("torch.Tensor", node.meta["val"])


def is_call(node: object, *targets: Any) -> bool:
    """Whether ``node`` calls one of these operators."""
    return isinstance(node, torch.fx.Node) and node.op == "call_function" and node.target in targets


def constant(module: GraphModule, node: object) -> torch.Tensor | None:
    """The numbers of a weight or buffer node; None when the node is computed from the input."""
    if not isinstance(node, torch.fx.Node) or node.op != "get_attr":
        return None
    return cast("torch.Tensor", operator.attrgetter(str(node.target))(module)).detach()


def add_constant(
    module: GraphModule, before: Node, name: str, tensor: torch.Tensor, source: object = None, role: str = ""
) -> Node:
    """A new weight of the module, and its node in front of ``before``.

    ``source``: the weight that it is made of, whose name in the network it keeps (`name_of`), so that a person finds it
    in a finished file; ``role``: takes the place of the name's last word. Without a source it is called ``name``. A
    number follows where a name is taken.
    """
    stem = name_of(source) or name.replace(".", "_")
    if role:
        stem = f"{stem.rpartition('_')[0] or stem}_{role}"
    names = itertools.chain([stem], (f"{stem}_{i}" for i in itertools.count(1)))
    free = next(n for n in names if not hasattr(module, n))
    module.register_buffer(free, tensor.contiguous())
    with module.graph.inserting_before(before):
        node = module.graph.get_attr(free)
    node.meta["val"], node.meta[_NAME] = tensor.to("meta"), stem
    return node


def name_of(node: object) -> str | None:
    """A weight node's name in the network, in one word (``"encoder_conv_weight"``), also after it was made anew; None
    for what is no weight."""
    if not isinstance(node, torch.fx.Node) or node.op != "get_attr":
        return None
    return str(node.meta.get(_NAME, node.target)).replace(".", "_")


def module_of(node: Node) -> str:
    """The path of the module whose forward calls this operator, or the one that it was written for in a rewriting
    (``"network.encoder.conv"``); empty where it is of none."""
    stack = node.meta.get("nn_module_stack")
    return str(node.meta[_MODULE] if _MODULE in node.meta else next(reversed(stack.values()))[0] if stack else "")


def written_for(node: Node, original: Node) -> None:
    """Say that ``node`` computes a part of what ``original`` did (`module_of`)."""
    node.meta[_MODULE] = module_of(original)


def inline(before: Node, function: Callable[..., Any], *arguments: Node) -> list[Node]:
    """Trace ``function`` of the arguments' tensors and put its operators in front of ``before``, in the name of its
    module; the nodes of what it returns."""
    # Defaults of the function's own would be traced as inputs; behind *args they are not.
    traced = make_fx(lambda *args: function(*args), pre_dispatch=True)(
        *(value(a).detach().to("meta") for a in arguments)
    )
    graph = before.graph
    mapping: dict[Node, Node] = dict(
        zip((n for n in traced.graph.nodes if n.op == "placeholder"), arguments, strict=True)
    )
    with graph.inserting_before(before):
        for node in traced.graph.nodes:
            if node.op == "call_function":
                mapping[node] = graph.node_copy(node, lambda n: mapping[n])
                written_for(mapping[node], before)
    result = traced.graph.output_node().args[0]
    outputs: Sequence[Node] = [result] if isinstance(result, torch.fx.Node) else cast("Sequence[Node]", result)
    return [mapping[n] for n in outputs]


def replace(node: Node, function: Callable[..., torch.Tensor], *arguments: Node) -> Node:
    """Compute ``node``'s value by ``function`` of the arguments instead; the node is erased."""
    (new,) = inline(node, function, *arguments)
    substitute(node, new)
    return new


def substitute(node: Node, new: Node) -> None:
    """Hand all users of ``node`` to ``new`` and erase ``node``."""
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)


def pair(argument: Any) -> tuple[int, int]:
    """An operator's ``int[2]`` argument, which may be one number or a list of one."""
    if isinstance(argument, int):
        return argument, argument
    values = list(argument)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def arguments_of(node: Node) -> dict[str, Any]:
    """A node's arguments by the schema's names, defaults filled in."""
    schema = cast("Any", node.target)._schema.arguments
    given = dict(zip((a.name for a in schema), node.args, strict=False)) | dict(node.kwargs)
    return {a.name: given.get(a.name, a.default_value if a.has_default_value() else None) for a in schema}
