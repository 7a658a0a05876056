"""The search for what stays in float: its budget, its number of evaluations, and what it says of the units."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mobileseg.quantization.program import plan_program
from mobileseg.quantization.program.judge import Effect
from mobileseg.quantization.program.search import Budget
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
    assert set(found.ranges_tried) == {"percentile", "percentile:99.999", "mse", "min-max"}
    assert found.ranges_tried[found.ranges] == max(found.ranges_tried.values()) == found.int8


def test_units_are_called_by_their_layer_with_their_shares(rewritten: Any, pictures: Any) -> None:
    found = plan_program(rewritten(), pictures, replace(NEVER, min_agreement=1.1)).findings
    assert found.kept
    assert {unit.name for unit in found.kept} <= {"first", "middle", "slopes", "side", "last"}
    assert all(unit.operator for unit in found.kept)
    assert 0.0 < sum(unit.error_share for unit in found.kept) <= 1.0 + 1e-9
    assert sum(unit.cost_share for unit in found.kept) == pytest.approx(found.cost_share, rel=1e-6)
