"""ONNX Runtime's profiler: the operators that it runs have their times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mobileseg.validation.timings import Timed, time_operators

pytest.importorskip("onnxruntime", reason="install the extra: pip install 'mobileseg[onnx]'")


@pytest.mark.parametrize("batch", [1, "batch"])
def test_the_operators_are_those_that_run(make_onnx: Callable[..., Path], batch: int | str, tmp_path: Path) -> None:
    path = make_onnx(head="softmax", batch=batch)
    before = sorted(tmp_path.iterdir())
    timed = time_operators(path, runs=6)
    assert isinstance(timed, Timed)
    kinds = [operator.operator for operator in timed.operators]
    assert kinds.count("Conv") == kinds.count("Softmax") == 1
    assert len({operator.name for operator in timed.operators}) == len(timed.operators)
    assert not any(operator.delegated for operator in timed.operators)
    assert timed.partitions == 0
    assert timed.runs >= 3
    assert timed.whole_ms > 0
    assert sorted(tmp_path.iterdir()) == before
