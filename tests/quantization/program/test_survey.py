"""What int8 does to each unit: against plain runs of the simulation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mobileseg.quantization.program.judge import Judge
from mobileseg.quantization.program.plan import Plan, plan_for
from mobileseg.quantization.program.planned import calibrated, tensor_of
from mobileseg.quantization.program.search import Budget, agreement, ranked, search, with_float
from mobileseg.quantization.program.simulate import Observer, Simulator
from mobileseg.quantization.program.survey import Survey, survey
from mobileseg.types import INT8


@pytest.fixture(scope="module")
def module(rewritten: Any) -> Any:
    return rewritten(target="tflite")


@pytest.fixture(scope="module")
def plan(module: Any, pictures: Any) -> Plan:
    """Ranges sixteen times as wide, but for the picture's: pixels change their class."""
    found = calibrated(module, pictures, INT8).plan
    wide = {
        n: (16 * low, 16 * high) if n.op == "call_function" else (low, high) for n, (low, high) in found.ranges.items()
    }
    return plan_for(found.values, wide)


@pytest.fixture(scope="module")
def probes(module: Any, pictures: Any) -> list[torch.Tensor]:
    shape = next(n for n in module.graph.nodes if n.op == "placeholder").meta["val"].shape
    return [tensor_of(picture, shape) for picture in pictures()][:2]


@pytest.fixture(scope="module")
def found(module: Any, plan: Plan, probes: list[torch.Tensor]) -> Survey:
    judge = Judge(module, probes)
    return survey(module, plan, judge, Budget((1.0 + judge.effect(plan).agreement) / 2))


def test_the_accumulated_error_is_that_of_the_whole_simulation(
    module: Any, plan: Plan, probes: list[torch.Tensor], found: Survey
) -> None:
    ends = [n for n in plan.values.rounded if n in plan.scales and n.op != "placeholder"]
    exact: list[dict[Any, torch.Tensor]] = [{} for _ in probes]
    rounded: list[dict[Any, torch.Tensor]] = [{} for _ in probes]
    with torch.no_grad():
        for i, picture in enumerate(probes):
            Observer(module, ends, exact[i].__setitem__).run(picture)
            Simulator(module, plan, rounded[i].__setitem__).run(picture)
    assert len(found.units) == len(ends)
    for unit, end in zip(found.units, ends, strict=True):
        signal = sum(float(e[end].double().square().sum()) for e in exact)
        noise = sum(float((r[end] - e[end]).double().square().sum()) for e, r in zip(exact, rounded, strict=True))
        assert unit.accumulated_db == pytest.approx(10.0 * math.log10(signal / noise), abs=1e-3)


def test_a_unit_by_itself_has_more_of_its_signal_left_than_with_all(found: Survey) -> None:
    first, *others = found.units
    # The picture is exact in int8, so that the first unit's inputs are.
    assert first.own_db == pytest.approx(first.accumulated_db)
    assert sum(unit.own_db - unit.accumulated_db for unit in others) > 0.0


def test_units_say_what_computes_and_where(found: Survey) -> None:
    operators = [unit.operators for unit in found.units]
    assert operators[0] == ("conv2d", "relu")
    assert ("mul", "maximum") in operators
    assert sum(unit.cost for unit in found.units) == pytest.approx(1.0)
    assert sorted(unit.rank for unit in found.units) == list(range(len(found.units)))


def test_the_curve_is_what_keeping_the_first_in_float_gives(
    module: Any, plan: Plan, probes: list[torch.Tensor], found: Survey
) -> None:
    assert [step.units for step in found.curve][:3] == [0, 1, 2]
    assert found.curve[0].agreement == agreement(module, plan, probes)
    order = ranked(module, plan.values, found.searched.errors)
    assert found.curve[2].agreement == with_float(plan, order[:2], Judge(module, probes))[1].agreement
    first = found.searched.tried
    assert {step.units: step.agreement for step in found.curve if step.units in first} == first


def test_it_finds_what_the_search_finds(module: Any, plan: Plan, probes: list[torch.Tensor], found: Survey) -> None:
    at_least = (1.0 + found.curve[0].agreement) / 2
    assert search(module, plan, probes, at_least=at_least) == found.searched


def test_units_are_measured_although_the_budget_is_met(module: Any, plan: Plan, probes: list[torch.Tensor]) -> None:
    idle = survey(module, plan, Judge(module, probes), Budget(0.0))
    assert idle.searched.kept == ()
    assert idle.searched.cost == 0.0
    assert all(unit.error > 0.0 for unit in idle.units)
