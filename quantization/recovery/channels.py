"""Which channels of a network must be scaled by one factor, and how its weights change where they are.

A positive factor for a channel of a convolution's output is undone in whatever reads it. In between, operators may
stand that a positive factor goes through unchanged: ReLU, leaky ReLU and PReLU, poolings and unpoolings, resizing,
additions, concatenations, shuffles. So channels hang together all over the graph: the two terms of an addition, all
blocks along a chain of residual ones. What knows no factors (sigmoid, softmax, a limit other than zero, the addition of
a constant, an operator without a rule) keeps what it reads as it is; so do the picture and the network's output.

Nagel, van Baalen, Blankevoort, Welling: Data-free quantization through weight equalization and bias correction
(arXiv 1906.04721) does so for two neighbouring convolutions with a ReLU between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from mobileseg.quantization.recovery.classes import Classes

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

Value = Tensor | tuple[Tensor | None, ...] | None
"""The classes of what a node gives: of a tensor, of several, or of what is no tensor."""

HUGE = 2.0**100
"""Weights from here on are left alone: scaled they might be infinite."""


@dataclass(frozen=True)
class Use:
    """How one operator wants one of its weights scaled: by the factors of ``gains``, divided by those of ``losses``;
    both broadcast to the weight's shape."""

    weight: Node
    gains: Tensor
    losses: Tensor


@dataclass(frozen=True)
class Step:
    value: Value
    uses: tuple[Use, ...] = ()


@dataclass(frozen=True)
class Channels:
    """``values``: the classes of what each node gives. ``weights``: what each weight is multiplied by and divided by,
    a placeholder each. ``constants``: their numbers."""

    classes: Classes
    values: Mapping[Node, Value]
    weights: Mapping[Node, tuple[Tensor, Tensor]]
    constants: Mapping[Node, Tensor]


Rule = Callable[["Walk", "Node"], Step | None]
"""What an operator does with factors; None where it, as it stands there, lets none through."""


def find_channels(program: ExportedProgram, rules: Mapping[Any, Rule]) -> Channels:
    """The classes of all channels of a program in canonical form (functional ATen, weights as placeholders).
    ``rules``: by operator; any other keeps what it reads as it is."""
    walk = Walk(constants_of(program), rules)
    for node in program.graph.nodes:
        walk.visit(node)
    return Channels(walk.classes, walk.values, walk.weights, walk.constants)


def names_of(program: ExportedProgram) -> dict[str, str]:
    """Of each placeholder of a parameter, a buffer or another constant: whose name in the program it stands for."""
    signature = program.graph_signature
    return {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }


def constants_of(program: ExportedProgram) -> dict[Node, Tensor]:
    """Parameters, buffers and other constants of a program by their placeholders."""
    names = names_of(program)
    tensors = {**program.constants, **program.state_dict}
    nodes = (node for node in program.graph.nodes if node.op == "placeholder" and node.name in names)
    return {node: tensors[names[node.name]].detach() for node in nodes}


class Walk:
    """What is known after a number of nodes in their order."""

    def __init__(self, constants: dict[Node, Tensor], rules: Mapping[Any, Rule]) -> None:
        self.rules = rules
        self.classes = Classes()
        self.constants = constants
        self.values: dict[Node, Value] = {}
        self.weights: dict[Node, tuple[Tensor, Tensor]] = {}

    def visit(self, node: Node) -> None:
        rule = self.rules.get(node.target) if node.op == "call_function" else None
        step = rule(self, node) if rule is not None else None
        if step is None:
            step = self._unknown(node)
        self.values[node] = step.value
        for use in step.uses:
            self._use(use)
        scaled = {use.weight for use in step.uses}
        one = torch.zeros(1, dtype=torch.int64)
        for weight in node.all_input_nodes:
            if weight in self.constants and weight not in scaled:
                self._use(Use(weight, one, one))

    def _use(self, use: Use) -> None:
        gains, losses = use.gains, use.losses
        if use.weight in self.weights:
            # Two operators read it: what they want must be the same.
            before = self.weights[use.weight]
            gains, losses = self.classes.join(before[0], gains), self.classes.join(before[1], losses)
        elif self.constants[use.weight].is_floating_point() and not _is_moderate(self.constants[use.weight]):
            self.classes.pin(gains)
            self.classes.pin(losses)
        self.weights[use.weight] = gains, losses

    def _unknown(self, node: Node) -> Step:
        for source in node.all_input_nodes:
            for ids in _each(self.values[source]):
                self.classes.pin(ids)
        return Step(mapped(node.meta.get("val"), lambda value: self.classes.pinned(value.ndim)))

    def ids(self, argument: object) -> Tensor | None:
        """The classes of what an argument's node gives, where that is one tensor."""
        found = self.values.get(argument) if isinstance(argument, torch.fx.Node) else None
        return found if isinstance(found, Tensor) else None

    def weight(self, argument: object) -> Tensor | None:
        """A weight's numbers; None for what is computed, or for no argument."""
        return self.constants.get(argument) if isinstance(argument, torch.fx.Node) else None

    def by_channel(self, argument: object) -> Tensor | None:
        """The classes (C,) of a value (N, C, ...)."""
        ids = self.ids(argument)
        if ids is None or ids.ndim < 2:
            return None
        merged = self.classes.merged(ids, (0, *range(2, ids.ndim)))
        return merged.flatten().expand(shape(argument)[1])


def _is_moderate(weight: Tensor) -> bool:
    return bool((weight.abs() < HUGE).all())


def _each(value: Value) -> Iterator[Tensor]:
    for ids in value if isinstance(value, tuple) else (value,):
        if ids is not None:
            yield ids


def mapped(value: object, function: Callable[[Tensor], Tensor]) -> Value:
    """A function of a tensor, or of each of several."""
    if isinstance(value, (tuple, list)):
        return tuple(function(v) if isinstance(v, Tensor) else None for v in value)
    return function(value) if isinstance(value, Tensor) else None


def shape(node: object) -> torch.Size:
    return cast("Tensor", cast("Node", node).meta["val"]).shape


def arguments(node: Node) -> dict[str, Any]:
    """A node's arguments by the schema's names, defaults filled in."""
    schema = cast("Any", node.target)._schema.arguments
    given = dict(zip((a.name for a in schema), node.args, strict=False)) | dict(node.kwargs)
    return {a.name: given.get(a.name, a.default_value if a.has_default_value() else None) for a in schema}
