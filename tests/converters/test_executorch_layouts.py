"""ExecuTorch files for XNNPACK give the same bits with and without the transpositions that cancel."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mobileseg.architectures.enet_network import Activations, Downsampling, InitialBlock, Shape, Upsampling
from mobileseg.architectures.espnetv2_blocks import EfficientPyramid, Shuffle
from mobileseg.converters.executorch import TARGET
from mobileseg.converters.export import Deployed, export, rewrite
from mobileseg.converters.target import Lowering
from mobileseg.types import Head, NotRun
from mobileseg.validation.graphs import read_graph

pytest.importorskip("executorch.exir", reason="install the extra: pip install 'mobileseg[executorch]'")

from executorch.runtime import Runtime

from mobileseg.converters.executorch.delegates import xnnpack


class Blocks(nn.Module):
    """ENet's blocks around its pooling and unpooling, between them EdgeNets' channel shuffle and pyramid."""

    def __init__(self) -> None:
        super().__init__()
        acts = Activations(nn.PReLU, nn.PReLU())
        self.initial = InitialBlock(16, nn.PReLU())
        self.down = Downsampling(Shape(16, 24, 4, 1), acts, 0.1)
        self.shuffle = Shuffle(4)
        self.grouped = nn.Conv2d(24, 24, 3, padding=1, groups=4)
        self.pyramid = EfficientPyramid(24, 8, 24)
        self.up = Upsampling(Shape(24, 16, 4, 1), acts, 0.1)
        self.last = nn.ConvTranspose2d(16, 5, 3, 2, padding=1, output_padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.initial(x)
        z, indices = self.down(y)
        z = self.pyramid(self.grouped(self.shuffle(z)))
        return cast("Tensor", self.last(self.up(z, indices, list(y.shape[-2:]))))


class Overlapping(nn.Module):
    """Windows that overlap and an odd plane: shifted phases, padding, limits and what lies under them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        y, indices = F.max_pool2d(x, 3, 2, 1, return_indices=True)
        return cast("Tensor", self.last(F.max_unpool2d(y, indices, 3, 2, 1, output_size=x.shape[-2:])))


class Plain(nn.Module):
    """No transposition but those of the picture and the result."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.last(F.relu(self.first(x))))


def network(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    found = build().eval()
    for module in found.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean, module.running_var = (f(module.num_features) for f in (torch.randn, torch.rand))
    return found


def lowered(
    path: Path, build: Callable[[], nn.Module], size: tuple[int, int], batch: int, precision: str, head: Head
) -> tuple[NDArray[Any], dict[str, Any]]:
    """What the file gives for a noisy picture, and what it says of its delegate."""
    program = rewrite(export(Deployed(network(build), None, head), size, batch=batch), TARGET.backend({}), precision)
    TARGET.lower(program, Lowering(precision, head, {"head": head}, {}), path)
    picture = torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(1)) * 255
    file = Runtime.get().load_program(path.read_bytes())
    (result,) = file.load_method("forward").execute([picture])
    (said,) = file.load_method("delegation").execute([])
    return result.numpy(), json.loads(said)


def inside(path: Path) -> Counter[str]:
    """What XNNPACK runs."""
    delegation = read_graph(path).delegation
    assert not isinstance(delegation, NotRun)
    return Counter(delegation.operators)


@pytest.mark.parametrize(
    ("build", "size", "batch", "precision", "head", "left"),
    [
        (Blocks, (16, 24), 2, "fp32", "logits", 8),
        (Overlapping, (9, 13), 2, "fp16", "argmax", 1),
    ],
)
def test_the_same_bits_with_fewer_transpositions(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    build: Callable[[], nn.Module],
    size: tuple[int, int],
    batch: int,
    precision: str,
    head: Head,
    left: int,
) -> None:
    actual, said = lowered(tmp_path / "new.pte", build, size, batch, precision, head)
    monkeypatch.setattr(xnnpack, "rearranged", lambda graph, data: graph)
    expected, before = lowered(tmp_path / "old.pte", build, size, batch, precision, head)
    np.testing.assert_array_equal(actual, expected)
    new, old = (inside(tmp_path / name) for name in ("new.pte", "old.pte"))
    assert new["StaticTranspose"] == left < old["StaticTranspose"]
    assert said["removed"] == dict(old - new)
    assert (before["removed"], before["calls"], before["layers"]) == ({}, said["calls"], said["layers"])


def test_a_network_without_needless_ones_stays_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, said = lowered(tmp_path / "new.pte", Plain, (9, 13), 1, "fp32", "logits")
    assert said["removed"] == {}
    assert inside(tmp_path / "new.pte") == {"Conv2d": 1, "Conv2d+Clamp": 1, "StaticTranspose": 2}
    monkeypatch.setattr(xnnpack, "rearranged", lambda graph, data: graph)
    lowered(tmp_path / "old.pte", Plain, (9, 13), 1, "fp32", "logits")
    assert (tmp_path / "new.pte").read_bytes() == (tmp_path / "old.pte").read_bytes()
