"""What is made of operators' times; the runs that they are medians of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mobileseg.errors import OptionError
from mobileseg.types import NotRun
from mobileseg.validation.graphs import GRAPHS
from mobileseg.validation.timings import TIMERS, Kind, OperatorTime, Timed, time_operators
from mobileseg.validation.timings.base import Turns, in_turn, median_ms, noise

OPERATORS = (
    OperatorTime("a", "CONV_2D", 3.0, 1, True),
    OperatorTime("b", "ADD", 1.0, 1, True),
    OperatorTime("c", "CONV_2D", 4.0, 1, True),
    OperatorTime("d", "PAD", 0.0, 0, True),
)
TIMED = Timed("a runtime", 1, 5, 8.5, OPERATORS, 1, 0.0)


def test_kinds_are_summed_the_costliest_first() -> None:
    assert TIMED.kinds == (Kind("CONV_2D", 2, 7.0, 0.875), Kind("ADD", 1, 1.0, 0.125), Kind("PAD", 1, 0.0, 0.0))
    assert TIMED.sum_ms == 8.0


def test_the_costliest_operators_are_named() -> None:
    assert [operator.name for operator in TIMED.costliest(2)] == ["c", "a"]


def test_a_file_whose_operators_take_no_time_has_no_shares() -> None:
    nothing = Timed("a runtime", 1, 5, 0.1, (OperatorTime("d", "PAD", 0.0, 0, True),), 1, 0.0)
    assert nothing.kinds == (Kind("PAD", 1, 0.0, 0.0),)


class Clock:
    """Both clocks of a machine on which each run of a kind takes 10 ms, ``interrupted`` ones 5 ms more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, interrupted: Callable[[str, int], bool]) -> None:
        self.passed = self.worked = 0.0
        self.called = {"plain": 0, "measured": 0}
        self.order: list[str] = []
        self.interrupted = interrupted
        monkeypatch.setattr("time.perf_counter", lambda: self.passed)
        monkeypatch.setattr("time.process_time", lambda: self.worked)

    def run(self, kind: str) -> None:
        self.order.append(kind)
        self.worked += 0.01
        # The first of each kind is not one of those that are counted, from 0.
        self.passed += 0.015 if self.interrupted(kind, self.called[kind] - 1) else 0.01
        self.called[kind] += 1

    def turns(self, runs: int) -> Turns:
        return in_turn(lambda: self.run("plain"), lambda: self.run("measured"), runs)


@pytest.mark.parametrize("runs", [1, 5, 12])
def test_runs_with_and_without_measurement_take_turns(runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, lambda kind, number: False)
    turns = clock.turns(runs)
    assert turns.whole_ms == pytest.approx([10.0] * runs)
    assert turns.counted == tuple(range(runs))
    assert turns.waited == pytest.approx(0)
    assert clock.order[:2] == ["plain", "measured"]
    assert clock.called["plain"] == clock.called["measured"]


def test_runs_that_are_interrupted_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, lambda kind, number: number % 2 == 1)
    turns = clock.turns(6)
    assert turns.counted == (0, 2, 4, 6, 8, 10)
    assert turns.whole_ms == pytest.approx([10.0] * 6)
    assert turns.waited == pytest.approx(0)


def test_on_a_machine_that_is_never_quiet_all_runs_count_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, lambda kind, number: True)
    turns = clock.turns(6)
    assert len(turns.counted) == len(turns.whole_ms) >= 24
    assert turns.waited == pytest.approx(1 / 3)


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


def test_no_runs_are_refused() -> None:
    with pytest.raises(OptionError, match="ask for 1"):
        time_operators(Path("any.onnx"), runs=0)


def test_a_core_ml_package_is_not_timed_and_the_reason_says_where_it_is() -> None:
    timed = time_operators(Path("any.mlpackage"))
    assert isinstance(timed, NotRun)
    assert "Xcode" in timed.why
