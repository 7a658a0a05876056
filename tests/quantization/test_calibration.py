"""Choosing and checking calibration pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobileseg.errors import OptionError, PictureError
from mobileseg.quantization.calibration import check_calibration, choose_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(8):
        place = tmp_path / "a" / f"{i}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 6, 3), i, np.uint8)).save(place)
    return tmp_path


def test_the_choice_is_the_seeds(folder: Path) -> None:
    assert choose_pictures(folder, 3, seed=1) == choose_pictures(folder, 3, seed=1)
    assert len({tuple(choose_pictures(folder, 3, seed=s)) for s in range(5)}) > 1
    assert len(choose_pictures(folder, 99)) == 8


def test_a_wrong_count_or_folder_is_refused(folder: Path) -> None:
    with pytest.raises(OptionError, match="at least 1"):
        choose_pictures(folder, 0)
    with pytest.raises(PictureError, match="does not exist"):
        choose_pictures(folder / "none", 3)


def test_too_few_and_unreadable_pictures_are_named(folder: Path) -> None:
    paths = choose_pictures(folder, 8)
    check_calibration(paths, 8)
    with pytest.raises(PictureError, match=r"8 calibration pictures; expected at least 9.*--calibration"):
        check_calibration(paths, 9)
    paths[2].write_bytes(b"no picture")
    with pytest.raises(PictureError, match=f"1 of 8.*{paths[2].name}"):
        check_calibration(paths, 8)
