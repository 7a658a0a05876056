"""Tiny networks as float .tflite files, and pictures to calibrate and test them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mobileseg.converters.export import Deployed, export, rewrite
from mobileseg.converters.target import Lowering
from mobileseg.converters.tflite import TARGET
from mobileseg.types import Preprocessing

SIZE = (32, 48)


class Unpooling(nn.Module):
    """Convolution, overlapping pooling (neighbours are often equal), pooling and unpooling by its indices."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 3, stride=1, padding=1)
        y, indices = F.max_pool2d(x, 2, return_indices=True)
        up = F.max_unpool2d(F.leaky_relu(self.middle(y), 0.2), indices, 2)
        logits: Tensor = self.last(up)
        return logits


class Branches(nn.Module):
    """PReLU per channel, padded average pooling, and a batch normalization behind parts of unlike ranges."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.slopes = nn.PReLU(8)
        self.norm = nn.BatchNorm2d(11)
        self.last = nn.Conv2d(11, 4, 3, padding=2, dilation=2)
        self.slopes.weight.data = torch.linspace(-0.3, 0.9, 8)
        self.wide.weight.data *= 20.0
        scale = torch.cat((torch.full((8,), 20.0), torch.full((3,), 0.3)))
        self.norm.running_var.data = scale**2
        self.norm.running_mean.data = scale / 2

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat((self.slopes(self.wide(x)), F.avg_pool2d(x, 3, stride=2, padding=1)), 1)
        up = F.interpolate(self.norm(joined), scale_factor=2.0, mode="bilinear", align_corners=True)
        logits: Tensor = self.last(up)
        return logits


class DeadChannels(nn.Module):
    """Convolutions of which training has left two channels next to nothing, or nothing at all."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Conv2d(8, 4, 1)
        for layer, bias in ((self.first, self.first.bias), (self.middle, self.middle.bias)):
            for parameter in (layer.weight, bias):
                if parameter is not None:
                    parameter.data[0] *= 1e-38
                    parameter.data[1] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(F.leaky_relu(self.middle(F.leaky_relu(self.first(x), 0.2)), 0.2))
        return logits


class Repeated(nn.Module):
    """One layer without a bias used twice, and two poolings of equal weights; ranges differ at each place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 1)
        self.rows = nn.Linear(SIZE[1], SIZE[1], bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(torch.sigmoid(self.first(x)), 3, 1, 1)
        logits: Tensor = F.avg_pool2d(self.rows(torch.tanh(self.rows(x))), 3, 1, 1)
        return logits


class Joined(nn.Module):
    """A ReLU of what has no operator to take it in, and which is read without it, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.max_pool2d(self.first(x), 2)
        logits: Tensor = self.last(torch.cat((F.relu(pooled), pooled), 1))
        return logits


def convert(network: nn.Module, path: Path, precision: str = "int8") -> bytes:
    """The float file in the forms of a precision."""
    pytest.importorskip("litert_torch", reason="install the extra: pip install 'mobileseg[tflite]'")
    deployed = Deployed(network.eval(), Preprocessing("unit"), "logits")
    TARGET.lower(rewrite(export(deployed, SIZE), "tflite", precision), Lowering("fp32", "logits", {}), path)
    return path.read_bytes()


@pytest.fixture(scope="session")
def wide_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Float files in the forms for activations of 16 bits."""
    torch.manual_seed(0)
    networks = {"unpooling": Unpooling(), "branches": Branches(), "dead channels": DeadChannels()}
    folder = tmp_path_factory.mktemp("wide")
    return {name: convert(network, folder / f"{name}.tflite", "w8a16") for name, network in networks.items()}


@pytest.fixture(scope="session")
def unpooling_model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    return convert(Unpooling(), tmp_path_factory.mktemp("models") / "unpooling.tflite")


@pytest.fixture(scope="session")
def branches_model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    return convert(Branches(), tmp_path_factory.mktemp("models") / "branches.tflite")


@pytest.fixture(scope="session")
def dead_channels_model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    return convert(DeadChannels(), tmp_path_factory.mktemp("models") / "dead_channels.tflite")


@pytest.fixture(scope="session")
def joined_model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    return convert(Joined(), tmp_path_factory.mktemp("models") / "joined.tflite")


@pytest.fixture(scope="session")
def enlarged_model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.UpsamplingBilinear2d(scale_factor=2))
    return convert(network, tmp_path_factory.mktemp("models") / "enlarged.tflite")


@pytest.fixture(scope="session")
def repeated_model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    return convert(Repeated(), tmp_path_factory.mktemp("models") / "repeated.tflite")


@pytest.fixture(scope="session")
def pictures() -> list[NDArray[np.uint8]]:
    """Smooth coloured noise, (H, W, 3)."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, SIZE[0] // 4, SIZE[1] // 4, 3))
    return [np.kron(c, np.ones((4, 4, 1))).astype(np.uint8) for c in coarse]
