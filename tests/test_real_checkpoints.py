"""Every real checkpoint through every target and precision, on 8 real pictures at its own training size (minutes
each: `-m slow`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mobileseg import convert
from mobileseg.registry import TARGETS, target

pytestmark = pytest.mark.slow

CHECKPOINTS = (
    "enet-camvid-davidtvs2018",
    "enet-camvid-iarunava",
    "enet-cityscapes-davidtvs",
    "enet-greenhouse-davidtvs-pre2021",
    "erfnet-cityscapes",
    "espnet-c-cityscapes-p2q8",
    "espnet-camvid-p2q8",
    "espnetv2-cityscapes-2018-s0.5",
    "espnetv2-cityscapes-edgenets-s0.5",
    "espnetv2-cityscapes-edgenets-s2.0",
    "espnetv2-voc-edgenets-s0.5",
)
VARIANTS = {"enet-greenhouse-davidtvs-pre2021": "davidtvs-pre2021"}
FLOAT = [(name, precision) for name in TARGETS for precision in ("fp32", "fp16")]


def converted(shared: Path, name: str, to: str, precision: str, output: Path) -> Any:
    manifest = {e["name"]: e for e in json.loads((shared / "checkpoints" / "manifest.json").read_text())}
    entry = manifest[name]
    pictures = shared / "images" / (entry["dataset"] or "camvid")
    (made,) = convert(
        shared / "checkpoints" / entry["file"],
        to=to,
        precision=precision,
        size=(entry["size"][0], entry["size"][1]),
        variant=VARIANTS.get(name),
        images=pictures / "test",
        calibration=pictures / "calibration" if precision == "int8" else None,
        output=output,
    ).artifacts
    return made


@pytest.mark.parametrize(("to", "precision"), FLOAT)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_float_files_pass_the_default_gates(shared: Path, tmp_path: Path, name: str, to: str, precision: str) -> None:
    assert precision in target(to).precisions
    made = converted(shared, name, to, precision, tmp_path)
    assert made.passed, made.report["parity"]["gates"]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_int8_files_run_and_are_measured(shared: Path, tmp_path: Path, name: str) -> None:
    made = converted(shared, name, "tflite", "int8", tmp_path)
    assert made.artifact.path.is_file()
    assert made.report["parity"]["pixel_agreement"] >= 0.75
    assert made.report["quantization"]["calibration"]["images"] >= 5
