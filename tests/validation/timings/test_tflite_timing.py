"""LiteRT's profiler: each operator of a file has its time, and what XNNPACK leaves has its reason."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mobileseg.types import NotRun
from mobileseg.validation.timings import Timed, litert, time_operators

interpreters = pytest.importorskip("ai_edge_litert.interpreter")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="LiteRT's profiler was tried on Linux alone")


@pytest.fixture(scope="module")
def timed(signs_tflite: Path) -> Timed:
    found = time_operators(signs_tflite, runs=6)
    assert isinstance(found, Timed), found
    return found


def test_the_operators_are_the_files_in_its_order(timed: Timed, signs_tflite: Path) -> None:
    interpreter = interpreters.Interpreter(model_path=str(signs_tflite))
    names = {int(tensor["index"]): tensor["name"] for tensor in interpreter.get_tensor_details()}
    expected = [(o["op_name"], names[int(o["outputs"][0])]) for o in interpreter._get_ops_details()]
    expected = [(operator, name) for operator, name in expected if operator != "DELEGATE"]
    assert [(operator.operator, operator.name) for operator in timed.operators] == expected


def test_each_operator_names_what_xnnpack_calls_for_it(timed: Timed) -> None:
    called = {operator.operator: operator.kernels for operator in timed.operators if operator.kernels}
    assert called["CONV_2D"][0].startswith(("Convolution", "Fully Connected"))
    assert called["ADD"] in (("Add (ND)",), ("Add (ND)", "Clamp (NC)"))
    assert all(operator.calls == len(operator.kernels) for operator in timed.operators)


def test_what_xnnpack_leaves_is_run_by_tflite_and_has_its_reason(timed: Timed) -> None:
    left = [operator for operator in timed.operators if not operator.delegated]
    assert [(operator.operator, operator.kernels) for operator in left] == [("SIGN", ("SIGN",))]
    assert left[0].why == "XNNPACK has no SIGN"
    assert timed.partitions == 1


def test_the_whole_is_measured_too(timed: Timed) -> None:
    assert timed.runs >= 3
    assert timed.threads == 1
    assert timed.whole_ms > 0
    assert timed.sum_ms > 0
    assert "LiteRT's profiler" in timed.runtime


def test_another_version_of_the_library_is_not_tried(signs_tflite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litert, "TESTED", ("0.9.0",))
    found = time_operators(signs_tflite)
    assert isinstance(found, NotRun)
    assert "pip install ai-edge-litert==0.9.0" in found.why


def test_a_system_without_the_library_is_named(signs_tflite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litert.sys, "platform", "plan9")
    found = time_operators(signs_tflite)
    assert isinstance(found, NotRun)
    assert "plan9" in found.why


def test_a_file_that_ends_its_process_leaves_this_one_alone(signs_tflite: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.tflite"
    path.write_bytes(signs_tflite.read_bytes()[:900])
    found = litert.profile(path, runs=1)
    assert isinstance(found, NotRun)
    assert found.why.startswith("the process that runs the file with LiteRT's profiler ")
