"""How much of int8's error each unit of a program makes, by measurement: all in float but this one.

The float values up to a unit are the same for all units behind it, so that each evaluation computes the network from
there on alone. Units are `values.units_of`: what computing one rounded value takes, and what moves it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mobileseg.quantization.program.plan import Plan
from mobileseg.quantization.program.simulate import Simulator, first_result, rounded_weights
from mobileseg.quantization.program.values import units_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule, Node


@dataclass(frozen=True)
class Sensitivity:
    """One unit's ``error``: the logits' squared error, relative to their squares, where it alone is in int8."""

    unit: tuple[Node, ...]
    error: float


def sensitivities(
    module: GraphModule,
    plan: Plan,
    pictures: Sequence[Tensor],
    progress: Callable[[int, int], None] | None = None,
) -> list[Sensitivity]:
    """Of each unit, in the program's order. ``pictures``: (1, 3, H, W) float32; as many evaluations as units a picture.

    ``progress``: called with the evaluations done, and all.
    """
    units, weights = list(units_of(plan.values, module)), rounded_weights(module, plan)
    errors = [0.0] * len(units)
    with torch.no_grad():
        for number, picture in enumerate(pictures):
            base = Stepper(module, nothing(plan), weights={})
            reference = base.result(picture)
            energy = max(float(reference.double().square().sum()), torch.finfo(torch.float32).tiny)
            base.start(picture)
            for place, unit in enumerate(units):
                found = alone(module, plan, units, place, weights).resume(base, unit[0])
                errors[place] += float((found - reference).double().square().sum()) / energy
                base.advance(unit)
                if progress is not None:
                    progress(number * len(units) + place + 1, len(units) * len(pictures))
    return [Sensitivity(unit, error / max(1, len(pictures))) for unit, error in zip(units, errors, strict=True)]


def nothing(plan: Plan) -> Plan:
    """The plan that rounds nothing."""
    return Plan(plan.values, {}, {}, frozenset())


def alone(
    module: GraphModule, plan: Plan, units: Sequence[tuple[Node, ...]], place: int, weights: Mapping[Node, Tensor]
) -> Stepper:
    """What runs one unit in int8 and all others in float: it rounds what the unit computes, and its weights, and not
    what it reads, which is other units' error. ``weights``: `rounded_weights` of the plan."""
    unit = units[place]
    ends = {n for n in unit if n in plan.scales}
    floats = frozenset(n for i, other in enumerate(units) if i != place for n in other)
    own = Plan(plan.values, {n: plan.ranges[n] for n in ends}, {n: plan.scales[n] for n in ends}, floats)
    return Stepper(module, own, weights={n: weights[n] for n in unit if n in weights})


class Stepper(Simulator):
    """Runs the program in pieces."""

    def result(self, picture: Tensor) -> Tensor:
        return first_result(self.run(picture))

    def start(self, picture: Tensor) -> None:
        self.args_iter = iter([picture])
        self.env = {}
        for node in self.graph.nodes:
            if node.op in {"placeholder", "get_attr"}:
                self.env[node] = self.run_node(node)

    def advance(self, nodes: Sequence[Node]) -> dict[Node, Any]:
        """Their values, also of those that nothing behind them reads."""
        found = {}
        for node in nodes:
            self.env[node] = found[node] = self.run_node(node)
            for dead in self.user_to_last_uses.get(node, []):
                del self.env[dead]
        return found

    def resume(self, base: Stepper, first: Node) -> Tensor:
        """What the program gives, from ``first`` on, on the values that ``base`` has reached."""
        self.env = dict(base.env)
        nodes = list(self.graph.nodes)
        for node in nodes[nodes.index(first) :]:
            if node.op == "output":
                return first_result(self.run_node(node))
            if node.op == "call_function":
                self.advance([node])
        raise ValueError("the program has no result")
