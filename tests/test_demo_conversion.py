"""The README's main command: the embedded demo network to an int8 TFLite file that keeps its accuracy."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mobileseg import convert, inspect
from mobileseg.types import ConvertedArtifact
from mobileseg.validation.inspection import ArtifactSummary

pytest.importorskip("litert_torch", reason="needs the extra: pip install 'mobileseg[tflite]'")

FORBIDDEN = ("GATHER", "SCATTER", "TOPK", "CUSTOM", "FLEX", "WHERE", "SELECT")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ConvertedArtifact:
    (artifact,) = convert(to="tflite", precision="int8", output=tmp_path_factory.mktemp("demo")).artifacts
    return artifact


def test_it_passes_its_gates_and_is_still_accurate(made: ConvertedArtifact) -> None:
    parity: dict[str, Any] = made.report["parity"]
    assert made.passed, parity["gates"]
    assert {gate["name"] for gate in parity["gates"]} == {"pixel_agreement", "miou_drop_points"}
    assert parity["miou_artifact"] >= 0.75


def test_the_file_and_its_report_are_all_that_is_there(made: ConvertedArtifact) -> None:
    name = "demo-enet.int8.tflite"
    assert sorted(p.name for p in made.artifact.path.parent.iterdir()) == [name, f"{name}.report.json"]
    assert made.report_path is not None
    assert json.loads(made.report_path.read_text()) == made.report


def test_the_report_keeps_its_schema(made: ConvertedArtifact) -> None:
    from mobileseg.validation.report import schema_faults

    assert schema_faults(made.report) == []


def test_everything_inside_is_int8_and_runs_on_phones(made: ConvertedArtifact) -> None:
    summary = inspect(made.artifact.path)
    assert isinstance(summary, ArtifactSummary)
    names = set(summary.graph.operators)
    assert not [name for name in names if any(word in name for word in FORBIDDEN)]
    assert made.report["quantization"]["kept_float"] == []


def test_the_metadata_says_what_it_is(made: ConvertedArtifact) -> None:
    embedded = made.artifact.metadata
    assert embedded["precision"] == "int8"
    assert embedded["classes"]["names"][:3] == ["sky", "building", "road"]
    assert embedded["tool"] == "mobileseg"
