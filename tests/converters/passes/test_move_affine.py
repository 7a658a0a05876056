"""Gains and offsets per channel in convolutions and behind poolings: what moves, what stays, and that it is equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg.converters.forms import Forms
from mobileseg.converters.passes.move_affine import PASS

TOLERANCE = 1e-5  # of the largest output, as the pass says


class Network(nn.Module):
    """A function of a picture of 6 channels, and layers and numbers for it."""

    def __init__(self, function: Callable[[Network, Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(6, 4, 3)
        self.padded = nn.Conv2d(6, 4, 3, stride=2, padding=1)
        self.wide = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(6, 4, 3, groups=2, bias=False)
        self.up = nn.ConvTranspose2d(6, 4, 2, 2)
        g = torch.Generator().manual_seed(1)
        for name, channels in (("g", 6), ("t", 6), ("g4", 4), ("t4", 4), ("g10", 10), ("g14", 14), ("t14", 14)):
            self.register_buffer(name, torch.randn(1, channels, 1, 1, generator=g))
        self.register_buffer("positive", torch.rand(1, 6, 1, 1, generator=g) + 0.5)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def picture() -> Tensor:
    """Batch 2, odd sizes, few different numbers: ties in every window."""
    return torch.randint(0, 4, (2, 6, 9, 11), generator=torch.Generator().manual_seed(0)).float()


# What is computed, and the operators that are left of it.
MOVED: dict[str, tuple[Callable[[Network, Tensor], Any], dict[str, int]]] = {
    "a gain into a padded convolution": (lambda n, x: n.padded(x * n.g), {"conv2d": 1}),
    "an offset into an unpadded one": (lambda n, x: n.conv(x + n.t), {"conv2d": 1}),
    "both into an unpadded one": (lambda n, x: n.conv(x * n.g + n.t), {"conv2d": 1}),
    "both, grouped, no bias": (lambda n, x: n.grouped(x * n.g + n.t), {"conv2d": 1}),
    "a number": (lambda n, x: n.conv((x / 1.0) * 0.25), {"conv2d": 1, "div": 1}),
    "behind a convolution": (lambda n, x: n.padded(x) * n.g4 + n.t4, {"conv2d": 1}),
    "behind a transposed one": (lambda n, x: n.up(x) * n.g4, {"conv_transpose2d": 1}),
    "two gains": (lambda n, x: F.elu(x * n.g * 3.0), {"mul": 1, "elu": 1}),
    "two offsets": (lambda n, x: F.elu(x + n.t + 3.0), {"add": 1, "elu": 1}),
    "behind a concatenation": (
        lambda n, x: F.elu(torch.cat([n.wide(x), F.max_pool2d(x, 3, 2, 1)], 1) * n.g14 + n.t14),
        {"conv2d": 1, "max_pool2d": 1, "mul": 1, "add": 1, "cat": 1, "elu": 1},
    ),
    "ENet's first block": (
        lambda n, x: next(
            torch.cat([n.wide(y), F.max_pool2d(y, 3, 2, 1)], 1) * n.g14 + n.t14 for y in [x * n.positive]
        ),
        {"conv2d": 1, "max_pool2d": 1, "mul": 1, "add": 1, "cat": 1},
    ),
    "a pyramid": (
        lambda n, x: (
            torch.cat(
                [
                    F.interpolate(n.wide(x), (4, 6), mode="bilinear"),
                    F.adaptive_avg_pool2d(F.avg_pool2d(n.conv(x), 2), (4, 6)),
                    F.interpolate(x[:, :2], (4, 6)),
                ],
                1,
            )
            * n.g14
            + n.t14
        ),
        {
            **{"conv2d": 2, "upsample_bilinear2d": 1, "avg_pool2d": 1, "adaptive_avg_pool2d": 1, "slice": 1},
            **{"upsample_nearest2d": 1, "cat": 1, "mul": 1, "add": 1},
        },
    ),
    "past an average": (
        lambda n, x: next(n.padded(y) + F.avg_pool2d(y, 3, 2, 1)[:, :4] for y in [x * n.g]),
        {"conv2d": 1, "avg_pool2d": 1, "mul": 1, "slice": 1, "add": 1},
    ),
}
STAYS: dict[str, Callable[[Network, Tensor], Any]] = {
    "an offset before padding": lambda n, x: n.padded(x + n.t),
    "a gain and an offset before padding": lambda n, x: n.padded(x * n.g + n.t),
    "a negative gain under a maximum": lambda n, x: F.max_pool2d(x * n.g, 2),
    "a pooling of the same size": lambda n, x: F.max_pool2d(x * n.positive, 3, 1, 1),
    "something else reads it": lambda n, x: next(n.conv(y)[:, :1] + y[:, :1, 1:-1, 1:-1] for y in [x * n.g]),
    "a concatenation without convolutions": lambda n, x: torch.cat([F.elu(x), x[:, :4]], 1) * n.g10,
    "less than half of it is a convolution's": lambda n, x: (
        torch.cat([n.padded(x), F.max_pool2d(x, 3, 2, 1)], 1) * n.g10
    ),
    "a resized convolution that is read twice": lambda n, x: next(
        F.interpolate(y, (4, 6), mode="bilinear") * n.g4 + F.elu(y[:, :, :4, :6]) for y in [n.conv(x)]
    ),
    "a convolution that is read twice": lambda n, x: next(y * n.g4 + F.elu(y) for y in [n.conv(x)]),
    "an offset under a padded average": lambda n, x: F.avg_pool2d(x + n.t, 3, 2, 1),
    "a gain per row": lambda n, x: n.conv(x * n.g[:, :1].reshape(1, 1, 1, 1).expand(1, 1, 9, 1)),
}


@pytest.mark.parametrize("case", MOVED)
def test_moved(exported: Any, lines: tuple[Forms, ...], case: str) -> None:
    torch.manual_seed(0)
    function, left = MOVED[case]
    network, x = Network(function), picture()
    rewritten = exported(network, x).rewrite(PASS, replace(lines[0], smallest_gain=0.0))
    assert rewritten.outcome.count > 0
    assert dict(rewritten.operators) == left
    expected = network(x).detach()
    assert float((rewritten(x) - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


@pytest.mark.parametrize("case", STAYS)
def test_stays(exported: Any, lines: tuple[Forms, ...], case: str) -> None:
    torch.manual_seed(0)
    network, x = Network(STAYS[case]), picture()
    rewritten = exported(network, x).rewrite(PASS, replace(lines[0], smallest_gain=0.0))
    assert rewritten.outcome.count == 0
    assert torch.equal(rewritten(x), network(x))


def test_past_a_maximum_every_bit_is_kept(exported: Any, lines: tuple[Forms, ...]) -> None:
    network, x = Network(lambda n, x: F.max_pool2d(x * n.positive + n.t, 3, 2, 1)), torch.randn(2, 6, 9, 11)
    rewritten = exported(network, x).rewrite(PASS, lines[0])
    assert [n.target.__name__.split(".")[0] for n in rewritten.module.graph.nodes if n.op == "call_function"] == [
        "max_pool2d",
        "mul",
        "add",
    ]
    assert torch.equal(rewritten(x), network(x))


def test_halves_are_not_made_subnormal(exported: Any, lines: tuple[Forms, ...]) -> None:
    network, x = Network(lambda n, x: n.padded(x * (1 / 255))), picture()
    rewritten = exported(network, x).rewrite(PASS, replace(lines[0], smallest_gain=0.0625))
    assert (rewritten.outcome.count, dict(rewritten.operators)) == (0, {"mul": 1, "conv2d": 1})


def test_before_a_relu_it_stays_in_form_rectified(exported: Any, lines: tuple[Forms, ...]) -> None:
    def function(n: Network, x: Tensor) -> Tensor:
        return torch.relu(torch.cat([n.wide(x), F.max_pool2d(x, 3, 2, 1)], 1) * n.g14 + n.t14)

    network, x = Network(function), picture()
    for affine, count in (("native", 4), ("rectified", 0)):
        rewritten = exported(network, x).rewrite(PASS, replace(lines[0], affine=affine))
        assert rewritten.outcome.count == count
        torch.testing.assert_close(rewritten(x), network(x), rtol=TOLERANCE, atol=TOLERANCE)


def test_in_form_parts_all_parts_of_a_concatenation_take_theirs(exported: Any, lines: tuple[Forms, ...]) -> None:
    network, x = (
        Network(lambda n, x: F.elu(torch.cat([x, n.padded(x).repeat(1, 1, 2, 2)[:, :, :9, :11]], 1) * n.g10)),
        picture(),
    )
    program = exported(network, x)
    whole = program.rewrite(PASS, replace(lines[0], affine="depthwise"))
    assert (whole.outcome.count, whole.operators["mul"]) == (0, 1)
    parts = program.rewrite(PASS, replace(lines[0], affine="parts"))
    assert (parts.outcome.count, parts.operators["mul"]) == (1, 2)
    torch.testing.assert_close(parts(x), network(x), rtol=1e-6, atol=1e-6)
