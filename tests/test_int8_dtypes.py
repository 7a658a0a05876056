"""TFLite int8 files whose input and output are 8-bit numbers: made, held against the checkpoint, predicted with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mobileseg import convert, predict, validate
from mobileseg.errors import OptionError
from mobileseg.types import INT8, ConvertedArtifact, GateLimits

pytest.importorskip("litert_torch", reason="needs the extra: pip install 'mobileseg[tflite]'")

SIZE = (32, 48)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ConvertedArtifact:
    options = {"input_dtype": "uint8", "output_dtype": "int8"}
    result = convert(
        model=network(),
        to="tflite",
        precision="int8",
        size=SIZE,
        calibration="synthetic",
        calibration_size=2,
        recipe=INT8,
        gates=GateLimits(min_agreement=0.5),
        options=options,
        image_count=2,
        output=tmp_path_factory.mktemp("dtypes"),
    )
    assert not result.failures, result.failures
    return result.artifacts[0]


def test_the_file_takes_and_gives_what_was_asked_for_and_agrees(made: ConvertedArtifact) -> None:
    (given,), (returned,) = made.report["artifact"]["inputs"], made.report["artifact"]["outputs"]
    assert (given["dtype"], given["scale"], given["zero_point"]) == ("uint8", 1.0, 0)
    assert returned["dtype"] == "int8"
    assert returned["scale"] > 0.0
    assert made.artifact.metadata["input"]["dtype"] == "uint8"
    assert made.passed is True
    assert made.report["parity"]["pixel_agreement"] > 0.95
    assert made.report["parity"]["sqnr_db"] > 20.0


def test_it_is_validated_and_predicted_with_like_any_other(made: ConvertedArtifact, tmp_path: Path) -> None:
    again = validate(made.artifact.path, model=network(), size=SIZE, image_count=2, gates=GateLimits(min_agreement=0.5))
    assert again.passed
    assert again.report["parity"]["pixel_agreement"] > 0.95
    picture = tmp_path / "street.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)).save(picture)
    drawn = predict(made.artifact.path, [picture], output=tmp_path / "out")
    assert not drawn.failures


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"options": {"input_dtype": "int9"}}, "Did you mean 'int8'"),
        ({"options": {"input_dtype": "uint8"}, "precision": "fp16"}, "--input-dtype is for tflite files of int8"),
        ({"options": {"input_dtype": "uint8"}, "to": "onnx"}, "--input-dtype is an option of tflite"),
        ({"options": {"output_dtype": "int8"}, "head": "argmax"}, "--head argmax gives classes"),
    ],
)
def test_types_that_do_not_fit_are_refused(asked: dict[str, Any], said: str, tmp_path: Path) -> None:
    common: dict[str, Any] = {"to": "tflite", "precision": "int8", "size": SIZE, "calibration": "synthetic"}
    with pytest.raises(OptionError, match=said):
        convert(model=network(), output=tmp_path, **(common | asked))
