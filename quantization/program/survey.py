"""What int8 does to each unit of a program, and what keeping units in float gives back: to be looked at, not to be
written into a file. The units are measured whether or not the budget needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mobileseg.decibels import power_ratio_db
from mobileseg.quantization.program.search import (
    EVALUATIONS,
    Budget,
    Searched,
    cost,
    fewest_float,
    largest,
    ranked,
    with_float,
)
from mobileseg.quantization.program.sensitivity import Stepper, alone, nothing, sensitivities
from mobileseg.quantization.program.simulate import rounded_weights
from mobileseg.quantization.program.values import name_of, units_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule, Node

    from mobileseg.quantization.program.judge import Judge
    from mobileseg.quantization.program.plan import Plan
    from mobileseg.quantization.program.values import Values

CURVE = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Units in float whose agreement is measured, beside those that the search tries."""


@dataclass(frozen=True)
class Unit:
    """One unit. ``first``: its first operator that computes; ``operators``: the names of all that do.

    ``flips``, ``error``: of `Sensitivity`. ``cost``: of its computation, as a share of all, 0 to 1. ``own_db``: SQNR of
    its rounded value where it alone is in int8; ``accumulated_db``: where all are. ``rank``: its place, from 0, in the
    order in which units are kept in float.
    """

    first: Node
    operators: tuple[str, ...]
    flips: float
    error: float
    cost: float
    own_db: float
    accumulated_db: float
    rank: int


@dataclass(frozen=True)
class Kept:
    """The first ``units`` in float, ``cost`` of the whole, 0 to 1: that share of pixels keeps its class."""

    units: int
    cost: float
    agreement: float


@dataclass(frozen=True)
class Survey:
    """``units``: those that round a value, in the program's order. ``curve``: from none in float on. ``searched``: what
    meets the budget, all of whose units it counts."""

    units: tuple[Unit, ...]
    curve: tuple[Kept, ...]
    searched: Searched


def survey(
    module: GraphModule,
    plan: Plan,
    judge: Judge,
    budget: Budget,
    evaluations: int = EVALUATIONS,
    progress: Callable[[int, int], None] | None = None,
) -> Survey:
    """Measure each unit under the plan of int8 throughout, and agreement with the first few in float.

    ``judge``: of the program; as in a search the units' errors are of its first picture. ``evaluations``: plans that
    the search for the budget may try. ``progress``: called with the units measured, and all.
    """
    whole = judge.effect(plan)
    errors = sensitivities(module, plan, judge.pictures[:1], progress)
    searched = fewest_float(module, plan, judge, errors, whole, budget, evaluations)
    order = ranked(module, plan.values, errors)
    tried = dict(searched.tried)
    for count in (c for c in CURVE if c <= largest(len(order)) and c not in tried):
        tried[count] = with_float(plan, order[:count], judge)[1].agreement
    total = cost(module, module.graph.nodes)
    ranks = {item.unit: rank for rank, item in enumerate(order)}
    noises = _noises(module, plan, judge.pictures)
    units = [
        Unit(
            first=_computing(plan.values, item.unit)[0],
            operators=tuple(name_of(n) for n in _computing(plan.values, item.unit)),
            flips=item.flips,
            error=item.error,
            cost=cost(module, item.unit) / total,
            own_db=noises[end].own_db,
            accumulated_db=noises[end].accumulated_db,
            rank=ranks[item.unit],
        )
        for item in errors
        if (end := _end(plan, item.unit)) is not None
    ]
    curve = [
        Kept(count, cost(module, (n for item in order[:count] for n in item.unit)) / total, tried[count])
        for count in sorted(tried)
    ]
    return Survey(tuple(units), tuple(curve), searched)


def _end(plan: Plan, unit: Sequence[Node]) -> Node | None:
    return next((n for n in unit if n in plan.scales), None)


def _computing(values: Values, unit: Sequence[Node]) -> list[Node]:
    return [n for n in unit if n not in values.origin and n not in values.flags]


@dataclass
class _Noise:
    """Sums of squares over all pictures: of the float value, and of both errors."""

    signal: float = 0.0
    own: float = 0.0
    accumulated: float = 0.0

    @property
    def own_db(self) -> float:
        return power_ratio_db(self.signal, self.own)

    @property
    def accumulated_db(self) -> float:
        return power_ratio_db(self.signal, self.accumulated)


def _noises(module: GraphModule, plan: Plan, pictures: Sequence[Tensor]) -> dict[Node, _Noise]:
    """Of each unit's rounded value."""
    found: dict[Node, _Noise] = {}
    with torch.no_grad():
        for picture in pictures:
            for end, exact, own, accumulated in _three_ways(module, plan, picture):
                noise = found.setdefault(end, _Noise())
                noise.signal += _power(exact)
                noise.own += _power(own - exact)
                noise.accumulated += _power(accumulated - exact)
    return found


def _three_ways(module: GraphModule, plan: Plan, picture: Tensor) -> Iterator[tuple[Node, Tensor, Tensor, Tensor]]:
    """Each unit's rounded node, and its value in float, alone in int8, and with all in int8. They are computed unit by
    unit, so that few are held at a time."""
    units, weights = list(units_of(plan.values, module)), rounded_weights(module, plan)
    exact, whole = Stepper(module, nothing(plan), weights={}), Stepper(module, plan, weights=weights)
    exact.start(picture)
    whole.start(picture)
    for place, unit in enumerate(units):
        single = alone(module, plan, units, place, weights)
        single.env = dict(exact.env)
        values = [stepper.advance(unit) for stepper in (exact, single, whole)]
        end = _end(plan, unit)
        if end is not None:
            yield end, values[0][end], values[1][end], values[2][end]


def _power(value: Tensor) -> float:
    return float(value.double().square().sum())
