"""What the options of int8 say, as one recipe, and where they are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

from mobileseg import convert
from mobileseg.errors import OptionError, PictureError
from mobileseg.jobs import aimed
from mobileseg.options import recipe_of
from mobileseg.types import INT8, GateLimits, Int8Recipe

SIZE = (24, 32)


def test_options_make_one_recipe() -> None:
    assert recipe_of("auto", False, INT8.max_evaluations) == INT8
    expected = Int8Recipe(ranges="mse", equalized=False, max_evaluations=3)
    assert recipe_of("mse", True, 3) == expected


def test_the_search_aims_at_what_the_gates_ask_for_and_else_at_what_the_recipe_says() -> None:
    assert aimed(INT8, GateLimits(min_agreement=0.95)) == replace(INT8, min_agreement=0.95)
    assert aimed(INT8, GateLimits(max_miou_drop=0.5)) == replace(INT8, max_miou_drop=0.5)
    assert aimed(INT8, GateLimits()) == INT8
    own = replace(INT8, max_miou_drop=2.0, min_agreement=0.9)
    assert aimed(own, GateLimits(min_sqnr_db=3.0)) == own


def folder(path: Path, names: str = "ab") -> Path:
    path.mkdir()
    for name in names:
        Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(path / f"{name}.png")
    return path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "fp32", "recipe": replace(INT8, equalized=False)}, "--no-equalize.*fp32 was asked for.*--int8"),
        ({"precision": "int8", "recipe": replace(INT8, ranges="min max")}, "Did you mean 'min-max'"),
        ({"precision": "int8", "recipe": replace(INT8, ranges="percentile:12")}, "'12' is no percentile"),
        ({"precision": "int8", "recipe": replace(INT8, max_evaluations=0)}, "--max-evaluations must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_loaded(
    options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=said):
        convert(tmp_path / "none.pth", to="onnx", calibration="synthetic", output=tmp_path / "out", **options)


def test_labels_need_their_pictures_and_each_picture_its_label(tmp_path: Path) -> None:
    labels = folder(tmp_path / "labels", "a")
    common: dict[str, Any] = {
        "model": nn.Conv2d(3, 4, 1),
        "to": "onnx",
        "precision": "int8",
        "size": SIZE,
        "calibration_labels": labels,
        "output": tmp_path / "out",
    }
    with pytest.raises(OptionError, match="--calibration-labels needs the folder of the pictures"):
        convert(calibration="synthetic", **common)
    with pytest.raises(PictureError, match=r"1 of 2 pictures have no label map.*b\.png"):
        convert(calibration=folder(tmp_path / "pictures"), **common)
