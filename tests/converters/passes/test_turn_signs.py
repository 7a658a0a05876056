"""Slopes above 1 turned, so that each PReLU is one maximum: what turns, what keeps its sign, and that it is equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg.converters.forms import Forms
from mobileseg.converters.passes.turn_signs import PASS


@pytest.fixture(scope="module")
def maximum(lines: tuple[Forms, ...]) -> Forms:
    return replace(lines[0], prelu="maximum")


class Network(nn.Module):
    """A function of 8 channels, with layers for it. ``mixed`` and ``other`` have slopes on both sides of 1, in channels
    0 and 5, and in channel 0; ``below`` has none above 1."""

    def __init__(self, function: Callable[[Network, Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.first, self.second, self.last = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.plain = nn.Conv2d(8, 8, 1, bias=False)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2, groups=2)
        self.mixed, self.other, self.below, self.one = (nn.PReLU(n) for n in (8, 8, 8, 1))
        with torch.no_grad():
            self.mixed.weight.copy_(torch.tensor([1.5, 0.3, -2.0, 1.0, 0.0, 7.0, 0.5, 0.9]))
            self.other.weight.copy_(torch.tensor([1.25, 0.3, -2.0, 1.0, 0.0, 0.5, 0.5, 0.9]))
            self.below.weight.copy_(torch.linspace(-1, 0.9, 8))
            self.one.weight.fill_(1.5)
        self.register_buffer("g", torch.linspace(-2, 3, 8).reshape(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def branches(n: Network, x: Tensor) -> Tensor:
    """As in an ESPNetV2: sums of branches joined, normalized, shuffled."""
    x = n.mixed(n.first(x))
    a, b = n.depthwise(x), n.grouped(x)
    joined = torch.cat([a, a + b], 1)[:, ::2] * n.g + 0.5
    shuffled = torch.channel_shuffle(n.mixed(joined), 4)
    return n.last(shuffled) + n.plain(F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="bilinear"))  # type: ignore[no-any-return]


TURNED: dict[str, tuple[Callable[[Network, Tensor], Any], int]] = {
    "between two convolutions": (lambda n, x: n.last(n.mixed(n.first(x))), 1),
    "no bias": (lambda n, x: n.plain(n.mixed(n.plain(x))), 1),
    "groups": (lambda n, x: n.grouped(n.mixed(n.grouped(x))), 1),
    "transposed": (lambda n, x: n.up(n.mixed(n.up(x))), 1),
    "two of the same signs": (lambda n, x: n.last(n.mixed(n.mixed(n.first(x)))), 1 + 1),
    "branches": (branches, 2),
    "a gate": (lambda n, x: n.last(n.mixed(n.first(x)) * torch.sigmoid(n.plain(x.mean((2, 3), keepdim=True)))), 1),
    "beside one that stays": (lambda n, x: n.last(n.below(n.second(n.mixed(n.first(x))))), 1),
    "a padding": (lambda n, x: n.last(F.pad(n.mixed(n.first(x)), (1, 2, 0, 1))), 1),
}
KEPT: dict[str, Callable[[Network, Tensor], Any]] = {
    "of the picture": lambda n, x: n.last(n.mixed(x)),
    "in the result": lambda n, x: n.mixed(n.first(x)),
    "before a ReLU": lambda n, x: n.last(F.relu(n.mixed(n.first(x)))),
    "before a maximum": lambda n, x: n.last(F.max_pool2d(n.mixed(n.first(x)), 2)),
    "added to what keeps its sign": lambda n, x: n.last(n.mixed(n.first(x)) + x),
    "another slope below 1 in the same sum": lambda n, x: n.last(n.mixed(n.first(x) + n.below(n.second(x)))),
    "one channel of two would turn": lambda n, x: n.last(n.mixed(n.first(x)) + n.other(n.second(x))),
    "one slope": lambda n, x: n.last(n.one(n.first(x))),
    "no slope above 1": lambda n, x: n.last(n.below(n.first(x))),
    "weights that are computed": lambda n, x: F.conv2d(n.mixed(n.first(x)), n.last.weight * x.mean()),
    "channels mixed over the plane": lambda n, x: n.last(n.mixed(n.first(x)).transpose(1, 2)[:, :8].contiguous()),
}


def picture() -> Tensor:
    """Batch 2; 8 rows and 10 columns, small numbers, so that ties occur."""
    return torch.randint(-3, 4, (2, 8, 8, 10), generator=torch.Generator().manual_seed(0)).float()


@pytest.mark.parametrize("case", TURNED)
def test_turned(exported: Any, maximum: Forms, case: str) -> None:
    function, count = TURNED[case]
    torch.manual_seed(0)
    network, x = Network(function), picture()
    rewritten = exported(network, x).rewrite(PASS, maximum)
    assert (rewritten.outcome.count, rewritten.outcome.left) == (count, ())
    assert rewritten.operators["maximum"] == count
    with torch.no_grad():
        assert torch.equal(rewritten(x), network(x))


@pytest.mark.parametrize("case", KEPT)
def test_kept(exported: Any, maximum: Forms, case: str) -> None:
    torch.manual_seed(0)
    network, x = Network(KEPT[case]), picture()
    if case == "channels mixed over the plane":
        x = x[:, :, :, :8]
    rewritten = exported(network, x).rewrite(PASS, maximum)
    assert (rewritten.outcome.count, rewritten.operators["maximum"]) == (0, 0)
    with torch.no_grad():
        assert torch.equal(rewritten(x), network(x))


def test_other_forms_keep_prelu(exported: Any, lines: tuple[Forms, ...]) -> None:
    torch.manual_seed(0)
    network, x = Network(TURNED["between two convolutions"][0]), picture()
    for forms in lines:
        if forms.prelu != "maximum":
            assert exported(network, x).rewrite(PASS, forms).outcome.count == 0
