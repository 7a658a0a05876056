"""`mobileseg sensitivity`: what it measures, shows and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(2):
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


def test_layers_worst_first_and_what_to_keep_in_float(run: Any, tmp_path: Path) -> None:
    """Of the demo network, whose pixels do change in int8."""
    written, page = tmp_path / "s.json", tmp_path / "s.html"
    ended = run(
        *("sensitivity", "--to", "onnx", "--size", "48x64", "--calibration-size", "2", "--top", "3"),
        *("--min-agreement", "1", "--report", written, "--html", page),
    )
    assert ended.code == 0, ended.err
    assert max(len(line) for line in ended.out.splitlines()) <= 80
    report = json.loads(written.read_text())
    layers = report["layers"]
    assert f"... and {len(layers) - 3} more (--top; --json lists all)." in ended.out
    errors = [layer["error"] for layer in layers]
    assert errors == sorted(errors, reverse=True)
    assert sum(layer["error_share"] for layer in layers) == pytest.approx(1.0)
    assert sum(layer["kept_float"] for layer in layers) == report["budget"]["kept"]["units"] >= 1
    assert sorted(layer["place"] for layer in layers) == list(range(1, len(layers) + 1))
    assert {"initial_block.main_branch", "transposed_conv"} <= {layer["module"] for layer in layers}
    assert (report["target"], report["precision"], report["size"]) == ("onnx", "int8", [48, 64])
    assert report["calibration"]["images"] == 2
    for stage in ("Equalize channels", "Rewrite for onnx", "Measure each operator"):
        assert stage in ended.err
    html = page.read_text()
    assert html.count("<rect") == html.count("<circle") == len(layers)
    assert "<script" not in html
    assert "http" not in html


def test_json_is_the_report(run: Any, checkpoint: Path, pictures: Path) -> None:
    given = ("sensitivity", checkpoint, "--to", "onnx", "--size", "48x48", "--calibration", pictures)
    ended = run(*given, "--min-agreement", "0", "--json", "--quiet")
    assert (ended.code, ended.err) == (0, "")
    assert ended.json["budget"]["kept"] == ended.json["curve"][0]
    assert ended.json["budget"]["met"]
    assert not any(layer["kept_float"] for layer in ended.json["layers"])
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--calibration DIR"),
        (("--calibration", "absent"), "absent"),
        (("--calibration", "synthetic", "--to", "nowhere"), "nowhere"),
        (("--calibration", "synthetic", "--to", "onnx,tflite"), "onnx, tflite"),
        (("--calibration", "synthetic", "--to", "all"), "name one"),
        (("--calibration", "synthetic", "--size", "47x48"), "multiples of 8"),
        (("--calibration", "synthetic", "--to", "onnx", "--delegate", "vulkan"), "--delegate"),
    ],
)
def test_what_is_refused(run: Any, checkpoint: Path, words: tuple[str, ...], message: str) -> None:
    ended = run("sensitivity", checkpoint, *words)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err


def test_no_calibration_is_the_error_of_convert(run: Any, checkpoint: Path) -> None:
    refused = run("sensitivity", checkpoint, "--json").error
    assert refused == run("convert", checkpoint, "--int8", "--json").error


def test_a_target_without_int8(run: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from mobileseg.converters import onnx

    monkeypatch.setattr(onnx, "TARGET", replace(onnx.TARGET, precisions=("fp32",)))
    ended = run("sensitivity", checkpoint, "--to", "onnx", "--calibration", "synthetic")
    assert ended.code == 2
    assert "has no precision 'int8'; it has fp32" in ended.err


def test_a_delegate_without_int8(run: Any, checkpoint: Path) -> None:
    ended = run(
        *("sensitivity", checkpoint, "--to", "executorch", "--delegate", "vulkan", "--calibration", "synthetic"),
        *("--size", "48x48"),
    )
    assert ended.code == 2
    assert "vulkan" in ended.err
