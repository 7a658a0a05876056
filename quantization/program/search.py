"""Which operators to keep in float, where int8 throughout misses its budget.

Units are ordered by the error that each makes alone (`sensitivity`), for what its computation costs. Of the first k in
float, the least k is looked for by bisection whose plan meets the budget on the pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mobileseg.quantization.program.plan import plan_for
from mobileseg.quantization.program.sensitivity import Sensitivity, sensitivities
from mobileseg.quantization.program.simulate import Observer, Simulator, first_result
from mobileseg.quantization.program.values import CONVOLUTIONS, constant, name_of, weight_axis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor
    from torch.fx import GraphModule, Node

    from mobileseg.quantization.program.plan import Plan

MACS_AN_ELEMENT = 12
"""Multiply-accumulates that XNNPACK does in the time in which an addition writes one number: 50 G a second, at 53 GB a
second and twelve bytes a number (docs/measurements.md)."""

LARGEST_SHARE = 0.5
"""Of the units, how many may stay in float at most."""


@dataclass(frozen=True)
class Searched:
    """``plan``: with the fewest float units that meet the budget, or with the most that were allowed. ``agreement``:
    its share of equal pixels; ``int8``: that of int8 throughout. ``kept``: the units in float, those of the largest
    error first; ``errors``: of all, in the program's order. ``tried``: how many units in float keep which share of
    pixels equal, of each plan that was simulated.
    """

    plan: Plan
    agreement: float
    int8: float
    kept: tuple[Sensitivity, ...]
    cost: float
    errors: tuple[Sensitivity, ...]
    tried: Mapping[int, float]


def agreement(module: GraphModule, plan: Plan, pictures: Iterable[Tensor]) -> float:
    """Share of pixels, 0 to 1, that get the same class in the program simulated under a plan as in float."""
    exact, simulated = Observer(module, (), lambda node, value: None), Simulator(module, plan)
    equal = total = 0
    with torch.no_grad():
        for picture in pictures:
            a, b = (_classes(first_result(runner.run(picture))) for runner in (exact, simulated))
            equal += int((a == b).sum())
            total += a.numel()
    return equal / max(1, total)


def _classes(result: Tensor) -> Tensor:
    return result.argmax(1) if result.is_floating_point() else result


def search(
    module: GraphModule,
    plan: Plan,
    pictures: Sequence[Tensor],
    *,
    at_least: float,
    sensed: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Searched:
    """The plan that keeps ``at_least`` of the pixels equal on ``pictures``, with as few float units as suffice.

    ``sensed``: how many of the pictures each unit alone is measured on, only where int8 throughout is not enough.
    """
    whole = agreement(module, plan, pictures)
    if whole >= at_least:
        return Searched(plan, whole, whole, (), 0.0, (), {0: whole})
    errors = sensitivities(module, plan, pictures[:sensed], progress)
    return fewest_float(module, plan, pictures, errors, whole, at_least=at_least)


def fewest_float(
    module: GraphModule,
    plan: Plan,
    pictures: Sequence[Tensor],
    errors: Sequence[Sensitivity],
    whole: float,
    *,
    at_least: float,
) -> Searched:
    """Of the units in their order the fewest, at least one, that keep ``at_least`` of the pixels equal in float.

    ``errors``: of all units; ``whole``: the share of int8 throughout.
    """
    order = ranked(module, errors)
    least, most = 0, largest(len(order))
    plans = {0: (plan, whole), most: with_float(module, plan, order[:most], pictures)}
    while most - least > 1 and plans[most][1] >= at_least:
        middle = _between(least, most)
        plans[middle] = with_float(module, plan, order[:middle], pictures)
        least, most = (least, middle) if plans[middle][1] >= at_least else (middle, most)
    chosen, found = plans[most]
    share = cost(module, chosen.floats) / cost(module, module.graph.nodes)
    tried = {count: equal for count, (_, equal) in sorted(plans.items())}
    return Searched(chosen, found, whole, tuple(order[:most]), share, tuple(errors), tried)


def ranked(module: GraphModule, errors: Iterable[Sensitivity]) -> list[Sensitivity]:
    """In the order in which units are kept in float: by their error for what they cost."""
    return sorted(errors, key=lambda item: -item.error / cost(module, item.unit))


def largest(units: int) -> int:
    """How many of so many units may stay in float."""
    return max(1, int(LARGEST_SHARE * units))


def cost(module: GraphModule, unit: Iterable[Node]) -> float:
    """What computing a unit costs, in multiply-accumulates, those in whose time its numbers are written included."""
    values = ((node, node.meta.get("val")) for node in unit if node.op == "call_function")
    return float(
        sum(v.numel() * (MACS_AN_ELEMENT + _macs_a_number(module, n)) for n, v in values if isinstance(v, torch.Tensor))
    )


def _macs_a_number(module: GraphModule, node: Node) -> float:
    weights = constant(module, node.args[1]) if name_of(node) in CONVOLUTIONS else None
    if weights is None:
        return 0.0
    return weights.numel() / weights.shape[weight_axis(node)]


def _between(least: int, most: int) -> int:
    """Nearer to the few: the first units make most of the error."""
    return max(least + 1, min(most - 1, round(math.sqrt((least + 1) * (most + 1))) - 1))


def with_float(
    module: GraphModule, plan: Plan, units: Sequence[Sensitivity], pictures: Sequence[Tensor]
) -> tuple[Plan, float]:
    """The plan with these units in float, and the share of pixels that it keeps equal."""
    floats: frozenset[Node] = frozenset(node for item in units for node in item.unit)
    kept = plan_for(plan.values, plan.ranges, floats)
    return kept, agreement(module, kept, pictures)
