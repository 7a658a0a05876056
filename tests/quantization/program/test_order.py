"""What is kept in float first: values whose rounding costs most, with all that read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.fx import GraphModule, symbolic_trace

from mobileseg.quantization.program.order import freeing_order
from mobileseg.quantization.program.plan import plan_for
from mobileseg.quantization.program.values import Values


class Chain(torch.nn.Module):
    """a -> b -> c -> d; e reads a, too; f reads d and e."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.sin(x)
        d = torch.sin(torch.sin(torch.sin(a)))
        return d + torch.cos(a)


@pytest.fixture(scope="module")
def module() -> GraphModule:
    return symbolic_trace(Chain())


@pytest.fixture(scope="module")
def values(module: GraphModule) -> Values:
    nodes = [n for n in module.graph.nodes if n.op == "call_function"]
    return Values(tuple(nodes), {}, {}, frozenset(), (), frozenset())


A, B, C, D, E, F = range(6)
EQUAL = [1.0] * 6


def ordered(values: Values, errors: Sequence[float], costs: Sequence[float] = EQUAL) -> list[int]:
    return freeing_order(values, [(node,) for node in values.rounded], errors, costs)


def test_the_units_are_those_of_the_drawing(values: Values) -> None:
    names = [n.name for n in values.rounded]
    assert names == ["sin", "sin_1", "sin_2", "sin_3", "cos", "add"]


def test_a_value_is_freed_with_all_that_read_it(values: Values) -> None:
    assert ordered(values, [9.0, 0.1, 0.0, 0.0, 0.1, 0.0])[:3] == [A, B, E]


def test_the_last_value_is_freed_by_its_unit_alone(values: Values) -> None:
    assert ordered(values, [3.0, 0.0, 0.0, 0.0, 0.0, 2.0])[0] == F


def test_what_readers_cost_counts(values: Values) -> None:
    errors = [4.0, 0.0, 2.0, 0.0, 0.0, 0.0]
    assert ordered(values, errors)[:3] == [A, B, E]
    assert ordered(values, errors, [1.0, 1.0, 1.0, 1.0, 50.0, 1.0])[:2] == [C, D]


def test_a_unit_that_completes_another_value_counts_its_error_too(values: Values) -> None:
    # Behind [C, D], B alone frees B's value, which C reads; A would need E as well.
    assert ordered(values, [2.0, 1.5, 5.0, 0.0, 0.0, 0.0])[:3] == [C, D, B]


def test_each_unit_comes_once(values: Values) -> None:
    assert sorted(ordered(values, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])) == list(range(6))
    assert sorted(ordered(values, [0.0] * 6, [0.0] * 6)) == list(range(6))


def test_what_is_freed_is_what_a_plan_does_not_round(values: Values, module: Any) -> None:
    ranges = dict.fromkeys(values.rounded, (-1.0, 1.0))
    order = ordered(values, [9.0, 0.1, 0.0, 0.0, 0.1, 0.0])
    nodes = [values.rounded[number] for number in order]
    assert nodes[0] in plan_for(values, ranges, frozenset(nodes[:2])).ranges
    assert nodes[0] not in plan_for(values, ranges, frozenset(nodes[:3])).ranges
