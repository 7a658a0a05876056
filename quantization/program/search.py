"""Which operators to keep in float, where int8 throughout misses its budget.

Units are ordered by the error that each makes alone (`sensitivity`), for what computing it, and what reads it, costs
(`order`). Of the first k in float, the least k is looked for by bisection whose plan meets the budget on the pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mobileseg.quantization.program.judge import Effect, Judge
from mobileseg.quantization.program.order import freeing_order
from mobileseg.quantization.program.plan import plan_for
from mobileseg.quantization.program.sensitivity import Sensitivity, sensitivities
from mobileseg.quantization.program.values import CONVOLUTIONS, constant, name_of, weight_axis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor
    from torch.fx import GraphModule, Node

    from mobileseg.quantization.program.plan import Plan
    from mobileseg.quantization.program.values import Values

MACS_AN_ELEMENT = 12
"""Multiply-accumulates that XNNPACK does in the time in which an addition writes one number: 50 G a second, at 53 GB a
second and twelve bytes a number (docs/measurements.md)."""

LARGEST_SHARE = 0.5
"""Of the units, how many may stay in float at most."""

EVALUATIONS = 24
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
    float, taken in order, keep which share of pixels equal, as far as was simulated; ``evaluations``: plans simulated.
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
    evaluations: int = 1


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
    judge: Judge | None = None,
    progress: Callable[[int, int], None] | None = None,
    tried: Callable[[int, int], None] | None = None,
) -> Searched:
    """The plan that keeps ``at_least`` of the pixels equal on ``pictures``, with as few float units as suffice.

    ``most_lost``: points of mIoU that it may lose, which a ``judge`` with labels measures. ``evaluations``: plans tried
    at most. ``progress``: called with the units measured, each alone, on the first picture, and all there are;
    ``tried`` with the plans tried, and how many may be.
    """
    judge, budget = judge or Judge(module, pictures), Budget(at_least, most_lost)
    whole = judge.effect(plan)
    if budget.holds(whole) or evaluations <= 1:
        return _throughout(plan, whole, budget, ())
    errors = sensitivities(module, plan, pictures[:1], progress)
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
    """Of the units in their order the fewest with which the budget holds, which may be none; where it does not with the
    most that are allowed, what keeps most pixels equal of all that was tried.

    ``errors``: of all units; ``whole``: what int8 throughout does, which is one of the ``evaluations``.
    """
    if budget.holds(whole):
        return _throughout(plan, whole, budget, errors)
    order, total = ranked(module, plan.values, errors), cost(module, module.graph.nodes)
    trials = _Trials(plan, judge, evaluations, tried, {(): (plan, whole)})
    kept = trials.fewest(order[: largest(len(order))], budget)
    if kept is None:
        kept = trials.best
    chosen, found = trials.plans[tuple(kept)]
    beginnings = {k: effect.agreement for k, (_, effect) in trials.plans.items() if list(k) == order[: len(k)]}
    return Searched(
        plan=chosen,
        agreement=found.agreement,
        int8=whole.agreement,
        kept=tuple(kept),
        cost=cost(module, chosen.floats) / total,
        errors=tuple(errors),
        tried={len(units): beginnings[units] for units in sorted(beginnings, key=len)},
        miou_drop=found.miou_drop,
        held=budget.holds(found),
        evaluations=trials.done,
    )


def _throughout(plan: Plan, whole: Effect, budget: Budget, errors: Sequence[Sensitivity]) -> Searched:
    share = whole.agreement
    return Searched(plan, share, share, (), 0.0, tuple(errors), {0: share}, whole.miou_drop, budget.holds(whole))


@dataclass
class _Trials:
    """Plans by their units in float, and what they do."""

    plan: Plan
    judge: Judge
    evaluations: int
    tried: Callable[[int, int], None] | None
    plans: dict[tuple[Sensitivity, ...], tuple[Plan, Effect]]

    @property
    def done(self) -> int:
        """Plans simulated: in whatever order its units are named, a plan is one."""
        return len({frozenset(units) for units in self.plans})

    @property
    def best(self) -> list[Sensitivity]:
        """The units with which most pixels are equal."""
        (units, _) = max(self.plans.items(), key=lambda item: item[1][1].agreement)
        return list(units)

    def fewest(self, order: Sequence[Sensitivity], budget: Budget) -> list[Sensitivity] | None:
        """Few of the units that hold the budget, found from the beginnings of ``order``; None where all of it do not.

        The last of a beginning may have brought more than the budget lacked: it is put in front, and fewer of the
        others are looked for, until that changes nothing more.
        """
        kept = self._beginning(order, budget)
        before = len(order) + 1
        while kept is not None and 1 < len(kept) < before:
            before = len(kept)
            kept = self._beginning([kept[-1], *kept[:-1]], budget)
        return kept

    def _beginning(self, order: Sequence[Sensitivity], budget: Budget) -> list[Sensitivity] | None:
        """The shortest beginning that was found to hold the budget."""
        if not self._holds(order, budget):
            return None
        least, most = 0, len(order)
        while most - least > 1 and self.done < self.evaluations:
            middle = _between(least, most)
            least, most = (least, middle) if self._holds(order[:middle], budget) else (middle, most)
        return list(order[:most])

    def _holds(self, units: Sequence[Sensitivity], budget: Budget) -> bool:
        key = tuple(units)
        if key not in self.plans:
            same = next((k for k in self.plans if len(k) == len(key) and set(k) == set(key)), None)
            self.plans[key] = with_float(self.plan, units, self.judge) if same is None else self.plans[same]
            if same is None and self.tried is not None:
                self.tried(self.done, self.evaluations)
        return budget.holds(self.plans[key][1])


def ranked(module: GraphModule, values: Values, errors: Sequence[Sensitivity]) -> list[Sensitivity]:
    """In the order in which units are kept in float (`order`). ``errors``: of all units, in the program's order."""
    costs = [cost(module, item.unit) for item in errors]
    numbers = freeing_order(values, [item.unit for item in errors], [item.error for item in errors], costs)
    return [errors[number] for number in numbers]


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
