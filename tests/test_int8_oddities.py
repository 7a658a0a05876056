"""Odd activations and odd calibration pictures: int8 with finite scales and outputs, and warnings by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from mobileseg import convert
from mobileseg.errors import CheckpointError
from mobileseg.types import INT8, ConvertedArtifact, GateLimits, Int8Recipe
from mobileseg.validation.runners import open_artifact

pytest.importorskip("onnxruntime", reason="needs the extra: pip install 'mobileseg[onnx]'")

SIZE = (24, 32)
INT8_THROUGHOUT = replace(INT8, min_agreement=0.0, ranges="min-max")


class Net(nn.Module):
    """Two layers by name, and what a test does between them."""

    def __init__(self, between: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 4, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.between(torch.relu(self.first(x))))
        return logits


def noise(count: int = 3) -> list[NDArray[np.uint8]]:
    return [np.random.default_rng(n).integers(0, 256, (*SIZE, 3), np.uint8) for n in range(count)]


Made = Callable[..., ConvertedArtifact]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def make(network: nn.Module, pictures: list[NDArray[np.uint8]], recipe: Int8Recipe = INT8_THROUGHOUT) -> Any:
        folder = tmp_path / "pictures"
        folder.mkdir()
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(folder / f"street{number}.png")
        result = convert(
            model=network,
            to="onnx",
            precision="int8",
            size=SIZE,
            calibration=folder,
            recipe=recipe,
            gates=GateLimits(min_agreement=0.0),
            output=tmp_path / "out",
        )
        return result.artifacts[0]

    return make


def warnings(file: ConvertedArtifact) -> str:
    found: list[str] = file.report["quantization"]["warnings"]
    return "\n".join(found)


def output(file: ConvertedArtifact) -> NDArray[Any]:
    return open_artifact(file.artifact.path).run(noise(1)[0][None])


def test_a_network_in_order_is_not_warned_of(made: Made) -> None:
    assert warnings(made(Net(), noise())) == ""


def constant(network: Net) -> None:
    network.first.weight.data[:] = 0.0
    network.first.bias.data[:] = 3.0


def tiny(network: Net) -> None:
    network.first.weight.data *= 1e-8
    network.first.bias.data *= 1e-8


def huge(network: Net) -> None:
    network.first.weight.data *= 1e7


def dead(network: Net) -> None:
    network.first.weight.data[2:4] = 0.0
    network.first.bias.data[2:4] = -1.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (constant, "is 3 throughout, on every picture"),
        (tiny, "has tiny values alone"),
        (huge, "has huge values"),
        (dead, "Channels are dead, the same on every picture: 2 of 8 in first"),
    ],
)
def test_what_a_tensor_has_is_told_by_its_layer(change: Callable[[Net], None], said: str, made: Made) -> None:
    network = Net()
    change(network)
    file = made(network, noise())
    assert said in warnings(file)
    assert "first" in next(line for line in warnings(file).splitlines() if said in line)
    assert np.isfinite(output(file)).all()
    for spec in file.report["artifact"]["outputs"]:
        assert spec["scale"] is None or np.isfinite(spec["scale"])


def test_values_that_are_no_numbers_are_an_error_that_names_the_picture(made: Made) -> None:
    pictures = noise(2)
    pictures[1][:] = 255

    network = Net()
    network.first.weight.data = network.first.weight.data.abs()
    greatest = float(network.first(torch.ones(1, 3, *SIZE)).max())  # white's
    network.between = lambda x: torch.sqrt(0.95 * greatest - x)
    with pytest.raises(CheckpointError, match=r"picture 'street1\.png'.*NaN or infinite.*--calibration"):
        made(network, pictures)


def test_one_picture_alone_is_warned_of(made: Made) -> None:
    file = made(Net(), noise(1))
    assert "one calibration picture alone" in warnings(file)
    assert np.isfinite(output(file)).all()


@pytest.mark.parametrize("value", [0, 255])
def test_pictures_of_one_colour_are_named(value: int, made: Made) -> None:
    plain = [np.full((*SIZE, 3), value, np.uint8)] * 2
    file = made(Net(), plain, INT8)
    assert "2 of 2 calibration pictures have one colour throughout: 'street0.png', 'street1.png'" in warnings(file)
    assert np.isfinite(output(file)).all()
