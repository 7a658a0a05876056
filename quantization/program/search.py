"""Which operators to keep in float, where int8 throughout misses its budget.

Units are ordered by the error that each makes alone (`sensitivity`), for what its computation costs. Of the first k in
float, the least k is looked for by bisection whose plan meets the budget on the pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mobileseg.quantization.program.judge import Effect, Judge
from mobileseg.quantization.program.plan import plan_for
from mobileseg.quantization.program.sensitivity import Sensitivity, sensitivities
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


EVALUATIONS = 16
"""Plans tried at most, where nothing else is said: more than bisecting some thousand units takes."""


@dataclass(frozen=True)
class Budget:
    """What a plan must hold: the share of equal pixels, 0 to 1, and, where it is measured, the points of mIoU that may
    be lost (None: any)."""

    at_least: float
    most_lost: float | None = None

    def holds(self, effect: Effect) -> bool:
        lost = 0.0 if self.most_lost is None or effect.miou_drop is None else effect.miou_drop - self.most_lost
        return effect.agreement >= self.at_least and lost <= 0.0


@dataclass(frozen=True)
class Searched:
    """``plan``: with the fewest float units found that meet the budget, or the best where none does (``held``).
    ``agreement``, ``miou_drop``: what it does; ``int8``: share of equal pixels of int8 throughout. ``kept``: the units
    in float, those of the largest error first; ``errors``: of all, in the program's order. ``tried``: how many units in
    float keep which share of pixels equal, of each plan that was simulated.
    """

    plan: Plan
    agreement: float
    int8: float
    kept: tuple[Sensitivity, ...]
    cost: float
    errors: tuple[Sensitivity, ...]
    tried: Mapping[int, float]
    miou_drop: float | None = None
    held: bool = True


def agreement(module: GraphModule, plan: Plan, pictures: Sequence[Tensor]) -> float:
    """Share of pixels, 0 to 1, that get the same class in the program simulated under a plan as in float."""
    return Judge(module, pictures).effect(plan).agreement


def search(
    module: GraphModule,
    plan: Plan,
    pictures: Sequence[Tensor],
    *,
    at_least: float,
    most_lost: float | None = None,
    evaluations: int = EVALUATIONS,
    sensed: int = 1,
    judge: Judge | None = None,
    progress: Callable[[int, int], None] | None = None,
    tried: Callable[[int, int], None] | None = None,
) -> Searched:
    """The plan that keeps ``at_least`` of the pixels equal on ``pictures``, with as few float units as suffice.

    ``most_lost``: points of mIoU that it may lose, which a ``judge`` with labels measures. ``evaluations``: plans tried
    at most. ``sensed``: how many of the pictures each unit alone is measured on, only where int8 throughout is not
    enough. ``progress``: called with the units measured, and all; ``tried`` with the plans tried, and how many may be.
    """
    judge, budget = judge or Judge(module, pictures), Budget(at_least, most_lost)
    whole = judge.effect(plan)
    if budget.holds(whole) or evaluations <= 1:
        share = whole.agreement
        return Searched(plan, share, share, (), 0.0, (), {0: share}, whole.miou_drop, budget.holds(whole))
    errors = sensitivities(module, plan, pictures[:sensed], progress)
    return fewest_float(module, plan, judge, errors, whole, budget, evaluations, tried)


def fewest_float(
    module: GraphModule,
    plan: Plan,
    judge: Judge,
    errors: Sequence[Sensitivity],
    whole: Effect,
    budget: Budget,
    evaluations: int = EVALUATIONS,
    tried: Callable[[int, int], None] | None = None,
) -> Searched:
    """Of the units in their order the fewest, at least one, with which the budget holds in float; where it does not
    with the most that are allowed, what keeps most pixels equal of all that was tried.

    ``errors``: of all units; ``whole``: what int8 throughout does, which is one of the ``evaluations``.
    """
    order = ranked(module, errors)
    least, most = 0, largest(len(order))
    plans = {0: (plan, whole), most: with_float(plan, order[:most], judge)}
    expected = min(evaluations, len(plans) + math.ceil(math.log2(most)) + 1)
    while most - least > 1 and budget.holds(plans[most][1]) and len(plans) < evaluations:
        middle = _between(least, most)
        if tried is not None:
            tried(len(plans), max(expected, len(plans)))
        plans[middle] = with_float(plan, order[:middle], judge)
        least, most = (least, middle) if budget.holds(plans[middle][1]) else (middle, most)
    if not budget.holds(plans[most][1]):
        most = max(plans, key=lambda count: plans[count][1].agreement)
    chosen, found = plans[most]
    return Searched(
        plan=chosen,
        agreement=found.agreement,
        int8=whole.agreement,
        kept=tuple(order[:most]),
        cost=cost(module, chosen.floats) / cost(module, module.graph.nodes),
        errors=tuple(errors),
        tried={count: effect.agreement for count, (_, effect) in sorted(plans.items())},
        miou_drop=found.miou_drop,
        held=budget.holds(found),
    )


def ranked(module: GraphModule, errors: Iterable[Sensitivity]) -> list[Sensitivity]:
    """In the order in which units are kept in float: by their error for what they cost."""
    return sorted(errors, key=lambda item: -item.error / cost(module, item.unit))


def largest(units: int) -> int:
    """How many of so many units may stay in float."""
    return max(1, int(LARGEST_SHARE * units))


def with_float(plan: Plan, units: Sequence[Sensitivity], judge: Judge) -> tuple[Plan, Effect]:
    """The plan with these units in float, and what it does."""
    floats: frozenset[Node] = frozenset(node for item in units for node in item.unit)
    kept = plan_for(plan.values, plan.ranges, floats)
    return kept, judge.effect(kept)


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
