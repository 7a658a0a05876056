"""What is made of operators' times; the runs that they are medians of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mobileseg.types import NotRun
from mobileseg.validation.graphs import GRAPHS
from mobileseg.validation.timings import TIMERS, Kind, OperatorTime, Timed, time_operators
from mobileseg.validation.timings.base import in_turn, median_ms, noise

OPERATORS = (
    OperatorTime("a", "CONV_2D", 3.0, 1, True),
    OperatorTime("b", "ADD", 1.0, 1, True),
    OperatorTime("c", "CONV_2D", 4.0, 1, True),
    OperatorTime("d", "PAD", 0.0, 0, True),
)
TIMED = Timed("a runtime", 1, 5, 8.5, OPERATORS, 1)


def test_kinds_are_summed_the_costliest_first() -> None:
    assert TIMED.kinds == (Kind("CONV_2D", 2, 7.0, 0.875), Kind("ADD", 1, 1.0, 0.125), Kind("PAD", 1, 0.0, 0.0))
    assert TIMED.sum_ms == 8.0


def test_the_costliest_operators_are_named() -> None:
    assert [operator.name for operator in TIMED.costliest(2)] == ["c", "a"]


def test_a_file_whose_operators_take_no_time_has_no_shares() -> None:
    nothing = Timed("a runtime", 1, 5, 0.1, (OperatorTime("d", "PAD", 0.0, 0, True),), 1)
    assert nothing.kinds == (Kind("PAD", 1, 0.0, 0.0),)


@pytest.mark.parametrize("runs", [1, 5, 12])
def test_runs_with_and_without_measurement_take_turns(runs: int) -> None:
    called: list[str] = []
    whole = in_turn(lambda: called.append("plain"), lambda: called.append("measured"), runs)
    assert len(whole) == runs
    assert called.count("plain") == called.count("measured") == runs + 1
    assert called[:2] == ["plain", "measured"]


def test_the_median_of_whole_numbers_lies_between_them() -> None:
    assert median_ms([2000, 2000, 2001, 2001]) == pytest.approx(2.0005)
    assert median_ms([7]) == pytest.approx(0.007)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int8"])
def test_an_input_is_of_its_type_and_the_same_each_time(dtype: str) -> None:
    picture = noise((1, 8, 12, 3), dtype)
    assert picture.dtype == np.dtype(dtype)
    assert picture.astype(np.float64).std() > 40
    np.testing.assert_array_equal(picture, noise((1, 8, 12, 3), dtype))


def test_every_kind_of_file_that_can_be_inspected_is_known_here() -> None:
    assert TIMERS.keys() == GRAPHS.keys()


def test_a_core_ml_package_is_not_timed_and_the_reason_says_where_it_is() -> None:
    timed = time_operators(Path("any.mlpackage"))
    assert isinstance(timed, NotRun)
    assert "Xcode" in timed.why
