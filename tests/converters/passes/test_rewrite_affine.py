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
    def __init__(self, function: Any, channels: int) -> None:
        super().__init__()
        self.function = function
        g = torch.Generator().manual_seed(channels)
        self.register_buffer("gain", torch.randn(1, channels, 1, 1, generator=g))
        self.register_buffer("offset", torch.randn(1, channels, 1, 1, generator=g))

    def forward(self, x: Tensor) -> Any:
        return self.function(x, self.gain, self.offset)


def test_one_convolution(exported: Any, depthwise: Forms) -> None:
    network, x = Affine(lambda x, g, t: x * g + t, 12), torch.randn(2, 12, 5, 7)
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
    "a number per row": lambda x, g, t: x * g + g.reshape(1, 1, 12, 1),
}


@pytest.mark.parametrize("function", LEFT.values(), ids=LEFT)
def test_many_channels_left(exported: Any, depthwise: Forms, function: Any) -> None:
    network, x = Affine(function, 12), torch.randn(1, 12, 12, 7)
    rewritten = exported(network, x).rewrite(PASS, depthwise)
    assert rewritten.outcome.count == 0
    assert "conv2d" not in rewritten.operators
    assert torch.equal(rewritten(x), network(x))


ROWS = {
    "both": (lambda x, g, t: x * g + t, 2),
    "only a gain": (lambda x, g, t: g * x, 1),
    "only an offset": (lambda x, g, t: t + x, 1),
    "one number for all channels": (lambda x, g, t: x * 2.0 + 3.0, 0),
    "a plane": (lambda x, g, t: x + x * 2.0, 0),
}


@pytest.mark.parametrize(("function", "count"), ROWS.values(), ids=ROWS)
def test_few_channels_by_rows(exported: Any, depthwise: Forms, function: Any, count: int) -> None:
    network, x = Affine(function, 3), torch.randn(2, 3, 5, 7)
    rewritten = exported(network, x).rewrite(PASS, depthwise)
    assert rewritten.outcome.count == count
    constants = [n.meta["val"].shape for n in rewritten.module.graph.nodes if n.op == "get_attr" and n.users]
    assert [shape for shape in constants if tuple(shape) == (1, 3, 1, 7)] == constants
    assert torch.equal(rewritten(x), network(x))


@pytest.mark.parametrize("channels", [3, 12])
def test_one_convolution_of_any_number_of_channels_in_form_parts(
    exported: Any, depthwise: Forms, channels: int
) -> None:
    network, x = Affine(lambda x, g, t: torch.tanh(x) * g + t, channels), torch.randn(2, channels, 5, 7)
    rewritten = exported(network, x).rewrite(PASS, replace(depthwise, affine="parts"))
    assert (rewritten.outcome.count, dict(rewritten.operators)) == (1, {"conv2d": 1, "tanh": 1})
    torch.testing.assert_close(rewritten(x), network(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("function", "count"), ROWS.values(), ids=ROWS)
def test_the_picture_s_own_are_rows_in_form_parts(exported: Any, depthwise: Forms, function: Any, count: int) -> None:
    network, x = Affine(function, 3), torch.randn(2, 3, 5, 7)
    rewritten = exported(network, x).rewrite(PASS, replace(depthwise, affine="parts"))
    assert rewritten.outcome.count == count
    assert "conv2d" not in rewritten.operators
    assert torch.equal(rewritten(x), network(x))


def test_form_native(exported: Any, depthwise: Forms) -> None:
    network = Affine(lambda x, g, t: x * g + t, 4)
    rewritten = exported(network, torch.randn(1, 4, 5, 7)).rewrite(PASS, replace(depthwise, affine="native"))
    assert (rewritten.outcome.count, dict(rewritten.operators)) == (0, {"mul": 1, "add": 1})


BEFORE_RELU = {
    "both": (lambda x, g, t: torch.relu(x * g + t), 1),
    "only a gain": (lambda x, g, t: torch.relu(x * g), 0),
    "no ReLU": (lambda x, g, t: x * g + t, 0),
    "read twice": (lambda x, g, t: next(torch.relu(y) + y for y in [x * g + t]), 0),
}


@pytest.mark.parametrize(("function", "count"), BEFORE_RELU.values(), ids=BEFORE_RELU)
@pytest.mark.parametrize("channels", [3, 12])
def test_one_convolution_before_a_relu(
    exported: Any, depthwise: Forms, function: Any, count: int, channels: int
) -> None:
    network, x = Affine(function, channels), torch.randn(2, channels, 5, 7)
    rewritten = exported(network, x).rewrite(PASS, replace(depthwise, affine="rectified"))
    assert (rewritten.outcome.count, rewritten.operators["conv2d"]) == (count, count)
    torch.testing.assert_close(rewritten(x), network(x), rtol=1e-6, atol=1e-6)
