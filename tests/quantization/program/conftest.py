"""Tiny networks in the forms of a target, and pictures for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule

from mobileseg.converters.export import Deployed, export, rewrite
from mobileseg.types import Preprocessing

SIZE = (33, 46)
"""Odd, so that poolings pad."""


class Network(nn.Module):
    """Overlapping pooling (ties), pooling and unpooling, PReLU per channel, parts of unlike ranges put together. The
    classes have like shares of the pixels, so that rounding changes some."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.slopes = nn.PReLU(8)
        self.slopes.weight.data = torch.linspace(-0.3, 0.9, 8)
        self.side = nn.Conv2d(8, 3, 1)
        self.last = nn.Conv2d(11, 4, 1)
        with torch.no_grad():
            logits = self(torch.rand(1, 3, *SIZE))
            self.last.bias -= logits.mean((0, 2, 3))
            self.last.weight /= logits.std((0, 2, 3))[:, None, None, None]
            self.last.bias /= logits.std((0, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 3, stride=1, padding=1)
        y, indices = F.max_pool2d(x, 2, return_indices=True)
        up = F.max_unpool2d(self.slopes(self.middle(y)), indices, 2, output_size=x.shape[2:])
        logits: Tensor = self.last(torch.cat((up, 0.01 * self.side(x)), 1))
        return logits


Rewritten = Callable[..., GraphModule]


@pytest.fixture(scope="session")
def rewritten() -> Rewritten:
    def build(network: nn.Module | None = None, target: str = "onnx", batch: int = 1) -> GraphModule:
        torch.manual_seed(0)
        deployed = Deployed(network or Network(), Preprocessing("unit"), "logits")
        return rewrite(export(deployed, SIZE, batch=batch), target, "int8").module

    return build


@pytest.fixture(scope="session")
def pictures() -> Callable[[], Iterator[NDArray[np.uint8]]]:
    def feed() -> Iterator[NDArray[np.uint8]]:
        rng = np.random.default_rng(1)
        return (rng.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(4))

    return feed
