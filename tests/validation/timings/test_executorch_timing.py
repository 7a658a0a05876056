"""ExecuTorch's event tracer: each operator of a program, those inside its calls of XNNPACK too, has its time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mobileseg.types import NotRun
from mobileseg.validation.graphs.executorch import deserialized, plan_named
from mobileseg.validation.timings import Timed, time_operators
from mobileseg.validation.timings import executorch as timing
from mobileseg.validation.traces.program import all_operators, dissect

pytest.importorskip("executorch.exir", reason="install the extra: pip install 'mobileseg[executorch]'")


@pytest.fixture(scope="module")
def timed(signs_pte: Path) -> Timed:
    found = time_operators(signs_pte, runs=6)
    assert isinstance(found, Timed), found
    return found


def test_the_operators_are_the_programs_in_its_order(timed: Timed, signs_pte: Path) -> None:
    file = deserialized(signs_pte)
    expected = [(o.kind, o.inside) for o in all_operators(dissect(file, plan_named(file, "forward")))]
    assert [(operator.operator, operator.delegated) for operator in timed.operators] == expected


def test_each_operator_names_what_xnnpack_calls_for_it(timed: Timed) -> None:
    inside = [operator for operator in timed.operators if operator.delegated]
    assert all(operator.calls == len(operator.kernels) for operator in inside)
    convolutions = [operator for operator in inside if operator.operator.startswith("Conv2d")]
    assert len(convolutions) == 3
    for operator in convolutions:
        assert operator.kernels[0].startswith(("Convolution", "Fully Connected"))


def test_what_no_delegate_takes_is_timed_as_one_call(timed: Timed) -> None:
    left = [(operator.operator, operator.calls) for operator in timed.operators if not operator.delegated]
    assert left == [("aten.sign", 1)]
    assert timed.partitions == 1


def test_the_whole_is_measured_too(timed: Timed) -> None:
    assert timed.runs >= 3
    assert timed.whole_ms > 0
    assert timed.sum_ms > 0


def test_a_reason_in_the_file_is_given(signs_pte: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "delegation_record", lambda file: {"left": {"aten.sign.default": "no such kernel"}})
    timed = time_operators(signs_pte, runs=1)
    assert isinstance(timed, Timed)
    assert [operator.why for operator in timed.operators if not operator.delegated] == ["no such kernel"]


def test_a_file_that_this_machine_cannot_run_is_not_timed(signs_pte: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = timing.open_runner

    def elsewhere(*given: Any) -> Any:
        return replace(opened(*given), cannot_run="Run it on an Android phone.")

    monkeypatch.setattr(timing, "open_runner", elsewhere)
    assert time_operators(signs_pte) == NotRun("Run it on an Android phone.")
