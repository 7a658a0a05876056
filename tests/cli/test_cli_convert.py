"""`mobileseg convert`: what it writes, prints and returns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FAST = ("--to", "onnx", "--size", "64x64", "--image-count", "1")


def test_json_is_all_of_stdout(converted: Any) -> None:
    ended, output = converted
    assert ended.code == 0, ended.err
    path = output / "small.fp32.onnx"
    report = {"report": f"{path}.report.json", "path": str(path), "target": "onnx", "precision": "fp32", "passed": True}
    assert ended.json == {"artifacts": [report], "failures": [], "passed": True}


def test_files_are_the_artifact_and_its_report(converted: Any) -> None:
    _, output = converted
    assert sorted(p.name for p in output.iterdir()) == ["small.fp32.onnx", "small.fp32.onnx.report.json"]
    report = json.loads((output / "small.fp32.onnx.report.json").read_text())
    assert report["parity"]["passed"]
    assert report["parity"]["images"] == 2


def test_no_log_is_left(converted: Any, environment: dict[str, str]) -> None:
    assert converted[0].code == 0
    assert not list(Path(environment["TMPDIR"]).glob("mobileseg-*"))


def test_stderr_tells_stages_inference_and_result(converted: Any) -> None:
    err = converted[0].err
    for stage in ("Load the checkpoint", "Export", "Rewrite for onnx", "Lower to onnx", "Run and compare onnx"):
        assert f"{stage} ...\n{stage}: " in err.replace(loaded(err), "")
    told = loaded(err)
    assert "erfnet, eromera" in told
    assert "64x64" in told
    assert "--size" in told
    assert "unit: RGB / 255" in told
    assert "--preprocessing" in told
    table = err[err.index("File, size") :]
    for cell in ("small.fp32.onnx", "1x3x64x64", "agreement 100.0000 %", "SQNR", "2 of 2 met"):
        assert cell in table
    assert max(len(line) for line in table.splitlines()[:-1]) <= 80


def loaded(err: str) -> str:
    """The lines on what was inferred."""
    start = err.index("  network")
    return err[start : err.index("Export ...")]


def test_stderr_has_nothing_of_the_libraries(converted: Any) -> None:
    assert "onnxscript" not in converted[0].err
    assert "Warning" not in converted[0].err


@pytest.mark.usefixtures("quick_onnx")
def test_a_gate_not_met(run: Any, checkpoint: Path) -> None:
    ended = run("convert", checkpoint, *FAST, "--min-sqnr", "1000", "--output", "out", "--json")
    assert ended.code == 3
    assert not ended.json["passed"]
    assert not ended.json["artifacts"][0]["passed"]
    assert Path("out/small.fp32.onnx").is_file()
    last = ended.err.splitlines()[-1]
    assert last.startswith("Gate not met by small.fp32.onnx: SQNR is ")
    assert "asked for is >= 1000 dB (--min-sqnr)" in last


@pytest.mark.usefixtures("quick_onnx")
def test_quiet(run: Any, checkpoint: Path) -> None:
    ended = run("convert", checkpoint, *FAST, "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert Path("mobileseg-out/small.fp32.onnx").is_file()


def test_dry_run_writes_nothing(run: Any, checkpoint: Path) -> None:
    ended = run("convert", checkpoint, *FAST, "--dry-run", "--json")
    assert ended.code == 0
    assert ended.json["artifacts"][0]["path"] == "mobileseg-out/small.fp32.onnx"
    assert ended.json["artifacts"][0]["report"] is None
    assert ended.json["passed"] == ended.json["artifacts"][0]["passed"] == {"not_run": "dry run"}
    assert not list(Path().iterdir())


def test_preprocessing_figures_reach_the_network(run: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    figures = ("--preprocessing", "imagenet", "--mean", "0.5,0.25,0", "--channel-order", "BGR", "--post-scale", "2")
    ended = run("convert", checkpoint, *FAST, *figures, "--dry-run")
    assert ended.code == 0, ended.err
    assert "custom: BGR / 255 - (0.5, 0.25, 0) / (0.229, 0.224, 0.225) / 2" in ended.err


def test_a_notice_names_its_option(run: Any, tmp_path: Path) -> None:
    import torch

    from mobileseg.architectures.enet_network import ENet

    torch.save(ENet(3, channels=(5, 8, 8), decoder_relu=True).state_dict(), tmp_path / "enet.pth")
    ended = run("inspect", tmp_path / "enet.pth")
    assert "(--variant davidtvs-pre2021)" in ended.out


def test_int8_on_a_users_pictures(run: Any, checkpoint: Path, pictures: Path, environment: dict[str, str]) -> None:
    """The whole way to a quantized TFLite file: the slowest test here."""
    ended = run("convert", checkpoint, "--int8", "--size", "64x64", "--calibration", pictures, "--json")
    assert ended.code in (0, 3), ended.err  # random weights: whether the gate is met says nothing
    (artifact,) = ended.json["artifacts"]
    report = json.loads(Path(artifact["report"]).read_text())
    assert artifact["precision"] == report["artifact"]["precision"] == "int8"
    assert report["quantization"]["calibration"]["images"] == 3
    assert "also calibrated on" in " ".join(report["parity"]["notes"])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    import numpy as np
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / f"{i}.png")
    return folder
