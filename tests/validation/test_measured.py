"""Measured operators find themselves among a file's operators, and what cannot be measured says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobileseg.types import NotRun
from mobileseg.validation.graphs.base import Graph, Operation
from mobileseg.validation.graphs.estimate import COSTLIEST, estimated, shares
from mobileseg.validation.measured import measure, measured
from mobileseg.validation.timings import OperatorTime, Timed

NONE = NotRun("not in this test")


def graph(*names: tuple[str, str]) -> Graph:
    """Operators and names; each moves a KiB more than the one before."""
    made = (
        Operation(name, operator, "arithmetic", (1,), "float32", 0, 1024 * (i + 1), 0, None)
        for i, (operator, name) in enumerate(names)
    )
    return Graph({}, 0, (), {}, NONE, tuple(made), NONE)


def timed(*rows: tuple[str, str, float]) -> Timed:
    """Operators, names and ms."""
    operators = tuple(OperatorTime(name, operator, ms, 1, False) for operator, name, ms in rows)
    return Timed("a runtime", 1, 5, 9.0, operators, 0, 0.0)


def test_equal_lists_are_matched_in_order_whatever_the_names() -> None:
    found = measured(graph(("Add", "node 0"), ("Add", "node 1")), timed(("Add", "0", 1.0), ("Add", "1", 3.0)))
    assert [(c.operator, c.operation, c.ms, c.share) for c in found.costliest] == [(1, 1, 3.0, 0.75), (0, 0, 1.0, 0.25)]
    assert [c.estimated for c in found.costliest] == pytest.approx([2 / 3, 1 / 3])
    assert [(kind.operator, kind.count, kind.ms) for kind in found.kinds] == [("Add", 2, 4.0)]


def test_where_a_runtime_joins_operators_those_of_one_name_are_found() -> None:
    """Another operator of that name is not it; nor is one of two."""
    file = graph(("Conv", "a"), ("Relu", "b"), ("Add", "twice"), ("Add", "twice"), ("Mul", "c"))
    found = measured(file, timed(("Conv", "b", 5.0), ("Reorder", "new", 4.0), ("Add", "twice", 3.0), ("Mul", "c", 2.0)))
    assert [c.operation for c in found.costliest] == [None, None, None, 4]
    assert [c.estimated for c in found.costliest][:3] == [None] * 3
    assert found.costliest[3].estimated == pytest.approx(5 / 15)


def test_an_operator_without_time_of_its_own_is_no_costly_one() -> None:
    many = [("Add", str(i)) for i in range(COSTLIEST + 2)]
    found = measured(graph(*many), timed(*((*pair, float(i)) for i, pair in enumerate(many))))
    assert [c.operation for c in found.costliest] == [6, 5, 4, 3, 2]
    nothing = measured(graph(("Pad", "a"), ("Conv", "b")), timed(("Pad", "a", 0.0), ("Conv", "b", 1.0)))
    assert [c.operation for c in nothing.costliest] == [1]
    assert measured(graph(("Pad", "a")), timed(("Pad", "a", 0.0))).costliest == ()


def test_the_estimate_beside_is_the_one_that_ranks() -> None:
    file = graph(("Add", "a"), ("Add", "b"), ("Mul", "c"))
    assert [shares(file.operations)[c.operation] for c in estimated(file).costliest] == [
        c.share for c in estimated(file).costliest
    ]
    assert shares(()) == ()


def test_a_core_ml_package_is_not_measured_and_says_where_it_can_be() -> None:
    found = measure(Path("a.mlpackage"), graph(("conv", "a")), 3)
    assert isinstance(found, NotRun)
    assert "Xcode" in found.why
