"""`mobileseg predict` from the command line: what it writes, says, and how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobileseg.mobile_assets.demo import scene


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in (10_000, 10_001):
        Image.fromarray(scene(seed, (96, 160)).picture).save(folder / f"{seed}.png")
    return folder


def test_an_artifact_draws_masks_overlays_and_a_legend(run: Any, converted: Any, pictures: Path) -> None:
    ended = run("predict", converted[1] / "small.fp32.onnx", pictures, "--output", "drawn", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["input_size"] == [64, 64]
    assert [p["size"] for p in ended.json["pictures"]] == [[96, 160]] * 2
    for seed in (10_000, 10_001):
        mask = np.asarray(Image.open(f"drawn/masks/{seed}.png"))
        assert mask.shape == (96, 160)
        assert mask.max() < 3
        assert Image.open(f"drawn/overlays/{seed}.jpg").size == (160, 96)
    assert Path("drawn/legend.png").is_file()


def test_artifact_and_checkpoint_draw_the_same(run: Any, converted: Any, checkpoint: Path, pictures: Path) -> None:
    assert run("predict", converted[1] / "small.fp32.onnx", pictures, "--output", "a").code == 0
    assert run("predict", checkpoint, pictures, "--size", "64x64", "--output", "b").code == 0
    for name in ("10000.png", "10001.png"):
        one, other = (np.asarray(Image.open(f"{folder}/masks/{name}")) for folder in "ab")
        assert (one == other).mean() > 0.999


def test_what_it_says_fits_80_columns(run: Any, converted: Any, pictures: Path) -> None:
    ended = run("predict", converted[1] / "small.fp32.onnx", pictures, "--output", "drawn")
    assert ended.out == ""
    told = ended.err
    assert "10000.png" in told
    assert "pictures resized to 64x64" in told
    assert "Over all: " in told
    assert "masks/" in told
    table = told[told.index("Picture") : told.index("Over all")]
    assert max(map(len, table.splitlines())) <= 80


def test_a_broken_picture_is_named_and_the_others_are_drawn(run: Any, converted: Any, pictures: Path) -> None:
    Path("mixed").mkdir()
    Path("mixed/broken.png").write_bytes(b"no picture")
    Image.open(pictures / "10000.png").save("mixed/good.png")
    ended = run("predict", converted[1] / "small.fp32.onnx", "mixed", "--output", "drawn")
    assert ended.code == 2
    assert "Not read: 'mixed/broken.png'" in ended.err
    assert Path("drawn/masks/good.png").is_file()
    assert not Path("drawn/masks/broken.png").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("nothing.tflite", "PICTURES"), "There is no artifact"),
        (("demo", "no-folder"), "no-folder"),
        (("demo", "PICTURES", "--opacity", "2"), "opacity"),
    ],
)
def test_bad_input_ends_with_2(run: Any, pictures: Path, arguments: tuple[str, ...], word: str) -> None:
    ended = run("predict", *(pictures if a == "PICTURES" else a for a in arguments))
    assert ended.code == 2
    assert word in ended.err
    assert "Traceback" not in ended.err
    assert not Path("mobileseg-predictions").exists()
