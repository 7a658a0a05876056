"""Faults that are planted in files of each kind are caught by the gates, and located."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mobileseg.layer_texts import sqnr_rows, worst_values
from mobileseg.proving import Validation
from mobileseg.texts import fault_text
from mobileseg.validation.report import schema_faults

TARGETS = {"tflite": "ai_edge_litert", "onnx": "onnxruntime", "coreml": "coremltools", "executorch": "executorch"}

FAULTS = (
    "swapped channel order",
    "wrong PReLU slope",
    "equality mask",
    "shifted upsampling",
    "mean and std left out",
    "transposed output",
    "permuted classes",
)


# Of values, of a rewriting, of the layout: in every format. All the others: in the format that is made fastest.
IN_EVERY_FORMAT = ("wrong PReLU slope", "equality mask", "transposed output")

Find = Callable[[str, str], Validation]


def faulty_files() -> Iterator[Any]:
    for target in TARGETS:
        for fault in FAULTS:
            quick = target == "onnx" or fault in IN_EVERY_FORMAT
            yield pytest.param(target, fault, marks=[] if quick else [pytest.mark.slow], id=f"{target}-{fault}")


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(TARGETS[request.param], reason=f"install the extra: pip install 'mobileseg[{request.param}]'")
    return str(request.param)


@pytest.fixture(scope="module")
def find(make_file: Callable[..., Path], hold: Callable[..., Validation]) -> Find:
    """What is found of a file of a target with a fault; each file once."""
    return functools.cache(lambda target, fault: hold(make_file(target, fault=fault)))


def gates(found: Validation) -> dict[str, bool]:
    return {gate["name"]: gate["passed"] for gate in found.report["parity"]["gates"]}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_sound_file_has_no_wrong_operator(
    target: str, precision: str, make_file: Callable[..., Path], hold: Callable[..., Validation]
) -> None:
    found = hold(make_file(target, precision))
    operators = found.report["operators"]
    assert operators["faults"] == []
    assert gates(found)["operators"]
    assert len(operators["values"]) >= 15
    assert schema_faults(found.report) == []


@pytest.mark.parametrize(
    "target", ["onnx", *(pytest.param(t, marks=pytest.mark.slow) for t in TARGETS if t != "onnx")], indirect=True
)
def test_a_sound_equalized_file_has_no_wrong_operator(
    target: str, make_file: Callable[..., Path], hold: Callable[..., Validation]
) -> None:
    found = hold(make_file(target, "int8", calibration="synthetic", calibration_size=2))
    operators = found.report["operators"]
    assert operators["faults"] == []
    assert len(operators["values"]) >= 15
    assert schema_faults(found.report) == []
    worst = worst_values(operators["values"])
    assert len({value["file_value"] for value in worst}) == len(worst)
    assert all(isinstance(row[3], str) for row in sqnr_rows(worst))


def test_every_fault_is_tested(planted: Any) -> None:
    assert tuple(planted.FAULTS) == FAULTS


@pytest.mark.parametrize(("target", "fault"), list(faulty_files()), indirect=["target"])
def test_a_fault_is_caught_and_located(target: str, fault: str, planted: Any, find: Find) -> None:
    found = find(target, fault)
    assert (found.passed, found.exit_code) == (False, 3)
    caught = gates(found)
    assert not caught.pop("operators")
    # The gates on the output alone catch it, too.
    assert not all(caught.values())
    first, *others = found.report["operators"]["faults"]
    expected = planted.FAULTS[fault]
    assert {node["operator"] for node in first["torch_nodes"]} & set(expected.torch)
    assert expected.module in {node["module"] for node in first["torch_nodes"]}
    assert first["alone"]
    assert not others
    assert first["file_operators"]
    assert schema_faults(found.report) == []
    assert first["node"] in fault_text(first)


def test_the_pass_that_changed_a_wrong_operator_is_named(find: Find) -> None:
    pytest.importorskip("onnxruntime", reason="install the extra: pip install 'mobileseg[onnx]'")
    (fault,) = find("onnx", "equality mask").report["operators"]["faults"]
    assert fault["rewrites"] == ["rewrite_unpooling"]
    assert "changed by rewrite_unpooling" in fault_text(fault)
