"""Grouped convolutions of one channel in or out by depthwise ones, shuffles in front of them included.

Weights and pictures are small integers, so that all sums are exact and the comparison needs no tolerance.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobileseg.converters.forms import Forms
from mobileseg.converters.passes.rewrite_grouped_convolution import PASS


@pytest.fixture(scope="module")
def depthwise(lines: tuple[Forms, ...]) -> Forms:
    return replace(lines[0], grouped_convolution="depthwise")


def integers(shape: torch.Size | tuple[int, ...], seed: int) -> Tensor:
    return torch.randint(-4, 5, tuple(shape), generator=torch.Generator().manual_seed(seed)).float()


class Layer(nn.Module):
    """A convolution of 12 channels, a shuffle in ``shuffled`` groups in front of it."""

    def __init__(self, outputs: int, groups: int, shuffled: int = 0, **options: Any) -> None:
        super().__init__()
        self.shuffled = shuffled
        self.convolution = nn.Conv2d(12, outputs, options.pop("kernel", 3), groups=groups, **options)
        with torch.no_grad():
            for i, parameter in enumerate(self.convolution.parameters()):
                parameter.copy_(integers(parameter.shape, i))

    def forward(self, x: Tensor) -> Tensor:
        if self.shuffled:
            n, c, h, w = x.shape
            x = x.view(n, self.shuffled, c // self.shuffled, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        return self.convolution(x)  # type: ignore[no-any-return]


REWRITTEN = {
    "one out": Layer(4, 4),
    "one out, no bias, stride, padding": Layer(3, 3, stride=2, padding=1, bias=False),
    "one out, dilated, not square": Layer(6, 6, kernel=(3, 2), dilation=(2, 1)),
    "one out, shuffled": Layer(4, 4, 3, padding=1),
    "one out, shuffled otherwise": Layer(2, 2, 4, bias=False),
    "one in": Layer(24, 12),
    "one in, no bias, stride, padding, dilation": Layer(36, 12, stride=(1, 2), padding=2, dilation=2, bias=False),
}
LEFT = {
    "depthwise": Layer(12, 12),
    "one group": Layer(1, 1),
    "several in and out": Layer(8, 4),
    "one pixel": Layer(4, 4, kernel=1),
    "a shuffle in front of another": Layer(8, 4, 3),
}


def test_rewritten(exported: Any, several: Any, depthwise: Forms) -> None:
    network, x = several(list(REWRITTEN.values())), integers((2, 12, 9, 7), 5)
    rewritten = exported(network, x).rewrite(PASS, depthwise)
    assert (rewritten.outcome.count, rewritten.outcome.left) == (len(REWRITTEN), ())
    # No view of a shuffle is left.
    assert dict(rewritten.operators) == {"conv2d": 2 * len(REWRITTEN)}
    for name, result, expected in zip(REWRITTEN, rewritten(x), network(x), strict=True):
        assert torch.equal(result, expected), name


DENSE = {
    "few out": Layer(8, 4, kernel=1),
    "few out, shuffled": Layer(8, 4, 3, padding=1),
    "few in and out, no bias, stride, dilation": Layer(18, 6, stride=2, padding=2, dilation=2, bias=False),
    "one out, shuffled": Layer(4, 4, 3),
    "one in, one pixel": Layer(24, 12, kernel=1),
}


def test_few_channels_in_each_group_are_one_convolution_in_form_dense(
    exported: Any, several: Any, depthwise: Forms
) -> None:
    network, x = several(list(DENSE.values())), integers((2, 12, 9, 7), 9)
    rewritten = exported(network, x).rewrite(PASS, replace(depthwise, grouped_convolution="dense"))
    assert (rewritten.outcome.count, dict(rewritten.operators)) == (len(DENSE), {"conv2d": len(DENSE)})
    for name, result, expected in zip(DENSE, rewritten(x), network(x), strict=True):
        assert torch.equal(result, expected), name


def test_form_dense_leaves_depthwise_ones_and_wide_groups(exported: Any, depthwise: Forms) -> None:
    network = nn.Sequential(nn.Conv2d(64, 64, 1, groups=4), nn.Conv2d(64, 64, 3, groups=64))
    rewritten = exported(network, torch.zeros(1, 64, 5, 5)).rewrite(
        PASS, replace(depthwise, grouped_convolution="dense")
    )
    assert rewritten.outcome.count == 0


def test_ordinary_numbers(exported: Any, depthwise: Forms) -> None:
    torch.manual_seed(0)
    network, x = (
        nn.Sequential(nn.ChannelShuffle(5), nn.Conv2d(50, 10, 3, padding=1, groups=10)),
        torch.randn(1, 50, 9, 7),
    )
    rewritten = exported(network, x).rewrite(PASS, depthwise)
    assert dict(rewritten.operators) == {"conv2d": 2}
    expected = network(x).detach()
    assert float((rewritten(x) - expected).abs().max()) <= 1e-6 * float(expected.abs().max())


def test_a_shuffle_that_others_read_stays(exported: Any, depthwise: Forms) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Layer(4, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = torch.channel_shuffle(x, 3)
            return self.layer(x), x

    network, x = Both(), integers((1, 12, 5, 5), 6)
    rewritten = exported(network, x).rewrite(PASS, depthwise)
    assert rewritten.outcome.count == 1
    for result, expected in zip(rewritten(x), network(x), strict=True):
        assert torch.equal(result, expected)


def test_left(exported: Any, several: Any, depthwise: Forms) -> None:
    network, x = several(list(LEFT.values())), integers((1, 12, 9, 7), 7)
    rewritten = exported(network, x).rewrite(PASS, depthwise)
    assert rewritten.outcome.count == 0
    assert rewritten.operators["conv2d"] == len(LEFT)


def test_form_native(exported: Any, depthwise: Forms) -> None:
    rewritten = exported(REWRITTEN["one out"], integers((1, 12, 9, 7), 8)).rewrite(
        PASS, replace(depthwise, grouped_convolution="native")
    )
    assert (rewritten.outcome.count, dict(rewritten.operators)) == (0, {"conv2d": 1})
