"""The search for what stays in float: its budget, its number of evaluations, and what it says of the units."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.fx import symbolic_trace

from mobileseg.quantization.program import plan_program
from mobileseg.quantization.program.judge import Effect
from mobileseg.quantization.program.plan import Plan, plan_for
from mobileseg.quantization.program.planned import CANDIDATES
from mobileseg.quantization.program.search import Budget, fewest_float
from mobileseg.quantization.program.sensitivity import Sensitivity
from mobileseg.quantization.program.values import Values
from mobileseg.types import INT8

NEVER = replace(INT8, min_agreement=1.0, ranges="mse")


@pytest.mark.parametrize(
    ("budget", "effect", "holds"),
    [
        (Budget(0.98), Effect(0.98), True),
        (Budget(0.98), Effect(0.979), False),
        (Budget(0.98, 0.5), Effect(0.99), True),  # not measured: the gate's affair
        (Budget(0.98, 0.5), Effect(0.99, 0.5), True),
        (Budget(0.98, 0.5), Effect(0.99, 0.6), False),
        (Budget(0.98), Effect(0.99, 9.0), True),
    ],
)
def test_a_budget_is_of_agreement_and_of_the_miou_that_was_measured(
    budget: Budget, effect: Effect, holds: bool
) -> None:
    assert budget.holds(effect) is holds


@pytest.mark.parametrize("most", [1, 2, 3])
def test_no_more_plans_are_tried_than_was_said(most: int, rewritten: Any, pictures: Any) -> None:
    planned = plan_program(rewritten(), pictures, replace(NEVER, max_evaluations=most))
    assert planned.findings.evaluations <= most
    assert planned.findings.held is (planned.searched.agreement >= 1.0)


def test_where_nothing_holds_the_best_found_is_taken(rewritten: Any, pictures: Any) -> None:
    planned = plan_program(rewritten(), pictures, replace(NEVER, min_agreement=1.1))
    assert not planned.findings.held
    assert planned.searched.agreement == max(planned.searched.tried.values())


def test_int8_that_holds_keeps_nothing_in_float(rewritten: Any, pictures: Any) -> None:
    found = plan_program(rewritten(), pictures, replace(INT8, min_agreement=0.5)).findings
    assert (found.kept, found.cost_share, found.evaluations, found.held) == ((), 0.0, 1, True)
    assert set(found.ranges_tried) == set(CANDIDATES)
    assert found.ranges_tried[found.ranges] == max(found.ranges_tried.values()) == found.int8


def test_units_are_called_by_their_layer_with_their_shares(rewritten: Any, pictures: Any) -> None:
    found = plan_program(rewritten(), pictures, replace(NEVER, min_agreement=1.1)).findings
    assert found.kept
    assert {unit.name for unit in found.kept} <= {"first", "middle", "slopes", "side", "last"}
    assert all(unit.operator for unit in found.kept)
    assert 0.0 < sum(unit.error_share for unit in found.kept) <= 1.0 + 1e-9
    assert sum(unit.cost_share for unit in found.kept) == pytest.approx(found.cost_share, rel=1e-6)


class Adds:
    """A judge to whom each unit in float gives back a share of its own."""

    def __init__(self, values: Values, gains: list[float]) -> None:
        self.gains = dict(zip(values.rounded, gains, strict=True))

    def effect(self, plan: Plan) -> Effect:
        return Effect(0.5 + sum(gain for node, gain in self.gains.items() if node in plan.floats))


def found_by(gains: list[float], least: float, evaluations: int = 16) -> tuple[list[str], int]:
    """The units that are kept, of six in a row that are ranked from the last to the first, and the plans tried."""
    module = symbolic_trace(Row())
    for node in module.graph.nodes:
        node.meta["val"] = torch.zeros(1)
    nodes = [n for n in module.graph.nodes if n.op == "call_function"]
    values = Values(tuple(nodes), {}, {}, frozenset(), (), frozenset())
    plan = plan_for(values, dict.fromkeys(nodes, (-1.0, 1.0)))
    errors = [Sensitivity((node,), 0.1 * place) for place, node in enumerate(nodes, 1)]
    judge: Any = Adds(values, gains)
    found = fewest_float(module, plan, judge, errors, judge.effect(plan), Budget(least), evaluations)
    return sorted(node.name for item in found.kept for node in item.unit), found.evaluations


class Row(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(12):
            x = torch.sin(x)
        return x


def test_a_unit_that_brings_more_than_is_lacking_makes_others_needless() -> None:
    gains = [0.0] * 12
    gains[11], gains[10], gains[9], gains[8] = 0.01, 0.01, 0.01, 0.3
    assert found_by(gains, 0.79)[0] == ["sin_8"]
    assert found_by(gains, 0.805)[0] == ["sin_11", "sin_8"]


def test_without_such_a_unit_the_first_that_suffice_are_kept() -> None:
    gains = [0.0] * 8 + [0.1] * 4
    assert found_by(gains, 0.65)[0] == ["sin_10", "sin_11"]


def test_all_plans_count_among_the_evaluations() -> None:
    gains = [0.0] * 8 + [0.1] * 4
    for most in (2, 3, 5, 16):
        assert found_by(gains, 0.75, most)[1] <= most
