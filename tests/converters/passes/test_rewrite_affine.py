"""A gain and an offset per channel as a depthwise convolution, and what stays arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobileseg.converters.forms import Forms
from mobileseg.converters.passes.rewrite_affine import PASS


@pytest.fixture(scope="module")
def depthwise(lines: tuple[Forms, ...]) -> Forms:
    return replace(lines[0], affine="depthwise")


class Affine(nn.Module):
    def __init__(self, function: Any, channels: int = 4) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("gain", torch.randn(1, channels, 1, 1))
        self.register_buffer("offset", torch.randn(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Any:
        return self.function(x, self.gain, self.offset)


def test_one_convolution(exported: Any, depthwise: Forms) -> None:
    torch.manual_seed(0)
    network, x = Affine(lambda x, g, t: x * g + t), torch.randn(2, 4, 5, 7)
    rewritten = exported(network, x).rewrite(PASS, depthwise)
    assert (rewritten.outcome.count, dict(rewritten.operators)) == (1, {"conv2d": 1})
    larger = torch.maximum((x * network.gain).abs(), network.offset.abs())
    # u for the sum's one rounding, u for the product's, which may be gone.
    assert bool(((rewritten(x) - network(x)).abs() <= 3 * 2**-24 * larger).all())


LEFT = {
    "only a gain": lambda x, g, t: x * g,
    "only an offset": lambda x, g, t: x + t,
    "the product is read twice": lambda x, g, t: next(y + t + y for y in [x * g]),
    "a plane": lambda x, g, t: x * g + x,
    "a number per row": lambda x, g, t: x * g + g.reshape(1, 1, 4, 1),
}


@pytest.mark.parametrize("function", LEFT.values(), ids=LEFT)
def test_left(exported: Any, depthwise: Forms, function: Any) -> None:
    network, x = Affine(function), torch.randn(1, 4, 4, 7)
    rewritten = exported(network, x).rewrite(PASS, depthwise)
    assert rewritten.outcome.count == 0
    assert "conv2d" not in rewritten.operators
    assert torch.equal(rewritten(x), network(x))


def test_form_native(exported: Any, depthwise: Forms) -> None:
    network = Affine(lambda x, g, t: x * g + t)
    rewritten = exported(network, torch.randn(1, 4, 5, 7)).rewrite(PASS, replace(depthwise, affine="native"))
    assert (rewritten.outcome.count, dict(rewritten.operators)) == (0, {"mul": 1, "add": 1})
